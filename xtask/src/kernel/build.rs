//! Building `relpoline.ko`.
//!
//! The engine and the core it needs are one crate for the kernel (`kernel/src/kernel.rs`), compiled to one object
//! with what the kernel asks for: no vector registers, no red zone, its code model, external thunks for returns
//! and indirect branches. objtool gives it ORC data like any other object; kbuild links it with the shim.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::{BuildOptions, root, run, target_dir};

/// What the kernel asks of code that it runs.
const CODEGEN: &[&str] = &[
    "-Copt-level=2",
    "-Cpanic=abort",
    "-Cno-redzone=yes",
    "-Ccode-model=kernel",
    "-Crelocation-model=static",
    "-Ctarget-feature=-sse,-sse2,-mmx",
    "-Ccodegen-units=1",
    "-Cforce-unwind-tables=no",
    "-Zplt=yes",
    "-Zfunction-return=thunk-extern",
    "-Zretpoline-external-thunk",
    "-Cunsafe-allow-abi-mismatch=retpoline,retpoline-external-thunk",
];

/// What kbuild tells objtool for Debian's configuration.
const OBJTOOL: &[&str] = &[
    "--hacks=jump_label",
    "--hacks=noinstr",
    "--orc",
    "--retpoline",
    "--rethunk",
    "--sls",
    "--static-call",
    "--uaccess",
    "--module",
];

/// Symbols that the engine may leave to others, besides the shim's.
const PROVIDED: &[&str] = &["memcpy", "memmove", "memset", "memcmp", "__x86_return_thunk"];

/// Builds the module and returns its path.
pub fn build(options: &BuildOptions) -> Result<PathBuf> {
    let headers = Headers::find(options.release.as_deref())?;
    let out = options.out.clone().unwrap_or_else(|| target_dir().join("kernel").join(&headers.release));
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    take_shim(&out)?;
    engine(&headers, &out, options.broken.as_deref())?;
    let made =
        run(Command::new("make").arg("-C").arg(&headers.dir).arg(format!("M={}", out.display())).arg("modules"))?;
    let complaints: Vec<&str> = made.lines().filter(|line| line.to_lowercase().contains("warning")).collect();
    if !complaints.is_empty() {
        bail!("the module was built, but not cleanly:\n{}", complaints.join("\n"));
    }
    let module = out.join("relpoline.ko");
    check(&module)?;
    Ok(module)
}

/// The release of the kernel that would be built for.
pub fn release_for(options: &BuildOptions) -> Result<String> {
    Ok(Headers::find(options.release.as_deref())?.release)
}

/// The headers of a kernel.
struct Headers {
    release: String,
    dir: PathBuf,
}

impl Headers {
    fn find(release: Option<&str>) -> Result<Headers> {
        let release = match release {
            Some(release) => release.to_owned(),
            None => newest()?,
        };
        let places = [format!("/lib/modules/{release}/build"), format!("/usr/src/linux-headers-{release}")];
        let dir = places.iter().map(PathBuf::from).find(|dir| dir.join("Module.symvers").exists());
        let Some(dir) = dir else {
            bail!("there are no headers for Linux {release}; install linux-headers-{release}");
        };
        Ok(Headers { release, dir })
    }
}

/// The newest 6.1 kernel whose headers are installed.
fn newest() -> Result<String> {
    let entries = fs::read_dir("/usr/src").context("/usr/src cannot be read")?;
    let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let mut releases: Vec<String> = names
        .filter_map(|name| name.strip_prefix("linux-headers-").map(str::to_owned))
        .filter(|release| release.starts_with("6.1.") && !release.ends_with("-common"))
        .collect();
    releases.sort_by_key(|release| abi(release));
    let Some(release) = releases.pop() else {
        bail!(
            "no headers of a Linux 6.1 kernel are installed; on Debian 12: apt-get install linux-headers-cloud-amd64"
        );
    };
    Ok(release)
}

/// The number behind 6.1.0, by which Debian's kernels are ordered.
fn abi(release: &str) -> u32 {
    release.split('-').nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// Puts the shim's files, and nothing else, where kbuild works.
fn take_shim(out: &Path) -> Result<()> {
    for entry in fs::read_dir(root().join("kernel/shim"))?.flatten() {
        let (from, to) = (entry.path(), out.join(entry.file_name()));
        let content = fs::read(&from)?;
        if fs::read(&to).ok().as_ref() != Some(&content) {
            fs::write(&to, content).with_context(|| format!("{} cannot be written", to.display()))?;
        }
    }
    Ok(())
}

/// Compiles the engine, checks it, and hands it to kbuild as a finished object.
fn engine(headers: &Headers, out: &Path, broken: Option<&str>) -> Result<()> {
    let object = out.join("engine.o_shipped");
    let mut rustc = Command::new("rustc");
    rustc.env("RUSTC_BOOTSTRAP", "1").args([
        "--crate-type=staticlib",
        "--crate-name=relpoline_kernel",
        "--edition=2024",
    ]);
    rustc.arg(format!("--emit=obj={}", object.display())).args(["--cfg", "relpoline_kernel", "--cap-lints=warn"]);
    if let Some(fault) = broken {
        rustc.arg("--cfg").arg(format!("relpoline_broken=\"{fault}\""));
    }
    run(rustc.args(CODEGEN).arg(root().join("kernel/src/kernel.rs")))?;
    check_symbols(&object)?;
    run(Command::new("objcopy").args(["--remove-section=.eh_frame", "--remove-section=.rela.eh_frame"]).arg(&object))?;
    run(Command::new(headers.dir.join("tools/objtool/objtool")).args(OBJTOOL).arg(&object))?;
    // modpost reads it for every object, also for one that kbuild has not made.
    fs::write(out.join(".engine.o.cmd"), "")?;
    Ok(())
}

/// Nothing of libcore is linked. A symbol of it means that something can panic, or needs code that was compiled
/// for user space.
fn check_symbols(object: &Path) -> Result<()> {
    let listed = run(Command::new("nm").args(["--undefined-only", "--demangle"]).arg(object))?;
    let is_provided = |name: &str| {
        PROVIDED.contains(&name) || name.starts_with("relpoline_") || name.starts_with("__x86_indirect_thunk_")
    };
    let names = listed.lines().filter_map(|line| line.trim().strip_prefix("U "));
    let strange: Vec<&str> = names.filter(|name| !is_provided(name)).collect();
    if !strange.is_empty() {
        bail!("the engine needs what no kernel has; something in it can panic or format text: {}", strange.join(", "));
    }
    Ok(())
}

/// No vector register, and nothing below the stack pointer: an interrupt would overwrite it.
fn check(module: &Path) -> Result<()> {
    let code = run(Command::new("objdump").args(["-d", "--no-show-raw-insn"]).arg(module))?;
    let is_bad = |line: &&str| line.contains("%xmm") || line.contains("%ymm") || reads_red_zone(line);
    if let Some(line) = code.lines().find(is_bad) {
        bail!("the module has an instruction that kernel code must not have: {}", line.trim());
    }
    Ok(())
}

/// Whether an instruction reads or writes below the stack pointer. `lea` only computes.
fn reads_red_zone(line: &str) -> bool {
    let Some((operands, _)) = line.split_once("(%rsp)") else { return false };
    let displacement = operands.rsplit([' ', '\t', ',']).next().unwrap_or_default();
    displacement.starts_with('-') && !line.contains("lea")
}
