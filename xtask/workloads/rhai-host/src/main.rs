//! Runs a rhai script and prints what it evaluates to.

use std::process::ExitCode;

#[cfg(any(feature = "bare-thunk", feature = "lfence-thunk"))]
mod thunk {
    #[cfg(feature = "lfence-thunk")]
    macro_rules! before {
        () => {
            "lfence"
        };
    }
    #[cfg(not(feature = "lfence-thunk"))]
    macro_rules! before {
        () => {
            ""
        };
    }
    // As far apart as the compiler's own thunks, so that the layout is the same.
    core::arch::global_asm!(
        ".globl __x86_indirect_thunk_r11",
        ".hidden __x86_indirect_thunk_r11",
        ".type __x86_indirect_thunk_r11,@function",
        ".balign 16",
        "__x86_indirect_thunk_r11:",
        before!(),
        "jmp *%r11",
        ".org __x86_indirect_thunk_r11+48,0xcc",
        options(att_syntax)
    );
}

fn main() -> ExitCode {
    let Some(path) = std::env::args().nth(1) else {
        eprintln!("usage: rhai-host SCRIPT");
        return ExitCode::from(2);
    };
    let mut engine = rhai::Engine::new();
    engine.set_max_expr_depths(0, 0);
    match engine.eval_file::<rhai::Dynamic>(path.into()) {
        Ok(value) => println!("{value}"),
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
