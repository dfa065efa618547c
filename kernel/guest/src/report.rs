// SPDX-License-Identifier: GPL-2.0 OR MIT
//! What the host is told.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::time::Instant;

/// The line to the host.
pub struct Report {
    line: File,
    began: Instant,
}

impl Report {
    /// Opens the second serial line.
    pub fn open() -> Report {
        let line = OpenOptions::new().write(true).open("/dev/ttyS1").expect("a second serial line");
        Report { line, began: Instant::now() }
    }

    fn say(&mut self, text: &str) {
        // Nobody could be told that nobody can be told.
        let _ = writeln!(self.line, "{text}");
        let _ = self.line.flush();
    }

    /// A part of the test begins.
    pub fn part(&mut self, name: &str) {
        let at = self.began.elapsed().as_secs();
        self.say(&format!("part {name} {at}"));
    }

    /// Something must hold.
    pub fn check(&mut self, holds: bool, what: impl AsRef<str>) {
        let word = if holds { "ok" } else { "FAIL" };
        self.say(&format!("{word} {}", what.as_ref()));
    }

    /// A figure for the line of the matrix.
    pub fn table(&mut self, what: impl AsRef<str>) {
        self.say(&format!("table {}", what.as_ref()));
    }

    /// Something worth knowing.
    pub fn note(&mut self, what: impl AsRef<str>) {
        self.say(&format!("note {}", what.as_ref()));
    }

    /// The test has come to its end.
    pub fn done(&mut self) {
        self.say("done");
    }
}
