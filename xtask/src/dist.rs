//! `cargo xtask dist`: what is given to others: a tar.gz and a .deb of binary, engine, manual pages and completions, and
//! a .deb of the kernel module for DKMS: the shim's source, and the module's engine compiled.
//!
//! The first two hold the same tree, as it lies below `/usr`: the command finds its engine in `../lib/relpoline`. With
//! `--check` the .deb is installed in a clean Debian (debootstrap) and used there, which needs root, gcc and a network.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

/// Oldest C library that the engine and the command run with.
const OLDEST_LIBC: &str = "2.34";
/// The Debian that `--check` installs.
const RELEASE: &str = "bookworm";

/// `cargo xtask dist`.
#[derive(Args)]
pub struct Dist {
    /// Where the files go [default: target/dist]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Install the .deb in a clean Debian and use it there
    #[arg(long)]
    check: bool,
    /// Only the package of the kernel module; --check lets DKMS build it in a clean Debian 12 and 13
    #[arg(long)]
    dkms: bool,
    /// With --dkms --check: only in this Debian
    #[arg(long, value_name = "NAME", value_parser = RELEASES)]
    only: Option<String>,
    /// Mirror for --check
    #[arg(long, value_name = "URL", default_value = "http://deb.debian.org/debian")]
    mirror: String,
}

/// Debians in which the package for DKMS is tried.
const RELEASES: [&str; 2] = ["bookworm", "trixie"];

/// Makes the files, and tries them if that is asked for.
pub fn run(options: &Dist, root: &Path) -> Result<()> {
    let out = options.out.clone().unwrap_or_else(|| root.join("target/dist"));
    let version = env!("CARGO_PKG_VERSION");
    if options.dkms {
        let package = dkms(root, &out, version)?;
        println!("{}", package.display());
        let is_meant = |release: &&str| options.only.as_ref().is_none_or(|only| only == release);
        let releases = RELEASES.into_iter().filter(is_meant).filter(|_| options.check);
        return releases.into_iter().try_for_each(|release| check_dkms(&package, &out, release, &options.mirror));
    }
    let built = build(root)?;
    let tree = out.join(format!("relpoline-{version}-x86_64-linux"));
    lay_out(root, &built, &tree)?;
    let tarball = pack(&tree)?;
    println!("{}", tarball.display());
    let package = deb(&tree, &out, version)?;
    println!("{}", package.display());
    println!("{}", dkms(root, &out, version)?.display());
    if options.check { check(&package, &out, &options.mirror) } else { Ok(()) }
}

/// Builds the command, whose build makes the engine; the directory with both.
fn build(root: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["build", "--release", "--locked", "-p", "relpoline-cli", "--bin", "relpoline"]);
    succeed(&mut command)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(target.join("release"))
}

/// Puts everything in its place below `tree`.
fn lay_out(root: &Path, built: &Path, tree: &Path) -> Result<()> {
    if tree.exists() {
        fs::remove_dir_all(tree)?;
    }
    let command = built.join("relpoline");
    put(&command, &tree.join("bin/relpoline"), 0o755)?;
    put(&built.join("librelpoline_engine.so"), &tree.join("lib/relpoline/librelpoline_engine.so"), 0o644)?;
    for name in ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "LICENSE-APACHE"] {
        put(&root.join(name), &tree.join("share/doc/relpoline").join(name), 0o644)?;
    }
    let pages = tree.join("share/man/man1");
    succeed(Command::new(&command).args(["man", "--out"]).arg(&pages))?;
    for (shell, place) in [
        ("bash", "share/bash-completion/completions/relpoline"),
        ("zsh", "share/zsh/vendor-completions/_relpoline"),
        ("fish", "share/fish/vendor_completions.d/relpoline.fish"),
    ] {
        let script = said(Command::new(&command).args(["completions", shell]))?;
        write(&tree.join(place), &script, 0o644)?;
    }
    Ok(())
}

/// `tree` as a tar.gz beside it. Owners and times say nothing of the machine it was made on.
fn pack(tree: &Path) -> Result<PathBuf> {
    let name = tree.file_name().context("the tree has no name")?;
    let mut packed = tree.as_os_str().to_owned();
    packed.push(".tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--sort=name", "--mtime=@0", "-czf"]).arg(&packed);
    succeed(tar.arg("-C").arg(tree.parent().context("the tree has no directory")?).arg(name))?;
    Ok(packed.into())
}

/// The package.
fn deb(tree: &Path, out: &Path, version: &str) -> Result<PathBuf> {
    let staged = out.join("deb");
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    fs::create_dir_all(&staged)?;
    succeed(Command::new("cp").arg("-a").arg(tree).arg(staged.join("usr")))?;
    for page in fs::read_dir(staged.join("usr/share/man/man1"))? {
        succeed(Command::new("gzip").args(["-9n"]).arg(page?.path()))?;
    }
    let doc = staged.join("usr/share/doc/relpoline");
    let licence = "Files: *\nCopyright: the authors of Relpoline\nLicense: MIT or Apache-2.0\n See LICENSE-MIT and LICENSE-APACHE in this directory.\n";
    write(&doc.join("copyright"), licence.as_bytes(), 0o644)?;
    let size = said(Command::new("du").args(["-sk"]).arg(staged.join("usr")))?;
    let size = String::from_utf8(size)?.split_whitespace().next().unwrap_or("0").to_owned();
    let control = format!(
        "Package: relpoline\nVersion: {version}\nArchitecture: amd64\nSection: admin\nPriority: optional\n\
         Maintainer: the authors of Relpoline <relpoline@example.invalid>\nInstalled-Size: {size}\n\
         Depends: libc6 (>= {OLDEST_LIBC}), libgcc-s1\n\
         Description: promotes retpolined indirect calls to direct calls while the program runs\n \
         Learns where each indirect call of a program that was compiled with retpolines\n \
         really goes, and patches compare-and-jump code for the hot targets into the\n \
         live text. No profile, no rebuild, no restart.\n"
    );
    write(&staged.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    let package = out.join(format!("relpoline_{version}_amd64.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&staged).arg(&package);
    said(&mut build).context("a .deb needs dpkg-deb (package dpkg)")?;
    Ok(package)
}

/// The package of the kernel module. Needs no Rust where it is installed.
fn dkms(root: &Path, out: &Path, version: &str) -> Result<PathBuf> {
    let staged = out.join("dkms");
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    let source = staged.join(format!("usr/src/relpoline-{version}"));
    fs::create_dir_all(&source)?;
    crate::kernel::copy_shim(&source)?;
    crate::kernel::engine(&source.join("engine.elf"), None)?;
    let filled = |name: &str| -> Result<String> {
        Ok(fs::read_to_string(root.join("kernel/dkms").join(name))?.replace("@VERSION@", version))
    };
    write(&source.join("dkms.conf"), filled("dkms.conf")?.as_bytes(), 0o644)?;
    for name in ["postinst", "prerm"] {
        write(&staged.join("DEBIAN").join(name), filled(name)?.as_bytes(), 0o755)?;
    }
    let doc = staged.join("usr/share/doc/relpoline-dkms");
    put(&root.join("docs/kernel.md"), &doc.join("kernel.md"), 0o644)?;
    let licence = "Files: *\nCopyright: the authors of Relpoline\nLicense: GPL-2.0 or MIT\n";
    write(&doc.join("copyright"), licence.as_bytes(), 0o644)?;
    let control = format!(
        "Package: relpoline-dkms\nVersion: {version}\nArchitecture: amd64\nSection: kernel\nPriority: optional\n\
         Maintainer: the authors of Relpoline <relpoline@example.invalid>\nDepends: dkms\nRecommends: relpoline\n\
         Suggests: linux-headers-amd64 | linux-headers-cloud-amd64\n\
         Description: promotes the kernel's retpolined indirect calls while it runs (DKMS)\n \
         A module that learns where the indirect calls of a kernel with retpolines really\n \
         go, and patches compare-and-jump code for the hot targets into the live text.\n \
         Built for each installed kernel from 5.10 on; needs its headers, and no Rust.\n"
    );
    write(&staged.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
    let package = out.join(format!("relpoline-dkms_{version}_amd64.deb"));
    let mut build = Command::new("dpkg-deb");
    build.args(["--root-owner-group", "--build"]).arg(&staged).arg(&package);
    said(&mut build).context("a .deb needs dpkg-deb (package dpkg)")?;
    Ok(package)
}

/// Installs the package in a clean Debian and runs a program with promotion there.
fn check(package: &Path, out: &Path, mirror: &str) -> Result<()> {
    let place = out.join("clean");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.args(["--variant=minbase", RELEASE]).arg(&place).arg(mirror);
    said(&mut bootstrap).context("--check needs debootstrap, root and a network")?;
    fs::copy(package, place.join("relpoline.deb"))?;
    compile(&place.join("calls"))?;
    let script = "set -e
        mount -t proc proc /proc; mount -t tmpfs tmpfs /dev/shm
        dpkg -i /relpoline.deb
        relpoline --version
        ! ldd /usr/bin/relpoline | grep 'not found'
        relpoline run --count --report /calls.json -- /calls
        grep -q '\"sites_promoted\": 1' /calls.json
        relpoline report /calls.json
        /calls wait & sleep 1; relpoline attach --wait $!; relpoline top --once; relpoline detach $!; kill $!
        relpoline run --report /report.json -- /bin/ls / > /dev/null
        grep -q '\"enabled\": true' /report.json
        relpoline doctor
        test -s /usr/share/man/man1/relpoline-run.1.gz -a -s /usr/share/bash-completion/completions/relpoline
        relpoline doctor | grep -q /usr/bin/../lib/relpoline/librelpoline_engine.so
        dpkg -r relpoline
        ! test -e /usr/bin/relpoline";
    // Mounts of its own, which end with it.
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--pid", "--fork", "chroot"]).arg(&place).args(["/bin/sh", "-c", script]);
    inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    succeed(&mut inside)?;
    fs::remove_dir_all(&place)?;
    println!("the package installs, works, and goes again in a clean {RELEASE}");
    Ok(())
}

/// Lets DKMS build the module for the kernel of a clean Debian, without Rust, and take it away again; what was built is
/// loaded into that kernel in QEMU, promotes, and is unloaded.
fn check_dkms(package: &Path, out: &Path, release: &str, mirror: &str) -> Result<()> {
    let place = out.join(format!("dkms-{release}"));
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let mut bootstrap = Command::new("debootstrap");
    bootstrap.arg("--variant=minbase").arg(release).arg(&place).arg(mirror);
    said(&mut bootstrap).context("--check needs debootstrap, root and a network")?;
    fs::copy(package, place.join("relpoline-dkms.deb"))?;
    let script = "set -e
        export DEBIAN_FRONTEND=noninteractive
        mount -t proc proc /proc
        apt-get -q -y install --no-install-recommends linux-headers-cloud-amd64 /relpoline-dkms.deb
        ls /lib/modules/*/updates/dkms/relpoline.ko*
        modinfo -F vermagic /lib/modules/*/updates/dkms/relpoline.ko*
        dkms status relpoline | grep -q installed
        mkdir /kernel && cd /kernel
        ls /lib/modules >release
        apt-get -q download linux-image-$(cat release)
        for package in *.deb; do dpkg -x $package /kernel; done
        rm *.deb
        cp /lib/modules/*/updates/dkms/relpoline.ko* /kernel
        cd /
        apt-get -q -y remove relpoline-dkms
        ! ls /lib/modules/*/updates/dkms/relpoline.ko* 2>/dev/null
        ! test -e /usr/src/relpoline-*";
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--pid", "--fork", "chroot"]).arg(&place).args(["/bin/sh", "-c", script]);
    inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    succeed(&mut inside)?;
    println!("DKMS builds the module in a clean {release}, and takes it away again");
    let kernel = place.join("kernel");
    let built = fs::read_dir(&kernel)?.flatten().map(|entry| entry.path());
    let is_module = |path: &PathBuf| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with("relpoline.ko"));
    let module = built.filter(is_module).max().context("DKMS left no module behind")?;
    let kernel_release = fs::read_to_string(kernel.join("release"))?;
    super::kernel::test_built(kernel_release.trim(), &kernel, &module)?;
    fs::remove_dir_all(&place)?;
    println!("the kernel of {release} takes it, and lets it go again");
    Ok(())
}

/// A program with retpolines, and two targets at its one site; with an argument it goes on for ever.
const CALLS: &str = "static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
int main(int argc, char **argv) {
    unsigned sum = 0;
    for (unsigned i = 0; i < 3000000 || argc > 1; i++) sum = table[i % 10 == 9](sum);
    return sum == 1;
}";

/// Compiles [`CALLS`] here, since a clean Debian has no compiler.
fn compile(to: &Path) -> Result<()> {
    let source = to.with_extension("c");
    write(&source, CALLS.as_bytes(), 0o644)?;
    let flags = ["-O2", "-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"];
    said(Command::new("cc").args(flags).arg(&source).arg("-o").arg(to)).context("--check needs gcc")?;
    Ok(())
}

fn put(from: &Path, to: &Path, mode: u32) -> Result<()> {
    let content = fs::read(from).with_context(|| format!("{} cannot be read", from.display()))?;
    write(to, &content, mode)
}

fn write(to: &Path, content: &[u8], mode: u32) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    fs::create_dir_all(to.parent().context("no directory")?)?;
    fs::write(to, content).with_context(|| format!("{} cannot be written", to.display()))?;
    Ok(fs::set_permissions(to, fs::Permissions::from_mode(mode))?)
}

fn succeed(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| format!("{command:?} cannot be started"))?;
    ensure!(status.success(), "{command:?} ends with {status}");
    Ok(())
}

/// What a command writes to stdout.
fn said(command: &mut Command) -> Result<Vec<u8>> {
    let output = command.output().with_context(|| format!("{command:?} cannot be started"))?;
    if !output.status.success() {
        bail!("{command:?} ends with {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}
