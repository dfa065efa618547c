//! wrk, a load generator for HTTP, and what else is asked of a server of pages.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::measure;
use crate::server::CLIENT_CPU;

/// What a load came to.
pub struct Load {
    /// Requests that were answered.
    pub requests: f64,
    /// How many a second.
    pub per_second: f64,
}

/// Asks for the page for some seconds over 16 connections.
pub fn load(port: u16, page: &str, seconds: u64) -> Result<Load> {
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

/// The request for a page whose answer ends with the connection.
pub fn request(page: &str) -> String {
    format!("GET /{page} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
}

/// The answer without its header, which holds the time.
pub fn body(answer: &[u8]) -> Result<&[u8]> {
    ensure!(answer.starts_with(b"HTTP/1.1 200"), "the server did not deliver the page");
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
