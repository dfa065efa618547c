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
    // The section says so, too.
    let output = run(&["--prog", "reflect", "--hex", "00112233445566778899aabb0800"]);
    assert_eq!((output.status.code(), text(&output).as_str()), (Some(0), "0x3\n"));
    let output = run(&["--prog", "careless", "--context", "xdp", "--hex", "00"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("program careless, instruction"), "{}", text(&output));
    let output = run(&["--prog", "nobody"]);
    assert!(text(&output).contains("no program 'nobody'; there are reflect"), "{}", text(&output));
}

/// Programs that can run here do, the others are named; what is not for packets is not given any.
#[test]
fn what_cannot_run_is_named() {
    let file = object("mixed.o");
    let run = |arguments: &[&str]| relpoline(&["run", file.to_str().unwrap()]).args(arguments).output().unwrap();
    let output = run(&["--prog", "fine"]);
    assert_eq!((output.status.code(), String::from_utf8_lossy(&output.stdout).as_ref()), (Some(0), "0x2\n"));
    assert!(text(&output).contains("needs_helper was left out: ") && text(&output).contains("storage was left out: "));
    let output = run(&["--prog", "needs_type"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("program needs_type cannot be loaded: "), "{}", text(&output));
    let output = run(&["--prog", "traces"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("program traces is for tracing (section kprobe/do_exit)"), "{}", text(&output));
    assert_eq!(run(&["--prog", "traces", "--context", "raw"]).status.code(), Some(0));
}

/// Types and configuration of a kernel come from files, the latter packed as `/proc/config.gz` is.
#[test]
fn the_kernel_is_given_by_files() {
    let (core, types, config) = (object("core.o"), object("core_target.o"), object("config.o"));
    let [core, types, config] = [&core, &types, &config].map(|path| path.to_str().unwrap());
    let packet = "00".repeat(32) + "d2040000" + &"00".repeat(28);
    let run = relpoline(&["run", core, "--prog", "number", "--hex", &packet, "--btf", types]).output().unwrap();
    assert_eq!((run.status.code(), text(&run).as_str()), (Some(0), "0x4d2\n"));
    let run = relpoline(&["run", core, "--prog", "reads_gone", "--hex", &packet, "--btf", types]).output().unwrap();
    assert!(run.status.code() == Some(1) && text(&run).contains("the given kernel does not have"), "{}", text(&run));
    let run = relpoline(&["run", core, "--prog", "number", "--hex", &packet]).output().unwrap();
    assert!(run.status.code() == Some(1) && text(&run).contains("CO-RE relocation against 'state'"), "{}", text(&run));
    // The running kernel's own, where it says them.
    for (option, own) in [("--btf", "/sys/kernel/btf/vmlinux"), ("--kconfig", "/proc/config.gz")] {
        let run =
            relpoline(&["run", object("counts.o").to_str().unwrap(), "--hex", "00", option, own]).output().unwrap();
        assert!(run.status.success() || !Path::new(own).exists(), "{}", text(&run));
    }
    let run = relpoline(&["run", core, "--btf", file!()]).output().unwrap();
    assert_eq!(run.status.code(), Some(1));

    let folder = tempfile::tempdir().unwrap();
    let [plain, packed] = ["config", "config.gz"].map(|name| folder.path().join(name));
    std::fs::write(&plain, "CONFIG_HZ=250\n").unwrap();
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(b"CONFIG_HZ=1000\n").unwrap();
    std::fs::write(&packed, encoder.finish().unwrap()).unwrap();
    for (file, hz) in [(plain, "0xfa"), (packed, "0x3e8")] {
        let run = relpoline(&["run", config, "--prog", "hz", "--kconfig", file.to_str().unwrap()]).output().unwrap();
        assert!(run.status.success() && String::from_utf8_lossy(&run.stdout) == format!("{hz}\n"), "{}", text(&run));
    }
    let run = relpoline(&["run", config, "--prog", "hz"]).output().unwrap();
    assert!(text(&run).contains("'CONFIG_HZ' of .kconfig has no value"), "{}", text(&run));
}

/// Maps have as many entries as the command says.
#[test]
fn maps_have_as_many_entries_as_they_are_given() {
    let file = object("counts.o");
    let run = |entries: &[&str]| {
        let mut command = relpoline(&["run", file.to_str().unwrap(), "--hex", "00"]);
        let output = command.args(entries).output().unwrap();
        (output.status.code(), text(&output))
    };
    assert_eq!(run(&[]).0, Some(0));
    assert_eq!(run(&["--entries", "counters=7"]).0, Some(0));
    let (status, text) = run(&["--entries", "counters=0"]);
    assert!(status == Some(1) && text.contains("map counters: "), "{text}");
    assert_eq!(run(&["--entries", "counters=many"]).0, Some(2));
}

#[test]
fn which_checks_are_left() {
    let file = object("contexts.o");
    let dis =
        |more: &[&str]| text(&relpoline(&["dis", file.to_str().unwrap(), "--checks"]).args(more).output().unwrap());
    let (with, without) = (dis(&[]), dis(&["--raw"]));
    assert!(with.contains("proved: the packet, as far as") && with.contains(" checked"), "{with}");
    assert!(!without.contains("proved: the packet"), "{without}");
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

/// Slots are filled before the first packet, one after the other, and emptied.
#[test]
fn slots_are_filled_at_the_start() {
    let file = object("direct.o");
    let run = |slots: &[&str]| {
        let mut command = relpoline(&["run", file.to_str().unwrap(), "--context", "raw", "--prog", "chained"]);
        slots.iter().for_each(|slot| {
            command.args(["--slot", slot]);
        });
        let output = command.output().unwrap();
        (output.status.code(), text(&output))
    };
    let ends = |result: &str| (Some(0), format!("{result}\n"));
    assert_eq!(run(&[]), ends("0x3"));
    assert_eq!(run(&["chain=0:link_0"]), ends("0x0"));
    assert_eq!(run(&["chain=0:link_0", "chain=1:link_1", "chain=2:step_2"]), ends("0x2"));
    assert_eq!(run(&["chain=0:link_0", "chain=0:"]), ends("0x3"));
    for (wrong, why) in [
        ("chain", "is not ARRAY=SLOT:[PROG]"),
        ("chain=link_0", "is not ARRAY=SLOT:[PROG]"),
        ("nobody=0:link_0", "no program array 'nobody'"),
        ("chain=0:nobody", "no program 'nobody'"),
        ("chain=3:link_0", "slot 3 is beyond the program array's end"),
        ("chain=0:other.o:link_0", "programs of other files come by bpf swap"),
    ] {
        let (status, text) = run(&[wrong]);
        assert!(status == Some(1) && text.contains(why), "{wrong}: {text}");
    }
}

#[test]
fn a_run_is_changed_while_it_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join("control");
    let (file, socket) = (object("direct.o"), socket.to_str().unwrap());
    let run = relpoline(&[
        "run",
        file.to_str().unwrap(),
        "--context",
        "raw",
        "--prog",
        "chained",
        "--seconds",
        "2",
        "--stats",
    ])
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
    assert!(text.contains("direct.o:step_2, swapped in"), "{text}");
}

/// A pcap file of `count` packets, three of four UDP, one TCP.
fn pcap(count: usize) -> tempfile::NamedTempFile {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
    file.resize(24, 0);
    file[20] = 1;
    for i in 0..count {
        let mut packet = [0u8; 64];
        packet[23] = if i % 4 == 0 { 6 } else { 17 };
        file.extend([0; 8]);
        file.extend([64, 0, 0, 0, 64, 0, 0, 0]);
        file.extend(packet);
    }
    let mut out = tempfile::NamedTempFile::new().unwrap();
    out.write_all(&file).unwrap();
    out
}

/// A pcap file of one link.
fn capture(link: u8, packets: &[Vec<u8>]) -> tempfile::NamedTempFile {
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
    file.resize(24, 0);
    file[20] = link;
    for packet in packets {
        file.extend([0; 8]);
        file.extend([packet.len() as u8, 0, 0, 0, packet.len() as u8, 0, 0, 0]);
        file.extend(packet);
    }
    let mut out = tempfile::NamedTempFile::new().unwrap();
    out.write_all(&file).unwrap();
    out
}

/// Maps are filled and shown, records printed, verdicts and targets counted, packets written out.
#[test]
fn a_filter_with_rules_counters_and_records() {
    let packets: Vec<Vec<u8>> = [1, 2, 3, 3, 9].iter().map(|first| vec![*first; 14]).collect();
    let (packets, folder) = (capture(1, &packets), tempfile::tempdir().unwrap());
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_string();
    let rules = r#"[{"key": "01", "value": "01000000"}, {"key": "02", "value": "04000000"},
                    {"key": "03", "value": "03000000"}]"#;
    std::fs::write(path("rules.json"), rules).unwrap();
    let file = object("records.o");
    let run = |more: &[&str]| {
        let mut command = relpoline(&["run", file.to_str().unwrap(), "--pcap", packets.path().to_str().unwrap()]);
        command.args(["--map", &format!("rules={}", path("rules.json"))]).args(more).output().unwrap()
    };
    for engine in [&[][..], &["--interpret"]] {
        let (out, all) = (path("out.pcap"), ["--records", "--dump", "counters", "--dump", "rules", "--verdict", "3"]);
        let output = run(&[&all[..], &["--out", &out], engine].concat());
        let text = text(&output);
        assert_eq!(output.status.code(), Some(0), "{text}");
        for line in [
            "seen 010101010101\n",
            "events 010000000101\n",
            "           1  0x1    XDP_DROP\n",
            "           2  0x3    XDP_TX\n",
            "           1  0x4    XDP_REDIRECT\n",
            "           1  redirected to device 7\n",
        ] {
            assert!(text.contains(line), "no {line:?} in\n{text}");
        }
        let json = &text[text.find("{\n").unwrap()..];
        let maps: Vec<serde_json::Value> =
            serde_json::Deserializer::from_str(json).into_iter().collect::<Result<_, _>>().unwrap();
        assert_eq!(maps[1]["entries"], serde_json::from_str::<serde_json::Value>(rules).unwrap());
        let counts = maps[0]["entries"].as_array().unwrap();
        assert_eq!(counts.len(), 4);
        assert_eq!(counts[2]["key"], "03000000");
        assert!(counts[2]["values"].as_object().unwrap().values().eq(["0200000000000000"]), "{counts:?}");
        // Two packets, each with what the program put before them.
        let written = std::fs::read(&out).unwrap();
        assert_eq!(written.len(), 24 + 2 * (16 + 16));
        assert_eq!(written[24 + 16..][..16], [&[0; 2][..], &[3; 14]].concat());
    }
    for (arguments, words) in [
        (&["--dump", "nothing"][..], "no map 'nothing' with values; the file has rules, counters"),
        (&["--map", "rules"], "--map rules is not NAME=FILE"),
        (&["--dump", "seen"], "map seen has no entries to show"),
        (&["--out", "/nobody/here/x"], "the packets cannot be written to /nobody/here/x"),
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(1), "{}", text(&output));
        assert!(text(&output).contains(words), "{}", text(&output));
    }
    std::fs::write(path("rules.json"), r#"[{"key": "0101", "value": "01000000"}]"#).unwrap();
    let output = run(&[]);
    assert!(text(&output).contains("entry 0: key or value of the wrong size"), "{}", text(&output));
}

/// Packets without Ethernet get it; what cannot have it is refused, unless the program gets what there is.
#[test]
fn links_are_understood_or_refused() {
    let file = object("records.o");
    let ip = [&[0x45; 20][..], &[0; 20]].concat();
    let run = |link: u8, more: &[&str]| {
        let capture = capture(link, std::slice::from_ref(&ip));
        let mut command = relpoline(&["run", file.to_str().unwrap(), "--pcap", capture.path().to_str().unwrap()]);
        command.args(more).output().unwrap()
    };
    let output = run(101, &["--dump", "counters"]);
    assert!(text(&output).starts_with("0x2\n") && text(&output).contains("\"key\": \"00000000\""), "{}", text(&output));
    let output = run(105, &[]);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("packet 0: packets of link type 105"), "{}", text(&output));
    assert_eq!(run(105, &["--context", "raw"]).status.code(), Some(0));
}

#[test]
fn statistics_say_what_was_promoted_and_why_not() {
    let (file, packets) = (object("dispatch.o"), pcap(8000));
    let run = |more: &[&str]| {
        let mut command =
            relpoline(&["run", file.to_str().unwrap(), "--context", "raw", "--prog", "classify", "--stats", "--pcap"]);
        text(&command.arg(packets.path()).args(more).output().unwrap())
    };
    let promoted = run(&[]);
    for line in ["2000  tcp\n", "6000  udp\n", "through protocols: promoted to udp 75 %, tcp 25 %"] {
        assert!(promoted.contains(line), "no '{line}' in\n{promoted}");
    }
    for branches in ["retpoline", "plain"] {
        let text = run(&["--branches", branches]);
        assert!(text.contains("through protocols: disabled"), "{text}");
    }
}

#[test]
fn one_sentence_for_what_cannot_be() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, bytes: &[u8]| {
        let path = folder.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.to_str().unwrap().to_string()
    };
    let whole = std::fs::read(object("dispatch.o")).unwrap();
    let (good, cut) = (write("good.o", &whole), write("cut.o", &whole[..700]));
    let torn = write("torn.pcap", &std::fs::read(pcap(2).path()).unwrap()[..100]);
    let cases: [(&[&str], i32, &str); 6] = [
        (&["run", &cut], 1, "not an eBPF object, or a damaged one"),
        (&["run", &good, "--pcap", &torn], 1, "the packet at byte 24 is cut off"),
        (&["run", &good, "--hex", "0g"], 1, "--hex: not hex digits"),
        (&["run", &good, "--seconds=-1"], 2, "it must be between 0 and a year"),
        (&["swap", "/nobody/here", "a", "1="], 1, "no run listens at /nobody/here"),
        (&["bench", "--peer", "none"], 1, "'none' is not NAME=COMMAND"),
    ];
    for (arguments, code, words) in cases {
        let output = relpoline(arguments).output().unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {}", text(&output));
        assert!(text(&output).contains(words), "{arguments:?}: {}", text(&output));
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_bench_measures_every_way() {
    let peer = "twins=sed -u s/^/330\\x200/";
    let output = relpoline(&["bench", "--rounds", "1", "--no-kernel", "--json", "--peer", peer]).output().unwrap();
    let figures: serde_json::Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&output)));
    let names: Vec<_> = figures["hops"].as_array().unwrap().iter().map(|line| line["name"].as_str().unwrap()).collect();
    assert_eq!(names.len(), 8, "{names:?}");
    assert_eq!(figures["hops"][7]["hops_33_ns"]["median"], 330.0);
    assert!(figures["updates"][0]["remove_us"]["median"].as_f64().unwrap() > 0.0);
    assert!(!figures["machine"]["cpu"].as_str().unwrap().is_empty());
}
