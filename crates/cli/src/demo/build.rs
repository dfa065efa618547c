//! The bundled program, compiled in its variants. The sources are part of the command.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::compiler::{Compiler, Dialect};

const SOURCES: [(&str, &str); 3] = [
    ("demo.c", include_str!("../../demo/demo.c")),
    ("filters.c", include_str!("../../demo/filters.c")),
    ("filters.h", include_str!("../../demo/filters.h")),
];

/// The programs.
#[derive(Debug)]
pub struct Programs {
    /// Without retpolines.
    pub plain: PathBuf,
    /// With them.
    pub retpoline: PathBuf,
    /// With thunks that are plain jumps.
    pub unprotected: PathBuf,
}

/// Writes the sources to `directory` and compiles them there.
pub fn build(compiler: &Compiler, directory: &Path) -> anyhow::Result<Programs> {
    let directory = std::path::absolute(directory)?;
    for (name, text) in SOURCES {
        std::fs::write(directory.join(name), text)?;
    }
    std::fs::write(directory.join("thunks.s"), thunks(compiler.dialect))?;
    let dialect = compiler.dialect;
    Ok(Programs {
        plain: variant(compiler, &directory, "plain", &[], None)?,
        retpoline: variant(compiler, &directory, "retpoline", dialect.retpoline, None)?,
        unprotected: variant(
            compiler,
            &directory,
            "unprotected",
            dialect.external,
            Some("thunks.s"),
        )?,
    })
}

/// Compiles library and program with these flags; `thunks` is linked into both.
fn variant(
    compiler: &Compiler,
    directory: &Path,
    name: &str,
    flags: &[&str],
    thunks: Option<&str>,
) -> anyhow::Result<PathBuf> {
    let library = format!("libfilters-{name}.so");
    let mut command = compiler.command(flags);
    command
        .args(["-fPIC", "-shared", "filters.c", "-o", &library])
        .args(thunks);
    compile(command.current_dir(directory), name)?;
    let mut command = compiler.command(flags);
    command
        .args(["demo.c", "-o", name])
        .args(thunks)
        .args(["-L.", "-Wl,-rpath,$ORIGIN"])
        .arg(format!("-l:{library}"));
    compile(command.current_dir(directory), name)?;
    Ok(directory.join(name))
}

fn compile(command: &mut Command, name: &str) -> anyhow::Result<()> {
    let output = command
        .output()
        .context("the C compiler cannot be started")?;
    ensure!(
        output.status.success(),
        "the {name} variant does not compile; name another compiler with --cc:\n{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// Thunks that only jump.
fn thunks(dialect: Dialect) -> String {
    let mut text = String::from("\t.text\n");
    for register in dialect.registers {
        let name = format!("{}{register}", dialect.thunk);
        // Writing to a string does not fail.
        let _ = write!(
            text,
            "\t.globl {name}\n\t.hidden {name}\n\t.p2align 4\n{name}:\n\tjmp *%{register}\n\tint3\n"
        );
    }
    text + "\t.section .note.GNU-stack,\"\",@progbits\n"
}
