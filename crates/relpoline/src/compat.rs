//! Other crates' names for what is here: a program moves over by changing one import.

pub mod static_keys;
