//! dbench: a file server's load on a file system. Nearly all of its time is the kernel's, whose calls are not
//! ours; it is here since the work that Relpoline comes from measured it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Program, Source};
use crate::build::Tree;
use crate::measure;
use crate::place::Place;
use crate::variant::Variant;
use crate::workload::{Better, Metric, Sample, Setting, Workload, digest};

pub struct Dbench;

impl Program for Dbench {
    fn name(&self) -> &'static str {
        "dbench"
    }

    fn source(&self) -> Source {
        Source::Debian("dbench")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["autoconf", "libpopt-dev"]
    }

    fn executable(&self) -> &'static str {
        "dbench"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("sh", &["./autogen.sh"])?;
        tree.step("./configure", &[])?;
        tree.make(&["dbench"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Clients)]
    }
}

const PROCESSES: &str = "2";

/// Two clients replaying the load file that comes with it.
struct Clients;

impl Workload for Clients {
    fn name(&self) -> &'static str {
        "2 clients"
    }

    fn metrics(&self) -> &'static [Metric] {
        &[Metric { name: "throughput", unit: "MB/s", better: Better::More }]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let files = setting.run.join("files");
        if files.exists() {
            fs::remove_dir_all(&files)?;
        }
        fs::create_dir(&files)?;
        let mut command = setting.start("dbench", None);
        let seconds = setting.count(8).max(2).to_string();
        command.arg("-c").arg(setting.built.join("client.txt")).arg("-D").arg(&files);
        command.args(["-t", &seconds, PROCESSES]);
        let done = measure::run(&mut command, Duration::from_secs(120))?;
        let rate = rate(&String::from_utf8_lossy(&done.stdout))?;
        // It checks every answer of the file system against the load file itself, and fails when one differs.
        Ok(Sample { values: vec![rate], answer: digest(b"as the load file says") })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let built = place.built(program, variant);
        format!("{0}/dbench -c {0}/client.txt -D /tmp -t 8 {PROCESSES}", built.display())
    }
}

/// The figure in `Throughput 512.3 MB/sec  2 procs`.
fn rate(report: &str) -> Result<f64> {
    let figure = report.lines().find_map(|line| line.strip_prefix("Throughput ")?.split(' ').next()?.parse().ok());
    figure.with_context(|| format!("dbench said:\n{report}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_of_dbench_is_read() {
        assert_eq!(rate("0 cleanup\nThroughput 512.25 MB/sec 2 procs\n").ok(), Some(512.25));
        assert!(rate("failed to open").is_err());
    }
}
