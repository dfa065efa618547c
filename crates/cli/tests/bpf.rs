//! `relpoline bpf`, as a user calls it.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

fn object(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../bpf/tests/programs").join(name)
}

fn relpoline(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_relpoline"));
    command.arg("bpf").args(arguments);
    command
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn the_plugin_protocol() {
    for interpret in [false, true] {
        let mut command = relpoline(&["plugin", "2a 00 "]);
        if interpret {
            command.arg("--interpret");
        }
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // r0 = *(u8 *)r1; exit
        child.stdin.take().unwrap().write_all(b"71 10 00 00 00 00 00 00 95 00 00 00 00 00 00 00").unwrap();
        let output = child.wait_with_output().unwrap();
        assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "2a\n"));
    }
}

#[test]
fn a_program_over_one_packet() {
    let file = object("contexts.o");
    let run = |arguments: &[&str]| relpoline(&["run", file.to_str().unwrap()]).args(arguments).output().unwrap();
    let output = run(&["--prog", "reflect", "--context", "xdp", "--hex", "00112233445566778899aabb0800"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "0x3\n"));
    let output = run(&["--prog", "careless", "--context", "xdp", "--hex", "00"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("program careless, instruction"), "{}", text(&output));
    let output = run(&["--prog", "nobody"]);
    assert!(text(&output).contains("no program 'nobody'; there are reflect"), "{}", text(&output));
}

#[test]
fn patch_sites_are_marked() {
    let file = object("direct.o");
    let output = relpoline(&["dis", file.to_str().unwrap(), "--prog", "one_by_one"]).output().unwrap();
    let text = text(&output);
    for mark in ["tail call", "<- bypass of slot 0", "<- target of slot 0", "<- bypass of slot 2"] {
        assert!(text.contains(mark), "no '{mark}' in\n{text}");
    }
}

#[test]
fn a_run_is_changed_while_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let (file, socket) = (object("direct.o"), socket.to_str().unwrap());
    let run = relpoline(&["run", file.to_str().unwrap(), "--prog", "chained", "--seconds", "2", "--stats"])
        .args(["--control", socket])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    for _ in 0..200 {
        if Path::new(socket).exists() {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let swap = |change: String| relpoline(&["swap", socket, "chain", &change]).output().unwrap();
    let output = swap(format!("0={}:step_2", file.display()));
    assert!(text(&output).starts_with("ok "), "{}", text(&output));
    let output = swap("7=".into());
    assert!(text(&output).contains("slot 7 is beyond the program array's end"), "{}", text(&output));
    let output = run.wait_with_output().unwrap();
    let text = text(&output);
    assert!(text.contains("0x2\n"), "the new program never ran:\n{text}");
}
