//! The bundled program, compiled in its variants. The sources are part of the command.

use std::path::{Path, PathBuf};

use crate::workbench::compiler::Compiler;
use crate::workbench::variant::{self, Programs, Recipe, compile};

const SOURCES: [(&str, &str); 3] = [
    ("demo.c", include_str!("../../demo/demo.c")),
    ("filters.c", include_str!("../../demo/filters.c")),
    ("filters.h", include_str!("../../demo/filters.h")),
];

/// Writes the sources to `directory` and compiles them there.
pub fn build(compiler: &Compiler, directory: &Path) -> anyhow::Result<Programs> {
    variant::build(compiler, directory, &SOURCES, one)
}

/// Compiles library and program; thunks are linked into both.
fn one(compiler: &Compiler, directory: &Path, recipe: &Recipe<'_>) -> anyhow::Result<PathBuf> {
    let Recipe { name, flags, thunks } = *recipe;
    let library = format!("libfilters-{name}.so");
    let mut command = compiler.command(flags);
    command.args(["-fPIC", "-shared", "filters.c", "-o", &library]).args(thunks);
    compile(command.current_dir(directory), name)?;
    let mut command = compiler.command(flags);
    command.args(["demo.c", "-o", name]).args(thunks).args(["-L.", "-Wl,-rpath,$ORIGIN"]).arg(format!("-l:{library}"));
    compile(command.current_dir(directory), name)?;
    Ok(directory.join(name))
}
