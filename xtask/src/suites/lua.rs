//! Lua's tests. The source package has none beyond `make test`; upstream's suite is a separate download
//! (<https://www.lua.org/tests/>), used when `LUA_TESTS` names the directory it was unpacked into.

use std::env;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Result;

use super::{Bench, Suite, Verdicts};
use crate::programs::{self, Program};
use crate::variant::Toolchain;

pub struct Lua;

/// Upstream's files that need no internal test interface and no memory of gigabytes.
const FILES: [&str; 25] = [
    "strings.lua",
    "literals.lua",
    "tpack.lua",
    "utf8.lua",
    "attrib.lua",
    "gc.lua",
    "locals.lua",
    "constructs.lua",
    "code.lua",
    "nextvar.lua",
    "pm.lua",
    "api.lua",
    "gengc.lua",
    "events.lua",
    "vararg.lua",
    "closure.lua",
    "coroutine.lua",
    "goto.lua",
    "errors.lua",
    "math.lua",
    "sort.lua",
    "bitwise.lua",
    "calls.lua",
    "verybig.lua",
    "db.lua",
];

impl Suite for Lua {
    fn program(&self) -> Box<dyn Program> {
        Box::new(programs::lua::Lua(Toolchain::Gcc))
    }

    fn nervous(&self) -> bool {
        true
    }

    fn run(&self, bench: &Bench) -> Result<Verdicts> {
        let mut verdicts = Verdicts::new();
        let own = [bench.setting.place.workload("b.lua"), bench.setting.place.workload("train.lua")];
        for file in own {
            verdicts.insert(format!("{} prints", file.display()), self.script(bench, &file, None)?);
        }
        let Some(dir) = env::var_os("LUA_TESTS").map(PathBuf::from) else {
            eprintln!("xtask: LUA_TESTS names no directory with upstream's suite: only our own scripts run");
            return Ok(verdicts);
        };
        for name in FILES {
            let said = self.script(bench, &dir.join(name), Some(&dir))?;
            // Each ends with an OK of its own; what it prints before holds addresses and times.
            let verdict = if said.lines().any(|line| line.trim().eq_ignore_ascii_case("ok")) { "ok" } else { "failed" };
            verdicts.insert(name.to_owned(), verdict.to_owned());
        }
        Ok(verdicts)
    }
}

impl Lua {
    fn script(&self, bench: &Bench, file: &std::path::Path, dir: Option<&PathBuf>) -> Result<String> {
        let mut command = bench.setting.start("src/lua", None);
        command.args(["-e", "_U = true"]).arg(file);
        if let Some(dir) = dir {
            command.current_dir(dir);
        }
        bench.logged(&mut command, Duration::from_secs(600))
    }
}
