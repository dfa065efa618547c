//! `cargo relpoline`: what cargo starts for its subcommand of that name. Everything is in the library
//! `relpoline_cli`.

use std::process::ExitCode;

fn main() -> ExitCode {
    relpoline_cli::cargo::main()
}
