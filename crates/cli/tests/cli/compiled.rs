//! Small C programs, compiled when they are needed.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// Says hello, says what it finds in its environment about us, returns 7.
pub const HELLO: &str = r#"
#include <stdio.h>
#include <stdlib.h>
int main(void) {
    const char *preload = getenv("LD_PRELOAD"), *options = getenv("RELPOLINE_OPTS");
    printf("hello %s %s\n", preload ? preload : "-", options ? options : "-");
    return 7;
}"#;

/// Makes many indirect calls from one site, to one target nine times out of ten.
pub const CALLS: &str = r#"
#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>
static unsigned add(unsigned x) { return x + 3; }
static unsigned twist(unsigned x) { return x ^ 5; }
unsigned (*volatile table[2])(unsigned) = { add, twist };
__attribute__((noinline)) static unsigned many(unsigned calls) {
    unsigned sum = 0;
    for (unsigned i = 0; i < calls; i++) sum = table[i % 10 == 9](sum);
    return sum;
}
int main(int argc, char **argv) {
    (void)argv;
    if (argc > 1 && fork() == 0) { printf("child %u\n", many(2000000)); return 0; }
    if (argc > 1) wait(0);
    printf("%u\n", many(3000000));
    return 0;
}"#;

/// What makes gcc build retpolines.
pub const RETPOLINE: [&str; 3] = ["-fcf-protection=none", "-mindirect-branch=thunk", "-mindirect-branch-register"];

/// A directory with a program in it.
pub struct Compiled {
    directory: TempDir,
    /// The program.
    pub path: PathBuf,
}

impl Compiled {
    /// Compiles `source` with these flags.
    pub fn new(source: &str, flags: &[&str]) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (file, path) = (directory.path().join("program.c"), directory.path().join("program"));
        std::fs::write(&file, source).unwrap();
        let status = Command::new("cc").arg("-O2").args(flags).arg(&file).arg("-o").arg(&path).status().unwrap();
        assert!(status.success(), "cc {flags:?}");
        Self { directory, path }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its path as text.
    pub fn text(&self) -> &str {
        self.path.to_str().unwrap()
    }
}
