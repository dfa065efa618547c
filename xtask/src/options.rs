//! Options that several tasks have: where programs are kept, what is tested, where results go.

use std::path::PathBuf;

use anyhow::{Context, Result};
use clap::Args;

use crate::place::Place;

/// Where the programs are.
#[derive(Args)]
pub struct Programs {
    /// Where sources, builds and data of the programs are kept
    #[arg(long, value_name = "DIR")]
    work: Option<PathBuf>,
}

impl Programs {
    /// Takes the place, or waits for it.
    pub fn place(&self) -> Result<Place> {
        Place::new(self.work.clone())
    }
}

/// What is measured or tested, and where that is written down.
#[derive(Args)]
pub struct Tested {
    /// The relpoline binary [default: target/release/relpoline]
    #[arg(long, value_name = "FILE")]
    engine: Option<PathBuf>,
    /// Where results go [default: bench/results]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Tested {
    /// The binary, which has to be there.
    pub fn built_engine(&self, place: &Place) -> Result<PathBuf> {
        let binary = self.engine(place);
        binary.canonicalize().with_context(|| {
            format!("no engine at {}; build it with cargo build --release -p relpoline-cli", binary.display())
        })
    }

    /// The binary.
    pub fn engine(&self, place: &Place) -> PathBuf {
        self.engine.clone().unwrap_or_else(|| place.root.join("target/release/relpoline"))
    }

    /// The directory for results.
    pub fn out(&self, place: &Place) -> PathBuf {
        self.out.clone().unwrap_or_else(|| place.root.join("bench/results"))
    }

    /// Whether they go where the README shows them.
    pub fn is_published(&self) -> bool {
        self.out.is_none()
    }
}
