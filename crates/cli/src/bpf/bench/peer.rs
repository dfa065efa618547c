//! Other runtimes: programs that measure them, one round per line that they are sent.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};

use super::contender::{Contender, Round};

/// A running peer; ended with its value.
pub struct Peer {
    name: String,
    child: Child,
    to: Option<ChildStdin>,
    from: BufReader<ChildStdout>,
}

impl Peer {
    /// Starts `NAME=COMMAND`.
    pub fn start(text: &str) -> Result<Peer> {
        let (name, command) = text.split_once('=').with_context(|| format!("'{text}' is not NAME=COMMAND"))?;
        let mut words = command.split_whitespace();
        let program = words.next().with_context(|| format!("'{text}' has no command"))?;
        let mut child = Command::new(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let (Some(to), Some(from)) = (child.stdin.take(), child.stdout.take()) else { bail!("no pipes to {program}") };
        Ok(Peer { name: name.into(), child, to: Some(to), from: BufReader::new(from) })
    }
}

impl Contender for Peer {
    fn name(&self) -> String {
        self.name.clone()
    }

    fn round(&mut self) -> Result<Round> {
        self.to.as_ref().context("ended")?.write_all(b"\n").context("the peer has ended")?;
        let mut line = String::new();
        self.from.read_line(&mut line)?;
        parse(&line).with_context(|| format!("the peer answered '{}', not two or three numbers", line.trim_end()))
    }
}

fn parse(line: &str) -> Option<Round> {
    let numbers: Vec<f64> = line.split_whitespace().map(|word| word.parse().ok()).collect::<Option<_>>()?;
    match numbers[..] {
        [with_hops, without] => Some(Round { with_hops, without, sum: None }),
        [with_hops, without, sum] => Some(Round { with_hops, without, sum: Some(sum) }),
        _ => None,
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        // The end of its input is the end of a peer.
        self.to = None;
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers() {
        let round = parse("120.5 20 3\n").unwrap();
        assert_eq!((round.with_hops, round.without, round.sum), (120.5, 20.0, Some(3.0)));
        assert!(parse("1 2").unwrap().sum.is_none());
        assert!(parse("").is_none() && parse("1").is_none() && parse("a b").is_none());
    }

    #[test]
    fn a_peer_is_asked_once_per_round() {
        let mut peer = Peer::start("echo=sed -u s/^/7\\x203/").unwrap();
        assert_eq!(peer.round().unwrap().with_hops, 7.0);
        assert_eq!(peer.round().unwrap().without, 3.0);
        assert!(Peer::start("x").is_err() && Peer::start("x=").is_err());
    }
}
