//! Files that stand for much more than they are: each byte of them costs its reader many.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Where the code of an ELF file begins, in the file and in memory.
const CODE: usize = 0x1000;
/// `__x86_indirect_thunk_rax`, as gcc writes it.
const THUNK: [u8; 17] = [0xe8, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x48, 0x89, 0x04, 0x24, 0xc3];

/// A symbol: its place in the code, its size, its name's place among the names.
pub type Symbol = (u64, u64, u32);

/// A shared library of one segment with this code and these symbols, which may be undefined; its build-id is 20 times `id`.
pub fn library(code: &[u8], symbols: &[Symbol], names: &[u8], id: u8) -> Vec<u8> {
    let mut file = vec![0; CODE];
    file.extend_from_slice(code);
    file.resize(file.len().next_multiple_of(16), 0);
    let symbols_at = file.len();
    file.extend([0; 24]);
    for (value, size, name) in symbols {
        file.extend(name.to_le_bytes());
        // A function, for everybody; in section 1, or in none.
        file.extend([0x12, 0]);
        file.extend(u16::from(*size != 0).to_le_bytes());
        file.extend((*value + if *size == 0 { 0 } else { CODE as u64 }).to_le_bytes());
        file.extend(size.to_le_bytes());
    }
    let names_at = file.len();
    file.extend_from_slice(names);
    let section_names_at = file.len();
    file.extend(b"\0.text\0.dynsym\0.dynstr\0");
    file.resize(file.len().next_multiple_of(16), 0);
    let sections_at = file.len();
    let mut section = |name: u32, kind: u32, flags: u64, at: usize, size: usize, link: u32, entry: u64| {
        file.extend(name.to_le_bytes());
        file.extend(kind.to_le_bytes());
        for word in [flags, at as u64, at as u64, size as u64] {
            file.extend(word.to_le_bytes());
        }
        file.extend(link.to_le_bytes());
        file.extend(1_u32.to_le_bytes());
        file.extend([1, entry].map(u64::to_le_bytes).concat());
    };
    section(0, 0, 0, 0, 0, 0, 0);
    section(1, 1, 6, CODE, code.len(), 0, 0);
    section(7, 11, 2, symbols_at, names_at - symbols_at, 3, 24);
    section(15, 3, 2, names_at, names.len(), 0, 0);
    section(0, 3, 0, section_names_at, 23, 0, 0);
    let whole = file.len() as u64;
    file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    // ET_DYN, x86-64, version.
    put(16, &[3, 0, 62, 0, 1, 0, 0, 0]);
    put(32, &[64, sections_at as u64, 0].map(u64::to_le_bytes).concat());
    put(52, &[64, 56, 2, 64, 5, 4].map(u16::to_le_bytes).concat());
    // PT_LOAD, readable and executable: all of it.
    put(64, &[1, 5].map(u32::to_le_bytes).concat());
    put(72, &[0, 0, 0, whole, whole, 4096].map(u64::to_le_bytes).concat());
    // PT_NOTE with a build-id.
    put(120, &[4, 4].map(u32::to_le_bytes).concat());
    put(128, &[0x100, 0x100, 0x100, 36, 36, 4].map(u64::to_le_bytes).concat());
    put(0x100, &[4, 20, 3].map(u32::to_le_bytes).concat());
    put(0x10c, b"GNU\0");
    put(0x110, &[id; 20]);
    file
}

/// Where bombs lie.
pub struct Bombs {
    place: tempfile::TempDir,
}

impl Bombs {
    pub fn new() -> Self {
        Self { place: crate::attacker::open_directory() }
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.place.path().join(name)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> String {
        fs::write(self.at(name), bytes).unwrap();
        self.at(name).display().to_string()
    }

    /// As many thunks as a file may have, but for one, or more.
    pub fn thunks(&self, count: usize) -> String {
        let names = [b"\0".as_slice(), &[b'n'; 120], b"\0"].concat();
        let symbols: Vec<Symbol> = (0..count as u64).map(|n| (17 * n, 17, 1)).collect();
        self.write("thunks", &library(&THUNK.repeat(count), &symbols, &names, 1))
    }

    /// Thunks without names.
    pub fn more_thunks(&self, count: usize) -> String {
        self.write("more-thunks", &library(&THUNK.repeat(count), &[], b"\0", 6))
    }

    /// Calls of a thunk in one function.
    pub fn more_sites(&self, count: usize) -> String {
        let mut code = THUNK.to_vec();
        for at in (17..17 + 5 * count).step_by(5) {
            code.push(0xe8);
            code.extend((-(at as i32) - 5).to_le_bytes());
        }
        self.write("more-sites", &library(&code, &[(0, code.len() as u64, 1)], b"\0all\0", 7))
    }

    /// Calls of one thunk, each in a function of its own with a long name.
    pub fn sites(&self, count: usize) -> String {
        let names = [b"\0_ZNSt6vectorISsSaISsEE".as_slice(), &[b'n'; 100], b"\0"].concat();
        let mut code = THUNK.to_vec();
        let mut symbols = vec![(0, 17, 1)];
        for n in 0..count {
            let at = 17 + 5 * n;
            symbols.push((at as u64, 5, 1 + (n % 80) as u32));
            code.push(0xe8);
            code.extend((-(at as i32) - 5).to_le_bytes());
        }
        self.write("sites", &library(&code, &symbols, &names, 2))
    }

    /// A function of so many bytes that is nothing but indirect jumps.
    pub fn jumps(&self, bytes: usize) -> String {
        self.write("jumps", &library(&[0xff, 0xe0].repeat(bytes / 2), &[(0, bytes as u64, 1)], b"\0jumps\0", 3))
    }

    /// Thunks that are taken from another library, all of one name.
    pub fn imports(&self, count: usize) -> String {
        let symbols = vec![(0, 0, 1); count];
        self.write("imports", &library(&THUNK, &symbols, b"\0__x86_indirect_thunk_rax\0", 4))
    }

    /// Symbols whose names are all of one long string, of which none can be kept.
    pub fn names(&self, count: usize) -> String {
        let names = [b"\0".as_slice(), &[b'n'; 1 << 16], b"\0"].concat();
        let symbols: Vec<Symbol> = (0..count as u64).map(|n| (n % 17, 17, 1 + (n % 4096) as u32)).collect();
        self.write("names", &library(&THUNK, &symbols, &names, 5))
    }

    /// A profile of so many sites, all in `object`, which has one function with a long name and the build-id of 20 times `id`.
    pub fn profile(&self, name: &str, sites: u32, targets: u32, object: &str, id: u8) -> String {
        let mut file = b"RLPPROFL".to_vec();
        for word in [1, 1, sites, targets] {
            file.extend(u32::to_le_bytes(word));
        }
        file.extend(20_u32.to_le_bytes());
        file.extend([id; 20]);
        let mut path = object.as_bytes().to_vec();
        path.resize(232, 0);
        file.extend(path);
        for n in 0..sites {
            let first = (u64::from(targets) * u64::from(n) / u64::from(sites)) as u32;
            let next = (u64::from(targets) * u64::from(n + 1) / u64::from(sites)) as u32;
            file.extend((CODE as u64 + u64::from(n)).to_le_bytes());
            file.extend(1_u64.to_le_bytes());
            for word in [0, first, next - first, 1] {
                file.extend(word.to_le_bytes());
            }
        }
        for n in 0..targets {
            file.extend((CODE as u64 + u64::from(n)).to_le_bytes());
            file.extend([0, 1].map(u32::to_le_bytes).concat());
        }
        self.write(name, &file)
    }

    /// A library with a single function, of so many bytes, and a name that is as long as is shown.
    pub fn long_name(&self, id: u8) -> String {
        let names = [b"\0".as_slice(), &[b'n'; 500], b"\0"].concat();
        self.write("long-name", &library(&THUNK, &[(0, 1 << 40, 1)], &names, id))
    }

    /// A report of sites in their shortest form, in so many bytes.
    pub fn report(&self, bytes: usize) -> String {
        let site = br#"["",null,null,"","","",0,[],0,0,0,false,null,0,0.0,0.0,0]"#;
        let engine =
            r#"{"version":"","enabled":true,"learn_cycles":0,"patches":0,"patches_per_s_max":0,"arena_bytes":0}"#;
        let costs = r#"{"direct":1.0,"retpoline":1.0,"mispredict":1.0}"#;
        let mut text = format!(
            r#"{{"schema":1,"pid":1,"program":"","engine":{engine},"costs":{costs},"objects":[],"sites_total":0,"sites_run":0,"sites_promoted":0,"coverage":null,"sites":["#
        )
        .into_bytes();
        while text.len() + site.len() + 3 < bytes {
            text.extend(site);
            text.push(b',');
        }
        text.pop();
        text.extend(b"]}");
        self.write("report", &text)
    }

    /// Packets of no bytes, in a capture of so many bytes.
    pub fn packets(&self, bytes: usize) -> String {
        let mut file = [0xa1b2_c3d4_u32, 2 | 4 << 16, 0, 0, 1 << 18, 1].map(u32::to_le_bytes).concat();
        file.resize(24 + bytes / 16 * 16, 0);
        self.write("packets", &file)
    }

    /// A list of entries for a map, in so many bytes; none is right.
    pub fn entries(&self, bytes: usize) -> String {
        let mut text = b"[".to_vec();
        text.extend(b"{},".repeat(bytes / 3));
        text.pop();
        text.push(b']');
        self.write("entries", &text)
    }

    /// An eBPF object of this C code.
    pub fn bpf(&self, name: &str, code: &str) -> String {
        let (source, object) = (self.at(&format!("{name}.c")), self.at(&format!("{name}.o")));
        fs::write(&source, code).unwrap();
        let mut clang = Command::new("clang");
        clang.args(["-O2", "-target", "bpf", "-c"]).arg(&source).arg("-o").arg(&object);
        assert!(clang.status().unwrap().success());
        object.display().to_string()
    }

    /// An eBPF object with so many functions, whose names are all parts of one string of so many bytes.
    pub fn functions(&self, name: &str, count: u32, length: usize) -> String {
        let mut file = vec![0; 64];
        let code_at = file.len();
        // r0 = 0; exit
        let code = [0xb7, 0, 0, 0, 0, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
        file.extend(code);
        let symbols_at = file.len();
        file.extend([0; 24]);
        for n in 0..count {
            file.extend((1 + n % 64).to_le_bytes());
            file.extend([0x12, 0, 1, 0]);
            file.extend([0, 16].map(u64::to_le_bytes).concat());
        }
        let names_at = file.len();
        file.push(0);
        file.extend(vec![b'f'; length]);
        file.push(0);
        let section_names_at = file.len();
        file.extend(b"\0xdp\0.symtab\0.strtab\0");
        file.resize(file.len().next_multiple_of(8), 0);
        let sections_at = file.len();
        let mut section = |name: u32, kind: u32, flags: u64, at: usize, size: usize, link: u32, entry: u64| {
            file.extend([name, kind].map(u32::to_le_bytes).concat());
            file.extend([flags, 0, at as u64, size as u64].map(u64::to_le_bytes).concat());
            file.extend([link, 1].map(u32::to_le_bytes).concat());
            file.extend([1, entry].map(u64::to_le_bytes).concat());
        };
        section(0, 0, 0, 0, 0, 0, 0);
        section(1, 1, 6, code_at, 16, 0, 0);
        section(5, 2, 0, symbols_at, names_at - symbols_at, 3, 24);
        section(13, 3, 0, names_at, length + 2, 0, 0);
        section(0, 3, 0, section_names_at, 21, 0, 0);
        file[..16].copy_from_slice(b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0");
        // ET_REL, eBPF, version.
        file[16..24].copy_from_slice(&[1, 0, 247, 0, 1, 0, 0, 0]);
        file[40..48].copy_from_slice(&(sections_at as u64).to_le_bytes());
        file[52..64].copy_from_slice(&[64, 0, 0, 64, 5, 4].map(u16::to_le_bytes).concat());
        self.write(name, &file)
    }

    pub fn remove(&self, path: &str) {
        fs::remove_file(Path::new(path)).unwrap();
    }
}
