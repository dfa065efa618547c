//! Which modules of a crate use which, and that there are no more circles among them than are known.
//!
//! A circle is a knot: none of its modules can be read, tested or moved without all others. Those that are there are listed
//! below; a new one, or one more module in an old one, is refused (but see `GROW`). Who unties one takes it out of the list.
//!
//! Looked at are a crate's modules of the first level, by `use crate::…` and paths that begin so. What a module's own tests use
//! does not count. `cargo test -p relpoline-tests --test modules -- --nocapture` prints the arrows.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Crates, and the circles in them.
const KNOWN: [(&str, &[&[&str]]); 9] = [
    (
        "bpf",
        &[
            &[
                "array",
                "code",
                "constant",
                "fork",
                "frame",
                "helper",
                "interp",
                "invocation",
                "jit",
                "learn",
                "map",
                "packet",
                "program",
                "redirect",
                "run",
                "runtime",
            ],
            &["check", "decode"],
            &["stack", "trap"],
        ],
    ),
    (
        "cli",
        &[&[
            "arguments",
            "attach",
            "bench",
            "doctor",
            "explain",
            "list",
            "metrics",
            "perf",
            "profile",
            "report",
            "run",
            "top",
            "torture",
            "trial",
        ]],
    ),
    ("core", &[]),
    (
        "engine",
        &[&[
            "block",
            "board",
            "clean",
            "control",
            "discover",
            "dormant",
            "engine",
            "entries",
            "exec",
            "fork",
            "functions",
            "heap",
            "hold",
            "judge",
            "known",
            "loader",
            "maps",
            "memory",
            "object",
            "report",
            "rings",
            "sandbox",
            "share",
            "state",
            "table",
            "unwind",
            "warm",
        ]],
    ),
    ("learn", &[]),
    ("patch", &[]),
    ("relpoline", &[]),
    ("stats", &[]),
    ("text", &[&["arena", "frames", "gate", "stub"]]),
];

/// Knots in which one module more is not refused: as good as all of the crate is in it, so that every new module is.
const GROW: [&str; 2] = ["cli", "engine"];

type Arrows = BTreeMap<String, BTreeSet<String>>;

fn sources(directory: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("a crate's sources").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The modules that a text names behind `crate::`; without what its tests use and comments say.
fn named(text: &str) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod tests").next().unwrap_or_default();
    let code: String =
        code.lines().map(|line| line.split("//").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let mut names = BTreeSet::new();
    for (at, found) in code.match_indices("crate::") {
        // `$crate::` and `crate::` alike; not `some_crate::`.
        if code[..at].ends_with(is_name) {
            continue;
        }
        let rest = &code[at + found.len()..];
        match rest.strip_prefix('{') {
            // `use crate::{a, b::{c, d}, e}`: names of the first level.
            Some(list) => {
                let (mut depth, mut begins) = (0, true);
                for (at, c) in list.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth == 0 => break,
                        '}' => depth -= 1,
                        ',' if depth == 0 => begins = true,
                        c if begins && is_name(c) => {
                            names.extend(list[at..].split(|c| !is_name(c)).next().map(String::from));
                            begins = false;
                        }
                        _ => {}
                    }
                }
            }
            None => names.extend(rest.split(|c| !is_name(c)).next().map(String::from)),
        }
    }
    names
}

fn arrows(crate_name: &str) -> Arrows {
    let src = Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .expect("the workspace")
        .join("crates")
        .join(crate_name)
        .join("src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let module = |file: &PathBuf| {
        let first = file.strip_prefix(&src).expect("below src").components().next().expect("a file");
        first.as_os_str().to_string_lossy().trim_end_matches(".rs").to_owned()
    };
    let modules: BTreeSet<String> = files.iter().map(module).collect();
    let mut arrows = Arrows::new();
    for file in files.iter().filter(|file| !matches!(&*module(file), "lib" | "main")) {
        let own = module(file);
        let used = named(&fs::read_to_string(file).expect("a source"));
        let of_others = used.into_iter().filter(|name| *name != own && modules.contains(name));
        arrows.entry(own.clone()).or_default().extend(of_others);
    }
    arrows
}

/// Modules that one leads to, by way of others too.
fn reached<'a>(arrows: &'a Arrows, from: &'a String) -> BTreeSet<&'a String> {
    let (mut seen, mut ahead) = (BTreeSet::new(), vec![from]);
    while let Some(next) = ahead.pop() {
        ahead.extend(arrows.get(next).into_iter().flatten().filter(|to| seen.insert(*to)));
    }
    seen
}

/// Modules that lead to each other: each circle's, sorted.
fn circles(arrows: &Arrows) -> Vec<Vec<String>> {
    let all: BTreeMap<&String, BTreeSet<&String>> = arrows.keys().map(|from| (from, reached(arrows, from))).collect();
    let of = |name: &String| -> Vec<String> {
        all.iter()
            .filter(|(to, back)| all[name].contains(*to) && back.contains(name))
            .map(|(to, _)| (*to).clone())
            .collect()
    };
    let found: BTreeSet<Vec<String>> = arrows.keys().map(of).filter(|circle| circle.len() > 1).collect();
    found.into_iter().collect()
}

#[test]
fn there_are_no_new_circles() {
    let mut wrong = Vec::new();
    for (name, known) in KNOWN {
        let arrows = arrows(name);
        for (from, to) in &arrows {
            println!("{name}: {from} -> {}", to.iter().map(String::as_str).collect::<Vec<_>>().join(" "));
        }
        let found = circles(&arrows);
        let of_known =
            |circle: &[String], known: &[&str]| circle.iter().filter(|m| known.contains(&m.as_str())).count();
        for circle in &found {
            let is_known = known.iter().any(|known| match GROW.contains(&name) {
                true => of_known(circle, known) > 1,
                false => of_known(circle, known) == circle.len(),
            });
            if !is_known {
                wrong.push(format!("{name}: this circle is new, or larger than it was: {circle:?}"));
            }
        }
        for known in known {
            let is_gone = |module: &&&str| !found.iter().flatten().any(|found| found == **module);
            let gone: Vec<_> = known.iter().filter(is_gone).collect();
            if !gone.is_empty() && !GROW.contains(&name) {
                wrong.push(format!("{name}: no longer in a circle, take them out of the list: {gone:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn circles_are_found() {
    let made_up = |pairs: &[(&str, &str)]| {
        let mut arrows = Arrows::new();
        for (from, to) in pairs {
            arrows.entry((*to).to_owned()).or_default();
            arrows.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        circles(&arrows)
    };
    assert!(made_up(&[("a", "b"), ("b", "c"), ("a", "c")]).is_empty());
    let found = made_up(&[("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "f"), ("f", "e")]);
    assert_eq!(found, [vec!["a", "b", "c"], vec!["e", "f"]]);
    let text = "use crate::{a, b::{c, d}, e};\nuse other_crate::x; // crate::comment\ncrate::f::g();\n\
                #[cfg(test)]\nmod tests { use crate::h; }";
    assert_eq!(named(text).into_iter().collect::<Vec<_>>(), ["a", "b", "e", "f"]);
}
