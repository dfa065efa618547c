//! The command `relpoline`. Everything is in the library `relpoline_cli`.

use std::process::ExitCode;

/// Runs before Rust's runtime changes what this process has inherited.
#[used]
#[unsafe(link_section = ".init_array")]
static RECORD: extern "C" fn() = relpoline_cli::inherited::record;

fn main() -> ExitCode {
    relpoline_cli::main()
}
