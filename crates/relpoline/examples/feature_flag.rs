//! A feature flag in a server's loop: tracing that costs nothing while it is off, and can be switched on in the
//! running server.
//!
//! `cargo run --release -p relpoline --example feature_flag`. The server echoes lines in upper case over TCP on a
//! free port of this machine; the line `trace on` or `trace off` is for itself. The example is its own client.

use relpoline::{UpdateError, static_key, unlikely};
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

static_key! {
    /// Whether every request is written to the log.
    static TRACING: bool = false;
}
static TRACED: AtomicU64 = AtomicU64::new(0);

#[cold]
fn trace(request: &str) {
    TRACED.fetch_add(1, Ordering::Relaxed);
    eprintln!("trace: {request:?}");
}

/// The hot path. While the key is off, the branch is one instruction that reads nothing.
fn answer(request: &str) -> String {
    if unlikely!(TRACING) {
        trace(request);
    }
    request.to_uppercase()
}

fn switch_tracing(on: bool) -> String {
    match TRACING.set(on) {
        Ok(()) => format!("tracing is {}", if on { "on" } else { "off" }),
        Err(refusal @ UpdateError::Unfenced) => format!("tracing was switched: {refusal}"),
        Err(refusal) => format!("tracing stays as it is: {refusal}"),
    }
}

fn serve(connection: TcpStream) -> std::io::Result<()> {
    connection.set_nodelay(true)?;
    let mut replies = connection.try_clone()?;
    for request in BufReader::new(connection).lines() {
        let request = request?;
        let reply = match request.as_str() {
            "trace on" => switch_tracing(true),
            "trace off" => switch_tracing(false),
            other => answer(other),
        };
        replies.write_all((reply + "\n").as_bytes())?;
    }
    Ok(())
}

fn ask(connection: &mut (BufReader<TcpStream>, TcpStream), request: &str) -> std::io::Result<String> {
    connection.1.write_all(format!("{request}\n").as_bytes())?;
    let mut reply = String::new();
    connection.0.read_line(&mut reply)?;
    Ok(reply.trim_end().to_owned())
}

fn main() -> std::io::Result<()> {
    let listener = TcpListener::bind(("127.0.0.1", 0))?;
    let address = listener.local_addr()?;
    // The server, a thread per connection.
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            thread::spawn(move || serve(connection));
        }
    });
    let connect = move || {
        let connection = TcpStream::connect(address)?;
        connection.set_nodelay(true)?;
        Ok::<_, std::io::Error>((BufReader::new(connection.try_clone()?), connection))
    };
    // A client that works all the while, and one that switches.
    let busy = thread::spawn(move || {
        let mut connection = connect()?;
        for _ in 0..500 {
            assert_eq!(ask(&mut connection, "ping")?, "PING");
        }
        Ok::<_, std::io::Error>(())
    });
    let mut operator = connect()?;
    assert_eq!(ask(&mut operator, "hello")?, "HELLO");
    println!("{}", ask(&mut operator, "trace on")?);
    assert_eq!(ask(&mut operator, "traced")?, "TRACED");
    println!("{}", ask(&mut operator, "trace off")?);
    assert_eq!(ask(&mut operator, "quiet")?, "QUIET");
    busy.join().expect("the client")?;
    let traced = TRACED.load(Ordering::Relaxed);
    assert!(traced >= 1, "the operator's own request was traced");
    println!("{traced} requests were traced ({:?})", TRACING.sites());
    Ok(())
}
