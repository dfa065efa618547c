//! What is run in the virtual machine, and the verdict.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection, ObjectSymbol, RelocationTarget};

use super::build::release_for;
use super::guest::{Files, Machine, Said};
use super::image::Image;
use super::{TestOptions, build, root, run, target_dir};

/// Programs that the test needs, and the packages in which they are.
const NEEDED: [(&str, &str); 6] = [
    ("qemu-system-x86_64", "qemu-system-x86"),
    ("busybox", "busybox-static"),
    ("mke2fs", "e2fsprogs"),
    ("make", "make"),
    ("gcc", "gcc"),
    ("apt-get", "apt"),
];

/// Modules of the kernel that the test loads.
const MODULES: [&str; 2] = ["loop", "tun"];

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

/// Builds the module, boots the kernel, runs everything, says what came out.
pub fn test(options: &TestOptions) -> Result<()> {
    let began = Instant::now();
    let image = match packages(options) {
        Ok(image) => image,
        Err(error) if options.skip_without_packages => {
            println!("kernel-test: SKIPPED: {error:#}");
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    let module = build(&options.build)?;
    let bench = Bench::prepare(image, &module)?;
    let mut verdict = Verdict::default();
    println!("kernel-test: Linux {} in QEMU, emulated; logs in {}", bench.image.release, bench.dir.display());
    bench.main(options, &mut verdict)?;
    if options.only.is_empty() || options.only.iter().any(|part| part == "refusals") {
        for refusal in REFUSALS {
            bench.refusal(refusal, &mut verdict)?;
        }
    }
    verdict.print(began.elapsed());
    if verdict.failed.is_empty() { Ok(()) } else { bail!("{} checks failed, see above", verdict.failed.len()) }
}

/// The kernel that is tested, once everything that the test needs is there.
fn packages(options: &TestOptions) -> Result<Image> {
    if let Some(missing) = missing() {
        bail!("the kernel test needs packages that are not there; apt-get install {missing}");
    }
    let release = release_for(&options.build)?;
    Image::fetch(&release, &target_dir().join("kernel"))
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
}

impl Bench {
    fn prepare(image: Image, module: &Path) -> Result<Bench> {
        let dir = module.with_file_name("test");
        fs::create_dir_all(&dir)?;
        let files = dir.join("files.cpio");
        collect(&image, module, &dir)?.write(&files)?;
        Ok(Bench { image, dir, files })
    }

    fn machine<'a>(&'a self, options: &'a str, kernel: &'a Path, seconds: u64) -> Machine<'a> {
        Machine { kernel, files: &self.files, options, logs: &self.dir, limit: Duration::from_secs(seconds) }
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
        let kernel = self.image.vmlinuz();
        let said = self.machine(&words, &kernel, limit).run("main", &mut |line| verdict.line(line))?;
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

/// The memory file system: the first process, the command, the module, the kernel's own modules, what is expected.
fn collect(image: &Image, module: &Path, dir: &Path) -> Result<Files> {
    let mut files = Files::default();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    run(cargo.current_dir(root()).args(["build", "-q", "-p", "relpoline-cli", "-p", "relpoline-kernel-guest"]))?;
    files.add_program("init", &target_dir().join("debug/relpoline-kernel-guest"))?;
    files.add_program("bin/relpoline", &target_dir().join("debug/relpoline"))?;
    files.add("bin/busybox", fs::read(which("busybox")?)?, 0o755);
    files.add("relpoline.ko", fs::read(module)?, 0o644);
    files.add("ext4.img", ext4(dir)?, 0o644);
    let mut listed = String::new();
    for name in MODULES {
        let content = fs::read(image.module(name)?)?;
        listed += &format!("{name} {}\n", sites_of_module(&content)?);
        files.add(&format!("modules/{name}.ko"), content, 0o644);
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
