//! Commands that a signal ends in the middle leave nothing behind: no file, no process.

use std::fs;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::compiled::{CALLS, Compiled, RETPOLINE};
use crate::started::{output, relpoline};

/// A home, and a place for temporary files, of commands that are ended.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        for name in ["tmp", "home", "runtime", "here"] {
            fs::create_dir(place.path(name)).unwrap();
        }
        // Nobody else may change what the engine's file lies in.
        fs::set_permissions(place.path("runtime"), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    /// A command in a process group of its own.
    fn start(&self, words: &[&str]) -> Child {
        let mut command = relpoline(words);
        command.env("TMPDIR", self.path("tmp")).env("HOME", self.path("home")).env_remove("XDG_CACHE_HOME");
        command.env("XDG_RUNTIME_DIR", self.path("runtime")).current_dir(self.path("here"));
        command.stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
        command.spawn().unwrap()
    }

    /// What was left, but for the engine's file, which is for the next start; and what is in `here`.
    fn left(&self) -> Vec<PathBuf> {
        let mut left = Vec::new();
        let mut waiting = vec![self.path("tmp"), self.path("home"), self.path("runtime")];
        while let Some(directory) = waiting.pop() {
            for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
                let name = path.file_name().unwrap().to_string_lossy().into_owned();
                let is_of_temporary = path.starts_with(self.path("tmp"));
                if path.is_dir() && !is_of_temporary {
                    waiting.push(path);
                } else if is_of_temporary || !(name.starts_with("engine-") && name.ends_with(".so")) {
                    left.push(path);
                }
            }
        }
        left
    }

    /// Processes that were started by a command of this place and are still there.
    fn processes(&self) -> Vec<String> {
        let own = format!("TMPDIR={}", self.path("tmp").display());
        let is_ours = |entry: &fs::DirEntry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|byte| *byte == 0).any(|one| one == own.as_bytes())
        };
        let found = fs::read_dir("/proc").unwrap().flatten().filter(is_ours);
        found.map(|entry| format!("{:?}", fs::read_link(entry.path().join("exe")))).collect()
    }

    fn is_begun(&self) -> bool {
        fs::read_dir(self.path("tmp")).unwrap().count() != 0
    }

    /// Ends it, and looks at what it leaves.
    fn end(&self, mut child: Child, signal: Signal) -> ExitStatus {
        let pid = child.id().cast_signed();
        // SAFETY: the child has not been waited for, and leads a group.
        unsafe { libc::kill(if signal.to_all { -pid } else { pid }, signal.number) };
        let status = child.wait().unwrap();
        assert!(soon(|| self.processes().is_empty()), "{signal:?}: {:?} go on", self.processes());
        assert_eq!(self.left(), [""; 0].map(PathBuf::from), "{signal:?}");
        assert_eq!(runs_of(pid), [""; 0].map(PathBuf::from), "{signal:?}");
        status
    }
}

/// How a command is ended.
#[derive(Clone, Copy, Debug)]
struct Signal {
    number: libc::c_int,
    /// As a terminal sends it, to the whole foreground group.
    to_all: bool,
}

const SIGNALS: [Signal; 4] = [
    Signal { number: libc::SIGINT, to_all: true },
    Signal { number: libc::SIGINT, to_all: false },
    Signal { number: libc::SIGTERM, to_all: false },
    Signal { number: libc::SIGHUP, to_all: true },
];

/// Directories of a run's statistics.
fn runs_of(pid: i32) -> Vec<PathBuf> {
    // SAFETY: it asks for a number.
    let user = unsafe { libc::geteuid() };
    let all = fs::read_dir(format!("/dev/shm/relpoline-{user}")).into_iter().flatten().flatten();
    let start = format!("run-{pid}-");
    all.filter(|entry| entry.file_name().to_string_lossy().starts_with(&start)).map(|entry| entry.path()).collect()
}

fn soon(mut holds: impl FnMut() -> bool) -> bool {
    let begun = Instant::now();
    while !holds() {
        if begun.elapsed() > Duration::from_secs(30) {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    true
}

/// Commands that work in a directory of their own: while they look for a compiler, compile, and measure.
fn is_ended_while_it_works(words: &[&str]) {
    // Milliseconds after it has made its directory.
    for (at, signal) in [0, 30, 300, 1500].into_iter().zip(SIGNALS) {
        let place = Place::new();
        let mut child = place.start(words);
        assert!(soon(|| place.is_begun() || child.try_wait().unwrap().is_some()), "{words:?} does not begin");
        std::thread::sleep(Duration::from_millis(at));
        let status = place.end(child, signal);
        assert!(status.signal() == Some(signal.number) || status.success(), "{words:?} {signal:?}: {status:?}");
    }
}

#[test]
fn demo() {
    is_ended_while_it_works(&["demo"]);
}

#[test]
fn bench() {
    is_ended_while_it_works(&["bench", "--quick"]);
}

#[test]
fn crowds() {
    is_ended_while_it_works(&["bench", "--crowds", "--quick"]);
}

#[test]
fn torture() {
    is_ended_while_it_works(&["torture", "--seconds", "600", "--threads", "1"]);
}

#[test]
fn doctor_and_man() {
    is_ended_while_it_works(&["doctor"]);
    is_ended_while_it_works(&["man", "--out", "pages"]);
}

/// The program is asked to end, and what is known of it is still written.
#[test]
fn run() {
    let program = Compiled::new("#include <unistd.h>\nint main(void) { sleep(600); return 0; }", &RETPOLINE);
    for signal in SIGNALS {
        let place = Place::new();
        let child = place.start(&["run", "--report", "report", "--profile", "profile", "--", program.text()]);
        let pid = child.id().cast_signed();
        assert!(soon(|| !runs_of(pid).is_empty() && !place.processes().is_empty()));
        std::thread::sleep(Duration::from_millis(50));
        assert_eq!(place.end(child, signal).signal(), Some(signal.number), "{signal:?}");
        assert_eq!(names(&place.path("here")), ["profile", "report"], "{signal:?}");
    }
    // At any moment, from the first one on: with a program, or without one yet.
    for at in 0..40_u64 {
        let place = Place::new();
        let child = place.start(&["run", "--report", "report", "--", program.text()]);
        std::thread::sleep(Duration::from_micros(200 * at));
        place.end(child, SIGNALS[at as usize % 4]);
        let left = names(&place.path("here"));
        assert!(left.is_empty() || left == ["report"], "{at} {left:?}");
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> =
        fs::read_dir(directory).unwrap().map(|one| one.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// What is written by them is there, and whole, or is not there.
#[test]
fn what_writes_a_file() {
    let program = Compiled::new(CALLS, &RETPOLINE);
    let report = program.directory().join("report.json");
    let made = output(relpoline(&["run", "--count", "--report"]).arg(&report).args(["--", program.text()]));
    assert!(made.status.success(), "{made:?}");
    let report = report.to_str().unwrap();
    let html = ["report", report, "--format", "html", "-o", "out"];
    let metrics = ["metrics", "--textfile", "out", "--every", "1"];
    for (words, is_whole) in [(&html[..], "</html>"), (&metrics[..], "# EOF")] {
        for at in 0..24_u64 {
            let place = Place::new();
            let child = place.start(words);
            std::thread::sleep(Duration::from_millis(at));
            place.end(child, SIGNALS[at as usize % 4]);
            let left = names(&place.path("here"));
            assert!(left.is_empty() || left == ["out"], "{words:?} {at} {left:?}");
            let text = fs::read_to_string(place.path("here/out")).unwrap_or_else(|_| is_whole.to_owned());
            assert!(text.trim_end().ends_with(is_whole) || is_whole == "# EOF", "{words:?} {at} {text}");
        }
    }
}

/// A server under `relpoline run`, until it is dropped.
struct Server {
    child: Child,
    _program: Compiled,
}

impl Server {
    fn new() -> Self {
        let program = Compiled::new(CALLS.replace("3000000", "4000000000").as_str(), &RETPOLINE);
        let child = relpoline(&["run", "--", program.text()]).stdout(Stdio::null()).spawn().unwrap();
        let server = Self { child, _program: program };
        let pid = server.pid();
        assert!(soon(|| output(&mut relpoline(&["explain", &pid, "many"])).status.success()));
        server
    }

    fn pid(&self) -> String {
        self.child.id().to_string()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file that names code is there when the process has it mapped, and not otherwise.
#[test]
fn perf() {
    let mut made = 0;
    for at in 0..16_u64 {
        let mut server = Server::new();
        let place = Place::new();
        let pid = server.pid();
        let child = place.start(&["perf", &pid]);
        std::thread::sleep(Duration::from_millis(at));
        place.end(child, SIGNALS[at as usize % 4]);
        let file = place.path(&format!("here/jit-{pid}.dump"));
        let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap();
        let is_mapped = maps.contains(file.to_str().unwrap());
        assert!(!file.exists() || is_mapped, "{at}: the file is there, and not mapped");
        assert!(server.child.try_wait().unwrap().is_none(), "the process has ended");
        made += usize::from(is_mapped);
    }
    println!("{made} of 16 were made");
}

/// Attaching leaves no file anywhere, and the process goes on.
#[test]
fn attach() {
    let program = Compiled::new(CALLS.replace("3000000", "4000000000").as_str(), &RETPOLINE);
    for at in 0..16_u64 {
        let mut child = Command::new(&program.path).stdout(Stdio::null()).spawn().unwrap();
        let place = Place::new();
        let attaching = place.start(&["attach", "--wait", &child.id().to_string()]);
        std::thread::sleep(Duration::from_millis(2 * at));
        place.end(attaching, SIGNALS[at as usize % 4]);
        std::thread::sleep(Duration::from_millis(5));
        assert!(child.try_wait().unwrap().is_none(), "{at}: the process has ended");
        child.kill().unwrap();
        child.wait().unwrap();
    }
}

/// What a killed program has left in memory goes when the next one is started.
#[test]
fn what_a_killed_program_has_left_goes_with_the_next_start() {
    let server = Server::new();
    let file = output(Command::new("sh").args(["-c", &format!("ls /dev/shm/relpoline-*/{}-*", server.pid())]));
    let file = PathBuf::from(String::from_utf8(file.stdout).unwrap().trim());
    assert!(file.is_file(), "{file:?}");
    drop(server);
    assert!(file.is_file(), "nobody is there to remove it");
    assert!(output(&mut relpoline(&["run", "--", "true"])).status.success());
    assert!(!file.exists());
}
