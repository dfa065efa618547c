//! Signals and job control while we stand between the program and its parent.

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
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
        let mut relpoline = run_shell(&["--report", "/dev/null"], script).stdout(Stdio::piped()).spawn().unwrap();
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
            let now = stat.rsplit(") ").next().and_then(|rest| rest.chars().next());
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
    for (name, number) in
        [("TERM", libc::SIGTERM), ("HUP", libc::SIGHUP), ("USR1", libc::SIGUSR1), ("INT", libc::SIGINT)]
    {
        let script = format!("trap 'echo got {name}; exit 9' {name}; echo ready; while :; do sleep 0.05; done");
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

/// A new terminal: its keyboard, and what programs see of it.
pub fn terminal() -> (File, OwnedFd) {
    let (mut keyboard, mut screen) = (-1, -1);
    let (name, mode, size) = (std::ptr::null_mut(), std::ptr::null(), std::ptr::null());
    // SAFETY: the numbers are live, and the rest may be null.
    let result = unsafe { libc::openpty(&raw mut keyboard, &raw mut screen, name, mode, size) };
    assert_eq!(result, 0);
    // SAFETY: both are new and nobody else's.
    unsafe { (File::from_raw_fd(keyboard), OwnedFd::from_raw_fd(screen)) }
}

/// In a child: makes its stdin the terminal of a new session.
fn take_terminal() -> std::io::Result<()> {
    // SAFETY: two system calls on the calling process alone.
    let result = unsafe { libc::setsid().min(libc::ioctl(0, libc::TIOCSCTTY, 0)) };
    if result == -1 { Err(std::io::Error::last_os_error()) } else { Ok(()) }
}

#[test]
fn a_key_on_the_terminal_reaches_the_program_once() {
    let script = "trap 'echo interrupted' INT; echo ready; for i in 1 2 3 4 5 6 7 8; do sleep 0.1; done; exit 6";
    let (mut keyboard, screen) = terminal();
    let mut start = run_shell(&["--report", "/dev/null"], script);
    start.stdin(screen).stdout(Stdio::piped());
    // SAFETY: `take_terminal` makes system calls only.
    let mut relpoline = unsafe { start.pre_exec(take_terminal) }.spawn().unwrap();
    let mut output = BufReader::new(relpoline.stdout.take().unwrap());
    let mut said = String::new();
    output.read_line(&mut said).unwrap();
    keyboard.write_all(b"\x03").unwrap();
    output.read_to_string(&mut said).unwrap();
    assert_eq!((said.as_str(), relpoline.wait().unwrap().code()), ("ready\ninterrupted\n", Some(6)));
}

/// How a terminal is set.
fn settings(keyboard: &File) -> (u32, u32, u32, u32) {
    // SAFETY: zeros are a valid termios, which the call fills.
    let settings = unsafe {
        let mut settings = std::mem::zeroed::<libc::termios>();
        assert_eq!(libc::tcgetattr(keyboard.as_raw_fd(), &raw mut settings), 0);
        settings
    };
    (settings.c_iflag, settings.c_oflag, settings.c_cflag, settings.c_lflag)
}

/// Reads what appears on a terminal until this does.
fn wait_for(keyboard: &mut File, what: &str) {
    let (mut seen, mut part) = (String::new(), [0; 4096]);
    let since = Instant::now();
    while !seen.contains(what) {
        assert!(since.elapsed() < Duration::from_secs(60), "{what:?} is not in {seen:?}");
        let mut wanted = libc::pollfd { fd: keyboard.as_raw_fd(), events: libc::POLLIN, revents: 0 };
        // SAFETY: one descriptor, which lives.
        if unsafe { libc::poll(&raw mut wanted, 1, 100) } == 1 {
            let length = keyboard.read(&mut part).unwrap();
            seen += &String::from_utf8_lossy(&part[..length]);
        }
    }
}

#[test]
fn a_signal_to_top_leaves_the_terminal_as_it_was() {
    let (mut keyboard, screen) = terminal();
    let before = settings(&keyboard);
    for signal in [libc::SIGTERM, libc::SIGALRM, libc::SIGINT] {
        let mut top = std::process::Command::new(env!("CARGO_BIN_EXE_relpoline"));
        top.arg("top").env("TERM", "xterm");
        top.stdin(screen.try_clone().unwrap()).stdout(screen.try_clone().unwrap());
        // SAFETY: `setsid` is a system call.
        let mut top =
            unsafe { top.pre_exec(|| (libc::setsid() != -1).then_some(()).ok_or(std::io::ErrorKind::Other.into())) }
                .spawn()
                .unwrap();
        wait_for(&mut keyboard, "\x1b[?1049h");
        assert_ne!(settings(&keyboard), before);
        // SAFETY: the child has not been waited for.
        unsafe { libc::kill(top.id().cast_signed(), signal) };
        wait_for(&mut keyboard, "\x1b[?1049l");
        assert_eq!((top.wait().unwrap().signal(), settings(&keyboard)), (Some(signal), before));
    }
}
