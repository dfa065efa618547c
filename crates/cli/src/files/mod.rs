//! Files that others may have made, or may exchange while we look.
//!
//! Root runs this command, in directories where other users may put what they like. So a path is looked at
//! once: what is looked at is held open, and all that follows refers to that.
//!
//! | module | what it does |
//! |---|---|
//! | [`open`] | opening for reading: regular files only, never waiting |
//! | [`below`] | paths of another root directory, which do not lead out of it |
//! | [`parts`] | reading parts of a large file, within a budget |
//! | [`directory`] | directories that are held open, and who else could change something in them |
//! | [`rights`] | no more rights to files than another user has |
//! | [`written`] | writing: nothing that others planted is written to |

pub mod below;
pub mod directory;
pub mod open;
pub mod parts;
pub mod rights;
pub mod written;

pub use directory::Directory;
pub use parts::Parts;
pub use written::Written;
