//! A server that knows one page. One connection after the other, each with a deadline, so that nobody who dawdles
//! keeps the next one waiting for long.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::Duration;

use anyhow::Context;

/// How long a client may take.
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest request that is read.
const LONGEST: u64 = 16 * 1024;

/// Answers requests for ever.
///
/// # Errors
/// When the address cannot be listened at.
pub fn serve(address: SocketAddr, page: &dyn Fn() -> String) -> anyhow::Result<()> {
    let listener = TcpListener::bind(address).with_context(|| format!("cannot listen at {address}"))?;
    println!("listening at http://{}/metrics", listener.local_addr()?);
    io::stdout().flush()?;
    for stream in listener.incoming().flatten() {
        // What goes wrong with a client is the client's problem.
        let _ = answer(stream, page);
    }
    Ok(())
}

fn answer(mut stream: TcpStream, page: &dyn Fn() -> String) -> io::Result<()> {
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let mut lines = BufReader::new(stream.try_clone()?.take(LONGEST)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the head has to be taken, or closing the connection would reset it.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let (status, body) = respond(&request, page);
    let kind = "text/plain; version=0.0.4; charset=utf-8";
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn respond(request: &str, page: &dyn Fn() -> String) -> (&'static str, String) {
    let mut words = request.split_whitespace();
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    match (method, path.split('?').next().unwrap_or_default()) {
        ("GET", "/metrics") => ("200 OK", page()),
        ("GET", "/") => ("200 OK", "relpoline: see /metrics\n".into()),
        ("GET", _) => ("404 Not Found", "there is only /metrics\n".into()),
        _ => ("405 Method Not Allowed", "only GET\n".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_one_page() {
        let said = |request| respond(request, &|| "page".into());
        assert_eq!(said("GET /metrics HTTP/1.1"), ("200 OK", "page".into()));
        assert_eq!(said("GET /metrics?x=1 HTTP/1.1").1, "page");
        assert_eq!(
            [said("GET /x HTTP/1.1").0, said("POST /metrics HTTP/1.1").0, said("").0].map(|s| &s[..3]),
            ["404", "405", "405"]
        );
    }
}
