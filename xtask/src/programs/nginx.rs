//! nginx: a small static file over kept-alive loopback connections, served by one pinned worker.
//!
//! A request passes a dozen phase handlers and filters, each an indirect call, between two system calls that
//! cost far more. So the gain is small, and processor time per request shows it better than throughput.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Program, Source};
use crate::build::Tree;
use crate::place::Place;
use crate::procfs;
use crate::server::{self, SERVER_CPU, Server};
use crate::variant::Variant;
use crate::workload::{CPU_PER_REQUEST, Metric, Sample, Setting, THROUGHPUT, Workload, digest};
use crate::wrk;

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
        let request = wrk::request(self.page);
        server.wait_until(|| pid_file.is_file() && server::ask(port, &request).is_ok())?;
        let master = server::pid_from(&pid_file)?;
        let worker = *procfs::children(master)?.first().context("nginx has no worker")?;

        let before = procfs::cpu_seconds(worker)?;
        let load = wrk::load(port, self.page, setting.count(4).max(1))?;
        let used = procfs::cpu_seconds(worker)? - before;
        let answer = server::ask(port, &request)?;
        server.stop()?;
        let values = vec![load.per_second, used * 1e6 / load.requests];
        Ok(Sample { values, answer: digest(wrk::body(&answer)?) })
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
