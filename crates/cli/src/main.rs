//! The command `relpoline`.
fn main() {}
