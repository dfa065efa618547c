//! A page of docs/ as what a reader types, section by section: for the test of the pages, and for the clean Debian in which
//! `cargo xtask dist --check` types the first hour.

/// A part of a page that is run.
#[derive(Debug, Default)]
pub struct Section {
    pub title: String,
    pub condition: Option<String>,
    pub script: String,
    /// Lines to be printed.
    pub expected: Vec<String>,
}

/// The sections (`##`) that have something to type: all their blocks marked `sh`, and the lines of blocks marked `text` that
/// directly follow one.
pub fn sections(page: &str) -> Vec<Section> {
    let mut sections = vec![Section::default()];
    // The block that is open, and whether what comes next says what the last script prints.
    let (mut open, mut answers) = (None::<&str>, false);
    for line in page.lines() {
        let section = sections.last_mut().unwrap();
        match (open, line) {
            (None, _) if line.starts_with("## ") => {
                sections.push(Section { title: line[3..].to_owned(), ..Section::default() });
                answers = false;
            }
            (None, _) if line.starts_with("<!-- if: ") => {
                section.condition = Some(line["<!-- if: ".len()..].trim_end_matches("-->").to_owned());
            }
            (None, "```sh") => open = Some("sh"),
            (None, "```text") if answers => open = Some("answer"),
            (None, _) if line.starts_with("```") => open = Some("other"),
            (None, "") => {}
            (None, _) => answers = false,
            (Some(kind), "```") => {
                answers = kind == "sh";
                open = None;
            }
            (Some("sh"), _) => section.script += &format!("{line}\n"),
            (Some("answer"), _) => section.expected.push(line.trim().to_owned()),
            (Some(_), _) => {}
        }
    }
    sections.retain(|section| !section.script.is_empty());
    sections
}

/// The first line that was expected and not printed in its turn.
pub fn missing<'a>(expected: &'a [String], said: &str) -> Option<&'a String> {
    let mut lines = said.lines();
    expected.iter().find(|expected| !lines.any(|line| line.contains(expected.as_str())))
}
