//! What is run in the virtual machine, and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

use super::build::release_for;
use super::debian::Kernel;
use super::guest::{Files, Machine, Said};
use super::image::Image;
use super::refusals::{broken, build_all_broken, refusals};
use super::{TestOptions, build, build_for_test, root, run, target_dir};

/// Programs that the test needs, and the packages in which they are.
const NEEDED: [(&str, &str); 8] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("mke2fs", "e2fsprogs"),
    ("make", "make"),
    ("gcc", "gcc"),
    ("apt-get", "apt"),
    ("xz", "xz-utils"),
    ("zstd", "zstd"),
];

/// Modules of the kernel that the test loads, where they are not built in.
const MODULES: [&str; 8] = ["loop", "tun", "vxlan", "ext4", "crc32c_generic", "i915", "amdgpu", "nouveau"];

/// What is run with a module that DKMS has built.
const BUILT: &str = "sites,switching";

/// Parts that have machines of their own.
const MACHINES: [&str; 4] = ["kexec", "refusals", "broken", "prefixed"];

/// Words on the console that mean that the kernel was harmed.
const HARM: [&str; 13] = [
    "BUG:",
    "BUG at",
    "WARNING:",
    "Oops",
    "general protection",
    "Kernel panic",
    "RIP:",
    "Call Trace",
    "int3:",
    "invalid opcode",
    "stall",
    "blocked for more than",
    "Unwind",
];

/// What a sound kernel says at boot about the options that a test boots it with, and about the processor.
const HARMLESS: [&str; 2] = [
    "Spectre V2 : WARNING: LFENCE mitigation is not recommended",
    "Speculative Return Stack Overflow: WARNING: See https://",
];

/// What came of a kernel.
pub struct Outcome {
    /// What was found there, in one line.
    pub line: String,
    /// Checks that failed.
    pub failed: usize,
}

/// Builds the module, boots the kernel, runs everything, says what came out.
///
/// # Errors
/// Something could not be built or started. A check that fails is no error: it is in the outcome.
pub fn one(options: &TestOptions) -> Result<Outcome> {
    let began = Instant::now();
    let image = match packages(options) {
        Ok(image) => image,
        Err(error) if options.skip_without_packages => {
            println!("kernel-test: SKIPPED: {error:#}");
            return Ok(Outcome { line: "SKIPPED".to_owned(), failed: 0 });
        }
        Err(error) => return Err(error),
    };
    let is_wanted = |part: &str| options.only.iter().any(|wanted| wanted == part);
    // By its name only: it shows what Linux does without the module, and may end with a panic of Linux's own.
    let wants = |part: &str| is_wanted(part) || (options.only.is_empty() && part != "prefixed");
    let module = build(&options.build)?;
    let mut others = Vec::new();
    for (name, file) in build_for_test(&options.build, &module.with_file_name("test-modules"))? {
        others.push((format!("test-modules/{name}.ko"), fs::read(file)?));
    }
    if wants("broken") {
        others.extend(build_all_broken(&options.build, &module)?);
    }
    let bench = Bench::prepare(image, &module, others, &options.cpu, options.processors)?;
    let mut verdict = Verdict::default();
    println!(
        "kernel-test: Linux {} in QEMU, emulated ({} × {}); logs in {}",
        bench.image.release,
        options.processors,
        options.cpu,
        bench.dir.display()
    );
    if options.only.iter().any(|part| !MACHINES.contains(&part.as_str())) || options.only.is_empty() {
        bench.main(options, &mut verdict)?;
    }
    if wants("kexec") {
        bench.kexec(options, &mut verdict)?;
    }
    if wants("refusals") {
        refusals(&bench, &mut verdict)?;
    }
    if wants("broken") {
        broken(&bench, options, &mut verdict)?;
    }
    if wants("prefixed") {
        bench.prefixed(options)?;
    }
    verdict.print(began.elapsed());
    let line = format!("{} · {}", bench.image.release, verdict.line_of_matrix());
    Ok(Outcome { line, failed: verdict.failed.len() })
}

/// What is said to the kernel of its mitigations.
pub fn mitigations(options: &TestOptions) -> &'static str {
    if options.default_mitigations { "" } else { "spectre_v2=retpoline" }
}

/// Boots the kernel `release`, unpacked in `dir`, and loads the module that somebody else has built for it,
/// packed or not: the one that DKMS left behind.
pub fn test_built(release: &str, dir: &Path, module: &Path) -> Result<()> {
    if let Some(missing) = missing() {
        bail!("loading the module in QEMU needs packages that are not there; apt-get install {missing}");
    }
    let bench = Bench::prepare(Image::at(release, dir), module, Vec::new(), "max,-cx16", 2)?;
    let mut verdict = Verdict::default();
    println!("Linux {release} in QEMU, emulated; logs in {}", bench.dir.display());
    let words = format!("spectre_v2=retpoline rlp.only={BUILT}");
    bench.boot(&bench.machine(&words, 900), "main", &mut verdict)?;
    verdict.print(Duration::ZERO);
    if verdict.failed.is_empty() { Ok(()) } else { bail!("{} checks failed, see above", verdict.failed.len()) }
}

/// The kernel that is tested, once everything that the test needs is there.
fn packages(options: &TestOptions) -> Result<Image> {
    if let Some(missing) = missing() {
        bail!("the kernel test needs packages that are not there; apt-get install {missing}");
    }
    let dir = target_dir().join("kernel");
    match &options.build.kernel {
        Some(name) => Ok(Image::of(&Kernel::named(name)?.fetch(&dir)?)),
        None => Image::fetch(&release_for(&options.build)?, &dir),
    }
}

/// Packages that are not installed.
fn missing() -> Option<String> {
    let is_there = |program: &str| Command::new("which").arg(program).output().is_ok_and(|out| out.status.success());
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| !is_there(program)).map(|&(_, package)| package).collect();
    (!missing.is_empty()).then(|| missing.join(" "))
}

/// What was said, in all.
#[derive(Default)]
pub struct Verdict {
    held: usize,
    /// What the machine's report says of sites and promotions.
    told: Vec<String>,
    failed: Vec<String>,
}

impl Verdict {
    fn take(&mut self, holds: bool, what: &str) {
        if holds {
            self.held += 1;
        } else {
            self.failed.push(what.to_owned());
        }
        println!("  {} {what}", if holds { "ok  " } else { "FAIL" });
    }

    /// Takes in a line of a machine's report.
    fn line(&mut self, line: &str) {
        match line.split_once(' ') {
            Some(("ok", what)) => self.take(true, what),
            Some(("FAIL", what)) => self.take(false, what),
            Some(("table", what)) => self.told.push(what.to_owned()),
            Some(("note", what)) => println!("       {what}"),
            Some(("part", what)) => println!("{}", what.rsplit_once(' ').map_or(what, |(name, _)| name)),
            _ => {}
        }
    }

    /// The machine came to its end, and its kernel was not harmed.
    fn end(&mut self, said: &Said) {
        let came_to_end = said.report.lines().any(|line| line.trim() == "done") && !said.stopped;
        self.take(came_to_end, &format!("the machine came to its end after {} s", said.took.as_secs()));
        let is_harmless = |line: &str| HARMLESS.iter().any(|text| line.contains(text));
        let is_harm = |line: &&str| !is_harmless(line) && HARM.iter().any(|word| line.contains(word));
        let harm: Vec<&str> = said.console.lines().filter(is_harm).collect();
        self.take(harm.is_empty(), "no BUG, no WARNING, no oops, no stall on the console");
        for line in harm.iter().take(20) {
            println!("       {line}");
        }
    }

    fn line_of_matrix(&self) -> String {
        let failed: Vec<String> = self.failed.iter().map(|what| format!(" · FAILED: {what}")).collect();
        format!("{} · {} checks held{}", self.told.join(" · "), self.held, failed.concat())
    }

    fn print(&self, took: Duration) {
        println!("\nkernel-test: {} checks held, {} failed, {} s", self.held, self.failed.len(), took.as_secs());
        for what in &self.failed {
            println!("  FAIL {what}");
        }
    }
}

/// Everything that machines are made of.
pub struct Bench {
    /// The kernel.
    pub image: Image,
    kernel: PathBuf,
    dir: PathBuf,
    files: PathBuf,
    cpu: String,
    processors: u32,
}

impl Bench {
    fn prepare(
        image: Image,
        module: &Path,
        others: Vec<(String, Vec<u8>)>,
        cpu: &str,
        processors: u32,
    ) -> Result<Bench> {
        let dir = module.with_file_name("test");
        fs::create_dir_all(&dir)?;
        let files = dir.join("files.cpio");
        let mut collected = collect(&image, module, &dir)?;
        for (name, content) in others {
            collected.add(&name, content, 0o644);
        }
        collected.write(&files)?;
        Ok(Bench { kernel: image.vmlinuz(), image, dir, files, cpu: cpu.to_owned(), processors })
    }

    /// A machine whose kernel is given `options`, and which is given up after `seconds`.
    pub fn machine<'a>(&'a self, options: &'a str, seconds: u64) -> Machine<'a> {
        Machine {
            kernel: &self.kernel,
            files: &self.files,
            cpu: &self.cpu,
            processors: self.processors,
            options,
            logs: &self.dir,
            limit: Duration::from_secs(seconds),
        }
    }

    /// Boots a machine and takes in what it says.
    pub fn boot(&self, machine: &Machine<'_>, name: &str, verdict: &mut Verdict) -> Result<()> {
        let said = machine.run(name, &mut |line| verdict.line(line))?;
        verdict.end(&said);
        Ok(())
    }

    fn main(&self, options: &TestOptions, verdict: &mut Verdict) -> Result<()> {
        let words = format!(
            "{} rlp.promotions={} rlp.reloads={} rlp.churn={} rlp.only={}",
            mitigations(options),
            options.promotions,
            options.reloads,
            options.churn,
            options.only.join(",")
        );
        // Several times what a quiet machine needs: emulation on a busy one is slow, not wrong.
        let limit = 600 + u64::from(options.promotions / 10 + options.churn / 5) + 30 * u64::from(options.reloads);
        self.boot(&self.machine(&words, limit), "main", verdict)
    }

    /// A machine whose kernel starts a second one while it is promoted.
    fn kexec(&self, options: &TestOptions, verdict: &mut Verdict) -> Result<()> {
        let words = format!("{} rlp.kexec=first", mitigations(options));
        self.boot(&self.machine(&words, 900), "kexec", verdict)
    }

    /// A machine without the module, whose kernel has probes armed before `cs` prefixes: says what became of
    /// it.
    fn prefixed(&self, options: &TestOptions) -> Result<()> {
        println!("probes before a cs prefix, without the module");
        let words = format!("{} rlp.prefixed=1", mitigations(options));
        let said = self.machine(&words, 300).run("prefixed", &mut |line| println!("       {line}"))?;
        let lives = said.report.lines().any(|line| line.trim() == "done") && !said.stopped;
        println!("       Linux {} {}", self.image.release, if lives { "goes on" } else { "falls, by itself" });
        let harm = |line: &&str| HARM.iter().any(|word| line.contains(word));
        for line in said.console.lines().filter(harm).take(12) {
            println!("       {line}");
        }
        Ok(())
    }
}

/// The memory file system: the first process, the command, the module, the kernel's own modules, what is
/// expected.
fn collect(image: &Image, module: &Path, dir: &Path) -> Result<Files> {
    let mut files = Files::default();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    run(cargo.current_dir(root()).args(["build", "-q", "-p", "relpoline-cli", "-p", "relpoline-kernel-guest"]))?;
    files.add_program("init", &target_dir().join("debug/relpoline-kernel-guest"))?;
    files.add_program("bin/relpoline", &target_dir().join("debug/relpoline"))?;
    files.add("bin/busybox", fs::read(which("busybox")?)?, 0o755);
    let name = module.file_name().and_then(|name| name.to_str()).context("the module's file has a name")?;
    files.add(name, fs::read(module)?, 0o644);
    files.add("kexec/vmlinuz", fs::read(image.vmlinuz())?, 0o644);
    files.add("ext4.img", ext4(dir)?, 0o644);
    let (mut listed, mut seen) = (String::new(), BTreeSet::new());
    for name in MODULES {
        let modules = with_dependencies(image, name)?;
        let order: Vec<&str> = modules.iter().map(|(name, _)| name.as_str()).collect();
        files.add(&format!("modules/{name}.order"), order.join("\n").into_bytes(), 0o644);
        for (name, content) in &modules {
            // Several need the same.
            if !seen.insert(name.clone()) {
                continue;
            }
            listed += &format!("{} {}\n", name.replace('-', "_"), sites_of_module(content)?);
            files.add(&format!("modules/{name}.ko"), content.clone(), 0o644);
        }
    }
    files.add("expected/modules", listed.into_bytes(), 0o644);
    let sites: BTreeSet<u64> = image.sites()?;
    let lines: Vec<String> = sites.iter().map(|offset| format!("{offset:x}\n")).collect();
    files.add("expected/sites", lines.concat().into_bytes(), 0o644);
    let lines: Vec<String> = image.alternatives()?.iter().map(|(at, len)| format!("{at:x} {len}\n")).collect();
    files.add("expected/alternatives", lines.concat().into_bytes(), 0o644);
    Ok(files)
}

fn which(program: &str) -> Result<PathBuf> {
    Ok(PathBuf::from(run(Command::new("which").arg(program))?.trim()))
}

/// An empty ext4 file system.
fn ext4(dir: &Path) -> Result<Vec<u8>> {
    let path = dir.join("ext4.img");
    let file = fs::File::create(&path)?;
    file.set_len(16 << 20)?;
    run(Command::new("mke2fs").args(["-q", "-F", "-t", "ext4"]).arg(&path))?;
    Ok(fs::read(path)?)
}

/// A module and what it needs, in the order of loading. What is not there is built in.
fn with_dependencies(image: &Image, name: &str) -> Result<Vec<(String, Vec<u8>)>> {
    let Some(content) = image.module(name)? else { return Ok(Vec::new()) };
    let mut found: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    let mut order = Vec::new();
    for needed in dependencies(&content)? {
        for (name, content) in with_dependencies(image, &needed)? {
            if found.insert(name.clone(), content).is_none() {
                order.push(name);
            }
        }
    }
    let mut modules: Vec<(String, Vec<u8>)> =
        order.into_iter().filter_map(|name| found.remove(&name).map(|content| (name, content))).collect();
    modules.push((name.to_owned(), content));
    Ok(modules)
}

/// The modules that a module names as needed.
fn dependencies(content: &[u8]) -> Result<Vec<String>> {
    let file = object::File::parse(content).context("a kernel module is no ELF file")?;
    let info = file.section_by_name(".modinfo").context("a kernel module says nothing of itself")?.data()?;
    let needs = info.split(|&byte| byte == 0).find_map(|entry| entry.strip_prefix(b"depends="));
    let names = String::from_utf8_lossy(needs.unwrap_or_default()).into_owned();
    Ok(names.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// How many sites the build of a module listed in text that stays after it was loaded.
fn sites_of_module(content: &[u8]) -> Result<usize> {
    let file = object::File::parse(content).context("a kernel module is no ELF file")?;
    let Some(listed) = file.section_by_name(".retpoline_sites") else { return Ok(0) };
    let mut count = 0;
    for (_, relocation) in listed.relocations() {
        let RelocationTarget::Symbol(symbol) = relocation.target() else { continue };
        let section = file.symbol_by_index(symbol)?.section_index().context("a site lies in no section")?;
        let name = file.section_by_index(section)?.name()?.to_owned();
        count += usize::from(!name.starts_with(".init"));
    }
    Ok(count)
}
