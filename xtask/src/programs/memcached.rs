//! memcached: gets and sets of small values, pipelined. One protocol switch and libevent's callbacks are all
//! its indirect calls, and libevent is the system's, built without retpolines.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use super::{Program, Source};
use crate::build::Tree;
use crate::place::Place;
use crate::procfs;
use crate::server::{self, CLIENT_CPU, SERVER_CPU, Server};
use crate::variant::Variant;
use crate::workload::{CPU_PER_REQUEST, Metric, Sample, Setting, THROUGHPUT, Workload, digest};

pub struct Memcached;

impl Program for Memcached {
    fn name(&self) -> &'static str {
        "memcached"
    }

    fn source(&self) -> Source {
        Source::Debian("memcached")
    }

    fn needs(&self) -> &'static [&'static str] {
        &["libevent-dev"]
    }

    fn executable(&self) -> &'static str {
        "memcached"
    }

    fn recipe(&self) -> u32 {
        1
    }

    fn build(&self, tree: &Tree) -> Result<()> {
        tree.step("./configure", &["--disable-coverage", "--disable-docs"])?;
        tree.make(&["memcached"])
    }

    fn workloads(&self) -> Vec<Box<dyn Workload>> {
        vec![Box::new(Mix { name: "get 3 : set 1", sets: 8 })]
    }

    fn training(&self) -> Option<Box<dyn Workload>> {
        Some(Box::new(Mix { name: "get 1 : set 1", sets: 16 }))
    }
}

/// Requests in one write of the client.
const BATCH: u64 = 32;
const CONNECTIONS: usize = 8;
const KEYS: u64 = 4096;

/// Gets and sets in a fixed proportion.
struct Mix {
    name: &'static str,
    /// Sets among the requests of a batch.
    sets: u64,
}

impl Workload for Mix {
    fn name(&self) -> &'static str {
        self.name
    }

    fn metrics(&self) -> &'static [Metric] {
        &[THROUGHPUT, CPU_PER_REQUEST]
    }

    fn run(&self, setting: &Setting) -> Result<Sample> {
        let (port, pid_file) = (server::free_port()?, setting.run.join("memcached.pid"));
        let _ = fs::remove_file(&pid_file);
        let mut command = setting.start("memcached", Some(SERVER_CPU));
        command.args(["-l", "127.0.0.1", "-p", &port.to_string(), "-t", "1", "-m", "256", "-P"]).arg(&pid_file);
        if procfs::am_root() {
            // It refuses to be root unless told so; as nobody it could not write its pid file here.
            command.args(["-u", "root"]);
        }
        let mut server = Server::start(&mut command, libc::SIGTERM, &setting.run.join("server.log"))?;
        server.wait_until(|| pid_file.is_file() && server::ask(port, "version\r\nquit\r\n").is_ok())?;
        let pid = server::pid_from(&pid_file)?;
        let batches = setting.count(60_000);
        let before = procfs::cpu_seconds(pid)?;
        let (seconds, answer) = pinned(|| self.load(port, batches))?;
        let used = procfs::cpu_seconds(pid)? - before;
        server.stop()?;
        let requests = (batches * BATCH) as f64;
        Ok(Sample { values: vec![requests / seconds, used * 1e6 / requests], answer })
    }

    fn example(&self, place: &Place, program: &str, variant: Variant) -> String {
        let binary = place.built(program, variant).join("memcached");
        format!(
            "{} -u root -l 127.0.0.1 -p 7782 -t 1 -m 256  # load: {BATCH} requests a write over {CONNECTIONS} connections, by xtask",
            binary.display()
        )
    }
}

impl Mix {
    /// Runs the load; returns the seconds it took and a digest of the answers to one batch of each kind.
    fn load(&self, port: u16, batches: u64) -> Result<(f64, String)> {
        let connect = |_| -> Result<TcpStream> {
            let stream = TcpStream::connect(("127.0.0.1", port))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(Duration::from_secs(20)))?;
            Ok(stream)
        };
        let mut streams = (0..CONNECTIONS).map(connect).collect::<Result<Vec<_>>>()?;
        for key in 0..KEYS {
            streams[0].write_all(set(key).as_bytes())?;
            expect(&mut streams[0], b"STORED\r\n")?;
        }
        let (requests, answers): (Vec<_>, Vec<_>) = (0..KEYS / BATCH).map(|n| self.batch(n * BATCH)).unzip();
        let mut received = Vec::new();
        let started = Instant::now();
        // All connections have a batch under way before the first answer is read, so the server never waits.
        for round in 0..batches / CONNECTIONS as u64 {
            let kind = |place: usize| (round as usize * CONNECTIONS + place) % requests.len();
            for (place, stream) in streams.iter_mut().enumerate() {
                stream.write_all(requests[kind(place)].as_bytes())?;
            }
            for (place, stream) in streams.iter_mut().enumerate() {
                let expected = answers[kind(place)].as_bytes();
                received.resize(expected.len(), 0);
                stream.read_exact(&mut received).context("reading answers")?;
                ensure!(received == expected, "memcached answered otherwise than it should");
            }
        }
        Ok((started.elapsed().as_secs_f64(), digest(answers.concat().as_bytes())))
    }

    /// The requests of a batch, and what they must be answered with.
    fn batch(&self, first: u64) -> (String, String) {
        let (mut requests, mut answers) = (String::new(), String::new());
        for place in 0..BATCH {
            let key = (first + place) % KEYS;
            if place % (BATCH / self.sets) == 0 {
                requests += &set(key);
                answers += "STORED\r\n";
            } else {
                requests += &format!("get {}\r\n", name(key));
                answers += &format!("VALUE {} 0 32\r\n{}\r\nEND\r\n", name(key), value(key));
            }
        }
        (requests, answers)
    }
}

fn name(key: u64) -> String {
    format!("key-{key:06}")
}

fn value(key: u64) -> String {
    format!("{:032x}", key.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

fn set(key: u64) -> String {
    format!("set {} 0 0 32\r\n{}\r\n", name(key), value(key))
}

fn expect(stream: &mut TcpStream, expected: &[u8]) -> Result<()> {
    let mut answer = vec![0; expected.len()];
    stream.read_exact(&mut answer)?;
    ensure!(answer == expected, "memcached said {:?}", String::from_utf8_lossy(&answer));
    Ok(())
}

/// Runs something on a thread of its own that is pinned to the clients' processor.
fn pinned<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let on_client_cpu = || {
        // SAFETY: an all-zero set is a valid, empty one; the index is far below its size; and the call
        // changes this thread alone, reading the set that lives until it returns.
        let result = unsafe {
            let mut set: libc::cpu_set_t = std::mem::zeroed();
            libc::CPU_SET(CLIENT_CPU, &mut set);
            libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
        };
        ensure!(result == 0, "pinning the client: {}", std::io::Error::last_os_error());
        work()
    };
    let joined = std::thread::scope(|scope| scope.spawn(on_client_cpu).join());
    joined.map_err(|_| anyhow::anyhow!("the client panicked"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_holds_as_many_sets_as_it_says_and_an_answer_to_each_request() {
        let (requests, answers) = Mix { name: "", sets: 8 }.batch(KEYS - 3);
        assert_eq!(requests.matches("set ").count(), 8);
        assert_eq!(requests.matches("get ").count(), 24);
        assert_eq!((answers.matches("STORED").count(), answers.matches("END").count()), (8, 24));
    }
}
