//! Building `relpoline.ko`.
//!
//! The engine and the core it needs are one crate for the kernel (`kernel/src/kernel.rs`), compiled to one
//! object with what the kernel asks for: no vector registers, no red zone, its code model, external thunks
//! for returns and indirect branches. kbuild lets objtool give it unwind data like any other object and links
//! it with the shim.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian::Kernel;
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
    // What is called through a pointer begins with an ENDBR, as a kernel built for indirect branch tracking
    // wants it.
    "-Zcf-protection=branch",
    "-Cunsafe-allow-abi-mismatch=retpoline,retpoline-external-thunk",
];

/// Deliberate faults of the shim, and the macros that make them.
const SHIM_FAULTS: [(&str, &str); 5] = [
    ("kernel-ignores-probes", "RLP_BROKEN_IGNORES_PROBES"),
    ("kernel-shifted-stub", "RLP_BROKEN_SHIFTED_STUB"),
    ("kernel-missing-symbol", "RLP_BROKEN_MISSING_SYMBOL"),
    ("kernel-wrong-symbol", "RLP_BROKEN_WRONG_SYMBOL"),
    ("kernel-wrong-thunk", "RLP_BROKEN_WRONG_THUNK"),
];

/// Symbols that the engine may leave to others, besides the shim's.
const PROVIDED: &[&str] = &["memcpy", "memmove", "memset", "memcmp", "__x86_return_thunk"];

/// Builds the module and returns its path.
pub fn build(options: &BuildOptions) -> Result<PathBuf> {
    let headers = Headers::find(options)?;
    let out = options.out.clone().unwrap_or_else(|| target_dir().join("kernel").join(&headers.release));
    fs::create_dir_all(&out).with_context(|| format!("{} cannot be made", out.display()))?;
    copy_shim(root(), &out)?;
    engine(root(), &out.join("engine.elf"), options.broken.as_deref())?;
    headers.make(&out, &arguments(options.broken.as_deref()))?;
    let module = out.join("relpoline.ko");
    check(&module)?;
    Ok(module)
}

/// Builds the module `module` once more, below its folder, with a fault in its shim.
pub fn build_broken(options: &BuildOptions, module: &Path, fault: &str) -> Result<PathBuf> {
    let out = module.with_file_name("broken").join(fault);
    copy_shim(root(), &out)?;
    // Made anew only where it has changed, like the shim's files.
    copy_file(&module.with_file_name("engine.elf"), &out.join("engine.elf"))?;
    Headers::find(options)?.make(&out, &arguments(Some(fault)))?;
    Ok(out.join("relpoline.ko"))
}

/// What make is told of a fault. Those of the engine mean nothing to the shim.
fn arguments(fault: Option<&str>) -> Vec<String> {
    let macros = SHIM_FAULTS.iter().filter(|(name, _)| fault == Some(name)).map(|(_, name)| name);
    macros.map(|name| format!("KCPPFLAGS=-D{name}")).collect()
}

/// Builds the modules that the test loads beside ours, in the folder `out`: by name, their files.
pub fn build_for_test(options: &BuildOptions, out: &Path) -> Result<Vec<(String, PathBuf)>> {
    copy_folder(&root().join("kernel/guest/modules"), out)?;
    Headers::find(options)?.make(out, &[])?;
    let built = fs::read_dir(out)?.flatten().map(|entry| entry.path());
    let modules = built.filter(|path| path.extension().is_some_and(|extension| extension == "ko"));
    Ok(modules.filter_map(|path| Some((path.file_stem()?.to_str()?.to_owned(), path))).collect())
}

/// The release of the kernel that would be built for.
pub fn release_for(options: &BuildOptions) -> Result<String> {
    Ok(Headers::find(options)?.release)
}

/// Whether kbuild complains of what is ours. Another compiler than the kernel's may complain of its headers.
fn is_complaint(line: &str) -> bool {
    let line = line.to_lowercase();
    line.contains("warning") && !line.contains("/include/") && !line.contains("differs from the one used")
}

/// The headers of a kernel.
struct Headers {
    release: String,
    dir: PathBuf,
    /// Whether they were only unpacked: their compiler and other tools are not installed.
    is_foreign: bool,
}

impl Headers {
    fn find(options: &BuildOptions) -> Result<Headers> {
        if let Some(name) = &options.kernel {
            let unpacked = Kernel::named(name)?.fetch(&target_dir().join("kernel"))?;
            return Ok(Headers { dir: unpacked.headers(), release: unpacked.release, is_foreign: true });
        }
        let release = match &options.release {
            Some(release) => release.clone(),
            None => newest()?,
        };
        let places = [format!("/lib/modules/{release}/build"), format!("/usr/src/linux-headers-{release}")];
        let dir = places.iter().map(PathBuf::from).find(|dir| dir.join("Module.symvers").exists());
        let Some(dir) = dir else {
            bail!("there are no headers for Linux {release}; install linux-headers-{release}");
        };
        Ok(Headers { release, dir, is_foreign: false })
    }

    /// Lets kbuild make what lies in `out`, without a complaint.
    fn make(&self, out: &Path, arguments: &[String]) -> Result<()> {
        let mut make = Command::new("make");
        make.arg("-C").arg(&self.dir).arg(format!("M={}", out.display()));
        let made = run(make.args(arguments).args(self.overrides()).arg("modules"))?;
        let complaints: Vec<&str> = made.lines().filter(|line| is_complaint(line)).collect();
        if !complaints.is_empty() {
            bail!("{} was built, but not cleanly:\n{}", out.display(), complaints.join("\n"));
        }
        Ok(())
    }

    /// What is said otherwise than in the kernel's configuration: this machine's compiler instead of the
    /// kernel's, without the one option that older ones do not know, and no type information, which needs
    /// pahole.
    fn overrides(&self) -> &'static [&'static str] {
        if !self.is_foreign {
            return &[];
        }
        &["CC=gcc", "CONFIG_CC_HAS_MIN_FUNCTION_ALIGNMENT=", "CONFIG_DEBUG_INFO_BTF_MODULES="]
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
pub fn copy_shim(root: &Path, out: &Path) -> Result<()> {
    copy_folder(&root.join("kernel/shim"), out)
}

/// Copies what differs, so that make sees what has changed.
fn copy_folder(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)?.flatten() {
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() {
            copy_folder(&from, &to)?;
            continue;
        }
        copy_file(&from, &to)?;
    }
    Ok(())
}

fn copy_file(from: &Path, to: &Path) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
    if fs::read(to).ok().as_ref() != Some(&content) {
        fs::write(to, content).with_context(|| format!("{} cannot be written", to.display()))?;
    }
    Ok(())
}

/// Compiles the engine of the source in `root` and checks it: one object for all kernels, and the same
/// wherever the source lies. What differs between kernels, kbuild adds (`shim/Kbuild`).
pub fn engine(root: &Path, object: &Path, broken: Option<&str>) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.arg(format!("--remap-path-prefix={}=.", root.display()));
    rustc.env("RUSTC_BOOTSTRAP", "1").args([
        "--crate-type=staticlib",
        "--crate-name=relpoline_kernel",
        "--edition=2024",
    ]);
    rustc.arg(format!("--emit=obj={}", object.display())).arg("--cap-lints=warn");
    if let Some(fault) = broken {
        rustc.arg("--cfg").arg(format!("relpoline_broken=\"{fault}\""));
    }
    run(rustc.args(CODEGEN).arg(root.join("kernel/src/kernel.rs")))?;
    check_symbols(object)?;
    let without = [".eh_frame", ".rela.eh_frame", ".note.gnu.property"].map(|name| format!("--remove-section={name}"));
    run(Command::new("objcopy").args(without).arg(object))?;
    Ok(())
}

/// Nothing of libcore is linked. A symbol of it means that something can panic, or needs code that was
/// compiled for user space.
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
