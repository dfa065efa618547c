//! nginx: a small static file over kept-alive loopback connections, served by one pinned worker.
//!
//! A request passes a dozen phase handlers and filters, each an indirect call, between two system calls that
//! cost far more. So the gain is small, and processor time per request shows it better than throughput.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Program, Source};
use crate::build::Tree;
use crate::measure;
use crate::place::Place;
use crate::procfs;
use crate::server::{self, CLIENT_CPU, SERVER_CPU, Server};
use crate::variant::Variant;
use crate::workload::{CPU_PER_REQUEST, Metric, Sample, Setting, THROUGHPUT, Workload, digest};

pub struct Nginx;

impl Program for Nginx {
    fn name(&self) -> &'static str {
        "nginx"
    }

    fn source(&self) -> Source {
        Source::Debian("nginx")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["libpcre2-dev", "zlib1g-dev", "wrk"]
    }

    fn executable(&self) -> &'static str {
        "objs/nginx"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let compiler = format!("--with-cc={}", tree.cc.display());
        tree.step("./configure", &[&compiler])?;
        tree.make(&[])
    }

    fn prepare(&self, setting: &Setting) -> Result<()> {
        fs::create_dir_all(setting.run.join("html"))?;
        fs::create_dir_all(setting.run.join("logs"))?;
        // Every run writes its own; this one is for starting nginx by hand.
        let by_hand = configured(7781, &setting.run);
        fs::write(setting.run.join("nginx.conf"), by_hand)?;
        let line = "A page of four kilobytes, served again and again over loopback.\n";
        fs::write(setting.run.join("html/large.txt"), line.repeat(4096))?;
        Ok(fs::write(setting.run.join("html/page.html"), line.repeat(64))?)
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(StaticFile { name: "static file", page: "page.html" })]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(Box::new(StaticFile { name: "large file", page: "large.txt" }))
    }
}

/// One file, many requests.
struct StaticFile {
    name: &'static str,
    page: &'static str,
}

impl Workload for StaticFile {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[THROUGHPUT, CPU_PER_REQUEST]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let (port, pid_file) = (server::free_port()?, setting.run.join("nginx.pid"));
        let _ = fs::remove_file(&pid_file);
        let configuration = setting.run.join("nginx.conf");
        fs::write(&configuration, configured(port, &setting.run))?;
        let mut command = setting.start("objs/nginx", Some(SERVER_CPU));
        command.arg("-p").arg(&setting.run).arg("-c").arg(&configuration);
        let mut server = Server::start(&mut command, libc::SIGTERM, &setting.run.join("server.log"))?;
        let request = request(self.page);
        server.wait_until(|| pid_file.is_file() && server::ask(port, &request).is_ok())?;
        let master = server::pid_from(&pid_file)?;
        let worker = *procfs::children(master)?.first().context("nginx has no worker")?;

        let before = procfs::cpu_seconds(worker)?;
        let load = load(port, self.page, setting.count(4).max(1))?;
        let used = procfs::cpu_seconds(worker)? - before;
        let answer = server::ask(port, &request)?;
        server.stop()?;
        let values = vec![load.per_second, used * 1e6 / load.requests];
        Ok(Sample { values, answer: digest(body(&answer)?) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let binary = place.built(program, variant).join("objs/nginx");
        let run = place.work.join("run").join(program);
        format!(
            "{} -p {run} -c {run}/nginx.conf  # load: wrk -t1 -c16 -d3s http://127.0.0.1:PORT/{page}, PORT as in nginx.conf",
            binary.display(),
            run = run.display(),
            page = self.page,
        )
    }
}

fn request(page: &str) -> String {
    format!("GET /{page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

fn configured(port: u16, run: &Path) -> String {
    // Only a root master can change its workers' user; they then lose what root may do, as in production.
    let user = if procfs::am_root() { "user nobody nogroup;" } else { "" };
    format!(
        "{user}\ndaemon off;\nworker_processes 1;\npid {run}/nginx.pid;\nerror_log {run}/logs/error.log warn;\n\
         events {{ worker_connections 256; }}\n\
         http {{\n  access_log off;\n  sendfile on;\n  keepalive_requests 1000000000;\n  default_type text/html;\n\
         \x20 client_body_temp_path {run}/tmp-body;\n  proxy_temp_path {run}/tmp-proxy;\n\
         \x20 server {{ listen 127.0.0.1:{port}; root {run}/html; }}\n}}\n",
        run = run.display(),
    )
}

struct Load {
    requests: f64,
    per_second: f64,
}

/// Asks for the file for some seconds over 16 connections.
fn load(port: u16, page: &str, seconds: u64) -> Result<Load> {
    let mut command = Command::new("taskset");
    command.args(["-c", &CLIENT_CPU.to_string(), "wrk", "-t1", "-c16", &format!("-d{seconds}s")]);
    command.arg(format!("http://127.0.0.1:{port}/{page}"));
    let done = measure::run(&mut command, Duration::from_secs(seconds + 30))?;
    parsed(&String::from_utf8_lossy(&done.stdout))
}

fn parsed(report: &str) -> Result<Load> {
    ensure!(!report.contains("Non-2xx") && !report.contains("Socket errors"), "failed requests:\n{report}");
    let number_after = |label: &str| {
        let line = report.lines().find_map(|line| line.trim().strip_prefix(label));
        line.and_then(|rest| rest.trim().parse::<f64>().ok())
    };
    let requests = report.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
    let per_second = number_after("Requests/sec:");
    let (requests, per_second) = requests.zip(per_second).with_context(|| format!("wrk said:\n{report}"))?;
    Ok(Load { requests, per_second })
}

/// The answer without its header, which holds the time.
fn body(answer: &[u8]) -> Result<&[u8]> {
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "nginx did not deliver the file");
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").context("an answer without end of header")?;
    Ok(&answer[end + 4..])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_wrk_is_read_and_failed_requests_are_an_error() {
        let report = "  120 requests in 4.00s, 5MB read\nRequests/sec:  30.25\nTransfer/sec: 1MB\n";
        let load = parsed(report).expect("well-formed");
        assert_eq!((load.requests, load.per_second), (120.0, 30.25));
        assert!(parsed(&format!("{report}  Non-2xx or 3xx responses: 4\n")).is_err());
    }

    #[test]
    fn body_starts_after_the_empty_line() {
        assert_eq!(body(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhi").ok(), Some(&b"hi"[..]));
        assert!(body(b"HTTP/1.1 404 Not Found\r\n\r\n").is_err());
    }
}
