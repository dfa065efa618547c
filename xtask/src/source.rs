//! Debian source packages through apt, without touching the machine's own apt configuration.
//!
//! `deb-src` is off on most machines. So apt is given a private sources file, private lists and a private
//! cache on its command line; the archive's signature is still checked against Debian's keyring. Debian's
//! patches are not applied: what is compared is one source with itself, and upstream's builds need fewer
//! packages. A Rust program comes from crates.io instead, through a small host crate of ours that pins its
//! version; the kernel's source is in a binary package, with Debian's patches.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail, ensure};

use crate::place::Place;
use crate::procfs;

const SOURCES: &str = "Types: deb deb-src
URIs: http://deb.debian.org/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg
";

/// Where a program comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// A Debian source package.
    Debian(&'static str),
    /// A package that has the kernel's source in a tarball.
    Kernel(&'static str),
    /// A crate, run by a host crate in `xtask/workloads` whose lock file says which version.
    Crate {
        /// The host crate's directory.
        host: &'static str,
        /// The crate that matters.
        name: &'static str,
    },
}

impl Source {
    /// The name of the package or crate.
    pub fn name(self) -> &'static str {
        match self {
            Source::Debian(name) | Source::Kernel(name) | Source::Crate { name, .. } => name,
        }
    }

    /// The directory that a tree is copied from.
    pub fn directory(self, place: &Place) -> PathBuf {
        match self {
            Source::Debian(package) | Source::Kernel(package) => place.source(package),
            Source::Crate { host, .. } => place.workload(host),
        }
    }

    /// Makes the source available and returns its version.
    pub fn fetch(self, place: &Place) -> Result<String> {
        match self {
            Source::Debian(package) => fetch(place, package),
            Source::Kernel(package) => fetch_kernel(place, package),
            Source::Crate { name, .. } => {
                self.version(place).with_context(|| format!("no {name} in the lock file of its host"))
            }
        }
    }

    /// The version that is available.
    pub fn version(self, place: &Place) -> Option<String> {
        match self {
            Source::Debian(package) => fetched_version(place, package),
            Source::Kernel(package) => {
                kernel_version(&fs::read_to_string(place.source(package).join("Makefile")).ok()?)
            }
            Source::Crate { name, .. } => {
                let lock = fs::read_to_string(self.directory(place).join("Cargo.lock")).ok()?;
                locked_version(&lock, name).map(str::to_owned)
            }
        }
    }
}

fn locked_version<'a>(lock: &'a str, name: &str) -> Option<&'a str> {
    let after = lock.split_once(&format!("name = \"{name}\"\nversion = \""))?.1;
    Some(after.split_once('"')?.0)
}

/// Unpacks a source package into `src/PACKAGE` unless that is there already, and returns its version.
fn fetch(place: &Place, package: &str) -> Result<String> {
    if let Some(version) = fetched_version(place, package)
        && place.source(package).is_dir()
    {
        return Ok(version);
    }
    eprintln!("xtask: fetching the source of {package}");
    let apt = Apt::new(place)?;
    apt.update_once()?;
    apt.download(package)?;
    let version = fetched_version(place, package).with_context(|| format!("apt left no .dsc of {package}"))?;
    unpack(place, package, &version)?;
    Ok(version)
}

/// Unpacks the tarball of a package into `src/PACKAGE` unless that is there already, and returns the kernel's
/// version.
fn fetch_kernel(place: &Place, package: &'static str) -> Result<String> {
    let source = Source::Kernel(package);
    if let Some(version) = source.version(place) {
        return Ok(version);
    }
    eprintln!("xtask: fetching the source of {package}");
    let apt = Apt::new(place)?;
    apt.update_once()?;
    let unpacked = apt.unpacked(package)?;
    let tarball = unpacked.join(format!("usr/src/{package}.tar.xz"));
    // Under another name, so that half of it is not taken for all.
    let fresh = place.source(&format!("{package}.new"));
    let _ = fs::remove_dir_all(&fresh);
    fs::create_dir_all(&fresh)?;
    quietly(Command::new("tar").args(["--strip-components=1", "-xf"]).arg(tarball).arg("-C").arg(&fresh))?;
    fs::rename(&fresh, place.source(package))?;
    fs::remove_dir_all(unpacked)?;
    source.version(place).with_context(|| format!("{package} names no version"))
}

/// What the first lines of a kernel's Makefile say.
fn kernel_version(makefile: &str) -> Option<String> {
    let value = |name: &str| makefile.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(" = "));
    Some(["VERSION", "PATCHLEVEL", "SUBLEVEL"].map(value).into_iter().collect::<Option<Vec<_>>>()?.join("."))
}

/// The version of the description file lying in `apt/sources`, the newest by name when there are several.
fn fetched_version(place: &Place, package: &str) -> Option<String> {
    let entries = fs::read_dir(place.work.join("apt/sources")).ok()?;
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter_map(|name| Some(version_of(&name, package)?.to_owned())).max()
}

fn version_of<'a>(file: &'a str, package: &str) -> Option<&'a str> {
    file.strip_prefix(package)?.strip_prefix('_')?.strip_suffix(".dsc")
}

fn unpack(place: &Place, package: &str, version: &str) -> Result<()> {
    let description = place.work.join("apt/sources").join(format!("{package}_{version}.dsc"));
    let target = place.source(package);
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let mut command = Command::new("dpkg-source");
    // apt has checked the signature already; dpkg would want the uploader's key on top.
    command.args(["--no-check", "--no-copy", "--skip-patches", "-x"]).arg(description).arg(&target);
    if place.work.join("apt/sources").join(format!("{package}_{version}.debian.tar.xz")).exists() {
        return quietly(&mut command);
    }
    unpack_upstream(place, package, version, &target)
}

/// Unpacks upstream's part alone: some mirrors lack Debian's part of packages that have not changed for long,
/// and its patches are not applied anyway.
fn unpack_upstream(place: &Place, package: &str, version: &str, target: &Path) -> Result<()> {
    let upstream = version.rsplit_once('-').map_or(version, |(upstream, _)| upstream);
    let tarball = place.work.join("apt/sources").join(format!("{package}_{upstream}.orig.tar.gz"));
    ensure!(tarball.exists(), "apt fetched neither all of {package} nor {}", tarball.display());
    fs::create_dir_all(target)?;
    quietly(Command::new("tar").args(["--strip-components=1", "-xf"]).arg(tarball).arg("-C").arg(target))
}

struct Apt {
    dir: PathBuf,
    options: Vec<String>,
}

impl Apt {
    fn new(place: &Place) -> Result<Apt> {
        let dir = place.work.join("apt");
        for part in ["lists/partial", "cache/archives/partial", "sources"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let list = dir.join("sources.sources");
        fs::write(&list, SOURCES)?;
        let options = [
            format!("Dir::Etc::SourceList={}", list.display()),
            "Dir::Etc::SourceParts=/dev/null".to_owned(),
            format!("Dir::State::lists={}/lists", dir.display()),
            format!("Dir::Cache={}/cache", dir.display()),
            // The sandbox user `_apt` may not be able to reach a work directory below someone's home.
            "APT::Sandbox::User=root".to_owned(),
        ];
        Ok(Apt { dir, options: options.into_iter().flat_map(|option| ["-o".to_owned(), option]).collect() })
    }

    fn update_once(&self) -> Result<()> {
        let entries = fs::read_dir(self.dir.join("lists"))?.filter_map(Result::ok);
        let lists: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        if ["_Sources", "_Packages"].iter().all(|kind| lists.iter().any(|list| list.contains(kind))) {
            return Ok(());
        }
        quietly(Command::new("apt-get").args(&self.options).arg("update"))
    }

    /// Fetches a binary package, and unpacks it without installing it.
    fn unpacked(&self, package: &str) -> Result<PathBuf> {
        let dir = self.dir.join("unpacked").join(package);
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("debs"))?;
        let mut command = Command::new("apt-get");
        command.args(&self.options).args(["-q", "download", package]);
        quietly(command.current_dir(dir.join("debs")))?;
        for deb in fs::read_dir(dir.join("debs"))?.flatten() {
            quietly(Command::new("dpkg").arg("-x").arg(deb.path()).arg(&dir))?;
        }
        Ok(dir)
    }

    /// Fetches all parts of a package, or at least its description and upstream's tarball.
    fn download(&self, package: &str) -> Result<()> {
        let source = |only: &str| {
            let mut command = Command::new("apt-get");
            command.args(&self.options).args(["source", "--download-only", "--only-source", only, package]);
            quietly(command.current_dir(self.dir.join("sources")))
        };
        source("-q").or_else(|_| source("--dsc-only").and_then(|()| source("--tar-only")))
    }
}

/// Installs what a build or a load generator needs, when it is missing and we may.
pub fn install_missing(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages.iter().filter(|package| !is_installed(package)).copied().collect();
    if missing.is_empty() {
        return Ok(());
    }
    ensure!(procfs::am_root(), "packages missing: {0}; as root: apt-get install {0}", missing.join(" "));
    eprintln!("xtask: installing {} with apt-get", missing.join(" "));
    let mut command = Command::new("apt-get");
    command.args(["install", "-y", "--no-install-recommends"]).args(&missing);
    quietly(command.env("DEBIAN_FRONTEND", "noninteractive"))
}

fn is_installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["-W", "-f", "${db:Status-Status}", package]).output();
    query.is_ok_and(|output| output.stdout == b"installed")
}

/// Runs a command whose output is of interest only when it fails.
fn quietly(command: &mut Command) -> Result<()> {
    let line = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("starting {line}"))?;
    if !output.status.success() {
        bail!("{line}: {}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}

/// Copies a source tree, times included, so that make sees generated files as up to date.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    quietly(Command::new("cp").arg("-a").arg(from).arg(to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_version_is_that_of_the_crate_by_its_whole_name() {
        let lock = "name = \"rhai_codegen\"\nversion = \"3.0.0\"\n\nname = \"rhai\"\nversion = \"1.2.3\"\n";
        assert_eq!(locked_version(lock, "rhai"), Some("1.2.3"));
        assert_eq!(locked_version(lock, "rha"), None);
    }

    #[test]
    fn a_kernels_version_is_that_of_its_makefile() {
        let makefile = "# SPDX\nVERSION = 6\nPATCHLEVEL = 1\nSUBLEVEL = 192\nEXTRAVERSION =\n";
        assert_eq!(kernel_version(makefile).as_deref(), Some("6.1.192"));
        assert_eq!(kernel_version("VERSION = 6\n"), None);
    }

    #[test]
    fn version_is_what_stands_between_name_and_suffix() {
        assert_eq!(version_of("redis_7.0.15-1~deb12u7.dsc", "redis"), Some("7.0.15-1~deb12u7"));
        assert_eq!(version_of("redis-tools_1.dsc", "redis"), None);
        assert_eq!(version_of("redis_7.0.15.orig.tar.gz", "redis"), None);
    }
}
