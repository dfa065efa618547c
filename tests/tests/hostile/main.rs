//! What other users' processes and files do to who looks at them: nothing. Root runs the tools here, and another user plays
//! the rest: files in /dev/shm, names in programs, what a loader is said to have mapped.
//!
//! A tool has a second or so of processor time in each of these cases and some 30 MB; it gets 40 seconds and 1.5 GB, and is
//! killed then.
//!
//! | module | what the other user does |
//! |---|---|
//! | `attacker` | nothing yet: who that is, and processes of that user's |
//! | `command` | the command, with limits, and what it may say |
//! | `statistics` | writes statistics that no engine writes, and more names than there are processes |
//! | `budgets` | makes large files |
//! | `bombs`, `bounds` | makes files that stand for much more than they are; what each command takes at most |
//! | `names` | gives functions, files, processes and arguments names that are orders |
//! | `answers` | answers for a file system, or does not |
//! | `attached` | is attached to, and lies, or does not keep still |
//! | `tried` | is what a program that root tries has become |
//! | `places` | plants and exchanges files, links and directories where root reads and writes |

mod answers;
mod attached;
mod attacker;
mod bombs;
mod bounds;
mod budgets;
mod command;
mod names;
mod places;
mod statistics;
mod tried;
