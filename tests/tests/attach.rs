//! An engine in a process that runs already: attach, steer, detach, and the death of the tool in the middle of it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use relpoline_tests::living::{is_installed, relpoline, text};
use relpoline_tests::{Living, Program, tool};

/// Threads of all kinds, a library that comes and goes, children.
fn busy() -> Command {
    let plugin = Program::retpolined("plugin.c").flags(&["-shared", "-fPIC", "-DVARIANT=3", "-DPADDING=64"]).build();
    let mut command = Command::new(Program::retpolined("attached.c").build());
    command.arg("all").arg(plugin);
    command
}

/// The same, with the engine of the loader's.
fn preloaded() -> Command {
    let mut command = Command::new(tool::relpoline());
    command.args(["run", "--quiet", "--"]).arg(Program::retpolined("attached.c").build());
    command
}

#[test]
fn attach_and_detach_again_and_again_while_everything_runs() {
    let mut program = Living::start(&mut busy());
    for round in 0..8 {
        let said = program.must(if round % 4 == 0 { &["attach", "--wait"] } else { &["attach"] });
        assert!(said.contains("led to the engine"), "{said}");
        assert!(!program.changed_text().is_empty(), "nothing leads to the engine");
        std::thread::sleep(Duration::from_millis(30));
        program.must(&["detach"]);
        assert_eq!(program.changed_text(), []);
    }
    assert!(program.is_alive());
    assert!(program.ends_with("attached done"), "it noticed something");
}

/// Whether a program in which a library comes and goes all the time lives on when it is attached to again and again. With
/// `variant` the command has a fault.
fn survives_attaches(rounds: u32, variant: &str) -> bool {
    let mut program = Living::start(&mut busy());
    (0..rounds).all(|_| {
        let mut attach = Command::new(tool::relpoline());
        attach.args(["attach", "--quiet", &program.pid().to_string()]).env("RELPOLINE_BROKEN", variant);
        let said = text(&attach.output().expect("relpoline can be started"));
        assert!(!variant.is_empty() || said.is_empty(), "{said}");
        let _ = program.relpoline(&["detach"]);
        program.is_alive()
    })
}

/// The engine looks at what is there, not at what was there a moment ago. The thread that looks has all signals blocked: it
/// would die without a word, and the program with it.
#[test]
fn libraries_that_go_while_an_attach_begins() {
    assert!(survives_attaches(25, ""), "it died of an attach");
    if cfg!(debug_assertions) {
        assert!(!survives_attaches(600, "listed-too-early"), "a list of objects that are gone goes unnoticed");
    } else {
        eprintln!("the broken variant is in debug builds only");
    }
}

#[test]
fn promotion_is_switched_from_outside() {
    for (mut command, is_attached) in [(busy(), true), (preloaded(), false)] {
        let program = Living::start(&mut command);
        if is_attached {
            program.must(&["attach", "--wait", "--quiet"]);
        }
        for _ in 0..5 {
            assert!(program.must(&["disable"]).contains("left to their retpolines"));
            assert!(text(&program.relpoline(&["relearn"])).contains("switched off"));
            program.must(&["enable"]);
            let one = program.must(&["disable", "--site", "steady_site"]);
            assert!(one.contains(" 1 site "), "{one}");
            program.must(&["relearn"]);
            program.must(&["enable", "--site", "steady_site"]);
        }
        let nothing = program.relpoline(&["disable", "--site", "0x10"]);
        assert!(!nothing.status.success() && text(&nothing).contains("no site"), "{}", text(&nothing));
        program.must(&["detach"]);
        assert_eq!(program.changed_text(), []);
        assert!(text(&program.relpoline(&["disable"])).contains("asleep"));
        program.must(&["attach"]);
        assert!(program.ends_with("attached done"), "it noticed something");
    }
}

#[test]
fn what_was_detached_cannot_be_switched_from_inside() {
    let mut command = Command::new(tool::relpoline());
    let busy = busy();
    command.args(["run", "--quiet", "--"]).arg(busy.get_program()).args(busy.get_args());
    let mut program = Living::start(&mut command);
    for _ in 0..3 {
        program.must(&["detach"]);
        // Libraries go and come meanwhile.
        std::thread::sleep(Duration::from_millis(20));
        assert_eq!(program.tell("s"), "done");
        program.must(&["attach"]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(program.ends_with("attached done"), "it noticed something");
}

/// Whether text that was put back stays so: it is, again and again, while links are under way that take longer than anybody
/// waits for the lock under which they are made. In the engine `variant` they do.
fn stays_as_it_was(variant: &str, rounds: u64) -> bool {
    let engine = tool::broken_engine(variant);
    let mut program = Living::start(&mut busy());
    let mut state = u64::from(program.pid());
    (0..rounds).all(|_| {
        let mut attach = Command::new(tool::relpoline());
        attach.args(["attach", "--nervous", &program.pid().to_string()]).env("RELPOLINE_ENGINE", &engine);
        let said = text(&attach.output().expect("relpoline can be started"));
        std::thread::sleep(Duration::from_millis(5 + random(&mut state) % 60));
        let undone = text(&program.relpoline(&["detach"]));
        if !program.is_alive() {
            return false;
        }
        assert!(said.contains("led to the engine") && undone.contains("detached"), "{said}{undone}");
        // Whoever comes late comes now.
        std::thread::sleep(Duration::from_millis(400));
        program.is_alive() && program.changed_text().is_empty()
    })
}

#[test]
fn no_link_comes_after_a_detach() {
    assert!(stays_as_it_was("linger", 8), "text that was put back was changed");
    assert!(!stays_as_it_was("linger+poke-outlives-lock", 60), "a link that comes too late goes unnoticed");
}

/// A filter that kills whoever opens a file, which linking a site would do; programs that are started by exec.
#[test]
fn sandboxes_and_exec_after_an_attach() {
    let mut program = Living::start(Command::new(Program::retpolined("attached.c").build()).arg("all"));
    program.must(&["attach", "--wait", "--quiet"]);
    assert_eq!(program.tell("x"), "done", "a program was started without the engine");
    assert_eq!(program.tell("f"), "done");
    std::thread::sleep(Duration::from_millis(300));
    assert!(text(&program.relpoline(&["detach"])).contains("seccomp filter"));
    assert!(program.ends_with("attached done"), "it died of the filter");
}

/// A number that looks random, for the moments at which the tool is killed.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f);
    *state >> 33
}

/// Kills `relpoline` at some moment while it attaches, detaches or switches, `times` times. Whether the program survived it.
fn survives_kills(program: &mut Living, times: u64, broken: bool) -> bool {
    let begun = Instant::now();
    program.must(&["attach"]);
    program.must(&["detach"]);
    let longest = u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX) / 2;
    let mut state = u64::from(program.pid());
    for _ in 0..times {
        let verb = ["attach", "attach", "detach", "disable", "relearn"][(random(&mut state) % 5) as usize];
        let mut command = Command::new(tool::relpoline());
        command.arg(verb).arg(program.pid().to_string()).stdout(Stdio::null()).stderr(Stdio::null());
        if broken {
            command.env("RELPOLINE_BROKEN", "left-to-us");
        }
        let mut tool = command.spawn().expect("relpoline can be started");
        std::thread::sleep(Duration::from_micros(random(&mut state) % longest));
        let _ = tool.kill();
        let _ = tool.wait();
        if !program.is_alive() {
            return false;
        }
    }
    true
}

#[test]
fn the_tool_may_be_killed_at_any_moment() {
    let mut program = Living::start(&mut busy());
    assert!(survives_kills(&mut program, 120, false), "killing relpoline has killed the program");
    // Whatever was left half-done, the next attach finishes and the next detach undoes.
    let said = text(&program.relpoline(&["attach"]));
    assert!(said.contains("led to the engine") || said.contains("has an engine already"), "{said}");
    program.must(&["detach"]);
    assert_eq!(program.changed_text(), []);
    program.must(&["attach", "--wait"]);
    program.must(&["detach"]);
    assert!(program.ends_with("attached done"), "it noticed something");
}

/// The broken variant: a thread that we let make system calls cannot go on without us.
#[test]
fn threads_that_only_the_tool_can_mend_are_noticed() {
    if !cfg!(debug_assertions) {
        eprintln!("skipped: the broken variant is in debug builds only");
        return;
    }
    let noticed = (0..16).any(|_| !survives_kills(&mut Living::start(&mut busy()), 150, true));
    assert!(noticed, "a thread that cannot go on by itself goes unnoticed");
}

/// The broken variant: sites are led past their gates.
#[test]
fn sites_that_are_led_elsewhere_are_noticed() {
    let engine = tool::broken_engine("displaced");
    let program = Living::start(&mut busy());
    let output = Command::new(tool::relpoline())
        .args(["attach", &program.pid().to_string()])
        .env("RELPOLINE_ENGINE", engine)
        .output()
        .expect("relpoline can be started");
    std::thread::sleep(Duration::from_millis(300));
    assert!(!program.ends_with("attached done"), "sites led elsewhere go unnoticed: {}", text(&output));
}

/// Nothing of it is writable and executable, also while the engine comes and goes.
#[test]
fn no_memory_is_writable_and_executable_meanwhile() {
    let program = Living::start(&mut busy());
    let maps = format!("/proc/{}/maps", program.pid());
    let mut looks = 0;
    std::thread::scope(|scope| {
        let works = scope.spawn(|| {
            for verb in [&["attach"][..], &["disable"], &["enable"], &["detach"]].repeat(2) {
                program.must(verb);
            }
        });
        while !works.is_finished() {
            let all = fs::read_to_string(&maps).expect("it runs");
            let both = all.lines().find(|line| line.split(' ').nth(1).is_some_and(|access| access.contains("wx")));
            assert_eq!(both, None);
            looks += 1;
            // Reading the list holds up whoever maps something.
            std::thread::sleep(Duration::from_micros(500));
        }
    });
    println!("looked {looks} times");
    assert!(looks > 10 && program.ends_with("attached done"));
}

/// `relpoline attach` must refuse this process, for this reason, and leave it as it was.
fn is_refused(pid: &str, why: &str) {
    let output = relpoline(&["attach"], pid);
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains(why), "{why:?} is not in {said:?}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

fn refused(mode: &str, flags: &[&str]) -> Living {
    Living::start(Command::new(Program::plain("refused.c").flags(flags).build()).arg(mode))
}

#[test]
fn refusals_say_why_and_harm_nobody() {
    for (mode, why) in [
        ("zombie", "has ended"),
        ("traced", "is traced by process"),
        ("stopped", "is stopped"),
        ("filter", "seccomp filter"),
    ] {
        let program = refused(mode, &[]);
        is_refused(&program.said, why);
        assert!(program.ends_with(""), "{mode}");
    }
    for flags in ["-static", "-static-pie"] {
        let program = refused("plain", &[flags]);
        is_refused(&program.said, "statically linked");
        assert!(program.ends_with(""));
    }
    is_refused("4194303", "no process");
    if fs::read_to_string("/proc/2/comm").is_ok_and(|name| name == "kthreadd\n") {
        is_refused("2", "thread of the kernel's");
    }
    let program = Living::start(&mut preloaded());
    let thread = fs::read_dir(format!("/proc/{}/task", program.pid()))
        .expect("it runs")
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .find(|tid| *tid != program.pid().to_string())
        .expect("it has threads");
    is_refused(&thread, "is a thread of process");
    assert!(program.ends_with("attached done"));
}

#[test]
fn detaching_and_switching_need_an_engine() {
    let program = refused("plain", &[]);
    for verb in ["enable", "disable", "relearn"] {
        let output = program.relpoline(&[verb]);
        assert!(!output.status.success() && text(&output).contains("no engine in it"), "{}", text(&output));
    }
    assert!(program.must(&["detach"]).contains("there is no engine in it, and nothing to put back"));
    assert!(program.ends_with(""));
}

/// Asked for again, what is there already stays as it is, and that is said.
#[test]
fn what_was_done_already_is_no_failure() {
    for (mut command, is_attached) in [(busy(), true), (preloaded(), false)] {
        let program = Living::start(&mut command);
        if is_attached {
            program.must(&["attach"]);
        }
        let again = program.must(&["attach", "--wait"]);
        assert!(again.contains("has an engine already; nothing was changed") && again.contains("promoted"), "{again}");
        assert!(program.must(&["enable"]).contains("promotion was on already"));
        assert!(!program.must(&["disable"]).contains("already"));
        assert!(program.must(&["disable"]).contains("promotion was off already"));
        assert!(program.must(&["attach"]).contains("promotion is off in it"));
        assert!(!program.must(&["enable"]).contains("already"));
        assert!(!program.must(&["detach"]).contains("already"));
        let again = program.must(&["detach"]);
        assert!(again.contains("it was detached already") && !again.contains("put back"), "{again}");
        assert_eq!(program.changed_text(), []);
        assert!(program.must(&["attach"]).contains("led to the engine"));
        assert!(program.ends_with("attached done"), "it noticed something");
    }
}

/// A process and what it has started; those that are at work already are only read.
#[test]
fn a_tree_is_attached_to_and_again_without_a_stop() {
    let mut command = Command::new("sh");
    command.args(["-c", "\"$@\"; exit $?", "sh"]).arg(Program::retpolined("attached.c").build());
    let program = Living::start(&mut command);
    let first = program.must(&["attach", "--tree"]);
    assert!(first.contains("led to the engine") && first.contains("nothing to promote"), "{first}");
    let again = program.must(&["attach", "--tree", "--wait"]);
    assert!(again.contains("it has an engine already; nothing was changed"), "{again}");
    assert!(again.contains("promoted after") && !again.contains("stood still"), "{again}");
    let undone = program.must(&["detach", "--tree"]);
    assert!(undone.contains("put back"), "{undone}");
    let shell_alone = program.relpoline(&["attach"]);
    assert_eq!(shell_alone.status.code(), Some(5), "{}", text(&shell_alone));
    assert!(program.ends_with("attached done"), "it noticed something");
}

/// A program without retpolines; one whose only retpolines are in a library is another matter.
#[test]
fn where_there_is_nothing_to_promote_nobody_is_stopped() {
    let waiting = || Living::start(&mut Command::new(Program::plain("waits.c").build()));
    for options in [&["attach"][..], &["attach", "--wait"]] {
        let program = waiting();
        let output = program.relpoline(options);
        let said = text(&output);
        assert_eq!(output.status.code(), Some(5), "{said}");
        assert!(
            said.contains("not touched") && said.contains("(built with gcc ") && said.lines().count() == 1,
            "{said}"
        );
        assert!(text(&program.relpoline(&["attach", "--quiet"])).is_empty());
        assert!(ends_saying(program, "was left alone"));
    }
    let program = waiting();
    program.must(&["attach", "--anyway"]);
    assert!(ends_saying(program, "was stopped"), "a stop goes unnoticed by this test");
}

/// A preloaded engine that has seen nothing with retpolines yet.
#[test]
fn what_waits_for_something_to_promote_can_be_detached() {
    let flags = ["-shared", "-fPIC", "-DVARIANT=0", "-DPADDING=1"];
    let plugin = Program::retpolined("plugin.c").flags(&flags).build();
    let mut command = Command::new(tool::relpoline());
    command.args(["run", "--quiet", "--"]).arg(Program::plain("late.c").build()).arg(&plugin);
    for detaches in [true, false] {
        let mut program = Living::start(&mut command);
        assert!(!program.changed_text().is_empty(), "nothing leads to the engine");
        if detaches {
            program.must(&["detach"]);
            assert_eq!(program.changed_text(), []);
            assert!(program.must(&["detach"]).contains("detached already"));
        }
        assert_eq!(program.tell("l"), "loaded");
        let is_started = program.changed_text().iter().any(|(path, _)| Path::new(path) == plugin);
        assert_eq!(is_started, !detaches, "the library's text");
        if detaches {
            program.must(&["attach"]);
            program.must(&["detach"]);
            assert_eq!(program.changed_text(), []);
        }
        assert!(program.ends_with("late done"));
    }
}

fn ends_saying(mut program: Living, last: &str) -> bool {
    program.tell("x") == last
}

/// As another user than the process', if we may become one.
#[test]
fn other_users_may_not() {
    if !is_installed("setpriv") || fs::read("/proc/1/environ").is_err() {
        eprintln!("skipped: only root can become another user");
        return;
    }
    // Not everybody may enter the directory of the build.
    let place = tempfile::Builder::new().permissions(mode(0o755)).tempdir().expect("no temporary directory");
    let copy = place.path().join("relpoline");
    fs::copy(tool::relpoline(), &copy).expect("relpoline can be copied");
    let program = refused("plain", &[]);
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups"])
        .arg(&copy)
        .args(["attach", &program.said])
        .env("HOME", place.path())
        .output()
        .expect("setpriv can be started");
    assert!(text(&output).contains("belongs to another user (0)"), "{}", text(&output));
    assert!(program.ends_with(""));
}

fn mode(bits: u32) -> fs::Permissions {
    std::os::unix::fs::PermissionsExt::from_mode(bits)
}

/// A 32-bit program of two instructions, where the kernel runs such.
#[test]
fn programs_for_other_processors_are_refused() {
    let place = tempfile::tempdir().expect("no temporary directory");
    let path: PathBuf = place.path().join("tiny");
    fs::write(&path, tiny_32_bit_program()).expect("it can be written");
    fs::set_permissions(&path, mode(0o755)).expect("it can be made executable");
    let Ok(child) = Command::new(&path).stdout(Stdio::null()).stderr(Stdio::null()).spawn() else {
        eprintln!("skipped: this kernel runs no 32-bit programs");
        return;
    };
    let mut child = Killed(child);
    is_refused(&child.0.id().to_string(), "not a 64-bit program");
    assert!(child.0.try_wait().expect("it can be waited for").is_none());
}

/// A process that is killed when this is dropped.
struct Killed(Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Calls pause(2) for ever.
fn tiny_32_bit_program() -> Vec<u8> {
    let code = [0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7];
    let base = 0x0804_8000_u32;
    let mut file = b"\x7fELF\x01\x01\x01".to_vec();
    file.resize(16, 0);
    for half in [2_u16, 3] {
        file.extend(half.to_le_bytes());
    }
    for word in [1, base + 84, 52, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    for half in [52_u16, 32, 1, 0, 0, 0] {
        file.extend(half.to_le_bytes());
    }
    let size = 84 + code.len() as u32;
    for word in [1, 0, base, base, size, size, 5, 0x1000] {
        file.extend(word.to_le_bytes());
    }
    file.extend(code);
    file
}
