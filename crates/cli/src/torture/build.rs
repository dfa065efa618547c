//! The torture program: its sources are part of the command. The file of sites is compiled in every way that
//! the machine's compilers have; a way that one of them does not know is left out, and named in the summary.

use std::ffi::{OsStr, OsString};
use std::fmt::Write;
use std::path::{Path, PathBuf};

use crate::workbench::compiler::Compiler;
use crate::workbench::variant::compile;

const SOURCES: [(&str, &str); 9] = [
    ("torture.h", include_str!("../../torture/torture.h")),
    ("torture.c", include_str!("../../torture/torture.c")),
    ("disturb.c", include_str!("../../torture/disturb.c")),
    ("registers.c", include_str!("../../torture/registers.c")),
    ("sites.c", include_str!("../../torture/sites.c")),
    ("plugin.c", include_str!("../../torture/plugin.c")),
    ("exchanged.S", include_str!("../../torture/exchanged.S")),
    ("objects.cc", include_str!("../../torture/objects.cc")),
    ("unwind.cc", include_str!("../../torture/unwind.cc")),
];

/// Libraries that come and go.
const PLUGINS: u32 = 5;
/// Nothing is bound lazily: a longjmp out of the loader would leave it waiting for ever, with or without us.
const BOUND: &str = "-Wl,-z,now";
/// For what is unwound from any instruction.
const ASYNCHRONOUS: [&str; 2] = ["-fnon-call-exceptions", "-fasynchronous-unwind-tables"];
/// The library of sites.
const LIBRARY: &str = "libsites.so";

/// What there is to run.
#[derive(Debug)]
pub struct Built {
    /// The program.
    pub program: PathBuf,
    /// Libraries for it to load.
    pub plugins: Vec<PathBuf>,
    /// Two that differ in their thunk alone.
    pub exchanged: [PathBuf; 2],
    /// What could not be compiled here.
    pub left_out: Vec<&'static str>,
}

/// A way to compile the file of sites, linked into the program.
struct Way {
    name: &'static str,
    flags: &'static [&'static str],
    /// Another compiler than the one that compiles everything else.
    compiler: Option<&'static str>,
}

const WAYS: [Way; 4] = [
    Way { name: "optimised", flags: &["-fno-plt"], compiler: None },
    Way { name: "unoptimised", flags: &["-O0"], compiler: None },
    Way { name: "inline_thunks", flags: &["-O3", "-mindirect-branch=thunk-inline"], compiler: None },
    Way { name: "clang", flags: &[], compiler: Some("clang") },
];

/// Writes the sources to `directory` and compiles them there.
pub fn build(compiler: &Compiler, directory: &Path, scratch: &Path) -> anyhow::Result<Built> {
    let directory = std::path::absolute(directory)?;
    for (name, text) in SOURCES {
        std::fs::write(directory.join(name), text)?;
    }
    let workshop = Workshop { compiler, directory: &directory };
    let mut left_out = Vec::new();
    let mut tables = vec!["library"];
    workshop.library(LIBRARY, "sites.c", &["-DBUILD=library".into()])?;
    for way in &WAYS {
        match workshop.compile_way(way, scratch) {
            Ok(()) => tables.push(way.name),
            Err(_) => left_out.push(way.name),
        }
    }
    let cpp = ["c++", "g++", "clang++"].iter().find_map(|name| Compiler::find(Some(OsStr::new(name)), scratch).ok());
    let linker = match &cpp {
        Some(cpp) => {
            workshop.object_by(cpp, "objects.cc", "objects", cpp.dialect.retpoline)?;
            workshop.object_by(cpp, "unwind.cc", "unwind", &[cpp.dialect.retpoline, &ASYNCHRONOUS].concat())?;
            cpp
        }
        None => {
            left_out.push("C++");
            compiler
        }
    };
    std::fs::write(directory.join("builds.c"), list_of_builds(&tables, cpp.is_some()))?;
    let with_cpp: &[&str] = if cpp.is_some() { &["-DWITH_CPP"] } else { &[] };
    for name in ["torture", "disturb", "registers", "builds"] {
        let flags = [compiler.dialect.retpoline, with_cpp].concat();
        workshop.object_by(compiler, &format!("{name}.c"), name, &flags)?;
    }
    let built = tables.iter().skip(1).copied().chain(["torture", "disturb", "registers", "builds"]);
    let objects: &[&str] = if cpp.is_some() { &["objects", "unwind"] } else { &[] };
    workshop.link(linker, &built.chain(objects.iter().copied()).collect::<Vec<_>>())?;
    let plugins = (0..PLUGINS).map(|n| workshop.plugin(n)).collect::<anyhow::Result<_>>()?;
    let exchanged = ["exchanged0.so", "exchanged1.so"];
    for (name, definition) in exchanged.into_iter().zip(["-DFIRST", "-DSECOND"]) {
        workshop.library(name, "exchanged.S", &[definition.into()])?;
    }
    let exchanged = exchanged.map(|name| directory.join(name));
    Ok(Built { program: directory.join("torture"), plugins, exchanged, left_out })
}

/// A compiler and where it works.
struct Workshop<'a> {
    compiler: &'a Compiler,
    directory: &'a Path,
}

impl Workshop<'_> {
    fn compile_way(&self, way: &Way, scratch: &Path) -> anyhow::Result<()> {
        let other = way.compiler.map(|name| Compiler::find(Some(OsStr::new(name)), scratch)).transpose()?;
        let compiler = other.as_ref().unwrap_or(self.compiler);
        let name = format!("-DBUILD={}", way.name);
        let flags = [compiler.dialect.retpoline, way.flags, &[&name]].concat();
        self.object_by(compiler, "sites.c", way.name, &flags)
    }

    fn object_by(&self, compiler: &Compiler, source: &str, object: &str, flags: &[&str]) -> anyhow::Result<()> {
        let mut command = compiler.command(flags);
        command.args(["-g", "-fPIC", "-c", source, "-o"]).arg(format!("{object}.o"));
        compile(command.current_dir(self.directory), object)
    }

    fn library(&self, name: &str, source: &str, definitions: &[OsString]) -> anyhow::Result<()> {
        let mut command = self.compiler.command(self.compiler.dialect.retpoline);
        command.args(["-g", "-fPIC", "-shared", BOUND, source, "-o", name]).args(definitions);
        compile(command.current_dir(self.directory), name)
    }

    /// Each of another size, so that they do not fit each other's places.
    fn plugin(&self, number: u32) -> anyhow::Result<PathBuf> {
        let name = format!("plugin{number}.so");
        let definitions = [format!("-DVARIANT={}", number * 3), format!("-DPADDING={}", 1 + number * 50_000)];
        self.library(&name, "plugin.c", &definitions.map(OsString::from))?;
        Ok(self.directory.join(name))
    }

    /// The program's own functions are targets for the libraries: they are exported.
    fn link(&self, compiler: &Compiler, objects: &[&str]) -> anyhow::Result<()> {
        let mut command = compiler.command(&["-rdynamic", BOUND, "-o", "torture"]);
        command.args(objects.iter().map(|object| format!("{object}.o")));
        command.args(["-L.", "-Wl,-rpath,$ORIGIN"]).arg(format!("-l:{LIBRARY}")).arg("-ldl");
        compile(command.current_dir(self.directory), "torture")
    }
}

/// The source of the program's list of kinds.
fn list_of_builds(tables: &[&str], with_cpp: bool) -> String {
    let mut text = String::from("#include \"torture.h\"\n");
    let objects = if with_cpp { "{ \"objects\", VIRTUAL, call_objects }, " } else { "" };
    for table in tables {
        // Writing to a string does not fail.
        let _ = writeln!(text, "extern const struct kind {table}_kinds[];");
    }
    let _ = writeln!(
        text,
        "static const struct kind more[] = {{ {{ \"registers\", REGISTERS, compare_registers }}, \
         {{ \"flags\", FLAGS, compare_flags }}, {objects}{{ 0, WRONG, 0 }} }};"
    );
    let listed: String = tables.iter().map(|table| format!("{table}_kinds, ")).collect();
    let _ = writeln!(text, "const struct kind *const builds[] = {{ {listed}more, 0 }};");
    text
}
