//! `cargo xtask dist`: what is given to others.
//!
//! | file | what is in it |
//! |---|---|
//! | `relpoline-VERSION-x86_64-linux.tar.gz` | commands, engine, manual pages, completions, documents, `install.sh`, a list of parts |
//! | `relpoline_VERSION_amd64.deb` | the same below `/usr` |
//! | `relpoline-dbgsym_VERSION_amd64.deb` | symbols and lines of the commands, by build-id; the engine has its own |
//! | `librelpoline-dev_VERSION_amd64.deb` | the C header, and the library to link statically |
//! | `relpoline-dkms_VERSION_amd64.deb` | the kernel module: the shim's source, and the module's engine compiled |
//! | `relpoline-VERSION.cdx.json` | all crates that are in it (CycloneDX) |
//!
//! The command finds its engine in `../lib/relpoline`. What is built has no path of the machine in it, and
//! the times in the archives are the commit's, so whoever builds the same commit with the same compiler gets
//! the same bytes: `--twice` does that in another directory, and compares. With `--check` the .deb is
//! installed in a clean Debian (debootstrap) and used there, which needs root, gcc and a network. Documents
//! come with all that they link to, in the same places relative to each other.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

#[path = "../../crates/cli/tests/documents/page.rs"]
mod page;

/// Bytes that the package may have.
const MOST_BYTES: u64 = 7_000_000;
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
    /// With --check: the package that lies there already; nothing is built
    #[arg(long, requires = "check", conflicts_with_all = ["twice", "dkms"])]
    built: bool,
    /// Build everything a second time, in another directory, and compare
    #[arg(long)]
    twice: bool,
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
    // As compilers name it.
    let root = &fs::canonicalize(root)?;
    let out = options.out.clone().unwrap_or_else(|| root.join("target/dist"));
    let version = env!("CARGO_PKG_VERSION");
    if options.dkms {
        let package = dkms(root, &out, version, &epoch(root)?)?;
        println!("{}", package.display());
        let is_meant = |release: &&str| options.only.as_ref().is_none_or(|only| only == release);
        let releases = RELEASES.into_iter().filter(is_meant).filter(|_| options.check);
        return releases.into_iter().try_for_each(|release| check_dkms(&package, &out, release, &options.mirror));
    }
    let package = out.join(format!("relpoline_{version}_amd64.deb"));
    if options.built {
        return check(root, &package, &out, &options.mirror);
    }
    let epoch = epoch(root)?;
    let built = build(root, &root.join("target/dist-build"))?;
    let made = make(root, &built, &out, version, &epoch)?;
    for file in &made {
        println!("{}", file.display());
    }
    if options.twice {
        twice(root, &made, version, &epoch)?;
    }
    try_archive(root, &out.join(format!("relpoline-{version}-x86_64-linux.tar.gz")), version)?;
    if options.check { check(root, &package, &out, &options.mirror) } else { Ok(()) }
}

/// Installs the archive somewhere, uses it, and takes it away again; and looks whether what the metadata for
/// `cargo binstall` names is in it.
fn try_archive(root: &Path, archive: &Path, version: &str) -> Result<()> {
    let place = tempfile::tempdir()?;
    let named = binstall_commands(&fs::read_to_string(root.join("crates/cli/Cargo.toml"))?, version)?;
    let listed = said(Command::new("tar").arg("tf").arg(archive))?;
    for name in named {
        let is_there = String::from_utf8_lossy(&listed).lines().any(|line| line == name);
        ensure!(is_there, "cargo binstall would look for {name}, which is not in {}", archive.display());
    }
    let script = format!(
        "set -e; cd \"$0\"; tar xf \"$1\"; cd relpoline-{version}-x86_64-linux
        ./install.sh \"$0/prefix\"; ./install.sh \"$0/prefix with blanks\"; cd ..
        seen() {{ env -i HOME=\"$PWD/home\" PATH=/usr/bin:/bin \"$PWD/$1/bin/relpoline\" run -- /bin/sh -c 'echo $LD_PRELOAD'; }}
        seen prefix | grep -q '/lib/relpoline/librelpoline_engine.so'
        # A path with blanks cannot be preloaded: the command has a copy elsewhere.
        seen 'prefix with blanks' | grep -q '/relpoline/engine-[0-9a-f]*.so'
        relpoline-{version}-x86_64-linux/install.sh --remove \"$0/prefix\"
        relpoline-{version}-x86_64-linux/install.sh --remove \"$0/prefix with blanks\"
        test -z \"$(find prefix 'prefix with blanks' -type f)\"
        test ! -e 'prefix with blanks/share/doc/relpoline'"
    );
    said(Command::new("sh").args(["-c", &script]).arg(place.path()).arg(fs::canonicalize(archive)?))?;
    println!("the archive installs, works, and goes again");
    Ok(())
}

/// The commands' places in the archive, as the metadata for `cargo binstall` has them.
fn binstall_commands(manifest: &str, version: &str) -> Result<Vec<String>> {
    let rest =
        manifest.split("bin-dir = \"").nth(1).context("the command's manifest says nothing to cargo binstall")?;
    let form = rest.split('"').next().unwrap_or_default().replace("{ version }", version);
    Ok(COMMANDS.map(|name| form.replace("{ bin }", name)).into())
}

/// Makes the files from what was built; their paths.
fn make(root: &Path, built: &Path, out: &Path, version: &str, epoch: &str) -> Result<Vec<PathBuf>> {
    let tree = out.join(format!("relpoline-{version}-x86_64-linux"));
    let symbols = out.join("symbols");
    let parts = parts(root, version)?;
    lay_out(root, built, &tree, &symbols)?;
    write(&tree.join("share/doc/relpoline/parts.cdx.json"), &parts, 0o644)?;
    let list = out.join(format!("relpoline-{version}.cdx.json"));
    write(&list, &parts, 0o644)?;
    let package = deb(&tree, out, version, epoch)?;
    let bytes = fs::metadata(&package)?.len();
    ensure!(bytes <= MOST_BYTES, "{} has {bytes} bytes: is it stripped?", package.display());
    println!("{}: {bytes} bytes, {} when it is installed", package.display(), bytes_below(&tree)?);
    let made = vec![
        package,
        deb_of_symbols(&symbols, out, version, epoch)?,
        deb_of_library(root, built, out, version, epoch)?,
        dkms(root, out, version, epoch)?,
        // Last, since a package has no use for what is only in it.
        pack(&tree, epoch)?,
        list,
    ];
    let staged = out.join("staging");
    for file in files_below(&tree)?.into_iter().chain(files_below(&staged)?) {
        has_no_path_of_ours(&file, root, built)?;
    }
    Ok(made)
}

/// The commands.
const COMMANDS: [&str; 2] = ["relpoline", "cargo-relpoline"];
/// The engine's place.
const ENGINE: &str = "lib/relpoline/librelpoline_engine.so";

/// When the commit was made: the time of everything that is packed.
fn epoch(root: &Path) -> Result<String> {
    let mut git = Command::new("git");
    let said = said(git.current_dir(root).args(["log", "-1", "--format=%ct"]));
    Ok(said.map_or_else(|_| "0".to_owned(), |time| String::from_utf8_lossy(&time).trim().to_owned()))
}

/// Builds the commands, whose build makes the engine, and the library for C; the directory with all of them.
///
/// Cargo's usual directory is left alone: other flags would have everything in it built again.
fn build(root: &Path, target: &Path) -> Result<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let home = std::env::var_os("CARGO_HOME").map_or_else(
        || std::env::var_os("HOME").map(|home| PathBuf::from(home).join(".cargo")),
        |home| Some(PathBuf::from(home)),
    );
    // The last that fits counts; what a build makes lies below the target directory.
    let mut flags = vec![format!("--remap-path-prefix={}=.", root.display())];
    flags.extend(home.map(|home| format!("--remap-path-prefix={}=cargo", home.display())));
    flags.push(format!("--remap-path-prefix={}=target", target.display()));
    // Where its source is installed, the compiler names the standard library's files by where they lie here.
    let sysroot = String::from_utf8(said(Command::new("rustc").current_dir(root).args(["--print", "sysroot"]))?)?;
    flags.push(format!("--remap-path-prefix={}=rust", sysroot.trim()));
    flags.push("-Clink-arg=-Wl,--build-id=sha1".to_owned());
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&cargo);
        command.current_dir(root).args(arguments).args(["--release", "--locked", "--target-dir"]).arg(target);
        command
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            .env_remove("RUSTFLAGS")
            .env_remove("CARGO_TARGET_DIR");
        command
    };
    succeed(&mut command(&["build", "-p", "relpoline-cli", "--bins"]))?;
    succeed(&mut command(&["rustc", "-p", "relpoline", "--lib", "--features", "c", "--crate-type", "staticlib"]))?;
    Ok(target.join("release"))
}

/// Whether a file names a directory of this machine: of the source, of what was built, of the compiler. Debug
/// symbols are looked into, too, which are compressed.
fn has_no_path_of_ours(file: &Path, root: &Path, built: &Path) -> Result<()> {
    let mut bytes = fs::read(file)?;
    if file.extension().is_some_and(|end| end == "debug") {
        let plain = tempfile::NamedTempFile::new()?;
        said(Command::new("objcopy").arg("--decompress-debug-sections").arg(file).arg(plain.path()))?;
        bytes = fs::read(plain.path())?;
    }
    let home = std::env::var("HOME").unwrap_or_default();
    let ours = [root.display().to_string(), built.display().to_string()];
    for path in ours.into_iter().chain([format!("{home}/.cargo"), format!("{home}/.rustup")]) {
        let wanted = format!("{}/", path.trim_end_matches('/'));
        let found = bytes.windows(wanted.len()).position(|part| part == wanted.as_bytes());
        if let Some(at) = found {
            let text = String::from_utf8_lossy(&bytes[at..bytes.len().min(at + 120)]).into_owned();
            bail!("{} holds a path of this machine: {text:?}", file.display());
        }
    }
    Ok(())
}

/// Puts everything in its place below `tree`, and what debuggers want below `symbols`.
fn lay_out(root: &Path, built: &Path, tree: &Path, symbols: &Path) -> Result<()> {
    for old in [tree, symbols] {
        if old.exists() {
            fs::remove_dir_all(old)?;
        }
    }
    let command = built.join("relpoline");
    for name in COMMANDS {
        put_stripped(&built.join(name), &tree.join("bin").join(name), 0o755, symbols)?;
    }
    // As it was built, line tables included: the command takes the file beside it only if it is, to the byte,
    // the one that it carries.
    put(&built.join("librelpoline_engine.so"), &tree.join(ENGINE), 0o644)?;
    let doc = tree.join("share/doc/relpoline");
    for name in documents(root)? {
        put(&root.join(&name), &doc.join(&name), 0o644)?;
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
    write(&tree.join("install.sh"), INSTALL.as_bytes(), 0o755)
}

/// The documents that are packed, relative to `root`: what one begins to read with, and all that is linked
/// from there.
fn documents(root: &Path) -> Result<BTreeSet<PathBuf>> {
    let mut waiting: Vec<PathBuf> =
        ["README.md", "CHANGELOG.md", "SECURITY.md", "LICENSE-MIT", "LICENSE-APACHE"].map(PathBuf::from).into();
    for entry in fs::read_dir(root.join("docs"))? {
        let path = Path::new("docs").join(entry?.file_name());
        let is_page =
            path.extension().is_some_and(|end| ["md", "png", "svg", "json"].iter().any(|known| end == *known));
        waiting.extend(is_page.then_some(path));
    }
    let mut found = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if root.join(&name).is_dir() || !found.insert(name.clone()) || name.extension().is_none_or(|end| end != "md") {
            continue;
        }
        let text = fs::read_to_string(root.join(&name)).with_context(|| format!("{} is linked", name.display()))?;
        let folder = name.parent().unwrap_or(Path::new(""));
        let linked = links(&text).into_iter().map(|link| plain(&folder.join(link)));
        waiting
            .extend(linked.collect::<Option<Vec<_>>>().with_context(|| format!("{} links to above", name.display()))?);
    }
    Ok(found)
}

/// Where the links of a page lead, less what leads elsewhere. What stands between backquotes is code.
fn links(page: &str) -> Vec<String> {
    let prose: String = page.split('`').step_by(2).collect();
    let behind = prose.split("](").skip(1).filter_map(|rest| rest.split([')', '#', ' ']).next());
    behind.filter(|link| !link.is_empty() && !link.contains(':')).map(str::to_owned).collect()
}

/// A path without `..`, if it stays below where it begins.
fn plain(path: &Path) -> Option<PathBuf> {
    let mut plain = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => plain.push(name),
            Component::CurDir => {}
            Component::ParentDir if plain.pop() => {}
            _ => return None,
        }
    }
    Some(plain)
}

/// A page that stands alone: what it links to within this project is named and not linked.
fn without_links(page: &str) -> String {
    let mut out = String::new();
    let mut rest = page;
    while let Some(at) = rest.find("](") {
        let (before, behind) = rest.split_at(at);
        let Some(end) = behind.find(')') else { break };
        let target = &behind[2..end];
        match before.rfind('[') {
            Some(open) if !target.contains(':') && !target.contains('\n') => {
                out += &before[..open];
                out += &before[open + 1..];
            }
            _ => {
                out += before;
                out += &behind[..=end];
            }
        }
        rest = &behind[end + 1..];
    }
    out + rest
}

/// What installs the tar.gz, and takes it away again.
const INSTALL: &str = r#"#!/bin/sh
# Installs relpoline below PREFIX (default: /usr/local), or takes it away again.
#   ./install.sh [PREFIX]
#   ./install.sh --remove [PREFIX]
set -eu
here=$(cd "$(dirname "$0")" && pwd)
remove=
if [ "${1:-}" = --remove ]; then remove=yes; shift; fi
case "${1:-}" in -*) echo "usage: $0 [--remove] [PREFIX]" >&2; exit 2 ;; esac
prefix=${1:-/usr/local}
cd "$here"
# shellcheck disable=SC2044 # the names are ours
for file in $(find bin lib share -type f); do
    if [ -n "$remove" ]; then
        rm -f "$prefix/$file"
    else
        mkdir -p "$prefix/$(dirname "$file")"
        # In one step, since programs may be running that have the old file mapped.
        cp -p "$file" "$prefix/$file.new" && mv -f "$prefix/$file.new" "$prefix/$file"
    fi
done
if [ -n "$remove" ]; then
    for directory in lib/relpoline share/doc/relpoline; do
        [ ! -d "$prefix/$directory" ] || find "$prefix/$directory" -depth -type d -exec rmdir {} + 2>/dev/null || true
    done
    echo "relpoline is gone from $prefix"
else
    echo "relpoline is in $prefix; it needs nothing else. Try: $prefix/bin/relpoline doctor"
fi
"#;

/// All crates that the commands and the engine are made of, as CycloneDX has it.
fn parts(root: &Path, version: &str) -> Result<Vec<u8>> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(root).args(["metadata", "--format-version", "1", "--locked"]);
    command.args(["--filter-platform", "x86_64-unknown-linux-gnu"]);
    let metadata: Value = serde_json::from_slice(&said(&mut command)?)?;
    Ok(serde_json::to_vec_pretty(&list_of_parts(&metadata, version)?)?)
}

/// The same, from what `cargo metadata` says.
fn list_of_parts(metadata: &Value, version: &str) -> Result<Value> {
    let nodes = metadata["resolve"]["nodes"].as_array().context("cargo resolves nothing")?;
    let packages = metadata["packages"].as_array().context("cargo names no packages")?;
    let named = |name: &str| packages.iter().find(|one| one["name"] == name).and_then(|one| one["id"].as_str());
    let mut waiting: Vec<&str> =
        ["relpoline-cli", "relpoline-engine", "relpoline"].into_iter().filter_map(named).collect();
    let mut found = std::collections::BTreeSet::new();
    while let Some(id) = waiting.pop() {
        if !found.insert(id) {
            continue;
        }
        let node = nodes.iter().find(|node| node["id"] == id).context("a package is not resolved")?;
        for dependency in node["deps"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let kinds = dependency["dep_kinds"].as_array().map(Vec::as_slice).unwrap_or_default();
            // What is only there for tests is not in it; what builds run may leave something behind.
            if kinds.iter().any(|kind| kind["kind"] != "dev") {
                waiting.extend(dependency["pkg"].as_str());
            }
        }
    }
    let mut components: Vec<Value> = packages
        .iter()
        .filter(|one| one["id"].as_str().is_some_and(|id| found.contains(id)))
        .map(|one| {
            let (name, of) = (one["name"].as_str().unwrap_or_default(), one["version"].as_str().unwrap_or_default());
            let mut component = json!({
                "type": "library", "name": name, "version": of, "purl": format!("pkg:cargo/{name}@{of}"),
                "bom-ref": format!("pkg:cargo/{name}@{of}"),
            });
            if let Some(licence) = one["license"].as_str() {
                component["licenses"] = json!([{ "expression": licence.replace('/', " OR ") }]);
            }
            component
        })
        .collect();
    components.sort_by_key(|one| one["purl"].as_str().unwrap_or_default().to_owned());
    Ok(json!({
        "bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1,
        "metadata": { "component": { "type": "application", "name": "relpoline", "version": version } },
        "components": components,
    }))
}

/// `tree` as a tar.gz beside it. Owners and times say nothing of the machine it was made on.
fn pack(tree: &Path, epoch: &str) -> Result<PathBuf> {
    let name = tree.file_name().context("the tree has no name")?;
    let mut packed = tree.as_os_str().to_owned();
    packed.push(".tar.gz");
    let mut tar = Command::new("tar");
    tar.args(["--owner=0", "--group=0", "--numeric-owner", "--sort=name", "--mode=u+rw,go=rX"]);
    tar.arg(format!("--mtime=@{epoch}")).args(["-I", "gzip -9n", "-cf"]).arg(&packed);
    succeed(tar.arg("-C").arg(tree.parent().context("the tree has no directory")?).arg(name))?;
    Ok(packed.into())
}

/// A package of what lies in `staged`, which has everything but the control file.
struct Package<'a> {
    name: &'a str,
    section: &'a str,
    licence: &'a str,
    more: String,
    description: &'a str,
}

/// The licence of all but the kernel module.
const LICENCE: &str =
    "MIT or Apache-2.0\n The texts are LICENSE-MIT and LICENSE-APACHE, in /usr/share/doc/relpoline and in the source.";

impl Package<'_> {
    fn build(&self, staged: &Path, out: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
        let doc = staged.join("usr/share/doc").join(self.name);
        let licence = format!("Files: *\nCopyright: the authors of Relpoline\nLicense: {}\n", self.licence);
        write(&doc.join("copyright"), licence.as_bytes(), 0o644)?;
        // By content, since how much a disk needs for it differs from one to the next.
        let size = bytes_below(&staged.join("usr"))?.div_ceil(1024);
        let control = format!(
            "Package: {}\nVersion: {version}\nArchitecture: amd64\nSection: {}\nPriority: optional\n\
             Maintainer: the authors of Relpoline <relpoline@example.invalid>\nInstalled-Size: {size}\n\
             {}Description: {}",
            self.name, self.section, self.more, self.description
        );
        write(&staged.join("DEBIAN/control"), control.as_bytes(), 0o644)?;
        let package = out.join(format!("{}_{version}_amd64.deb", self.name));
        let mut build = Command::new("dpkg-deb");
        build.env("SOURCE_DATE_EPOCH", epoch).args(["--root-owner-group", "--build"]).arg(staged).arg(&package);
        // Nothing in it is newer than the commit: dpkg-deb keeps what is older.
        succeed(Command::new("find").arg(staged).args([
            "-exec",
            "touch",
            "-h",
            "-d",
            &format!("@{epoch}"),
            "{}",
            "+",
        ]))?;
        said(&mut build).context("a .deb needs dpkg-deb (package dpkg)")?;
        Ok(package)
    }
}

fn bytes_below(directory: &Path) -> Result<u64> {
    let mut sum = 0;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        sum += if entry.file_type()?.is_dir() { bytes_below(&entry.path())? } else { entry.metadata()?.len() };
    }
    Ok(sum)
}

fn files_below(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => files.extend(files_below(&entry.path())?),
            kind if kind.is_file() => files.push(entry.path()),
            _ => {}
        }
    }
    Ok(files)
}

/// An empty directory to put a package together in.
fn staging(out: &Path, name: &str) -> Result<PathBuf> {
    let staged = out.join("staging").join(name);
    if staged.exists() {
        fs::remove_dir_all(&staged)?;
    }
    fs::create_dir_all(&staged)?;
    Ok(staged)
}

/// The package.
fn deb(tree: &Path, out: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
    let staged = staging(out, "relpoline")?;
    succeed(Command::new("cp").arg("-a").arg(tree).arg(staged.join("usr")))?;
    // A package needs no script of its own for that.
    fs::remove_file(staged.join("usr/install.sh"))?;
    for page in fs::read_dir(staged.join("usr/share/man/man1"))? {
        succeed(Command::new("gzip").args(["-9n"]).arg(page?.path()))?;
    }
    let package = Package {
        name: "relpoline",
        section: "admin",
        licence: LICENCE,
        more: format!("Depends: libc6 (>= {OLDEST_LIBC}), libgcc-s1\n"),
        description: "promotes retpolined indirect calls to direct calls while the program runs\n \
             Learns where each indirect call of a program that was compiled with retpolines\n \
             really goes, and patches compare-and-jump code for the hot targets into the\n \
             live text. No profile, no rebuild, no restart.\n",
    };
    package.build(&staged, out, version, epoch)
}

/// The package of what was stripped off.
fn deb_of_symbols(symbols: &Path, out: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
    let staged = staging(out, "relpoline-dbgsym")?;
    fs::create_dir_all(staged.join("usr/lib/debug"))?;
    succeed(Command::new("cp").arg("-a").arg(symbols).arg(staged.join("usr/lib/debug/.build-id")))?;
    let package = Package {
        name: "relpoline-dbgsym",
        section: "debug",
        licence: LICENCE,
        more: format!("Depends: relpoline (= {version})\nAuto-Built-Package: debug-symbols\n"),
        description: "debug symbols for relpoline\n Names and lines of the commands, for gdb and perf.\n",
    };
    package.build(&staged, out, version, epoch)
}

/// The package of the header and the library for C.
fn deb_of_library(root: &Path, built: &Path, out: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
    let staged = staging(out, "librelpoline-dev")?;
    put(&root.join("crates/relpoline/include/relpoline.h"), &staged.join("usr/include/relpoline.h"), 0o644)?;
    let library = staged.join("usr/lib/x86_64-linux-gnu/librelpoline.a");
    put(&built.join("librelpoline.a"), &library, 0o644)?;
    succeed(Command::new("strip").args(["--strip-debug", "--enable-deterministic-archives"]).arg(&library))?;
    let page = without_links(&fs::read_to_string(root.join("docs/cpp.md"))?);
    write(&staged.join("usr/share/doc/librelpoline-dev/cpp.md"), page.as_bytes(), 0o644)?;
    let package = Package {
        name: "librelpoline-dev",
        section: "libdevel",
        licence: LICENCE,
        more: format!("Depends: libc6-dev (>= {OLDEST_LIBC})\n"),
        description: "static keys, static calls and dynamic calls for C and C++\n \
             Branches and calls whose direction is patched into the running program, safely\n \
             while any number of threads run through them: the header, and the library to\n \
             link statically.\n",
    };
    package.build(&staged, out, version, epoch)
}

/// Builds and packs everything again, from a copy of the source in another directory, and compares.
fn twice(root: &Path, made: &[PathBuf], version: &str, epoch: &str) -> Result<()> {
    let place = tempfile::tempdir()?;
    let copy = place.path().join("elsewhere/with a long name");
    fs::create_dir_all(&copy)?;
    // What is tracked, as it lies here.
    let script = "git ls-files -z | tar --null -T - -cf - | tar -xf - -C \"$0\"";
    succeed(Command::new("sh").current_dir(root).args(["-c", script]).arg(&copy))?;
    let built = build(&copy, &place.path().join("built"))?;
    let again = make(&copy, &built, &place.path().join("out"), version, epoch)?;
    for (first, second) in made.iter().zip(&again) {
        let differs = fs::read(first)? != fs::read(second)?;
        ensure!(!differs, "{} is not the same when it is built in {}", first.display(), copy.display());
        println!("the same again: {}", first.display());
    }
    Ok(())
}

/// The package of the kernel module. Needs no Rust where it is installed.
fn dkms(root: &Path, out: &Path, version: &str, epoch: &str) -> Result<PathBuf> {
    let staged = staging(out, "relpoline-dkms")?;
    let source = staged.join(format!("usr/src/relpoline-{version}"));
    fs::create_dir_all(&source)?;
    crate::kernel::copy_shim(root, &source)?;
    crate::kernel::engine(root, &source.join("engine.elf"), None)?;
    let filled = |name: &str| -> Result<String> {
        Ok(fs::read_to_string(root.join("kernel/dkms").join(name))?.replace("@VERSION@", version))
    };
    write(&source.join("dkms.conf"), filled("dkms.conf")?.as_bytes(), 0o644)?;
    for name in ["postinst", "prerm"] {
        write(&staged.join("DEBIAN").join(name), filled(name)?.as_bytes(), 0o755)?;
    }
    let page = without_links(&fs::read_to_string(root.join("docs/kernel.md"))?);
    write(&staged.join("usr/share/doc/relpoline-dkms/kernel.md"), page.as_bytes(), 0o644)?;
    let package = Package {
        name: "relpoline-dkms",
        section: "kernel",
        licence: "GPL-2.0 or MIT",
        more: "Depends: dkms\nRecommends: relpoline\nSuggests: linux-headers-amd64 | linux-headers-cloud-amd64\n"
            .into(),
        description: "promotes the kernel's retpolined indirect calls while it runs (DKMS)\n \
             A module that learns where the indirect calls of a kernel with retpolines really\n \
             go, and patches compare-and-jump code for the hot targets into the live text.\n \
             Built for each installed kernel from 5.10 on; needs its headers, and no Rust.\n",
    };
    package.build(&staged, out, version, epoch)
}

/// Installs the package in a clean Debian and runs a program with promotion there.
///
/// Then types the first hour there, word for word as docs/first-hour.md has it, and looks for what the page
/// says is printed.
fn check(root: &Path, package: &Path, out: &Path, mirror: &str) -> Result<()> {
    let place = out.join("clean");
    if place.exists() {
        fs::remove_dir_all(&place)?;
    }
    let mut bootstrap = Command::new("debootstrap");
    bootstrap
        .args(["--variant=minbase", "--include=gcc,libc6-dev,systemd,systemd-sysv", RELEASE])
        .arg(&place)
        .arg(mirror);
    said(&mut bootstrap).context("--check needs debootstrap, root and a network")?;
    fs::copy(package, place.join("relpoline.deb"))?;
    compile(&place.join("calls"))?;
    let sections = page::sections(&fs::read_to_string(root.join("docs/first-hour.md"))?);
    let answers: usize = sections.iter().map(|section| section.expected.len()).sum();
    ensure!(sections.len() >= 6 && answers >= 12, "docs/first-hour.md has hardly anything to type");
    ensure!(sections.iter().all(|section| section.condition.is_none()), "the first hour leaves nothing out");
    for (number, section) in sections.iter().enumerate() {
        write(&place.join(format!("hour/{number}")), section.script.as_bytes(), 0o644)?;
    }
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
        mkdir /there; cd /there
        for part in $(ls /hour | sort -n); do
            bash -euo pipefail /hour/$part >/hour/$part.said 2>&1 </dev/null || { cat /hour/$part.said; echo \"part $part failed\"; exit 1; }
        done
        true";
    in_chroot(&place, script)?;
    for (number, section) in sections.iter().enumerate() {
        let said = fs::read_to_string(place.join(format!("hour/{number}.said")))?;
        if let Some(missing) = page::missing(&section.expected, &said) {
            bail!("{}: {missing:?} was not printed in its turn:\n{said}", section.title);
        }
        println!("{}: as the page says", section.title);
    }
    boot(&place)?;
    in_chroot(&place, "dpkg -r relpoline && ! test -e /usr/bin/relpoline && ! test -e /usr/lib/relpoline")?;
    fs::remove_dir_all(&place)?;
    println!("the package installs, works, and goes again in a clean {RELEASE}");
    Ok(())
}

/// Runs a script there, with mounts of its own, which end with it.
fn in_chroot(place: &Path, script: &str) -> Result<()> {
    let mut inside = Command::new("unshare");
    inside.args(["--mount", "--pid", "--fork", "chroot"]).arg(place).args(["/bin/sh", "-c", script]);
    succeed(inside.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin"))
}

/// What a unit may restrict, by docs/deploy.md, without keeping promotion from its program.
const RESTRICTED: &str = "[Service]
DynamicUser=yes
NoNewPrivileges=yes
PrivateTmp=yes
ProtectSystem=strict
ProtectHome=yes
MemoryDenyWriteExecute=yes
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
";
/// A service that is started without us, and attached to at once.
const ATTACHED: &str = "[Service]
Type=exec
ExecStart=/there/shop 0
ExecStartPost=-+/usr/bin/relpoline attach $MAINPID
User=nobody
";
/// Who looks at them, and ends it.
const LOOKS: &str = "[Service]
Type=oneshot
StandardOutput=append:/looked
StandardError=append:/looked
ExecStart=/bin/sh /looks
ExecStopPost=/bin/systemctl --no-block poweroff
TimeoutStartSec=120
";
/// What it does: each service is there, and something is promoted in it; then by unit, and to the end.
const SCRIPT: &str = r#"set -e
for unit in shop restricted attached; do
    systemctl is-active --quiet $unit.service || systemctl start $unit.service
    pid=$(systemctl show -p MainPID --value $unit.service)
    test "$pid" != 0
    for i in $(seq 100); do relpoline report $pid 2>/dev/null | grep -q ' [1-9][0-9]* promoted' && break; sleep 0.1; done
    echo "$unit: $(grep Uid /proc/$pid/status | cut -f2)"
    relpoline report $pid | grep -E ' promoted|order[+]'
done
relpoline list
relpoline detach --unit attached.service
relpoline attach --wait --unit attached.service
systemctl restart shop.service
systemctl stop shop.service restricted.service attached.service
for unit in shop restricted attached; do systemctl show -p Result $unit.service | sed "s/^/$unit: /"; done
echo all of it
"#;

/// Boots what was installed there, with systemd: the unit of the first hour, one that may hardly do anything,
/// and one that is attached to. Without systemd-nspawn (Debian: systemd-container) that is left out, and
/// said.
fn boot(place: &Path) -> Result<()> {
    if Command::new("systemd-nspawn").arg("--version").output().is_err() {
        println!("skipped: units are not booted, since there is no systemd-nspawn (Debian: systemd-container)");
        return Ok(());
    }
    let units = place.join("etc/systemd/system");
    let shop = fs::read_to_string(place.join("there/shop.service")).context("the first hour made no unit")?;
    write(&units.join("shop.service"), shop.as_bytes(), 0o644)?;
    write(&units.join("restricted.service"), shop.as_bytes(), 0o644)?;
    write(&units.join("restricted.service.d/relpoline.conf"), RESTRICTED.as_bytes(), 0o644)?;
    write(&units.join("attached.service"), ATTACHED.as_bytes(), 0o644)?;
    write(&units.join("looks.service"), LOOKS.as_bytes(), 0o644)?;
    write(&place.join("looks"), SCRIPT.as_bytes(), 0o644)?;
    for unit in ["shop", "restricted", "attached", "looks"] {
        let link = units.join(format!("multi-user.target.wants/{unit}.service"));
        fs::create_dir_all(link.parent().context("no directory")?)?;
        std::os::unix::fs::symlink(format!("../{unit}.service"), link)?;
    }
    let mut boot = Command::new("timeout");
    // Its own filter of system calls would be in force in all processes, and where one is nobody attaches.
    boot.env("SYSTEMD_SECCOMP", "0").args([
        "180",
        "systemd-nspawn",
        "--quiet",
        "--boot",
        "--register=no",
        "--keep-unit",
        "--console=pipe",
        "-D",
    ]);
    let booted = boot.arg(place).stdin(std::process::Stdio::null()).output()?;
    let said = fs::read_to_string(place.join("looked")).unwrap_or_default();
    let wanted = [
        "shop: 0",
        "promoted",
        "order+0x",
        "restricted: ",
        "promoted",
        "order+0x",
        "attached: ",
        "promoted",
        "order+0x",
        "detached in",
        "attached in",
        "shop: Result=success",
        "restricted: Result=success",
        "attached: Result=success",
        "all of it",
    ]
    .map(str::to_owned);
    if let Some(missing) = page::missing(&wanted, &said) {
        let console = String::from_utf8_lossy(&booted.stdout).into_owned();
        bail!("booted with systemd, {missing:?} was not said ({}):\n{said}\n{console}", booted.status);
    }
    ensure!(!said.contains("restricted: 0"), "the unit with DynamicUser runs as root:\n{said}");
    print!("{said}");
    println!("booted with systemd, its units run with promotion");
    Ok(())
}

/// Lets DKMS build the module for the kernel of a clean Debian, without Rust, and take it away again; what
/// was built is loaded into that kernel in QEMU, promotes, and is unloaded.
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
    in_chroot(&place, script)?;
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

/// Copies an ELF file without its symbols, which go to a file named by its build-id below `symbols`.
fn put_stripped(from: &Path, to: &Path, mode: u32, symbols: &Path) -> Result<()> {
    put(from, to, mode)?;
    let notes = String::from_utf8(said(Command::new("readelf").arg("-n").arg(from))?)?;
    let id = notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).map(str::trim);
    let id = id.filter(|id| id.len() > 2).with_context(|| format!("{} has no build-id", from.display()))?;
    let (first, rest) = id.split_at(2);
    let apart = symbols.join(first).join(format!("{rest}.debug"));
    fs::create_dir_all(apart.parent().context("no directory")?)?;
    said(Command::new("objcopy").args(["--only-keep-debug", "--compress-debug-sections"]).arg(from).arg(&apart))?;
    said(Command::new("strip").args(["--strip-unneeded", "--remove-section=.comment"]).arg(to))?;
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(&apart, fs::Permissions::from_mode(0o644))?;
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

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever follows a link in what is installed gets somewhere.
    #[test]
    fn documents_come_with_what_they_link_to() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let packed = documents(root).unwrap();
        for wanted in ["README.md", "SPECIFICATION.md", "ARCHITECTURE.md", "docs/evidence/runs.md", "LICENSE-MIT"] {
            assert!(packed.contains(Path::new(wanted)), "{wanted}");
        }
        for page in packed.iter().filter(|name| name.extension().is_some_and(|end| end == "md")) {
            let folder = page.parent().unwrap();
            for link in links(&fs::read_to_string(root.join(page)).unwrap()) {
                let target = plain(&folder.join(&link)).unwrap();
                let is_there = packed.contains(&target) || packed.iter().any(|other| other.starts_with(&target));
                assert!(is_there, "{}: {link}", page.display());
            }
        }
        assert_eq!(links("[a](b.md#c) `[d](e)` [f](https://g) [h](../i.txt)"), ["b.md", "../i.txt"]);
        assert_eq!(plain(Path::new("docs/../a/./b")), Some(PathBuf::from("a/b")));
        assert_eq!(plain(Path::new("docs/../../a")), None);
    }

    #[test]
    fn a_page_that_stands_alone_links_to_nothing() {
        let page = "See [the `build` page](build.md) and [x](https://x.org/y), a[1](n) or [a](../b.md#c).";
        let wanted = "See the `build` page and [x](https://x.org/y), a1 or a.";
        assert_eq!(without_links(page), wanted);
        assert_eq!(without_links("no links [here]"), "no links [here]");
    }

    #[test]
    fn parts_are_what_is_linked_and_not_what_tests_need() {
        let metadata = json!({
            "packages": [
                { "id": "cli", "name": "relpoline-cli", "version": "1.0.0", "license": "MIT/Apache-2.0" },
                { "id": "a", "name": "a", "version": "2.0.0", "license": "MIT" },
                { "id": "b", "name": "b", "version": "3.0.0", "license": null },
                { "id": "t", "name": "t", "version": "4.0.0", "license": "MIT" },
            ],
            "resolve": { "nodes": [
                { "id": "cli", "deps": [
                    { "pkg": "a", "dep_kinds": [{ "kind": null }, { "kind": "dev" }] },
                    { "pkg": "t", "dep_kinds": [{ "kind": "dev" }] },
                ] },
                { "id": "a", "deps": [{ "pkg": "b", "dep_kinds": [{ "kind": "build" }] }] },
                { "id": "b", "deps": [] }, { "id": "t", "deps": [] },
            ] },
        });
        let list = list_of_parts(&metadata, "1.0.0").unwrap();
        let names: Vec<&str> =
            list["components"].as_array().unwrap().iter().map(|one| one["purl"].as_str().unwrap()).collect();
        assert_eq!(names, ["pkg:cargo/a@2.0.0", "pkg:cargo/b@3.0.0", "pkg:cargo/relpoline-cli@1.0.0"]);
        assert_eq!(list["components"][2]["licenses"][0]["expression"], "MIT OR Apache-2.0");
    }

    #[test]
    fn a_path_of_this_machine_is_found() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("f");
        fs::write(&file, format!("..{}/src/main.rs..", place.path().display())).unwrap();
        let elsewhere = Path::new("/nonexistent");
        let complaint = |root, built| has_no_path_of_ours(&file, root, built).unwrap_err().to_string();
        assert!(complaint(place.path(), elsewhere).contains("src/main.rs"));
        assert!(complaint(elsewhere, place.path()).contains("src/main.rs"));
        fs::write(&file, "./src/main.rs").unwrap();
        has_no_path_of_ours(&file, place.path(), elsewhere).unwrap();
    }

    /// Debug symbols are compressed: what they name is found all the same.
    #[test]
    fn a_path_in_compressed_symbols_is_found() {
        let place = tempfile::tempdir().unwrap();
        let (source, whole, apart) = (place.path().join("f.c"), place.path().join("f.o"), place.path().join("f.debug"));
        // Long enough to be worth compressing.
        let names: String = (0..500).map(|n| format!("int name_{n}(int x) {{ return x + {n}; }}\n")).collect();
        fs::write(&source, names).unwrap();
        said(Command::new("cc").current_dir("/").args(["-g", "-c"]).arg(&source).arg("-o").arg(&whole)).unwrap();
        let split = ["--only-keep-debug", "--compress-debug-sections"];
        said(Command::new("objcopy").args(split).arg(&whole).arg(&apart)).unwrap();
        let elsewhere = Path::new("/nonexistent");
        assert!(has_no_path_of_ours(&apart, place.path(), elsewhere).is_err());
        has_no_path_of_ours(&apart, elsewhere, elsewhere).unwrap();
    }

    /// `cargo binstall` looks where the archive is, and in it where the commands are.
    #[test]
    fn the_metadata_for_binstall_names_what_is_made() {
        let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/cli/Cargo.toml")).unwrap();
        assert!(manifest.contains("/relpoline-{ version }-x86_64-linux.tar.gz\""), "{manifest}");
        let commands = binstall_commands(&manifest, "1.2.3").unwrap();
        assert_eq!(commands, COMMANDS.map(|name| format!("relpoline-1.2.3-x86_64-linux/bin/{name}")));
    }
}
