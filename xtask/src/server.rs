//! Servers under test: started, waited for, and stopped on every way out.
//!
//! The process that the driver starts need not be the server: the engine's `run` may stay in between. So
//! the server's own pid comes from its pid file, and a stop goes to the whole group.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::children::{self, Group};
use crate::procfs;

/// The processor servers are pinned to.
pub const SERVER_CPU: usize = 1;
/// The processor load generators are pinned to.
pub const CLIENT_CPU: usize = 0;

/// A running server.
pub struct Server {
    child: Child,
    group: Group,
    stop: i32,
}

impl Server {
    /// Starts a server; its output goes to `log`. `stop` is the signal that ends it in an orderly way.
    pub fn start(command: &mut Command, stop: i32, log: &Path) -> Result<Server> {
        let file = File::create(log).with_context(|| format!("creating {}", log.display()))?;
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let (child, group) = children::spawn(command, stop)?;
        Ok(Server { child, group, stop })
    }

    /// Waits until `ready` says yes, at most 20 s; an early end of the server is an error.
    pub fn wait_until(&mut self, mut ready: impl FnMut() -> bool) -> Result<()> {
        let started = Instant::now();
        while !ready() {
            if let Some(status) = self.child.try_wait()? {
                bail!("the server ended at once: {status}");
            }
            if started.elapsed() > Duration::from_secs(20) {
                bail!("the server does not answer after 20 s");
            }
            thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// The process that has no child: the server itself, if it is one process and whoever started it waits
    /// for it.
    pub fn innermost(&self) -> u32 {
        let mut pid = self.child.id();
        while let Some(&child) = procfs::children(pid).ok().as_ref().and_then(|children| children.first()) {
            pid = child;
        }
        pid
    }

    /// Stops it in an orderly way, so that reports get written.
    pub fn stop(mut self) -> Result<()> {
        self.end()
    }

    fn end(&mut self) -> Result<()> {
        if self.child.try_wait()?.is_some() {
            return Ok(());
        }
        self.group.signal(self.stop);
        let started = Instant::now();
        while self.child.try_wait()?.is_none() {
            if started.elapsed() > Duration::from_secs(10) {
                self.group.signal(libc::SIGKILL);
                self.child.wait()?;
                bail!("the server had to be killed");
            }
            thread::sleep(Duration::from_millis(10));
        }
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An error is on its way already when a server is dropped rather than stopped.
        let _ = self.end();
    }
}

/// The number in the first line of a pid file.
pub fn pid_from(file: &Path) -> Result<u32> {
    let text = fs::read_to_string(file).with_context(|| format!("reading {}", file.display()))?;
    let line = text.lines().next().unwrap_or_default().trim();
    line.parse().with_context(|| format!("{} holds no pid", file.display()))
}

/// Sends a request over a fresh connection and reads until the server closes it.
pub fn ask(port: u16, request: &str) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(answer)
}

/// A port of the loopback device that nobody listens on just now.
pub fn free_port() -> Result<u16> {
    Ok(std::net::TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_that_ends_early_is_noticed_and_one_that_runs_is_stopped() {
        let log = std::env::temp_dir().join(format!("xtask-server-{}", std::process::id()));
        let mut early = Server::start(&mut Command::new("true"), libc::SIGTERM, &log).expect("it starts");
        assert!(early.wait_until(|| false).is_err());
        let mut lasting = Server::start(Command::new("sleep").arg("100"), libc::SIGTERM, &log).expect("it starts");
        assert!(lasting.wait_until(|| true).is_ok());
        let started = Instant::now();
        assert!(lasting.stop().is_ok());
        assert!(started.elapsed() < Duration::from_secs(5));
        fs::remove_file(log).expect("the log was there");
    }
}
