//! Finding a C compiler, and how it spells retpolines. What a compiler can do is found by trying it on a
//! small file: names and versions say less (`cc` may be anything, and distributions patch defaults).

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::bail;

/// Flags of all variants: what the retpoline flags exclude is left out of the plain build too.
const COMMON: [&str; 3] = ["-O2", "-fcf-protection=none", "-pthread"];

/// How a family of compilers spells it.
#[derive(Clone, Copy, Debug)]
pub struct Dialect {
    /// Retpolines.
    pub retpoline: &'static [&'static str],
    /// Thunks that somebody else defines.
    pub external: &'static [&'static str],
    /// Name of the thunk for a register, up to the register.
    pub thunk: &'static str,
    /// Registers that thunks are called for.
    pub registers: &'static [&'static str],
}

const GCC: Dialect = Dialect {
    retpoline: &["-mindirect-branch=thunk", "-mindirect-branch-register"],
    external: &["-mindirect-branch=thunk-extern", "-mindirect-branch-register"],
    thunk: "__x86_indirect_thunk_",
    registers: &["rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15"],
};

const CLANG: Dialect = Dialect {
    retpoline: &["-mretpoline"],
    external: &["-mretpoline", "-mretpoline-external-thunk"],
    thunk: "__llvm_retpoline_",
    registers: &["r11"],
};

/// A compiler that makes retpolines.
#[derive(Debug)]
pub struct Compiler {
    command: Vec<OsString>,
    /// Where it puts its own temporary files, which stay when it is ended in the middle.
    temporary: PathBuf,
    /// How to ask it for retpolines.
    pub dialect: Dialect,
}

impl Compiler {
    /// The compiler asked for on the command line or by `CC`, else the first of the usual names that works.
    pub fn find(asked: Option<&OsStr>, scratch: &Path) -> anyhow::Result<Self> {
        let asked = asked.map(OsStr::to_owned).or_else(|| std::env::var_os("CC").filter(|cc| !cc.is_empty()));
        let names = asked.clone().map_or_else(|| ["cc", "gcc", "clang"].map(OsString::from).to_vec(), |cc| vec![cc]);
        let found = names.iter().find_map(|name| Self::try_name(name, scratch));
        match (found, asked) {
            (Some(compiler), _) => Ok(compiler),
            (None, Some(cc)) => {
                bail!("the C compiler {} does not work or cannot make retpolines; name another with --cc", cc.display())
            }
            (None, None) => {
                bail!("no C compiler that makes retpolines was found; install gcc or clang, or name one with --cc")
            }
        }
    }

    fn try_name(name: &OsStr, scratch: &Path) -> Option<Self> {
        let command = words(name)?;
        let of = |dialect| Self { command: command.clone(), temporary: scratch.to_owned(), dialect };
        [GCC, CLANG].into_iter().map(of).find(|it| it.works(scratch))
    }

    /// Whether it compiles and links with its retpoline flags.
    fn works(&self, scratch: &Path) -> bool {
        let source = scratch.join("try.c");
        let written = std::fs::write(&source, "int main(int n, char **v) { return ((int (*)(void))v)(); }\n");
        let status = self
            .command(self.dialect.retpoline)
            .arg(source)
            .arg("-o")
            .arg(scratch.join("try"))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        written.is_ok() && status.is_ok_and(|status| status.success())
    }

    /// A call of the compiler with the common flags and these.
    pub fn command(&self, flags: &[&str]) -> Command {
        let mut words = self.command.iter();
        let mut command = Command::new(words.next().map_or(OsStr::new("cc"), |word| word));
        command.args(words).args(COMMON).args(flags).env("TMPDIR", &self.temporary);
        command
    }

    /// The first line of its `--version`.
    pub fn version(&self) -> Option<String> {
        let output = self.command(&[]).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&output.stdout).lines().next()?.to_owned())
    }
}

/// `CC` may hold words ("ccache gcc"), unless it is itself the name of a file.
fn words(name: &OsStr) -> Option<Vec<OsString>> {
    match name.to_str() {
        Some(text) if !Path::new(name).exists() => Some(text.split_whitespace().map(OsString::from).collect()),
        _ => Some(vec![name.to_owned()]),
    }
    .filter(|words| !words.is_empty())
}
