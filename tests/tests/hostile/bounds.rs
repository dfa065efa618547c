//! What each command takes at most, in memory and in time of the processor: the table in SECURITY.md, held against files and
//! processes that are made to cost as much as they can ([`crate::bombs`]).
//!
//! In a build that is not optimised the largest take minutes. So they have an eighth of that size here, and none is just larger
//! than is allowed, unless `RELPOLINE_BOMBS=whole` is set.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use relpoline_tests::{Living, Program, tool};

use crate::attacker::{alone, forged, forget, is_root, open_directory};
use crate::bombs::Bombs;
use crate::command::text;
use crate::statistics::worst;

const MIB: usize = 1 << 20;

/// Whether everything is to be as large as it may be.
fn is_whole() -> bool {
    std::env::var_os("RELPOLINE_BOMBS").is_some_and(|value| value == "whole")
}

/// So much of the largest size.
fn part(size: usize) -> usize {
    if is_whole() { size } else { size / 8 }
}

/// A row of the table: most MiB, most seconds; none for commands that read nothing of others.
type Row = Option<(u64, u64)>;

/// The table, by command.
fn promised() -> BTreeMap<String, Row> {
    let document = Path::new(env!("CARGO_MANIFEST_DIR")).join("../SECURITY.md");
    let document = fs::read_to_string(document).unwrap();
    let rows = document.lines().skip_while(|line| !line.starts_with("| command | memory |")).skip(2);
    let mut all = BTreeMap::new();
    for row in rows.take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let number = |cell: &str| cell.split(' ').next().and_then(|word| word.parse().ok());
        for command in cells[1].split('`').skip(1).step_by(2) {
            all.insert(command.to_owned(), number(cells[2]).zip(number(cells[3])));
        }
    }
    all
}

/// What there is to measure with.
struct Scale {
    peak: PathBuf,
    place: tempfile::TempDir,
    promised: BTreeMap<String, Row>,
    measured: BTreeSet<String>,
    too_much: Vec<String>,
}

impl Scale {
    fn new() -> Self {
        let peak = Program::plain("peak.c").build();
        Self { peak, place: open_directory(), promised: promised(), measured: BTreeSet::new(), too_much: Vec::new() }
    }

    /// Runs a command and holds what it took against its row.
    fn weigh(&mut self, command: &str, what: &str, arguments: &[&str]) -> String {
        let row = self.promised.get(command).unwrap_or_else(|| panic!("{command} is not in SECURITY.md's table"));
        let (memory, seconds) = row.unwrap_or((64, 10));
        let file = self.place.path().join("peak");
        let _ = fs::remove_file(&file);
        let mut run = Command::new("timeout");
        // Far beyond what is promised it is ended, so that no machine suffers.
        let limits = format!("ulimit -v 4000000; ulimit -t {}; exec \"$@\"", 4 * seconds);
        run.args(["-s", "KILL", "240", "sh", "-c", &limits, "sh"]).arg(&self.peak).arg(&file);
        let output = run.arg(tool::relpoline()).args(arguments).env_remove("RELPOLINE_OPTS").output().unwrap();
        let said = text(&output.stderr);
        let said = said.lines().last().unwrap_or_default().to_owned();
        let took = fs::read_to_string(&file).unwrap_or_default();
        let took: Vec<u64> = took.split_whitespace().map(|word| word.parse().unwrap()).collect();
        let line = match took[..] {
            [kib, ms] => {
                let line = format!(
                    "{command:<14} {what:<28} {:>5} of {memory:>4} MiB, {:>5.1} of {seconds:>3} s, {:?}: {said}",
                    kib / 1024,
                    ms as f64 / 1000.0,
                    output.status.code()
                );
                if kib / 1024 > memory || ms > 1000 * seconds || output.status.code().is_none_or(|code| code > 6) {
                    self.too_much.push(line.clone());
                }
                line
            }
            _ => {
                let line = format!("{command} {what}: {}: {said}", output.status);
                self.too_much.push(line.clone());
                line
            }
        };
        println!("{line}");
        self.measured.insert(command.to_owned());
        said
    }
}

#[test]
fn every_command_is_in_the_table() {
    let promised = promised();
    let help = Command::new(tool::relpoline()).arg("--help").output().unwrap();
    let help = text(&help.stdout);
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    // What does not fit into a line goes on in the next one, farther to the right.
    let named = commands.filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')));
    let verbs: BTreeSet<&str> = named.filter_map(|line| line.split_whitespace().next()).collect();
    assert!(verbs.len() > 20, "{help}");
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(promised.keys().any(|command| command.split(' ').next() == Some(verb)), "{verb} is not in the table");
    }
    for command in promised.keys() {
        assert!(verbs.contains(command.split(' ').next().unwrap()), "there is no {command}");
    }
}

#[test]
#[ignore = "slow: .ci/run --long"]
fn commands_keep_to_the_table() {
    if !is_root() {
        return;
    }
    let _one = alone();
    let mut scale = Scale::new();
    let bombs = Bombs::new();
    files_to_inspect(&mut scale, &bombs);
    profiles_and_reports(&mut scale, &bombs);
    programs_for_packets(&mut scale, &bombs);
    processes(&mut scale, &bombs);
    for arguments in [&["thunks"][..], &["completions", "bash"], &["man"], &["kernel", "status"], &["doctor"]] {
        scale.weigh(arguments[0], "", arguments);
    }
    assert!(scale.too_much.is_empty(), "{:#?}", scale.too_much);
    let untried = |(name, row): &(&String, &Row)| row.is_some() && !scale.measured.contains(*name);
    let missing: Vec<_> = scale.promised.iter().filter(untried).map(|(name, _)| name).collect();
    assert!(missing.is_empty(), "in the table, and not tried: {missing:?}");
}

fn files_to_inspect(scale: &mut Scale, bombs: &Bombs) {
    let most = 1 << 20;
    let mut all = vec![
        ("thunks, each with a name", bombs.thunks(part(most - 2)), false),
        ("sites, each with a name", bombs.sites(part(most - 2)), false),
        ("a function of jumps", bombs.jumps(part(64 * MIB)), false),
        ("imported thunks", bombs.imports(part(4 * most)), false),
        ("names too long to keep", bombs.names(part(4 * most)), false),
    ];
    if is_whole() {
        all.push(("more thunks than any", bombs.more_thunks(2 * most), true));
        all.push(("more sites than any", bombs.more_sites(4 * most), true));
    }
    for (what, file, is_refused) in all {
        for arguments in [&["inspect", &file][..], &["inspect", "--json", &file]] {
            let said = scale.weigh("inspect", what, arguments);
            assert_eq!(said.contains("than any program"), is_refused, "{what}: {said}");
        }
        bombs.remove(&file);
    }
}

fn profiles_and_reports(scale: &mut Scale, bombs: &Bombs) {
    let object = bombs.long_name(9);
    let number = |number: usize| u32::try_from(part(number)).unwrap();
    let sites = bombs.profile("many-sites", number(1_300_000), number(1_300_000), &object, 9);
    let targets = bombs.profile("many-targets", 1, number(4_100_000), &object, 9);
    for file in [&sites, &targets] {
        for arguments in [
            &["profile", "show", file][..],
            &["profile", "show", "--json", file],
            &["profile", "merge", "-o", "/dev/null", file, file],
            &["profile", "export", "--format", "pprof", "-o", "/dev/null", file],
            &["profile", "export", "--format", "bolt", "--object", &object, "-o", "/dev/null", file],
            &["profile", "export", "--format", "autofdo", "--object", &object, "-o", "/dev/null", file],
        ] {
            scale.weigh("profile", arguments[1..].join(" ").split('/').next().unwrap(), arguments);
        }
        // The engine of the program that is started has it mapped, and the command reads it.
        scale.weigh("run", "a profile", &["run", "-q", "--profile", file, "--", "/bin/true"]);
    }
    let many = bombs.report(127 * MIB);
    let said = scale.weigh("report", "more sites than any", &["report", &many]);
    assert!(said.contains("more in it than any report"), "{said}");
    let most = bombs.report(part(58 * MIB));
    for format in ["text", "json", "html", "flamegraph"] {
        scale.weigh(
            "report",
            "sites in their shortest form",
            &["report", &most, "--format", format, "-o", "/dev/null"],
        );
    }
}

/// Returns another number each time, keeps the packet, and asks for as much memory as it may.
const BUSY: &str = "
__attribute__((section(\"xdp\"), used)) int busy(void *context) {
    static int (*const now)(void) = (void *)5;
    return now();
}
";

fn programs_for_packets(scale: &mut Scale, bombs: &Bombs) {
    let busy = bombs.bpf("busy", BUSY);
    if is_whole() {
        let packets = bombs.packets(500 * MIB);
        let said = scale.weigh("bpf run", "more packets than any", &["bpf", "run", &busy, "--pcap", &packets]);
        assert!(said.contains("more packets than fit"), "{said}");
    }
    let packets = bombs.packets(part(120 * MIB));
    scale.weigh("bpf run", "packets without bytes", &["bpf", "run", &busy, "--pcap", &packets, "--context", "raw"]);
    let out = bombs.at("out").display().to_string();
    let arguments = ["bpf", "run", &busy, "--pcap", &packets, "--context", "raw", "--out", &out];
    scale.weigh("bpf run", "packets that are kept", &arguments);
    bombs.remove(&packets);
    let packets = bombs.packets(MIB);
    let arguments = ["bpf", "run", &busy, "--pcap", &packets, "--context", "raw", "--seconds", "3"];
    scale.weigh("bpf run", "results that all differ", &arguments);
    let entries = bombs.entries(part(250 * MIB));
    let map = format!("values={entries}");
    let counts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/bpf/tests/programs/counts.o");
    let counts = counts.display().to_string();
    scale.weigh("bpf run", "entries of a map", &["bpf", "run", &counts, "--hex", "00", "--map", &map]);
    bombs.remove(&entries);
    for (what, object) in [
        ("functions", bombs.functions("few", 60_000, 500)),
        ("functions with long names", bombs.functions("long", 60_000, 1 << 20)),
        ("more functions than any", bombs.functions("many", 600_000, 500)),
    ] {
        scale.weigh("bpf run", what, &["bpf", "run", &object, "--hex", "00"]);
        scale.weigh("bpf dis", what, &["bpf", "dis", &object]);
    }
    scale.weigh("bpf swap", "nobody there", &["bpf", "swap", "/nonexistent", "array", "0="]);
}

fn processes(scale: &mut Scale, bombs: &Bombs) {
    let place = open_directory();
    let content = place.path().join("content");
    let at = |name: &str| place.path().join(name).display().to_string();
    let object = bombs.names(part(4 << 20));
    fs::write(&content, worst(&[object.as_bytes(), b"/usr/bin/gcc"], 0)).unwrap();
    let living = forged(&content, 10_000);
    let pid = &living.pid().to_string();
    for (command, arguments) in [
        ("list", &["list"][..]),
        ("metrics", &["metrics"]),
        ("top", &["top", "--once", "--json"]),
        ("top", &["top", pid, "--once"]),
        ("report", &["report", pid]),
        ("report", &["report", pid, "--format", "html", "-o", &at("html")]),
        ("explain", &["explain", pid, "0x1000"]),
        ("explain", &["explain", pid, "main"]),
        ("perf", &["perf", pid, "--dir", &at("")]),
        ("profile", &["profile", "save", "-o", &at("profile"), pid]),
    ] {
        scale.weigh(command, "forged statistics", arguments);
    }
    drop(living);
    forget();
    let program = Program::retpolined("hostile.c").build();
    for mode in [&["links", "zeroes"][..], &["links", "endless-names"], &["links", "circle"], &["storm"]] {
        let mut living = Living::start(Command::new(&program).args(mode));
        assert_eq!(living.said, "ready", "{mode:?}");
        let pid = &living.pid().to_string();
        for (command, arguments) in [
            ("attach", &["attach", "--anyway", pid][..]),
            ("disable", &["disable", pid]),
            ("enable", &["enable", "--site", "main", pid]),
            ("relearn", &["relearn", pid]),
            ("detach", &["detach", pid]),
        ] {
            scale.weigh(command, &mode.join(" "), arguments);
        }
        assert!(living.is_alive(), "{mode:?}");
    }
    let program = program.display().to_string();
    scale.weigh("try", "statistics that lie", &["try", "--json", "-n", "1", "--", &program, "forges", &object]);
}
