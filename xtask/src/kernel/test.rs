//! What is run in the virtual machine, and the verdict.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

use super::build::release_for;
use super::debian::{KERNELS, Kernel};
use super::guest::{Files, Machine, Said};
use super::image::Image;
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
const MODULES: [&str; 7] = ["loop", "tun", "ext4", "crc32c_generic", "i915", "amdgpu", "nouveau"];

/// What is run on each kernel of the matrix, unless `--only` says otherwise.
const MATRIX: &str = "sites,learning,named,modules,probe,registered,sized,hotplug,traced,livepatched,suspended,taken,starving,switching,locked,kexec";

/// What is run with a module that DKMS has built.
const BUILT: &str = "sites,switching";

/// Parts that have machines of their own.
const MACHINES: [&str; 2] = ["kexec", "refusals"];

/// Processors, besides the default, on which the kernels of the matrix are tried: their returns are mitigated, too.
const PROCESSORS: [(&str, &str); 2] = [("6.12", "EPYC-Rome,-cx16"), ("6.12", "EPYC-Milan,-cx16")];

/// Machines on which the module must refuse to load: name, options of the kernel, what the reason says.
const REFUSALS: [(&str, &str, &str); 4] = [
    ("spectre_v2=off", "spectre_v2=off", "mitigations_are_off"),
    ("lfence", "spectre_v2=retpoline,lfence", "lfence_instead_of_retpolines"),
    ("lockdown", "lockdown=integrity", "locked_down"),
    ("another kernel", "", "built_for_Linux"),
];

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

/// What a sound kernel says at boot about the options that a test boots it with.
const HARMLESS: &str = "Spectre V2 : WARNING: LFENCE mitigation is not recommended";

/// Tests one kernel, or all of them one after the other.
pub fn test(options: &TestOptions) -> Result<()> {
    if options.build.kernel.as_deref() == Some("all") { matrix(options) } else { one(options).map(drop) }
}

/// A line for each kernel and processor; goes on when one fails.
fn matrix(options: &TestOptions) -> Result<()> {
    let plain = KERNELS.iter().map(|kernel| (kernel.name, options.cpu.as_str()));
    let mut table = Vec::new();
    for (name, cpu) in plain.chain(PROCESSORS) {
        println!("\n{name} on {cpu}");
        let mut options = options.clone();
        (options.build.kernel, options.cpu) = (Some(name.to_owned()), cpu.to_owned());
        if options.only.is_empty() {
            options.only = MATRIX.split(',').map(str::to_owned).collect();
        }
        let line = one(&options).unwrap_or_else(|error| format!("FAILED: {error:#}"));
        table.push(format!("{name:12} {cpu:12} {line}"));
    }
    println!("\n{}", table.join("\n"));
    let failed = table.iter().filter(|line| line.contains("FAILED")).count();
    if failed == 0 { Ok(()) } else { bail!("{failed} of {} kernels failed", table.len()) }
}

/// Builds the module, boots the kernel, runs everything, says what came out: in one line, too.
fn one(options: &TestOptions) -> Result<String> {
    let began = Instant::now();
    let image = match packages(options) {
        Ok(image) => image,
        Err(error) if options.skip_without_packages => {
            println!("kernel-test: SKIPPED: {error:#}");
            return Ok("SKIPPED".to_owned());
        }
        Err(error) => return Err(error),
    };
    let module = build(&options.build)?;
    let others = build_for_test(&options.build, &module.with_file_name("test-modules"))?;
    let bench = Bench::prepare(image, &module, &others, &options.cpu)?;
    let mut verdict = Verdict::default();
    println!(
        "kernel-test: Linux {} in QEMU, emulated ({}); logs in {}",
        bench.image.release,
        options.cpu,
        bench.dir.display()
    );
    let wants = |part: &str| options.only.is_empty() || options.only.iter().any(|wanted| wanted == part);
    if options.only.iter().any(|part| !MACHINES.contains(&part.as_str())) || options.only.is_empty() {
        bench.main(options, &mut verdict)?;
    }
    if wants("kexec") {
        bench.kexec(&mut verdict)?;
    }
    if wants("refusals") {
        for refusal in REFUSALS {
            bench.refusal(refusal, &mut verdict)?;
        }
    }
    verdict.print(began.elapsed());
    let line = format!("{} · {}", bench.image.release, verdict.line_of_matrix());
    if verdict.failed.is_empty() { Ok(line) } else { bail!("{} checks failed, see above", verdict.failed.len()) }
}

/// Boots the kernel `release`, unpacked in `dir`, and loads the module that somebody else has built for it, packed or
/// not: the one that DKMS left behind.
pub fn test_built(release: &str, dir: &Path, module: &Path) -> Result<()> {
    if let Some(missing) = missing() {
        bail!("loading the module in QEMU needs packages that are not there; apt-get install {missing}");
    }
    let bench = Bench::prepare(Image::at(release, dir), module, &[], "max,-cx16")?;
    let mut verdict = Verdict::default();
    println!("Linux {release} in QEMU, emulated; logs in {}", bench.dir.display());
    bench.run(&format!("spectre_v2=retpoline rlp.only={BUILT}"), 900, &mut verdict)?;
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
struct Verdict {
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
        let is_harm = |line: &&str| !line.contains(HARMLESS) && HARM.iter().any(|word| line.contains(word));
        let harm: Vec<&str> = said.console.lines().filter(is_harm).collect();
        self.take(harm.is_empty(), "no BUG, no WARNING, no oops, no stall on the console");
        for line in harm.iter().take(20) {
            println!("       {line}");
        }
    }

    fn line_of_matrix(&self) -> String {
        format!("{} · {} checks", self.told.join(" · "), self.held)
    }

    fn print(&self, took: Duration) {
        println!("\nkernel-test: {} checks held, {} failed, {} s", self.held, self.failed.len(), took.as_secs());
        for what in &self.failed {
            println!("  FAIL {what}");
        }
    }
}

/// Everything that machines are made of.
struct Bench {
    image: Image,
    dir: PathBuf,
    files: PathBuf,
    cpu: String,
}

impl Bench {
    fn prepare(image: Image, module: &Path, others: &[(String, PathBuf)], cpu: &str) -> Result<Bench> {
        let dir = module.with_file_name("test");
        fs::create_dir_all(&dir)?;
        let files = dir.join("files.cpio");
        let mut collected = collect(&image, module, &dir)?;
        for (name, file) in others {
            collected.add(&format!("test-modules/{name}.ko"), fs::read(file)?, 0o644);
        }
        collected.write(&files)?;
        Ok(Bench { image, dir, files, cpu: cpu.to_owned() })
    }

    fn machine<'a>(&'a self, options: &'a str, kernel: &'a Path, seconds: u64) -> Machine<'a> {
        Machine {
            kernel,
            files: &self.files,
            cpu: &self.cpu,
            options,
            logs: &self.dir,
            limit: Duration::from_secs(seconds),
        }
    }

    fn main(&self, options: &TestOptions, verdict: &mut Verdict) -> Result<()> {
        let words = format!(
            "spectre_v2=retpoline rlp.promotions={} rlp.reloads={} rlp.only={}",
            options.promotions,
            options.reloads,
            options.only.join(",")
        );
        // Several times what a quiet machine needs: emulation on a busy one is slow, not wrong.
        let limit = 600 + u64::from(options.promotions / 10) + 30 * u64::from(options.reloads);
        self.run(&words, limit, verdict)
    }

    fn run(&self, words: &str, seconds: u64, verdict: &mut Verdict) -> Result<()> {
        let kernel = self.image.vmlinuz();
        let said = self.machine(words, &kernel, seconds).run("main", &mut |line| verdict.line(line))?;
        verdict.end(&said);
        Ok(())
    }

    /// A machine whose kernel starts a second one while it is promoted.
    fn kexec(&self, verdict: &mut Verdict) -> Result<()> {
        let kernel = self.image.vmlinuz();
        let words = "spectre_v2=retpoline rlp.kexec=first";
        let said = self.machine(words, &kernel, 900).run("kexec", &mut |line| verdict.line(line))?;
        verdict.end(&said);
        Ok(())
    }

    fn refusal(&self, (name, options, reason): (&str, &str, &str), verdict: &mut Verdict) -> Result<()> {
        println!("refusal: {name}");
        let words = format!("{options} rlp.refusal={reason}");
        let kernel = self.image.vmlinuz();
        let file = name.replace([' ', '='], "-");
        let said = self.machine(&words, &kernel, 240).run(&file, &mut |line| {
            if !line.starts_with("part") {
                verdict.line(line);
            }
        })?;
        verdict.end(&said);
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
