//! `relpoline metrics`: the figures of all engines in Prometheus' text format.
//!
//! Once to stdout, into a file again and again (for the textfile collector of Prometheus' node exporter), or by
//! HTTP. Each look reads the statistics files anew; the processes notice nothing.
//!
//! | module | what it does |
//! |---|---|
//! | `text` | the format |
//! | `http` | a server for one thing |

mod http;
pub mod text;

use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Args;

use crate::live;

/// Examples shown with `--help`.
pub const AFTER_HELP: &str = "\
Examples:
  relpoline metrics                          once, to stdout
  relpoline metrics --listen 127.0.0.1:9101  at http://127.0.0.1:9101/metrics
  relpoline metrics --textfile /srv/node-exporter/relpoline.prom --every 15

Metrics hold process numbers, users and paths of programs, no addresses. They are those of all engines \
that you may look at: root sees everybody's. What is asked for by HTTP is answered to everybody who can \
reach the address; it should be a loopback address.";

/// `relpoline metrics`.
#[derive(Debug, Args)]
pub struct MetricsArgs {
    /// Serve them by HTTP at this address; port 0 takes a free one, which is printed.
    #[arg(long, value_name = "ADDRESS:PORT", conflicts_with = "textfile")]
    pub listen: Option<SocketAddr>,
    /// Write them to FILE, which is replaced as a whole.
    #[arg(long, value_name = "FILE")]
    pub textfile: Option<PathBuf>,
    /// Write the file again every so many seconds, until stopped.
    #[arg(long, value_name = "SECONDS", requires = "textfile", value_parser = clap::value_parser!(u64).range(1..=86400))]
    pub every: Option<u64>,
}

/// Does what the command line asks.
///
/// # Errors
/// When the address cannot be used, or the file cannot be written.
pub fn run(arguments: &MetricsArgs) -> anyhow::Result<ExitCode> {
    if let Some(address) = arguments.listen {
        http::serve(address, &now)?;
    } else if let Some(file) = &arguments.textfile {
        loop {
            replace(file, &now()).with_context(|| format!("the metrics cannot be written to {}", file.display()))?;
            let Some(seconds) = arguments.every else { break };
            std::thread::sleep(Duration::from_secs(seconds));
        }
    } else {
        io::stdout().write_all(now().as_bytes())?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The metrics as they are.
fn now() -> String {
    text::render(&live::all().engines)
}

/// Replaces a file as a whole; others may read it, since an exporter runs as another user.
fn replace(file: &Path, content: &str) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let directory = file.parent().filter(|path| !path.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(directory)?;
    fresh.write_all(content.as_bytes())?;
    fresh.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
    fresh.persist(file)?;
    Ok(())
}
