//! HAProxy: requests that pass from one of its front ends through a back end to another front end, which
//! answers by itself.
//!
//! Streams, muxes, analysers and transports call each other by tables of functions. Each request is two
//! connections' worth of system calls, so processor time per request shows more than throughput.

use std::fs;
use std::path::Path;

use anyhow::Result;

use super::{Program, Source};
use crate::build::Tree;
use crate::place::Place;
use crate::procfs;
use crate::server::{self, SERVER_CPU, Server};
use crate::variant::Variant;
use crate::workload::{CPU_PER_REQUEST, Metric, Sample, Setting, THROUGHPUT, Workload, digest};
use crate::wrk;

pub struct HaProxy;

impl Program for HaProxy {
    fn name(&self) -> &'static str {
        "haproxy"
    }

    fn source(&self) -> Source {
        Source::Debian("haproxy")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["wrk"]
    }

    fn executable(&self) -> &'static str {
        "haproxy"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let compiler = format!("CC={}", tree.cc.display());
        tree.make(&["TARGET=linux-glibc", &compiler, "haproxy"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Forwarded)]
    }
}

/// Small requests over kept connections, forwarded once.
struct Forwarded;

/// The page that is asked for; any other would do.
const PAGE: &str = "page";

impl Workload for Forwarded {
    fn name(&self) -> &'static str {
        "forwarded"
    }

    fn metrics(&self) -> &'static [Metric] {
        &[THROUGHPUT, CPU_PER_REQUEST]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let (port, behind) = (server::free_port()?, server::free_port()?);
        let configuration = setting.run.join("haproxy.cfg");
        fs::write(&configuration, configured(port, behind))?;
        let mut command = setting.start("haproxy", Some(SERVER_CPU));
        command.arg("-db").arg("-f").arg(&configuration);
        let mut server = Server::start(&mut command, libc::SIGTERM, &setting.run.join("server.log"))?;
        let request = wrk::request(PAGE);
        server.wait_until(|| server::ask(port, &request).is_ok())?;
        // In the foreground it writes no pid file.
        let pid = server.innermost();
        let before = procfs::cpu_seconds(pid)?;
        let load = wrk::load(port, PAGE, setting.count(4).max(1))?;
        let used = procfs::cpu_seconds(pid)? - before;
        let answer = server::ask(port, &request)?;
        server.stop()?;
        let values = vec![load.per_second, used * 1e6 / load.requests];
        Ok(Sample { values, answer: digest(wrk::body(&answer)?) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let binary = place.built(program, variant).join("haproxy");
        let configuration: &Path = &place.work.join("run").join(program).join("haproxy.cfg");
        format!("{} -db -f {}  # load: wrk -t1 -c16 -d3s, port as there", binary.display(), configuration.display())
    }
}

fn configured(port: u16, behind: u16) -> String {
    format!(
        "global\n  nbthread 1\n  maxconn 512\ndefaults\n  mode http\n  timeout connect 5s\n  timeout client 30s\n  timeout server 30s\n\
         \x20 option http-keep-alive\n  http-reuse always\nfrontend first\n  bind 127.0.0.1:{port}\n  http-request set-header X-Passed yes\n\
         \x20 acl is_page path_beg /{PAGE}\n  http-request deny unless is_page\n  default_backend inner\nbackend inner\n\
         \x20 server one 127.0.0.1:{behind}\nfrontend second\n  bind 127.0.0.1:{behind}\n\
         \x20 http-request return status 200 content-type text/plain string \"a short answer\"\n"
    )
}
