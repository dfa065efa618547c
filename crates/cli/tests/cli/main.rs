//! The command from outside: started as a user starts it, on programs compiled here.
//!
//! Most tests compare a program's run under relpoline with the same run without it. Nothing may differ but
//! the speed and, where a program cannot be promoted, one line on stderr.

mod bench;
mod chosen;
mod compiled;
mod demo;
mod ended;
mod exit_status;
mod invisible;
mod job;
mod nothing;
mod observed;
mod pages;
mod refused;
mod reported;
mod started;
mod surroundings;
mod thunks;
mod torture;
mod tried;
