//! The peers that learn before the program runs: profile feedback in the compiler, and LLVM BOLT after the
//! linker.
//!
//! Both go through the same three steps: a build that counts, a training run on another input than is
//! measured, and a build that uses the counts. Both promote indirect calls to their commonest targets, and
//! both need what Relpoline does without: a second build and a representative load.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result};

use crate::build::Builder;
use crate::measure;
use crate::programs::Program;
use crate::variant::{Toolchain, Variant};
use crate::workload::Setting;

/// How long one pass of a tool over a binary or its counts may take.
const LIMIT: Duration = Duration::from_secs(600);

/// The newest LLVM that Debian 12 has BOLT of; `bolt-19` and `libbolt-19-dev`.
const BOLT: &str = "/usr/lib/llvm-19/bin/llvm-bolt";

/// Debian packages that a variant needs besides the program's own.
pub fn needs(variant: Variant, toolchain: Toolchain) -> &'static [&'static str] {
    match (variant, toolchain) {
        (Variant::Bolt, _) => &["bolt-19", "libbolt-19-dev"],
        (Variant::Pgo, Toolchain::Clang) => &["llvm", "libclang-rt-14-dev"],
        _ => &[],
    }
}

/// Builds with the compiler's counters, trains, builds again with what was counted. Compilers name profiles
/// after the paths of objects, so both builds are made in the same directory.
pub fn promoted_by_compiler(builder: &Builder, program: &dyn Program) -> Result<()> {
    let counts = fresh_directory(&builder.place.beside(program.name(), Variant::Pgo, "profile"))?;
    let dir = counts.display();
    let single = if program.toolchain() == Toolchain::Gcc { " -fprofile-update=single" } else { "" };
    builder.tree(program, Variant::Pgo, &format!("-fprofile-generate={dir}{single}"))?;
    train(builder, program, Variant::Pgo)?;
    let using = match program.toolchain() {
        // Without -Wno-missing-profile a program that treats warnings as errors would not build.
        Toolchain::Gcc => {
            format!("-fprofile-use={dir} -fprofile-correction -Wno-missing-profile -Wno-coverage-mismatch")
        }
        Toolchain::Clang => {
            let merged = counts.join("merged.profdata");
            let mut merge = Command::new("llvm-profdata");
            measure::run(merge.arg("merge").arg("-o").arg(&merged).arg(&counts), LIMIT)?;
            format!("-fprofile-use={} -Wno-profile-instr-unprofiled", merged.display())
        }
    };
    builder.tree(program, Variant::Pgo, &using)
}

/// Builds without retpolines, lets BOLT instrument the executable, trains, and lets BOLT promote and insert
/// retpolines for the calls that are left. Shared libraries stay as they were built: BOLT rewrites one file.
pub fn promoted_by_bolt(builder: &Builder, program: &dyn Program) -> Result<()> {
    builder.tree(program, Variant::Bolt, "")?;
    let built = builder.place.built(program.name(), Variant::Bolt).join(program.executable());
    let original = built.with_extension("unbolted");
    fs::rename(&built, &original).with_context(|| format!("moving {}", built.display()))?;
    let counts = fresh_directory(&builder.place.beside(program.name(), Variant::Bolt, "profile"))?;
    let file = counts.join("counts.fdata");
    let mut instrument = bolt(&original, &built);
    instrument.args(["-instrument", "--runtime-instrumentation-lib=libbolt_rt_instr.a"]);
    // One file per process, since a server's children count for themselves.
    instrument.arg(format!("--instrumentation-file={}", file.display())).arg("--instrumentation-file-append-pid");
    measure::run(&mut instrument, LIMIT)?;
    train(builder, program, Variant::Bolt)?;
    let merged = counts.join("merged");
    let mut merge = Command::new("/usr/lib/llvm-19/bin/merge-fdata");
    merge.arg("-o").arg(&merged).args(files_in(&counts)?);
    measure::run(&mut merge, LIMIT)?;
    let mut optimise = bolt(&original, &built);
    optimise.arg(format!("-data={}", merged.display()));
    // Left to itself BOLT calls through memory, and gets the address wrong where that is relative to the
    // stack pointer (CPython's list_sort_impl). As gcc does: through a register, which the ABI has free
    // before calls.
    optimise.args(["-insert-retpolines", "--r11-availability=abi"]);
    optimise.args(["-indirect-call-promotion=all", "--indirect-call-promotion-topn=4"]);
    optimise.args(["-reorder-blocks=ext-tsp", "-reorder-functions=hfsort", "-split-functions"]);
    measure::run(&mut optimise, LIMIT)?;
    Ok(())
}

fn bolt(from: &Path, to: &Path) -> Command {
    let mut command = Command::new(BOLT);
    command.arg(from).arg("-o").arg(to);
    command
}

fn train(builder: &Builder, program: &dyn Program, variant: Variant) -> Result<()> {
    let training = program.training().context("no training input")?;
    training.run(&Setting::direct(builder.place, program.name(), variant)?).context("the training run")?;
    Ok(())
}

/// An empty directory that every user may write into: servers change theirs.
fn fresh_directory(path: &Path) -> Result<PathBuf> {
    if path.exists() {
        fs::remove_dir_all(path)?;
    }
    fs::create_dir_all(path)?;
    fs::set_permissions(path, Permissions::from_mode(0o777))?;
    Ok(path.to_owned())
}

fn files_in(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = fs::read_dir(dir)?.collect::<Result<Vec<_>, _>>()?;
    Ok(entries.into_iter().map(|entry| entry.path()).collect())
}
