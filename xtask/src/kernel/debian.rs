//! Debian's kernels on which the module is tested: their packages, fetched and unpacked into a folder of
//! their own.
//!
//! `apt-get download` with a configuration of our own, so nothing of the machine's package lists changes, and
//! `dpkg -x`, so nothing is installed. Headers name absolute paths, which are mended. Tools of a newer Debian
//! need its C library: they are led through its loader.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::run;

/// A kernel of Debian's.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// What `--kernel` calls it.
    pub name: &'static str,
    /// The part of the archive that has it.
    suite: &'static str,
    /// Its flavour.
    flavour: &'static str,
    /// Whether its build tools need a newer C library than Debian 12's.
    is_newer: bool,
}

const fn kernel(name: &'static str, suite: &'static str, flavour: &'static str, is_newer: bool) -> Kernel {
    Kernel { name, suite, flavour, is_newer }
}

/// All of them, oldest first.
pub const KERNELS: [Kernel; 8] = [
    kernel("5.10", "bullseye-security", "cloud-amd64", false),
    kernel("6.1", "bookworm-security", "cloud-amd64", false),
    kernel("6.1-full", "bookworm-security", "amd64", false),
    kernel("6.1-rt", "bookworm-security", "rt-amd64", false),
    kernel("6.12", "bookworm-backports", "cloud-amd64", false),
    kernel("6.12-trixie", "trixie-security", "cloud-amd64", true),
    kernel("7.2", "sid", "cloud-amd64", true),
    kernel("7.3", "trixie-backports", "cloud-amd64", true),
];

/// What runs on the machine that builds, of a kernel's build tools.
const TOOLS: [&str; 5] = [
    "scripts/basic/fixdep",
    "scripts/mod/modpost",
    "scripts/mod/modpost.real-lsb-64",
    "tools/objtool/objtool",
    "tools/objtool/objtool.real-x86",
];

/// Libraries that they need.
const LIBRARIES: [&str; 4] = ["libc6", "libelf1t64", "zlib1g", "libzstd1"];

/// A kernel's packages, unpacked.
pub struct Unpacked {
    /// Its release, as uname prints it.
    pub release: String,
    /// Where they are.
    pub root: PathBuf,
}

impl Unpacked {
    /// The folder that kbuild is given.
    pub fn headers(&self) -> PathBuf {
        self.root.join(format!("usr/src/linux-headers-{}", self.release))
    }
}

impl Kernel {
    /// The kernel called `name`.
    pub fn named(name: &str) -> Result<Kernel> {
        let found = KERNELS.iter().find(|kernel| kernel.name == name);
        found.copied().with_context(|| {
            let names: Vec<&str> = KERNELS.iter().map(|kernel| kernel.name).collect();
            format!("there is no kernel {name} among those that are tested: {}", names.join(", "))
        })
    }

    /// Fetches and unpacks it under `dir`, unless that has been done.
    pub fn fetch(&self, dir: &Path) -> Result<Unpacked> {
        let root = dir.join("debian").join(self.name);
        let mark = root.join("release");
        if let Ok(release) = fs::read_to_string(&mark) {
            return Ok(Unpacked { release, root });
        }
        let _ = fs::remove_dir_all(&root);
        fs::create_dir_all(&root)?;
        let apt = Apt::new(&dir.join("debian").join(format!("apt-{}", self.suite)), self.suite)?;
        let meta = format!("linux-headers-{}", self.flavour);
        let headers = apt.depends(&meta)?.into_iter().find(|name| name.starts_with("linux-headers-"));
        let headers = headers.with_context(|| format!("{} has no package {meta}", self.suite))?;
        let release = headers.trim_start_matches("linux-headers-").to_owned();
        let is_part = |name: &String| {
            let starts = ["linux-headers-", "linux-kbuild-", "linux-binary-", "linux-modules-", "linux-base-"];
            starts.iter().any(|start| name.starts_with(start))
        };
        let image = format!("linux-image-{release}");
        let mut packages: Vec<String> = apt.depends(&headers)?.into_iter().filter(is_part).collect();
        packages.extend(apt.depends(&image)?.into_iter().filter(is_part));
        packages.extend([headers, image]);
        packages.sort();
        packages.dedup();
        apt.unpack(&packages, &root)?;
        let unpacked = Unpacked { release, root };
        move_paths(&unpacked)?;
        if self.is_newer {
            newer_tools(&unpacked, dir)?;
        }
        fs::write(mark, &unpacked.release)?;
        Ok(unpacked)
    }
}

/// apt with a configuration, lists and a state of our own.
struct Apt {
    dir: PathBuf,
}

impl Apt {
    fn new(dir: &Path, suite: &str) -> Result<Apt> {
        let dir = dir.to_owned();
        for part in ["lists/partial", "cache/archives/partial", "debs"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let archive = if suite.ends_with("-security") { "debian-security" } else { "debian" };
        let key = "/usr/share/keyrings/debian-archive-keyring.gpg";
        let source = format!("deb [signed-by={key}] http://deb.debian.org/{archive} {suite} main\n");
        fs::write(dir.join("sources.list"), source)?;
        fs::write(dir.join("status"), "")?;
        let at = dir.display();
        let config = format!(
            "Dir::Etc::sourcelist \"{at}/sources.list\"; Dir::Etc::sourceparts \"-\"; Dir::State::lists \"{at}/lists\";\n\
             Dir::Cache \"{at}/cache\"; Dir::State::status \"{at}/status\"; Acquire::Languages \"none\";\n\
             APT::Sandbox::User \"root\"; APT::Architecture \"amd64\"; Acquire::IndexTargets::deb::DEP-11::DefaultEnabled \"false\";\n"
        );
        fs::write(dir.join("apt.conf"), config)?;
        let apt = Apt { dir };
        run(apt.command("apt-get").args(["-q", "update"])).with_context(|| format!("{suite} cannot be reached"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.env("APT_CONFIG", self.dir.join("apt.conf"));
        command
    }

    /// What a package depends on, alternatives among them.
    fn depends(&self, package: &str) -> Result<Vec<String>> {
        let said = run(self.command("apt-cache").args(["depends", package]))?;
        let names = said.lines().filter_map(|line| line.trim().trim_start_matches('|').strip_prefix("Depends: "));
        Ok(names.map(str::to_owned).collect())
    }

    /// Fetches packages and unpacks them into `root`.
    fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let debs = self.dir.join("debs");
        fs::create_dir_all(&debs)?;
        for package in packages {
            run(self.command("apt-get").args(["-q", "download", package]).current_dir(&debs))
                .with_context(|| format!("the package {package} cannot be fetched"))?;
        }
        for deb in fs::read_dir(&debs)?.flatten() {
            run(Command::new("dpkg").arg("-x").arg(deb.path()).arg(root))?;
        }
        fs::remove_dir_all(debs)?;
        Ok(())
    }
}

/// The headers' makefile includes another by its absolute path.
fn move_paths(unpacked: &Unpacked) -> Result<()> {
    let makefile = unpacked.headers().join("Makefile");
    let text = fs::read_to_string(&makefile).with_context(|| format!("{} cannot be read", makefile.display()))?;
    fs::write(makefile, text.replace("/usr/src/", &format!("{}/usr/src/", unpacked.root.display())))?;
    Ok(())
}

/// Leads tools that need a newer C library than this machine's through the loader of a Debian that has it.
fn newer_tools(unpacked: &Unpacked, dir: &Path) -> Result<()> {
    let libraries = dir.join("debian/libraries");
    if !libraries.join("usr").exists() {
        let apt = Apt::new(&dir.join("debian/apt-trixie"), "trixie")?;
        apt.unpack(&LIBRARIES.map(str::to_owned), &libraries)?;
    }
    let lib = unpacked.root.join("usr/lib");
    let kbuild = fs::read_dir(&lib)?.flatten().map(|entry| entry.path());
    let is_kbuild = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("linux-kbuild-"));
    let Some(kbuild) = kbuild.into_iter().find(is_kbuild) else {
        bail!("{} has no build tools", lib.display());
    };
    // Some kernels have a tool in their headers, others a link to the common ones.
    let places = [kbuild, unpacked.headers()];
    for (dir, tool) in places.iter().flat_map(|dir| TOOLS.map(|tool| (dir, dir.join(tool)))) {
        let is_program = fs::read(&tool).is_ok_and(|content| content.starts_with(b"\x7fELF"));
        if !is_program {
            continue;
        }
        let real = dir.join("behind-the-loader").join(tool.file_name().context("a tool has a name")?);
        fs::create_dir_all(real.parent().context("it lies in a folder")?)?;
        fs::rename(&tool, &real)?;
        let script = format!(
            "#!/bin/sh\nexec {0}/usr/lib64/ld-linux-x86-64.so.2 --argv0 \"$0\" --library-path {0}/usr/lib/x86_64-linux-gnu {1} \"$@\"\n",
            libraries.display(),
            real.display()
        );
        fs::write(&tool, script)?;
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755))?;
    }
    Ok(())
}
