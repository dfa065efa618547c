//! Signals and job control while we stand between the program and its parent.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use crate::started::run_shell;

/// A shell under `relpoline run --report`, which has said a first line.
struct Job {
    relpoline: Child,
    output: BufReader<ChildStdout>,
}

impl Job {
    /// The script has to write a line when it is ready.
    fn start(script: &str) -> (Self, String) {
        let mut relpoline = run_shell(&["--report", "/dev/null"], script)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(relpoline.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        (Self { relpoline, output }, line)
    }

    fn send(&self, signal: libc::c_int) {
        // SAFETY: the child has not been waited for.
        unsafe { libc::kill(self.relpoline.id().cast_signed(), signal) };
    }

    /// Waits until relpoline is in this state, as /proc has it.
    fn reaches(&self, state: char) {
        let path = format!("/proc/{}/stat", self.relpoline.id());
        let since = Instant::now();
        loop {
            let stat = std::fs::read_to_string(&path).unwrap();
            let now = stat
                .rsplit(") ")
                .next()
                .and_then(|rest| rest.chars().next());
            if now == Some(state) {
                return;
            }
            assert!(since.elapsed() < Duration::from_secs(20), "{stat}");
            sleep(Duration::from_millis(10));
        }
    }

    fn end(mut self) -> (String, Option<i32>) {
        let mut rest = String::new();
        self.output.read_to_string(&mut rest).unwrap();
        (rest, self.relpoline.wait().unwrap().code())
    }
}

#[test]
fn signals_sent_to_us_reach_the_program() {
    for (name, number) in [
        ("TERM", libc::SIGTERM),
        ("HUP", libc::SIGHUP),
        ("USR1", libc::SIGUSR1),
        ("INT", libc::SIGINT),
    ] {
        let script = format!(
            "trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done"
        );
        let (job, _) = Job::start(&script);
        job.send(number);
        assert_eq!(job.end(), (format!("got {name}\n"), Some(9)));
    }
}

#[test]
fn a_stopped_program_stops_us_and_goes_on_with_us() {
    let (job, _) = Job::start("echo ready; kill -STOP $$; echo on; exit 4");
    job.reaches('T');
    job.send(libc::SIGCONT);
    assert_eq!(job.end(), ("on\n".into(), Some(4)));
}
