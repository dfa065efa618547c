//! nginx has no test suite in its source package, so here is a suite of requests of ours: each module that is
//! built by default answers something, and the answer (status, chosen header fields, body) must be the same.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use super::{Bench, Suite, Verdicts};
use crate::procfs;
use crate::programs::{self, Program};
use crate::server::{self, Server};
use crate::workload::digest;

pub struct Nginx;

impl Suite for Nginx {
    fn program(&self) -> Box<dyn Program> {
        Box::new(programs::nginx::Nginx)
    }

    fn nervous(&self) -> bool {
        true
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let (dir, port) = (bench.scratch()?, server::free_port()?);
        site(&dir)?;
        let configuration = dir.join("nginx.conf");
        fs::write(&configuration, configured(&dir, port))?;
        let mut command = bench.setting.start("objs/nginx", None);
        command.arg("-p").arg(&dir).arg("-c").arg(&configuration);
        let mut server = Server::start(&mut command, libc::SIGQUIT, &bench.log)?;
        server.wait_until(|| server::ask(port, &get("/plain.txt", "")).is_ok())?;
        let rounds = if bench.setting.quick { 20 } else { 400 };
        let mut verdicts = Verdicts::new();
        // Often enough for every site on the way to be promoted, with the answers of all rounds in the
        // verdict.
        for (name, request) in requests() {
            let mut answers = Vec::new();
            for _ in 0..rounds {
                let answer = server::ask(port, &request).with_context(|| format!("request {name:?}"))?;
                let answer = comparable(&answer);
                if !answers.contains(&answer) {
                    answers.push(answer);
                }
            }
            let shown: Vec<_> = answers.iter().map(|(line, body)| format!("{line}; body {body}")).collect();
            verdicts.insert(name.to_owned(), shown.join(" | "));
        }
        server.stop()?;
        Ok(verdicts)
    }
}

/// Files to serve.
fn site(dir: &Path) -> Result<()> {
    for part in ["html/sub", "html/list", "logs", "tmp"] {
        fs::create_dir_all(dir.join(part))?;
    }
    let html = dir.join("html");
    fs::write(html.join("plain.txt"), "A line of text that repeats.\n".repeat(700))?;
    fs::write(html.join("index.html"), "<html><body>index</body></html>\n")?;
    fs::write(html.join("sub/index.html"), "<html>below</html>\n")?;
    fs::write(html.join("list/a.txt"), "a")?;
    let included = "<!--# set var=\"x\" value=\"seven\" --><p><!--# echo var=\"x\" --> <!--# include file=\"list/a.txt\" -->\
                    <!--# if expr=\"$arg_q = yes\" -->yes<!--# else -->no<!--# endif --></p>\n";
    fs::write(html.join("page.shtml"), included)?;
    fs::write(html.join("user.htpasswd"), "user:{PLAIN}secret\n")?;
    Ok(())
}

fn configured(dir: &Path, port: u16) -> String {
    let user = if procfs::am_root() { "user root;" } else { "" };
    let (dir, text) = (dir.display(), "default_type text/plain;");
    format!(
        "{user} daemon off; worker_processes 2; pid {dir}/nginx.pid; error_log {dir}/logs/error.log crit;
events {{ worker_connections 256; }}
http {{
  access_log {dir}/logs/access.log; sendfile on; {text} types {{ text/html html shtml; text/plain txt; }}
  client_body_temp_path {dir}/tmp/body; proxy_temp_path {dir}/tmp/proxy; fastcgi_temp_path {dir}/tmp/fastcgi;
  uwsgi_temp_path {dir}/tmp/uwsgi; scgi_temp_path {dir}/tmp/scgi;
  map $arg_k $mapped {{ default other; ~^a(?<rest>.*)$ \"starts with a, then $rest\"; b second; }}
  geo $where {{ default outside; 127.0.0.0/8 here; }}
  split_clients $request_uri $half {{ 50% one; * two; }}
  upstream itself {{ server 127.0.0.1:{port}; keepalive 4; }}
  proxy_cache_path {dir}/tmp/cache keys_zone=small:1m;
  limit_req_zone $arg_none zone=calm:1m rate=1000r/s;
  server {{
    listen 127.0.0.1:{port}; root {dir}/html; server_name localhost;
    location /gzip/ {{ alias {dir}/html/; gzip on; gzip_min_length 1; gzip_types text/plain; }}
    location /ssi/ {{ alias {dir}/html/; ssi on; }}
    location = /ssi/list/a.txt {{ alias {dir}/html/list/a.txt; }}
    location /proxy/ {{ proxy_pass http://itself/; proxy_http_version 1.1; proxy_set_header Connection \"\"; }}
    location /cached/ {{ proxy_pass http://itself/; proxy_cache small; proxy_cache_valid 1h; add_header X-Cache $upstream_cache_status; }}
    location /auth/ {{ alias {dir}/html/; auth_basic closed; auth_basic_user_file {dir}/html/user.htpasswd; }}
    location /old/ {{ rewrite ^/old/(.*)\\.php$ /new/$1?from=php permanent; rewrite ^/old/(.*)$ /plain.txt last; }}
    location /var {{ return 200 \"$request_method $arg_a $mapped $where $half $http_x_test $is_args$args\\n\"; }}
    location /list/ {{ autoindex on; autoindex_format json; }}
    location /deny/ {{ deny all; }}
    location /limit/ {{ alias {dir}/html/; limit_req zone=calm; limit_rate 10m; }}
    location /try/ {{ try_files $uri $uri/ /sub/index.html; }}
    location /if/ {{ if ($arg_go = out) {{ return 410; }} if ($request_method = POST) {{ return 405; }} alias {dir}/html/; }}
    location /body {{ client_max_body_size 1k; proxy_pass http://itself/var; }}
    location /redirect {{ return 302 /elsewhere; }}
    location /empty {{ empty_gif; }}
    location /browser {{ return 200 \"$http_user_agent $ancient_browser\\n\"; }}
    error_page 404 /index.html; error_page 410 = @gone; location @gone {{ return 200 \"gone, but kindly\\n\"; }}
  }}
}}
"
    )
}

fn get(path: &str, fields: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{fields}Connection: close\r\n\r\n")
}

fn requests() -> Vec<(&'static str, String)> {
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
        )
    };
    let pipelined = format!("GET /plain.txt HTTP/1.1\r\nHost: localhost\r\n\r\n{}", get("/sub/", ""));
    let chunked = "POST /body HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n\
                   5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n";
    vec![
        ("static file", get("/plain.txt", "")),
        ("head", get("/plain.txt", "").replacen("GET", "HEAD", 1)),
        ("index", get("/", "")),
        ("index below", get("/sub/", "")),
        ("directory without slash", get("/sub", "")),
        ("not found", get("/nothing", "")),
        ("one range", get("/plain.txt", "Range: bytes=100-199\r\n")),
        ("last bytes", get("/plain.txt", "Range: bytes=-7\r\n")),
        ("range beyond the end", get("/plain.txt", "Range: bytes=999999-\r\n")),
        ("not modified", get("/plain.txt", "If-Modified-Since: Fri, 01 Jan 2100 00:00:00 GMT\r\n")),
        ("precondition", get("/plain.txt", "If-Unmodified-Since: Thu, 01 Jan 1970 00:00:00 GMT\r\n")),
        ("gzip", get("/gzip/plain.txt", "Accept-Encoding: gzip\r\n")),
        ("no gzip wanted", get("/gzip/plain.txt", "")),
        ("server-side includes", get("/ssi/page.shtml?q=yes", "")),
        ("server-side includes, other branch", get("/ssi/page.shtml?q=no", "")),
        ("proxy", get("/proxy/plain.txt", "")),
        ("proxy to an error", get("/proxy/nothing", "")),
        ("proxy of a proxy", get("/proxy/proxy/sub/", "")),
        ("cached", get("/cached/plain.txt", "")),
        ("password", get("/auth/plain.txt", "Authorization: Basic dXNlcjpzZWNyZXQ=\r\n")),
        ("wrong password", get("/auth/plain.txt", "Authorization: Basic dXNlcjp3cm9uZw==\r\n")),
        ("permanent rewrite", get("/old/page.php", "")),
        ("internal rewrite", get("/old/page", "")),
        ("variables", get("/var?a=1&k=abc", "X-Test: t\r\n")),
        ("other variables", get("/var?k=b", "")),
        ("listing", get("/list/", "")),
        ("denied", get("/deny/x", "")),
        ("limited", get("/limit/sub/index.html", "")),
        ("try files", get("/try/nothing", "")),
        ("condition", get("/if/plain.txt?go=out", "")),
        ("condition not met", get("/if/sub/index.html", "")),
        ("method refused", post("/if/x", "a=b")),
        ("body passed on", post("/body?a=2", "some body")),
        ("body in chunks", chunked.to_owned()),
        ("body too large", post("/body", &"x".repeat(2000))),
        ("redirect", get("/redirect", "")),
        ("empty gif", get("/empty", "")),
        ("two on one connection", pipelined),
        ("bad request", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n".to_owned()),
        ("no host", "GET / HTTP/1.1\r\n\r\n".to_owned()),
        ("unknown method", get("/", "").replacen("GET", "BREW", 1)),
        ("traversal", get("/../../etc/passwd", "")),
        ("encoded path", get("/%73ub/%69ndex.html", "")),
        ("long header field", get("/", &format!("X-Long: {}\r\n", "y".repeat(20_000)))),
    ]
}

/// The status line with the header fields that do not hold times, and a digest of what follows.
fn comparable(answer: &[u8]) -> (String, String) {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    let head = String::from_utf8_lossy(&answer[..end]);
    let fixed = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        !matches!(name.as_str(), "date" | "last-modified" | "etag" | "location" | "x-cache")
    };
    let fields: Vec<_> = head.lines().filter(|line| !line.is_empty()).filter(fixed).collect();
    let body = String::from_utf8_lossy(&answer[end..]);
    // A second answer on the same connection, and a listing, hold times too.
    let timeless: Vec<_> = body.lines().filter(|line| fixed(line) && !line.contains("mtime")).collect();
    let body = if body.contains('\u{fffd}') { digest(&answer[end..]) } else { digest(timeless.join("\n").as_bytes()) };
    (fields.join(", "), body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_no_part_of_an_answer_and_bodies_are() {
        let answer = |date: &str, body: &str| {
            comparable(format!("HTTP/1.1 200 OK\r\nDate: {date}\r\nServer: n\r\n\r\n{body}").as_bytes())
        };
        assert_eq!(answer("today", "x"), answer("yesterday", "x"));
        assert_ne!(answer("today", "x"), answer("today", "y"));
        assert_eq!(answer("today", "x").0, "HTTP/1.1 200 OK, Server: n");
    }

    #[test]
    fn names_of_requests_are_unique() {
        let mut names: Vec<_> = requests().into_iter().map(|(name, _)| name).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}
