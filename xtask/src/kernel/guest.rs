//! The virtual machine: what is in its memory file system, and how it is run.
//!
//! QEMU emulates the processor in software (TCG), since hardware virtualisation is mostly not to be had where
//! tests run. Its processors take turns on one thread.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::run;

/// A memory file system in the making: files and folders by path.
#[derive(Default)]
pub struct Files(BTreeMap<String, Option<(Vec<u8>, u32)>>);

impl Files {
    /// A file; the folders above it come with it.
    pub fn add(&mut self, path: &str, content: Vec<u8>, mode: u32) {
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(None);
        }
        self.0.insert(path.to_owned(), Some((content, mode)));
    }

    /// An executable, and the libraries that it needs at the paths where it looks for them.
    pub fn add_program(&mut self, path: &str, file: &Path) -> Result<()> {
        let stripped = std::env::temp_dir().join(format!("relpoline-kernel-test-{}", std::process::id()));
        run(Command::new("strip").arg("-o").arg(&stripped).arg(file))?;
        self.add(path, fs::read(&stripped)?, 0o755);
        fs::remove_file(&stripped)?;
        let libraries = run(Command::new("ldd").arg(file)).unwrap_or_default();
        for word in libraries.split_whitespace().filter(|word| word.starts_with('/')) {
            let content = fs::read(word).with_context(|| format!("{word} cannot be read"))?;
            self.add(word.trim_start_matches('/'), content, 0o755);
        }
        Ok(())
    }

    /// The archive that the kernel unpacks (cpio, the "newc" format).
    fn archive(&self) -> Vec<u8> {
        let mut archive = Vec::new();
        let mut inode = 0;
        let mut entry = |path: &str, mode: u32, content: &[u8]| {
            inode += 1;
            let fields = [inode, mode, 0, 0, 1, 0, content.len() as u32, 0, 0, 0, 0, path.len() as u32 + 1, 0];
            archive.extend_from_slice(b"070701");
            for field in fields {
                archive.extend_from_slice(format!("{field:08x}").as_bytes());
            }
            archive.extend_from_slice(path.as_bytes());
            archive.push(0);
            archive.resize(archive.len().next_multiple_of(4), 0);
            archive.extend_from_slice(content);
            archive.resize(archive.len().next_multiple_of(4), 0);
        };
        for (path, file) in &self.0 {
            match file {
                Some((content, mode)) => entry(path, 0o100_000 | mode, content),
                None => entry(path, 0o040_755, &[]),
            }
        }
        entry("TRAILER!!!", 0, &[]);
        archive
    }

    /// Writes the archive to `path`.
    pub fn write(&self, path: &Path) -> Result<()> {
        fs::write(path, self.archive()).with_context(|| format!("{} cannot be written", path.display()))
    }
}

/// A machine that is to run.
pub struct Machine<'a> {
    /// The kernel's image.
    pub kernel: &'a Path,
    /// The memory file system.
    pub files: &'a Path,
    /// The processor that is emulated.
    pub cpu: &'a str,
    /// How many of them.
    pub processors: u32,
    /// What is added to the kernel's command line.
    pub options: &'a str,
    /// Where its two serial lines go.
    pub logs: &'a Path,
    /// When to give it up.
    pub limit: Duration,
}

/// What a machine said.
pub struct Said {
    /// Its console.
    pub console: String,
    /// The report of the first process.
    pub report: String,
    /// How long it ran.
    pub took: Duration,
    /// Whether it had to be stopped.
    pub stopped: bool,
}

impl Machine<'_> {
    /// Runs it to its end. `each` is called with every line of its report as it comes.
    pub fn run(&self, name: &str, each: &mut dyn FnMut(&str)) -> Result<Said> {
        let console = self.logs.join(format!("{name}.console"));
        let report = self.logs.join(format!("{name}.report"));
        File::create(&report)?;
        let began = Instant::now();
        let mut machine =
            Stopped(self.command(&console, &report).spawn().context("qemu-system-x86_64 cannot be started")?);
        let mut lines = Lines::new(&report)?;
        let mut stopped = false;
        while machine.0.try_wait()?.is_none() {
            lines.read(each)?;
            stopped = began.elapsed() > self.limit;
            if stopped {
                break;
            }
            sleep(Duration::from_millis(100));
        }
        drop(machine);
        lines.read(each)?;
        let text = |path: &PathBuf| fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        Ok(Said { console: text(&console)?, report: text(&report)?, took: began.elapsed(), stopped })
    }

    fn command(&self, console: &Path, report: &Path) -> Command {
        let options = format!(
            "console=ttyS0 loglevel=5 no_timer_check tsc=reliable panic=-1 oops=panic random.trust_cpu=on {}",
            self.options
        );
        // Processors that take turns. When they run at the same time, QEMU 7.2 seems to go on now and
        // then with its translation of an int3 that is in memory no more: kernel/README.md.
        let mut qemu = Command::new("qemu-system-x86_64");
        qemu.args([
            "-accel",
            "tcg,thread=single",
            "-cpu",
            self.cpu,
            "-smp",
            &self.processors.to_string(),
            "-m",
            "1024",
            "-machine",
            "q35,hpet=off",
        ]);
        qemu.args(["-display", "none", "-monitor", "none", "-nic", "none", "-no-reboot"]);
        qemu.arg("-kernel").arg(self.kernel).arg("-initrd").arg(self.files).arg("-append").arg(options);
        qemu.arg("-serial").arg(format!("file:{}", console.display()));
        qemu.arg("-serial").arg(format!("file:{}", report.display()));
        qemu.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::inherit());
        qemu
    }
}

/// A process that does not outlive us.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The lines of a file that grows.
struct Lines {
    file: File,
    unfinished: String,
}

impl Lines {
    fn new(path: &Path) -> Result<Lines> {
        Ok(Lines { file: File::open(path)?, unfinished: String::new() })
    }

    fn read(&mut self, each: &mut dyn FnMut(&str)) -> Result<()> {
        let mut bytes = Vec::new();
        // QEMU may open the file anew; our place in it stays.
        let at = self.file.stream_position()?;
        self.file.seek(SeekFrom::Start(at))?;
        self.file.read_to_end(&mut bytes)?;
        self.unfinished.push_str(&String::from_utf8_lossy(&bytes).replace('\r', ""));
        while let Some((line, rest)) = self.unfinished.split_once('\n') {
            each(line);
            self.unfinished = rest.to_owned();
        }
        std::io::stdout().flush()?;
        Ok(())
    }
}
