//! Saying so when there is nothing to do: a program without retpolines gets nothing from us, and most
//! programs that distributions ship are built without.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use object::{Object as _, ObjectSection as _};

use crate::files::open;
use crate::files::parts::Parts;

/// A file this large is not read for this.
const MOST_BYTES: u64 = 1 << 30;
/// Longest name of a compiler that is shown, and how many of them: a file may name any number.
const LONGEST: usize = 60;
const MOST: usize = 4;
/// No compiler writes more about itself, however many objects were linked.
const LONGEST_COMMENT: u64 = 1 << 16;

/// That neither the program nor its libraries have retpolines, what it was built with, and where to read on.
#[must_use]
pub fn sentences(program: &Path) -> Vec<String> {
    let built = built_with(program).map_or_else(String::new, |compiler| format!(" (built with {compiler})"));
    vec![
        format!("Nothing to promote: neither {}{built} nor its libraries have retpolines.", program.display()),
        "How to build with retpolines, and for whom that is worth it: docs/build.md.".to_owned(),
    ]
}

/// The same of a process, in one line. `program` is its executable, by whatever name it can be read.
#[must_use]
pub fn in_process(program: &Path) -> String {
    let built = built_with(program).map_or_else(String::new, |compiler| format!(" (built with {compiler})"));
    format!("Neither its program{built} nor its libraries have retpolines: nothing to promote; see docs/build.md")
}

/// Says on the terminal, if there is one, that what is being started has nothing to promote. Libraries that
/// it loads later are not known yet, and neither are the programs that a shell starts: then nothing is said.
pub fn mention(program: &Path, preloads: &[&Path], folders: &[PathBuf]) {
    if !io::stderr().is_terminal() || starts_others(program) {
        return;
    }
    let has_thunks = |path: &Path| crate::inspect::has_thunks(path, folders) != Some(false);
    if has_thunks(program) || preloads.iter().any(|path| has_thunks(path)) {
        return;
    }
    let built = built_with(program).map_or_else(String::new, |compiler| format!(" (built with {compiler})"));
    crate::complain(format_args!(
        "neither {}{built} nor the libraries it is linked to have retpolines: nothing to promote; see docs/build.md",
        program.display()
    ));
}

/// Whether a program is there to start others.
fn starts_others(program: &Path) -> bool {
    const STARTERS: [&str; 17] = [
        "bash", "busybox", "chroot", "dash", "env", "fish", "ksh", "make", "nice", "nohup", "setpriv", "setsid", "sh",
        "sudo", "timeout", "xargs", "zsh",
    ];
    program.file_name().and_then(|name| name.to_str()).is_some_and(|name| STARTERS.contains(&name))
}

/// The compilers that a file names, if it does.
#[must_use]
pub fn built_with(program: &Path) -> Option<String> {
    let parts = Parts::new(open::plain(program).ok()?, MOST_BYTES).ok()?;
    let file = object::File::parse(&parts).ok()?;
    if file.section_by_name(".go.buildinfo").is_some() {
        return Some("Go".to_owned());
    }
    let comment = file.section_by_name(".comment").filter(|comment| comment.size() <= LONGEST_COMMENT)?;
    compilers(comment.data().ok()?)
}

/// The compilers named in a section `.comment`; the C library's start-up code names one too, so others come
/// first.
fn compilers(comment: &[u8]) -> Option<String> {
    let mut found: Vec<String> = Vec::new();
    for entry in comment.split(|&byte| byte == 0) {
        let text: String = entry.iter().map(|&byte| byte as char).filter(|c| (' '..='~').contains(c)).collect();
        let name = name_of(&text);
        if !name.is_empty() && found.len() < MOST && !found.contains(&name) {
            found.push(name);
        }
    }
    found.sort_by_key(|name| name.starts_with("gcc"));
    (!found.is_empty()).then(|| found.join(" and "))
}

/// `GCC: (Debian 12.2.0-14) 12.2.0` is gcc 12.2.0.
fn name_of(text: &str) -> String {
    let version_after = |marker: &str| {
        let version = text.split_once(marker)?.1.split_whitespace().next()?;
        Some(version.to_owned())
    };
    let name = match text {
        _ if text.starts_with("GCC: ") => format!("gcc {}", text.rsplit(' ').next().unwrap_or_default()),
        _ if text.contains("clang version ") => {
            format!("clang {}", version_after("clang version ").unwrap_or_default())
        }
        _ if text.contains("rustc version ") => {
            format!("rustc {}", version_after("rustc version ").unwrap_or_default())
        }
        _ if text.starts_with("Linker: ") || text.starts_with("mold ") => String::new(),
        other => other.to_owned(),
    };
    name.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn compilers_as_they_write_themselves() {
        let of = |text: &str| compilers(text.as_bytes());
        assert_eq!(of("GCC: (Debian 12.2.0-14+deb12u1) 12.2.0\0").as_deref(), Some("gcc 12.2.0"));
        assert_eq!(
            of("GCC: (Debian 12.2.0-14) 12.2.0\0Debian clang version 14.0.6\0Linker: LLD 14.0.6\0").as_deref(),
            Some("clang 14.0.6 and gcc 12.2.0")
        );
        assert_eq!(of("rustc version 1.90.0 (1159e78c4 2025-09-14)\0").as_deref(), Some("rustc 1.90.0"));
        assert_eq!(of("\0\0"), None);
        let many: String = (0..1000).map(|n| format!("compiler {n}\0")).collect();
        assert_eq!(of(&many).as_deref(), Some("compiler 0 and compiler 1 and compiler 2 and compiler 3"));
        assert_eq!(of("\x1b[31mred\0").as_deref(), Some("[31mred"));
    }

    #[test]
    fn what_is_no_program_was_built_with_nothing() {
        assert_eq!(built_with(Path::new("/dev/zero")), None);
        assert_eq!(built_with(Path::new("/no/such/file")), None);
        assert!(sentences(Path::new("/proc/self/exe"))[0].contains("built with"));
    }
}
