//! SPECIFICATION.md names the test of each promise: those tests exist. Links between documents lead somewhere, and the book
//! has every page.
//!
//! Looked at is what stands between backquotes: `file.rs` and `file.rs: name`, names of tests, names of broken variants.
//! A name that nobody defines any more is a promise that nothing shows.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// All files of this project below `directory` whose names end so.
fn files(directory: &Path, endings: &[&str], found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(directory).expect("the project's folders can be read").flatten() {
        let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
        let is_folder = entry.file_type().is_ok_and(|kind| kind.is_dir());
        if is_folder && !matches!(name.as_str(), "target" | "corpus" | "artifacts") && !name.starts_with('.') {
            files(&path, endings, found);
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
}

/// What there is in this project.
struct Project {
    paths: Vec<PathBuf>,
    /// Names of functions and modules.
    defined: BTreeSet<String>,
    /// Short strings, which is what cases of tables and broken variants are named by.
    strings: BTreeSet<String>,
}

impl Project {
    fn read() -> Project {
        let mut project = Project { paths: Vec::new(), defined: BTreeSet::new(), strings: BTreeSet::new() };
        files(root(), &[".rs", ".sh", ".c"], &mut project.paths);
        // Without what is in this file, which names what is made up.
        let others = |path: &&PathBuf| path.file_name() != Path::new(file!()).file_name();
        for path in project.paths.iter().filter(others) {
            let text = fs::read_to_string(path).unwrap_or_default();
            for definition in ["fn ", "mod "] {
                let names = text.split(definition).skip(1);
                let ends = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
                project.defined.extend(names.filter_map(|rest| rest.split(ends).next()).map(String::from));
            }
            project.strings.extend(text.split('"').filter(|s| s.len() < 80 && !s.contains('\n')).map(String::from));
        }
        project
    }
}

/// What the document names, and nobody defines.
fn missing(document: &str, project: &Project) -> BTreeSet<String> {
    let is_word =
        |text: &str| !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
    let is_defined = |name: &str| match name.strip_suffix('…') {
        // `name_…` names all that begin so.
        Some(start) => project.defined.iter().any(|defined| defined.starts_with(start)),
        None => project.defined.contains(name) || project.strings.contains(name),
    };
    let is_variant = |name: &str| project.strings.contains(name);
    let is_file = |name: &str| {
        // `crates/core/tests/{scan,thunk}.rs` names two.
        let names = match (name.split_once('{'), name.split_once('}')) {
            (Some((before, _)), Some((middle, after))) => {
                let each = middle.split_once('{').map_or("", |(_, each)| each);
                each.split(',').map(|one| format!("{before}{one}{after}")).collect()
            }
            _ => vec![name.to_string()],
        };
        names.iter().all(|name| project.paths.iter().any(|path| path.ends_with(name)))
    };
    let mut missing = BTreeSet::new();
    for line in document.lines() {
        let of_variants = line.contains("broken variant");
        for quoted in line.split('`').skip(1).step_by(2) {
            let (file, name) = match quoted.split_once(": ") {
                Some((file, name)) => (file, Some(name)),
                None => (quoted, None),
            };
            let is_path = file.ends_with(".rs") && !file.contains(' ');
            let bad = match name {
                Some(name) if is_path => {
                    !is_file(file) || !name.split([' ', ',']).all(|n| n.is_empty() || is_defined(n))
                }
                _ if is_path => !is_file(file),
                _ if is_word(file.trim_end_matches('…')) && file.matches('_').count() >= 3 => !is_defined(file),
                _ => {
                    let variant =
                        file.contains('-') && is_word(&file.replace(['-', '+'], "_")) && !file.starts_with('-');
                    of_variants && variant && !file.split('+').all(is_variant)
                }
            };
            if bad {
                missing.insert(quoted.to_string());
            }
        }
    }
    missing
}

#[test]
fn every_test_that_is_named_exists() {
    let project = Project::read();
    let document = |name: &str| fs::read_to_string(root().join(name)).expect("the document is there");
    for name in ["SPECIFICATION.md", "SECURITY.md"] {
        let missing = missing(&document(name), &project);
        assert!(missing.is_empty(), "{name} names what nobody defines: {missing:#?}");
    }
    // And what is made up is noticed, each kind of it.
    let made_up = "| a promise | `tests/tests/fork.rs: no_such_test_is_there`, `no_other_such_test`, `tests/no_file.rs`; \
                   broken variant `no-such-variant` |";
    assert_eq!(missing(made_up, &project).len(), 4);
}

/// Where the links of a document lead, less what leads out of this project.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let behind = text.split("](").skip(1);
    behind.filter_map(|rest| rest.split([')', '#', ' ']).next()).filter(|link| !link.is_empty() && !link.contains(':'))
}

#[test]
fn every_link_leads_somewhere() {
    let mut pages = Vec::new();
    files(root(), &[".md"], &mut pages);
    let broken: Vec<_> = pages
        .iter()
        .flat_map(|page| {
            let text = fs::read_to_string(page).unwrap_or_default();
            // What stands between backquotes is code.
            let prose: String = text.split('`').step_by(2).collect();
            let here = page.parent().expect("a folder");
            let lost = links(&prose).filter(|link| !here.join(link).exists()).map(String::from).collect::<Vec<_>>();
            lost.into_iter().map(|link| format!("{}: {link}", page.display()))
        })
        .collect();
    assert!(broken.is_empty(), "{broken:#?}");
    assert_eq!(
        links("[a](b.md), [c](https://example.org), [d](#e), ![f](g.svg)").collect::<Vec<_>>(),
        ["b.md", "g.svg"]
    );
}

/// What stands in a figure's source and not in the drawing: a source that was changed and not drawn anew.
fn undrawn(source: &str, drawing: &str) -> Vec<String> {
    let labels = source.split("label=\"").skip(1).filter_map(|rest| rest.split('"').next());
    let lines = labels.flat_map(|label| label.split("\\n")).map(|line| line.trim().replace('&', "&amp;"));
    lines.filter(|line| !line.is_empty() && !drawing.contains(&format!(">{line}<"))).collect()
}

/// Each figure is drawn from a text, is what the text says, and is shown somewhere.
#[test]
fn every_figure_is_drawn_and_shown() {
    let (mut figures, mut pages) = (Vec::new(), Vec::new());
    files(&root().join("docs/figures"), &[".dot"], &mut figures);
    files(root(), &[".md"], &mut pages);
    let shown: String = pages.iter().filter_map(|page| fs::read_to_string(page).ok()).collect();
    assert!(!figures.is_empty());
    for figure in figures {
        let (source, name) = (fs::read_to_string(&figure).expect("can be read"), figure.with_extension("svg"));
        let drawing = fs::read_to_string(&name).unwrap_or_default();
        let missing = undrawn(&source, &drawing);
        assert!(missing.is_empty(), "{}: run docs/figures/draw: {missing:?}", figure.display());
        let name = name.file_name().expect("a name").to_string_lossy().into_owned();
        assert!(shown.contains(&format!("figures/{name})")), "no page shows {name}");
    }
    assert_eq!(undrawn("a [label=\"one\\ntwo\"]", "<text>one</text>"), ["two"]);
}

#[test]
fn the_book_has_every_page() {
    let docs = root().join("docs");
    let summary = fs::read_to_string(docs.join("SUMMARY.md")).expect("the book's summary");
    let mut pages = Vec::new();
    files(&docs, &[".md"], &mut pages);
    for page in pages.iter().filter(|page| !page.ends_with("SUMMARY.md")) {
        let name = page.strip_prefix(&docs).expect("below docs").to_string_lossy();
        assert!(links(&summary).any(|link| link == name), "docs/SUMMARY.md has not {name}");
    }
}
