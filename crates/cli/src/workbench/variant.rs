//! The variants of a program: how each is compiled and how each is started.

use std::ffi::OsStr;
use std::fmt::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use super::compiler::{Compiler, Dialect};

/// The file of thunks that only jump, once [`build`] wrote it.
const THUNKS: &str = "thunks.s";

/// What is compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Variant {
    /// Compiled without retpolines.
    Plain,
    /// With them.
    Retpoline,
    /// With them, run under relpoline.
    Relpoline,
    /// With thunks that are plain jumps.
    Unprotected,
}

impl Variant {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Plain, Self::Retpoline, Self::Relpoline, Self::Unprotected];

    /// Its name in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Retpoline => "retpoline",
            Self::Relpoline => "relpoline",
            Self::Unprotected => "unprotected",
        }
    }

    /// Starts it. Under relpoline with these options.
    ///
    /// # Errors
    /// When this command's own file is gone.
    pub fn command(self, programs: &Programs, options: &[&OsStr]) -> anyhow::Result<Command> {
        Ok(match self {
            Self::Plain => Command::new(&programs.plain),
            Self::Retpoline => Command::new(&programs.retpoline),
            Self::Relpoline => relpoline(&programs.retpoline, options)?,
            Self::Unprotected => Command::new(&programs.unprotected),
        })
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The programs. That under relpoline is the one with retpolines.
#[derive(Debug)]
pub struct Programs {
    /// Without retpolines.
    pub plain: PathBuf,
    /// With them.
    pub retpoline: PathBuf,
    /// With thunks that are plain jumps.
    pub unprotected: PathBuf,
}

/// How a program is compiled.
#[derive(Clone, Copy, Debug)]
pub struct Recipe<'a> {
    /// Name of the variant, which will be that of the program.
    pub name: &'a str,
    /// Its flags.
    pub flags: &'a [&'a str],
    /// What is linked into it and its libraries.
    pub thunks: Option<&'a str>,
}

/// Writes the sources and the thunks to `directory`, and has `variant` compile each recipe to a program.
///
/// # Errors
/// When something cannot be written or compiled.
pub fn build(
    compiler: &Compiler,
    directory: &Path,
    sources: &[(&str, &str)],
    variant: impl Fn(&Compiler, &Path, &Recipe<'_>) -> anyhow::Result<PathBuf>,
) -> anyhow::Result<Programs> {
    let directory = std::path::absolute(directory)?;
    for (name, text) in sources {
        std::fs::write(directory.join(name), text)?;
    }
    std::fs::write(directory.join(THUNKS), thunks(compiler.dialect))?;
    let make = |name, flags, thunks| variant(compiler, &directory, &Recipe { name, flags, thunks });
    Ok(Programs {
        plain: make("plain", &[], None)?,
        retpoline: make("retpoline", compiler.dialect.retpoline, None)?,
        unprotected: make("unprotected", compiler.dialect.external, Some(THUNKS))?,
    })
}

/// Runs the compiler for the variant called `name`.
///
/// # Errors
/// With what the compiler says.
pub fn compile(command: &mut Command, name: &str) -> anyhow::Result<()> {
    let output = command.output().context("the C compiler cannot be started")?;
    ensure!(
        output.status.success(),
        "the {name} variant does not compile; name another compiler with --cc:\n{}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// `relpoline run` of a program with these options, by this very command.
///
/// # Errors
/// When this command's own file is gone.
pub fn relpoline(program: &Path, options: &[&OsStr]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this command's own file is gone")?);
    command.args(["run", "--quiet"]).args(options).arg("--").arg(program);
    command.env_remove(relpoline_stats::options::SWITCH);
    Ok(command)
}

/// Thunks that only jump.
fn thunks(dialect: Dialect) -> String {
    let mut text = String::from("\t.text\n");
    for register in dialect.registers {
        let name = format!("{}{register}", dialect.thunk);
        // Writing to a string does not fail.
        let _ = write!(text, "\t.globl {name}\n\t.hidden {name}\n\t.p2align 4\n{name}:\n\tjmp *%{register}\n\tint3\n");
    }
    text + "\t.section .note.GNU-stack,\"\",@progbits\n"
}
