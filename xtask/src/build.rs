//! Builds a program in one variant, once.
//!
//! Build systems treat `CFLAGS` each in their own way: some drop it for a part, some put `-O3` behind it. So
//! the variant's flags sit in a compiler of our own, a two-line script that calls gcc with everything it was
//! given and then the flags: the last one wins, for every file, library and configure test alike.
//!
//! A stamp beside the tree holds all that went into it. As long as it would come out the same, the tree is
//! kept. Variants that learn from a training run are built by `feedback`, in steps made of this module's.

use std::fs::{self, OpenOptions, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::children;
use crate::feedback;
use crate::measure;
use crate::place::Place;
use crate::programs::Program;
use crate::source;
use crate::variant::{self, Variant};
use crate::workload::Setting;

/// Builds programs into one place.
pub struct Builder<'a> {
    /// Where sources and builds are kept.
    pub place: &'a Place,
}

/// A tree being built: where it is, and which compilers to use.
pub struct Tree {
    /// The copied source, also the place of the results.
    pub dir: PathBuf,
    /// What it is built as: `cargo` takes flags in another way than make.
    pub variant: Variant,
    /// The C compiler with the variant's flags.
    pub cc: PathBuf,
    /// The C++ compiler with the variant's flags.
    pub cxx: PathBuf,
    log: PathBuf,
}

impl Tree {
    /// Runs a step of the build in the tree, at low priority, its output going to the log.
    pub fn step(&self, program: &str, arguments: &[&str]) -> Result<()> {
        let log = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new("nice");
        command.arg(program).args(arguments).current_dir(&self.dir).stdin(Stdio::null());
        command.env("CC", &self.cc).env("CXX", &self.cxx);
        // A build must not join the jobserver of a make that started us, nor inherit flags.
        for name in ["MAKEFLAGS", "MAKELEVEL", "CFLAGS", "CXXFLAGS", "LDFLAGS", "CPPFLAGS"] {
            command.env_remove(name);
        }
        command.stdout(log.try_clone()?).stderr(log);
        // Held until the step is over: a driver that is interrupted takes its compilers along.
        let (mut child, _group) = children::spawn(&mut command, libc::SIGTERM)?;
        let status = child.wait()?;
        if !status.success() {
            let log = fs::read(&self.log)?;
            let (line, end) = (arguments.join(" "), measure::last_lines(&String::from_utf8_lossy(&log), 15));
            bail!("{program} {line}: {status}\n{end}\nthe whole log: {}", self.log.display());
        }
        Ok(())
    }

    /// Runs make with one job per processor, at most four.
    pub fn make(&self, arguments: &[&str]) -> Result<()> {
        let jobs = std::thread::available_parallelism().map_or(1, |n| n.get().min(4));
        let jobs = format!("-j{jobs}");
        self.step("make", &[&[jobs.as_str()], arguments].concat())
    }
}

impl<'a> Builder<'a> {
    /// Writes the headers with thunks that all builds of a variant share.
    pub fn new(place: &'a Place) -> Result<Builder<'a>> {
        let builder = Builder { place };
        for (variant, before) in Variant::ALL.into_iter().filter_map(|one| Some((one, one.thunk_body()?))) {
            let (path, header) = (builder.thunks(variant), variant::thunks(before));
            // Left alone when unchanged: make compares times.
            if fs::read_to_string(&path).ok().as_deref() != Some(header.as_str()) {
                fs::write(&path, header)?;
            }
        }
        Ok(builder)
    }

    fn thunks(&self, variant: Variant) -> PathBuf {
        self.place.work.join(format!("{}.h", variant.name()))
    }

    /// The C compiler that a program's variant was built with.
    pub fn compiler(&self, program: &dyn Program, variant: Variant) -> PathBuf {
        self.place.beside(program.name(), variant, "cc")
    }

    /// Brings the source, the packages and every variant's tree up to date.
    pub fn all_variants(&self, program: &dyn Program, variants: &[Variant]) -> Result<()> {
        source::install_missing(program.needs())?;
        for variant in variants.iter().filter(|variant| program.has(**variant)) {
            source::install_missing(feedback::needs(*variant, program.toolchain()))?;
        }
        let version = program.source().fetch(self.place)?;
        // The relpoline variant has no tree of its own. The retpoline tree is the base of every comparison,
        // and makes the data that training runs of others need.
        self.variant(program, Variant::Retpoline, &version)?;
        let setting = Setting::direct(self.place, program.name(), Variant::Retpoline)?;
        program.prepare(&setting).context("making the data of its workloads")?;
        for variant in variants.iter().filter(|variant| program.has(**variant)) {
            self.variant(program, variant.binaries(), &version)?;
            self.announce(program, variant.binaries())?;
        }
        Ok(())
    }

    fn variant(&self, program: &dyn Program, variant: Variant, version: &str) -> Result<()> {
        let stamp_file = self.place.beside(program.name(), variant, "stamp");
        let stamp = self.stamp(program, variant, version);
        if fs::read_to_string(&stamp_file).ok().as_deref() == Some(stamp.as_str()) {
            return Ok(());
        }
        let started = Instant::now();
        eprintln!("xtask: building {} {}", program.name(), variant.name());
        let _ = fs::remove_file(&stamp_file);
        match variant {
            Variant::Pgo => feedback::promoted_by_compiler(self, program)?,
            Variant::Bolt => feedback::promoted_by_bolt(self, program)?,
            _ => self.tree(program, variant, "")?,
        }
        fs::write(&stamp_file, stamp)?;
        eprintln!("xtask: built {} {} in {} s", program.name(), variant.name(), started.elapsed().as_secs());
        Ok(())
    }

    fn stamp(&self, program: &dyn Program, variant: Variant, version: &str) -> String {
        let flags = variant.flags(program.toolchain(), &self.thunks(variant).to_string_lossy());
        format!("{} {version}\n{flags}\nrecipe {}\n", program.source().name(), program.recipe())
    }

    /// Builds one tree from a fresh copy of the source; `more` are flags on top of the variant's.
    pub fn tree(&self, program: &dyn Program, variant: Variant, more: &str) -> Result<()> {
        let dir = self.place.built(program.name(), variant);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir_all(dir.parent().context("a tree has a parent")?)?;
        source::copy_tree(&program.source().directory(self.place), &dir)?;
        let flags = variant.flags(program.toolchain(), &self.thunks(variant).to_string_lossy());
        let compiler = |suffix: &str, name: &str| -> Result<PathBuf> {
            let path = self.place.beside(program.name(), variant, suffix);
            fs::write(&path, compiler_script(name, &format!("{flags} {more}")))?;
            fs::set_permissions(&path, Permissions::from_mode(0o755))?;
            Ok(path)
        };
        let (c, cxx) = program.toolchain().compilers();
        let (cc, cxx) = (compiler("cc", c)?, compiler("cxx", cxx)?);
        let log = self.place.beside(program.name(), variant, "log");
        let _ = fs::remove_file(&log);
        program.build(&Tree { dir, variant, cc, cxx, log })
    }

    /// Adds to READY.txt how to run a finished variant by hand.
    fn announce(&self, program: &dyn Program, variant: Variant) -> Result<()> {
        let path = self.place.work.join("READY.txt");
        let head = format!("{} {} ", program.name(), variant.name());
        let old = fs::read_to_string(&path).unwrap_or_default();
        let mut lines: Vec<_> = old.lines().filter(|line| !line.starts_with(&head)).map(str::to_owned).collect();
        let examples = program.workloads().into_iter().map(|load| load.example(self.place, program.name(), variant));
        lines.extend(examples.map(|example| format!("{head}{example}")));
        replace(&path, &(lines.join("\n") + "\n"))
    }
}

/// Replaces a file in one step, so that a reader sees the old or the new one.
fn replace(path: &Path, text: &str) -> Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, text)?;
    Ok(fs::rename(&fresh, path)?)
}

/// A compiler with flags added last. Not where it only preprocesses: configure scripts parse that output, and
/// an included header would be in their way. What says "position-dependent" is kept from code for shared
/// libraries.
fn compiler_script(name: &str, flags: &str) -> String {
    let shared: Vec<_> = flags.split(' ').filter(|flag| !matches!(*flag, "-fno-pie" | "-no-pie")).collect();
    format!(
        "#!/bin/sh\nshared= pic= compiles=\nfor word; do\n  case \"$word\" in\n  -E|-M|-MM) exec {name} \"$@\" ;;\n  \
         -shared) shared=1 ;;\n  -fPIC|-fpic) pic=1 ;;\n  -c) compiles=1 ;;\n  esac\ndone\n\
         if [ \"$shared\" ] || [ \"$pic$compiles\" = 11 ]; then exec {name} \"$@\" {}; fi\nexec {name} \"$@\" {flags}\n",
        shared.join(" "),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_come_last_and_stay_away_from_the_preprocessor() {
        let path = std::env::temp_dir().join(format!("xtask-compiler-{}", std::process::id()));
        fs::write(&path, compiler_script("echo", "-O2 -no-pie -g0")).expect("written");
        let said = |words: &[&str]| {
            let output = Command::new("sh").arg(&path).args(words).output().expect("it runs");
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        };
        assert_eq!(said(&["-O3", "-c", "a b.c"]), "-O3 -c a b.c -O2 -no-pie -g0");
        assert_eq!(said(&["-fPIC", "-c", "a.c"]), "-fPIC -c a.c -O2 -g0");
        assert_eq!(said(&["-fPIC", "a.o"]), "-fPIC a.o -O2 -no-pie -g0");
        assert_eq!(said(&["-shared", "a.o"]), "-shared a.o -O2 -g0");
        assert_eq!(said(&["-MM", "a.c"]), "-MM a.c");
        fs::remove_file(path).expect("removed");
    }
}
