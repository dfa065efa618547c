//! `cargo xtask bpf-corpus`: objects of other people, here and in the kernel.
//!
//! `cargo xtask bpf-bench`: tail calls here, in the kernel, in rbpf and in ubpf, from one run.
//!
//! `relpoline bpf bench` measures itself and the kernel, and asks *peers* for rounds in between. Peers are
//! small programs (`xtask/peers`) around the other runtimes, built here, out of the workspace, so that
//! nothing of ours depends on them: rbpf comes from crates.io, ubpf from a source tree that is given or
//! cloned.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use clap::Args;

const UBPF: &str = "https://github.com/iovisor/ubpf";
const RBPF_MANIFEST: &str = "\
[package]
name = \"rbpf-peer\"
version = \"0.0.0\"
edition = \"2021\"
publish = false

[dependencies]
libc = \"0.2\"
rbpf = { version = \"0.4\", default-features = false, features = [\"std\"] }

[workspace]
";

/// What to measure.
#[derive(Args)]
pub struct BpfBench {
    /// Source tree of ubpf [default: cloned from GitHub]
    #[arg(long, value_name = "DIR")]
    ubpf: Option<PathBuf>,
    /// Do without one of the peers
    #[arg(long, value_name = "PEER", value_parser = ["rbpf", "ubpf"])]
    skip: Vec<String>,
    /// Rounds, of which the median is taken
    #[arg(long, value_name = "N", default_value_t = 21)]
    rounds: u32,
    /// The relpoline binary [default: built now]
    #[arg(long, value_name = "FILE")]
    relpoline: Option<PathBuf>,
    /// Where table and figures go, as bpf.txt and bpf.json [default: bench/results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// What to run.
#[derive(Args)]
pub struct BpfCorpus {
    /// Folder of objects (clang -O2 -g -target bpf -c)
    folder: PathBuf,
    /// Programs that may differ from the kernel
    #[arg(long, value_name = "N", default_value_t = 0)]
    differ: u32,
}

/// Every program of a folder over generated packets, interpreted, compiled and in the kernel's test run; the
/// table. Fetches nothing; needs root, a C compiler and libbpf-dev.
pub fn corpus(options: &BpfCorpus) -> Result<()> {
    let folder = fs::canonicalize(&options.folder).with_context(|| options.folder.display().to_string())?;
    let status = Command::new(env!("CARGO"))
        .args(["test", "-q", "--release", "-p", "relpoline-bpf", "--test", "corpus", "--", "--nocapture"])
        .env("RELPOLINE_BPF_CORPUS", folder)
        .env("RELPOLINE_BPF_CORPUS_DIFFERS", options.differ.to_string())
        .status()
        .context("running cargo")?;
    ensure!(status.success(), "programs differ from the kernel, or could not be compared: see above");
    Ok(())
}

/// Builds peers, measures, writes.
pub fn bench(options: &BpfBench) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("xtask lies in no repository")?;
    let work = root.join("target/bpf-bench");
    fs::create_dir_all(&work)?;
    let relpoline = match &options.relpoline {
        Some(file) => file.clone(),
        None => build_ours(root)?,
    };
    let out = options.out.clone().unwrap_or_else(|| root.join("bench/results"));
    fs::create_dir_all(&out)?;
    let mut bench = Command::new(relpoline);
    bench.args(["bpf", "bench", "--rounds", &options.rounds.to_string(), "--save"]).arg(out.join("bpf.json"));
    let wanted = |peer: &str| !options.skip.iter().any(|skipped| skipped == peer);
    if wanted("rbpf") {
        add_peer(&mut bench, "rbpf", &rbpf(root, &work)?);
    }
    if wanted("ubpf") {
        add_peer(&mut bench, "ubpf", &ubpf(root, &work, options.ubpf.as_deref())?);
    }
    let output = bench.stderr(std::process::Stdio::inherit()).output().context("running relpoline bpf bench")?;
    ensure!(output.status.success(), "relpoline bpf bench ended with {}", output.status);
    fs::write(out.join("bpf.txt"), &output.stdout)?;
    print!("{}", String::from_utf8_lossy(&output.stdout));
    println!("\nwritten to {}/bpf.txt and bpf.json", out.display());
    Ok(())
}

fn add_peer(bench: &mut Command, name: &str, program: &Path) {
    for (way, argument) in [("compiled", ""), ("interpreter", " interpreter")] {
        bench.arg("--peer").arg(format!("{name}, host starts each program, {way}={}{argument}", program.display()));
    }
}

fn cargo() -> Command {
    Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

fn succeed(command: &mut Command, what: &str) -> Result<()> {
    let status = command.status().with_context(|| format!("{what}: cannot start it"))?;
    ensure!(status.success(), "{what}: {status}");
    Ok(())
}

fn build_ours(root: &Path) -> Result<PathBuf> {
    let mut build = cargo();
    build.args(["build", "--release", "-p", "relpoline-cli"]).current_dir(root);
    succeed(&mut build, "building relpoline")?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), PathBuf::from);
    Ok(root.join(target).join("release/relpoline"))
}

fn rbpf(root: &Path, work: &Path) -> Result<PathBuf> {
    let project = work.join("rbpf");
    fs::create_dir_all(project.join("src"))?;
    fs::write(project.join("Cargo.toml"), RBPF_MANIFEST)?;
    fs::copy(root.join("xtask/peers/rbpf.rs"), project.join("src/main.rs"))?;
    let mut build = cargo();
    build.args(["build", "--release", "--quiet"]).current_dir(&project).env("CARGO_TARGET_DIR", project.join("target"));
    succeed(&mut build, "building the rbpf peer")?;
    Ok(project.join("target/release/rbpf-peer"))
}

/// ubpf is a handful of C files and one header that its build generates: no need for CMake.
fn ubpf(root: &Path, work: &Path, sources: Option<&Path>) -> Result<PathBuf> {
    let project = work.join("ubpf");
    fs::create_dir_all(&project)?;
    let sources = match sources {
        Some(sources) => sources.to_owned(),
        None => cloned(&project)?,
    };
    let vm = sources.join("vm");
    fs::write(project.join("ubpf_config.h"), "#define UBPF_HAS_ELF_H 0\n")?;
    let entries = fs::read_dir(&vm).with_context(|| format!("{} is no source tree of ubpf", sources.display()))?;
    let files: Vec<PathBuf> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            name.starts_with("ubpf_") && name.ends_with(".c")
        })
        .collect();
    if files.is_empty() {
        bail!("{} has no ubpf_*.c", vm.display());
    }
    let peer = project.join("ubpf-peer");
    let mut build = Command::new(std::env::var_os("CC").unwrap_or_else(|| "gcc".into()));
    build.arg("-O2").arg("-w").arg("-o").arg(&peer);
    for folder in [&project, &vm, &vm.join("inc")] {
        build.arg("-I").arg(folder);
    }
    build.arg(root.join("xtask/peers/ubpf.c")).args(files).arg("-lm");
    succeed(&mut build, "building the ubpf peer")?;
    Ok(peer)
}

fn cloned(project: &Path) -> Result<PathBuf> {
    let tree = project.join("source");
    if !tree.join("vm").is_dir() {
        let mut clone = Command::new("git");
        clone.args(["clone", "--quiet", "--depth", "1", UBPF]).arg(&tree);
        succeed(&mut clone, "cloning ubpf (give its sources with --ubpf, or do without: --skip ubpf)")?;
    }
    Ok(tree)
}
