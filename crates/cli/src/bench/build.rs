//! The bundled program, compiled in its variants.

use std::path::{Path, PathBuf};

use crate::workbench::compiler::Compiler;
use crate::workbench::variant::{self, Programs, Recipe, compile};

const SOURCES: [(&str, &str); 3] = [
    ("bench.c", include_str!("../../bench/bench.c")),
    ("targets.c", include_str!("../../bench/targets.c")),
    ("targets.h", include_str!("../../bench/targets.h")),
];

/// Writes the sources to `directory` and compiles them there.
pub fn build(compiler: &Compiler, directory: &Path) -> anyhow::Result<Programs> {
    variant::build(compiler, directory, &SOURCES, one)
}

fn one(compiler: &Compiler, directory: &Path, recipe: &Recipe<'_>) -> anyhow::Result<PathBuf> {
    let mut command = compiler.command(recipe.flags);
    // A call in inline assembly writes below the stack pointer.
    command.args(["-mno-red-zone", "bench.c", "targets.c", "-o", recipe.name]).args(recipe.thunks);
    compile(command.current_dir(directory), recipe.name)?;
    Ok(directory.join(recipe.name))
}
