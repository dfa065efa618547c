//! redis: pipelined commands from redis-benchmark, the server pinned to one processor and the client to
//! another.

use std::fs;
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

pub struct Redis;

impl Program for Redis {
    fn name(&self) -> &'static str {
        "redis"
    }

    fn source(&self) -> Source {
        Source::Debian("redis")
    }

    fn executable(&self) -> &'static str {
        "src/redis-server"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        let (c, cxx) = (format!("CC={}", tree.cc.display()), format!("CXX={}", tree.cxx.display()));
        let goals = ["redis-server", "redis-benchmark", "redis-cli"];
        tree.make(&[&["-C", "src", &c, &cxx, "MALLOC=libc", "OPTIMIZATION=-O2"][..], &goals[..]].concat())
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Pipelined {
            name: "-P 32",
            tests: &["set", "get", "incr", "lpush", "rpop", "sadd", "hset", "zadd"],
        })]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(Box::new(Pipelined { name: "-P 32 others", tests: &["mset", "rpush", "lpop", "spop", "zpopmin", "get"] }))
    }
}

/// A mix of commands, 32 at a time.
struct Pipelined {
    name: &'static str,
    tests: &'static [&'static str],
}

/// Commands whose answers show that the data types work: strings, lists, sorted sets, scripts.
const QUESTIONS: &str = "FLUSHALL\r\nSET a 41\r\nINCR a\r\nRPUSH l one two three\r\nLRANGE l 0 -1\r\n\
    ZADD z 3 c 1 a 2 b\r\nZRANGE z 0 -1 WITHSCORES\r\nHSET h f v\r\nHGETALL h\r\n\
    EVAL \"local s = 0 for i = 1, 100 do s = s + i end return s\" 0\r\nQUIT\r\n";

impl Workload for Pipelined {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[THROUGHPUT, CPU_PER_REQUEST]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let (port, pid_file) = (server::free_port()?, setting.run.join("redis.pid"));
        let _ = fs::remove_file(&pid_file);
        let mut command = setting.start("src/redis-server", Some(SERVER_CPU));
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]);
        command.arg("--pidfile").arg(&pid_file).arg("--dir").arg(&setting.run).current_dir(&setting.run);
        let mut server = Server::start(&mut command, libc::SIGTERM, &setting.run.join("server.log"))?;
        server.wait_until(|| pid_file.is_file() && server::ask(port, "PING\r\nQUIT\r\n").is_ok())?;
        let pid = server::pid_from(&pid_file)?;

        let before = procfs::cpu_seconds(pid)?;
        let each = setting.count(600_000);
        let rates = load(setting, port, each, self.tests)?;
        let used = procfs::cpu_seconds(pid)? - before;
        let answer = server::ask(port, QUESTIONS)?;
        server.stop()?;
        let requests = each as f64 * rates.len() as f64;
        let seconds: f64 = rates.iter().map(|rate| each as f64 / rate).sum();
        Ok(Sample { values: vec![requests / seconds, used * 1e6 / requests], answer: digest(&answer) })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let built = place.built(program, variant);
        format!(
            "{}/src/redis-server --port 7777 --bind 127.0.0.1 --save ''  # load: {0}/src/redis-benchmark -p 7777 -P 32 -q -n 600000 -t {}",
            built.display(),
            self.tests.join(",")
        )
    }
}

/// Runs the client and returns requests per second of each test.
fn load(setting: &Setting, port: u16, each: u64, tests: &[&str]) -> Result<Vec<f64>> {
    let mut command = setting.client("src/redis-benchmark", CLIENT_CPU);
    command.args(["-h", "127.0.0.1", "-p", &port.to_string(), "-P", "32", "-c", "32", "-r", "10000", "--csv"]);
    command.args(["-n", &each.to_string(), "-t", &tests.join(",")]);
    let done = measure::run(&mut command, Duration::from_secs(120))?;
    let rates = rates(&String::from_utf8_lossy(&done.stdout))?;
    ensure!(rates.len() == tests.len(), "redis-benchmark ran {} tests of {}", rates.len(), tests.len());
    Ok(rates)
}

/// The second column of each line but the heading.
fn rates(csv: &str) -> Result<Vec<f64>> {
    let lines = csv.lines().filter(|line| line.starts_with('"') && !line.starts_with("\"test\""));
    let rate = |line: &str| line.split(',').nth(1)?.trim_matches('"').parse::<f64>().ok();
    lines.map(|line| rate(line).with_context(|| format!("redis-benchmark said {line:?}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read_below_the_heading() {
        let csv = "\"test\",\"rps\",\"avg\"\n\"SET\",\"1000.50\",\"0.1\"\n\"GET\",\"2000\",\"0.1\"\n";
        assert_eq!(rates(csv).ok(), Some(vec![1000.5, 2000.0]));
        assert!(rates("\"SET\",\"nan?\"\n").is_err());
    }
}
