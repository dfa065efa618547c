//! The kernel's own test run of an object's programs, by `kernel.c`: needs root, a C compiler and libbpf-dev.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The built tool, in a directory of its own.
pub struct Kernel(PathBuf);

impl Kernel {
    pub fn build() -> Kernel {
        let scratch = std::env::temp_dir().join(format!("relpoline-bpf-kernel-{}", std::process::id()));
        std::fs::create_dir_all(&scratch).unwrap();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kernel.c");
        let built = Command::new("cc").arg("-o").arg(scratch.join("kernel")).arg(source).arg("-lbpf").status();
        assert!(built.unwrap().success(), "kernel.c cannot be built: libbpf-dev?");
        Kernel(scratch)
    }

    /// What it says of the programs of `object` over `packets`, and of their maps then; or over its own one.
    pub fn run(&self, object: &[u8], packets: &[Vec<u8>]) -> String {
        let (file, input) = (self.0.join("object.o"), self.0.join("packets"));
        std::fs::write(&file, object).unwrap();
        let framed = packets.iter().flat_map(|p| (p.len() as u32).to_le_bytes().into_iter().chain(p.iter().copied()));
        std::fs::write(&input, framed.collect::<Vec<u8>>()).unwrap();
        let mut command = Command::new(self.0.join("kernel"));
        command.arg(file);
        if !packets.is_empty() {
            command.arg(input).arg("maps");
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

impl Drop for Kernel {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
