//! relpoline.h, used by programs of C and C++ that real compilers make, against the static and the shared
//! library.
#![cfg(all(target_arch = "x86_64", target_os = "linux", not(miri), not(feature = "no-patch")))]

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// The directory with librelpoline.a and librelpoline.so.
fn library() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| library_as("c", None))
}

/// The same built in a directory of this name, perhaps with a deliberate fault.
fn library_as(name: &str, fault: Option<&str>) -> PathBuf {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let mut cargo = Command::new(env!("CARGO"));
    if let Some(fault) = fault {
        let flags = format!("--cfg\u{1f}relpoline_broken=\"{fault}\"");
        cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags);
    }
    let built = cargo
        .args(["rustc", "--quiet", "--offline", "--release", "-j2", "--features", "c", "--lib"])
        .args(["--crate-type", "staticlib,cdylib", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo runs");
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("release")
}

/// A compiler, the language's options, and more options.
struct Build {
    compiler: &'static str,
    language: &'static [&'static str],
    options: &'static [&'static str],
    shared: bool,
}

impl Build {
    fn name(&self) -> String {
        let Build { compiler, language, options, shared } = self;
        format!("{compiler} {} {} {}", language.join(" "), options.join(" "), if *shared { ".so" } else { ".a" })
    }

    fn compile(&self, source: &str, output: &Path, more: &[&str]) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let compiled = Command::new(self.compiler)
            .args(self.language)
            .args(["-Wall", "-Wextra", "-Werror", "-pthread"])
            .args(self.options)
            .args(more)
            .arg("-I")
            .arg(root.join("include"))
            .arg("-o")
            .arg(output)
            .arg(root.join("tests/c").join(source))
            .args(["-x", "none"])
            .arg(library().join(if self.shared { "librelpoline.so" } else { "librelpoline.a" }))
            .args(["-ldl", "-lm"])
            .arg(format!("-Wl,-rpath,{}", library().display()))
            .output()
            .expect("the compiler runs");
        assert!(compiled.status.success(), "{}: {}", self.name(), String::from_utf8_lossy(&compiled.stderr));
    }

    fn is_there(&self) -> bool {
        let there = Command::new(self.compiler).arg("--version").output().is_ok_and(|o| o.status.success());
        if !there {
            println!("skipped: {}, since there is no {}", self.name(), self.compiler);
        }
        there
    }

    /// The program and its plug-in.
    fn both(&self) -> (PathBuf, PathBuf) {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c").join(self.name().replace([' ', '+'], "_"));
        std::fs::create_dir_all(&place).expect("a directory");
        let (program, plugin) = (place.join("check"), place.join("plugin.so"));
        self.compile("check.c", &program, &[]);
        self.compile("plugin.c", &plugin, &["-shared", "-fPIC"]);
        (program, plugin)
    }

    fn check(&self) {
        if !self.is_there() {
            return;
        }
        let (program, plugin) = self.both();
        let run = Command::new(&program).arg(&plugin).output().expect("the program runs");
        let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
        assert!(run.status.success() && out == "all right\n", "{}: {} {out}{err}", self.name(), run.status);
        println!("{}: all right", self.name());
    }
}

const C: &[&str] = &["-x", "c", "-std=gnu11"];
const CPP: &[&str] = &["-x", "c++", "-std=gnu++11"];

#[test]
fn programs_of_c_work() {
    Build { compiler: "gcc", language: C, options: &["-O2"], shared: true }.check();
    Build { compiler: "gcc", language: C, options: &["-O0", "-fPIC"], shared: false }.check();
    Build { compiler: "clang", language: C, options: &["-O2", "-fPIE"], shared: true }.check();
}

#[test]
fn programs_of_cpp_work() {
    Build { compiler: "g++", language: CPP, options: &["-O2"], shared: true }.check();
    Build { compiler: "clang++", language: CPP, options: &["-O1"], shared: false }.check();
}

#[test]
fn without_patching_they_work_too() {
    Build { compiler: "gcc", language: C, options: &["-O2", "-DRELPOLINE_NO_PATCH"], shared: true }.check();
    Build { compiler: "g++", language: CPP, options: &["-O2", "-DRELPOLINE_NO_PATCH"], shared: false }.check();
}

/// A library that comes back gets the place that it had: there are 4,096 of them. A registrar that forgets them is noticed.
#[test]
fn libraries_that_come_back_again_and_again() {
    let build = Build { compiler: "gcc", language: C, options: &["-O2", "-fno-plt"], shared: true };
    let (program, plugin) = build.both();
    for (fault, is_right) in [(None, true), (Some("forgets-records"), false)] {
        let mut run = Command::new(&program);
        if fault.is_some() {
            run.env("LD_PRELOAD", library_as("c-forgets-records", fault).join("librelpoline.so"));
        }
        let run = run.arg(&plugin).arg("4500").output().expect("the program runs");
        let said = String::from_utf8_lossy(&run.stderr);
        assert_eq!(run.status.success(), is_right, "{fault:?}: {} {said}", run.status);
        assert!(is_right || said.contains("run(i) == 0"), "{said}");
    }
}

/// The programs of docs/cpp.md compile, run and end well.
#[test]
fn the_page_for_cpp_holds() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = std::fs::read_to_string(root.join("../../docs/cpp.md")).expect("the page");
    let blocks: Vec<_> = page.split("```cpp\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(blocks.len() >= 3);
    let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("c/page");
    std::fs::create_dir_all(&place).expect("a directory");
    for compiler in ["g++", "clang++"] {
        let build = Build { compiler, language: CPP, options: &["-O2"], shared: false };
        if !build.is_there() {
            continue;
        }
        for (at, block) in blocks.iter().enumerate() {
            let (source, program) = (place.join(format!("{at}.cc")), place.join(format!("{at}")));
            std::fs::write(&source, block).expect("written");
            build.compile(source.to_str().expect("a name in UTF-8"), &program, &[]);
            let run = Command::new(&program).output().expect("the program runs");
            assert!(run.status.success(), "{compiler}, block {at}: {}", run.status);
        }
    }
}

/// What is wrong does not compile: a target of another type, and a wrong count of integer arguments.
#[test]
fn mistakes_are_the_compilers_to_find() {
    const WRONG: [(&str, &str); 3] = [
        ("static int f(int a) { return a; } RELPOLINE_DYNAMIC_CALL(d, int, (int a), (a), 2);", "the number of"),
        ("RELPOLINE_DYNAMIC_CALL(d, void, (double a, char *b), (a, b), 2);", "the number of"),
        (
            "static int f(int a) { return a; } static void g(void) {} RELPOLINE_STATIC_CALL(s, int, (int a), (a), f);
             int main(void) { g(); return relpoline_update(s, g); }",
            "type mismatch",
        ),
    ];
    if Command::new("gcc").arg("--version").output().is_err() {
        println!("skipped, since there is no gcc");
        return;
    }
    for (at, (text, complaint)) in WRONG.into_iter().enumerate() {
        let source = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("wrong-{at}.c"));
        std::fs::write(&source, format!("#include \"relpoline.h\"\n{text}\n")).expect("written");
        let compiled = Command::new("gcc")
            .args(["-std=gnu11", "-Werror", "-fsyntax-only", "-I"])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("include"))
            .arg(&source)
            .output()
            .expect("gcc runs");
        let said = String::from_utf8_lossy(&compiled.stderr);
        assert!(!compiled.status.success() && said.contains(complaint), "{text}: {said}");
    }
}
