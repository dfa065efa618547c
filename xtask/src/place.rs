//! Where everything lies: the repository, and below `target/bench-programs` what the driver fetches and makes.
//!
//! ```text
//! apt/               private package lists, caches and fetched source packages
//! src/PACKAGE        unpacked source, never built in
//! build/PROGRAM/VARIANT        one built tree, with VARIANT.stamp and VARIANT.log beside it
//! run/PROGRAM        data, configuration and logs of running programs
//! READY.txt          what can be run by hand, and how
//! ```

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use crate::variant::Variant;

/// The directories of one invocation.
pub struct Place {
    /// The repository.
    pub root: PathBuf,
    /// Root of everything above.
    pub work: PathBuf,
}

impl Place {
    /// Takes `work`, or the default below the repository's `target`, and creates it.
    pub fn new(work: Option<PathBuf>) -> Result<Place> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"))
            .parent()
            .context("xtask lies in no repository")?
            .to_owned();
        let work = work.unwrap_or_else(|| root.join("target/bench-programs"));
        for part in ["apt", "src", "build", "run"] {
            fs::create_dir_all(work.join(part))
                .with_context(|| format!("creating {}/{part}", work.display()))?;
        }
        let work = work.canonicalize()?;
        Ok(Place { root, work })
    }

    /// The unpacked source of a package.
    pub fn source(&self, package: &str) -> PathBuf {
        self.work.join("src").join(package)
    }

    /// The tree in which a variant is built and from which it is run.
    pub fn built(&self, program: &str, variant: Variant) -> PathBuf {
        self.work
            .join("build")
            .join(program)
            .join(variant.binaries().name())
    }

    /// A file beside that tree: its stamp, log or compiler.
    pub fn beside(&self, program: &str, variant: Variant, suffix: &str) -> PathBuf {
        self.work
            .join("build")
            .join(program)
            .join(format!("{}.{suffix}", variant.binaries().name()))
    }

    /// The directory for data and logs of a running program, created when missing.
    pub fn run(&self, program: &str) -> Result<PathBuf> {
        let dir = self.work.join("run").join(program);
        fs::create_dir_all(&dir).with_context(|| format!("creating {}", dir.display()))?;
        Ok(dir)
    }

    /// The workload files that come with xtask.
    pub fn workload(&self, file: &str) -> PathBuf {
        self.root.join("xtask/workloads").join(file)
    }
}
