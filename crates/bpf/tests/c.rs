//! relpoline_bpf.h, used by programs of C that a real compiler makes, against the static and the shared library.

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

/// The directory with librelpoline_bpf.a and librelpoline_bpf.so.
fn library() -> PathBuf {
    // Beside what was built for this test: much of it is the same.
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let built = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "-j2", "--features", "c", "--lib"])
        .args(["--crate-type", "staticlib,cdylib", "--manifest-path"])
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml"))
        .arg("--target-dir")
        .arg(target)
        .output()
        .unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    target.join("debug")
}

#[test]
fn programs_of_c() {
    let (root, library, folder) = (Path::new(env!("CARGO_MANIFEST_DIR")), library(), tempfile());
    let object = folder.join("named.o");
    std::fs::write(&object, support::object("named")).unwrap();
    for (source, output) in [("own.c", "all of it\n"), ("as_ubpf.c", "0x2a 0x2a\n")] {
        for (file, language) in
            [("librelpoline_bpf.a", "c11"), ("librelpoline_bpf.so", "c11"), ("librelpoline_bpf.a", "gnu99")]
        {
            let program = folder.join("program");
            let built = Command::new("cc")
                .arg(format!("-std={language}"))
                .args(["-Wall", "-Wextra", "-Werror", "-I"])
                .arg(root.join("include"))
                .arg("-o")
                .arg(&program)
                .arg(root.join("tests/c").join(source))
                .arg(library.join(file))
                .args(["-lpthread", "-ldl", "-lm"])
                .arg(format!("-Wl,-rpath,{}", library.display()))
                .output()
                .unwrap();
            assert!(built.status.success(), "{source}: {}", String::from_utf8_lossy(&built.stderr));
            let ran = Command::new(&program).arg(&object).output().unwrap();
            let said = String::from_utf8_lossy(&ran.stdout).into_owned() + &String::from_utf8_lossy(&ran.stderr);
            assert!(ran.status.success() && said == output, "{source} with {file}: {:?}, {said}", ran.status);
        }
    }
    std::fs::remove_dir_all(&folder).unwrap();
}

/// C++ takes the header, too.
#[test]
fn the_header_is_for_cpp_as_well() {
    let mut compiler = Command::new("c++");
    let header = Path::new(env!("CARGO_MANIFEST_DIR")).join("include/relpoline_bpf.h");
    let output =
        compiler.args(["-std=c++11", "-Wall", "-Wextra", "-Werror", "-fsyntax-only", "-x", "c++"]).arg(header).output();
    let output = output.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn tempfile() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("relpoline-bpf-c-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}
