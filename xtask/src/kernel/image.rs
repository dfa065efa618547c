//! Debian's stock kernel: its image, its modules, and what is known of it from its file.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};
use object::{Object, ObjectSection};

use super::debian::Unpacked;
use super::run;

/// A kernel, unpacked.
pub struct Image {
    /// Its release, as uname prints it.
    pub release: String,
    dir: PathBuf,
}

impl Image {
    /// Downloads the package of the kernel `release` and unpacks it under `dir`, unless that has been done.
    pub fn fetch(release: &str, dir: &Path) -> Result<Image> {
        let dir = dir.join(format!("image-{release}"));
        let image = Image { release: release.to_owned(), dir: dir.clone() };
        if image.vmlinuz().exists() {
            return Ok(image);
        }
        let unfinished = dir.with_extension("unfinished");
        let _ = fs::remove_dir_all(&unfinished);
        fs::create_dir_all(&unfinished)?;
        let package = format!("linux-image-{release}");
        run(Command::new("apt-get").args(["-q", "download", &package]).current_dir(&unfinished))
            .with_context(|| format!("the package {package} cannot be fetched"))?;
        let deb = fs::read_dir(&unfinished)?.flatten().map(|entry| entry.path()).find(|path| is_deb(path));
        let deb = deb.with_context(|| format!("apt-get fetched no file for {package}"))?;
        run(Command::new("dpkg").arg("-x").arg(&deb).arg(&unfinished))?;
        fs::remove_file(deb)?;
        fs::rename(&unfinished, &dir)?;
        Ok(image)
    }

    /// The kernel `release`, whose package is unpacked in `dir`.
    pub fn at(release: &str, dir: &Path) -> Image {
        Image { release: release.to_owned(), dir: dir.to_owned() }
    }

    /// One whose packages are unpacked already.
    pub fn of(unpacked: &Unpacked) -> Image {
        Image { release: unpacked.release.clone(), dir: unpacked.root.clone() }
    }

    /// The compressed image that boots.
    pub fn vmlinuz(&self) -> PathBuf {
        let here = self.dir.join("boot").join(format!("vmlinuz-{}", self.release));
        if here.exists() { here } else { self.dir.join("usr/lib/modules").join(&self.release).join("vmlinuz") }
    }

    /// The module `name`, or `None` when the kernel has no such module: it is built in, or not there at all.
    pub fn module(&self, name: &str) -> Result<Option<Vec<u8>>> {
        let tops = ["lib/modules", "usr/lib/modules"].map(|top| self.dir.join(top).join(&self.release).join("kernel"));
        let spellings = [name.to_owned(), name.replace('_', "-")];
        let names = spellings.iter().flat_map(|name| [format!("{name}.ko"), format!("{name}.ko.xz")]);
        let Some(path) =
            names.flat_map(|name| tops.iter().filter_map(move |top| find(top, &name)).collect::<Vec<_>>()).next()
        else {
            return Ok(None);
        };
        let is_packed = path.extension().is_some_and(|extension| extension == "xz");
        Ok(Some(if is_packed { unpack("xz", &path)? } else { fs::read(path)? }))
    }

    /// Whether it was built with an option, whatever that is called in full: names got prefixes in the course
    /// of time.
    pub fn is_built_with(&self, option: &str) -> bool {
        let places = [format!("boot/config-{}", self.release), format!("usr/lib/modules/{}/config", self.release)];
        let config = places.iter().find_map(|place| fs::read_to_string(self.dir.join(place)).ok()).unwrap_or_default();
        config.lines().any(|line| line.ends_with(&format!("{option}=y")))
    }

    /// Offsets from `_stext` of all sites that the kernel's own build listed, `.init.text` left out.
    pub fn sites(&self) -> Result<BTreeSet<u64>> {
        let vmlinux = vmlinux(&fs::read(self.vmlinuz())?, &self.dir)?;
        let file = object::File::parse(&*vmlinux).context("the kernel's image is no ELF file")?;
        let section = |name: &str| file.section_by_name(name).with_context(|| format!("the image has no {name}"));
        let (text, listed) = (section(".text")?, section(".retpoline_sites")?);
        let code = text.data()?;
        let mut sites = BTreeSet::new();
        for (i, entry) in listed.data()?.chunks_exact(4).enumerate() {
            let relative = i32::from_le_bytes(entry.try_into().expect("four bytes"));
            let site = (listed.address() + 4 * i as u64).wrapping_add_signed(relative.into());
            let Some(offset) = site.checked_sub(text.address()).filter(|&offset| offset < text.size()) else {
                continue;
            };
            // The list names the prefix, the module the opcode.
            sites.insert(offset + u64::from(code[offset as usize] == 0x2e));
        }
        Ok(sites)
    }

    /// Where the kernel may change its instructions when it boots, as offsets from `_stext`, and how many
    /// bytes there.
    pub fn alternatives(&self) -> Result<Vec<(u64, u64)>> {
        let vmlinux = vmlinux(&fs::read(self.vmlinuz())?, &self.dir)?;
        let file = object::File::parse(&*vmlinux).context("the kernel's image is no ELF file")?;
        let section = |name: &str| file.section_by_name(name).with_context(|| format!("the image has no {name}"));
        let (text, listed, with) = (section(".text")?, section(".altinstructions")?, section(".altinstr_replacement")?);
        let replacements = with.address()..=with.address() + with.size();
        let entries = ENTRIES.iter().find_map(|&(size, len_at)| {
            alternatives(listed.data().ok()?, listed.address(), size, len_at, |at| replacements.contains(&at))
        });
        let inside = |(at, len): (u64, u64)| {
            let offset = at.checked_sub(text.address()).filter(|&offset| offset < text.size())?;
            Some((offset, len))
        };
        // Of a shape that is not known, no alternative is known either: then no site is explained by one.
        Ok(entries.unwrap_or_default().into_iter().filter_map(inside).collect())
    }
}

/// Shapes that `struct alt_instr` had: its size, and where the length of the instruction is. Until 5.17,
/// until 6.2, since.
const ENTRIES: [(usize, usize); 3] = [(13, 10), (12, 10), (14, 12)];

/// Places and lengths, if all entries are of that size: their second offset must lead to where replacements
/// are.
fn alternatives(
    list: &[u8],
    address: u64,
    size: usize,
    len_at: usize,
    is_replacement: impl Fn(u64) -> bool,
) -> Option<Vec<(u64, u64)>> {
    if !list.len().is_multiple_of(size) {
        return None;
    }
    let far = |at: usize| -> Option<u64> {
        let relative = i32::from_le_bytes(*list.get(at..)?.first_chunk()?);
        Some((address + at as u64).wrapping_add_signed(relative.into()))
    };
    let entry = |at: usize| -> Option<(u64, u64)> {
        is_replacement(far(at + 4)?).then_some((far(at)?, u64::from(*list.get(at + len_at)?)))
    };
    (0..list.len()).step_by(size).map(entry).collect()
}

fn is_deb(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == "deb")
}

fn find(dir: &Path, name: &str) -> Option<PathBuf> {
    let entries: Vec<PathBuf> = fs::read_dir(dir).ok()?.flatten().map(|entry| entry.path()).collect();
    let here = entries.iter().find(|path| path.file_name().is_some_and(|file| file == name));
    here.cloned().or_else(|| entries.iter().filter(|path| path.is_dir()).find_map(|dir| find(dir, name)))
}

/// The ELF file inside a compressed image. Where it is, is said in the header (Documentation/x86/boot.rst).
fn vmlinux(image: &[u8], dir: &Path) -> Result<Vec<u8>> {
    let word = |at: usize| -> Option<usize> { Some(u32::from_le_bytes(*image.get(at..)?.first_chunk()?) as usize) };
    let setup = usize::from(*image.get(0x1f1).context("the image is cut off")?);
    let (Some(offset), Some(len)) = (word(0x248), word(0x24c)) else { bail!("the image is cut off") };
    let start = (setup + 1) * 512 + offset;
    let payload = image.get(start..start + len).context("the image's payload lies outside of it")?;
    // The kernel's build appends the unpacked size.
    let packed = payload.len().checked_sub(4).and_then(|len| payload.get(..len)).unwrap_or_default();
    let program = match payload {
        [0x02, 0x21, 0x4c, 0x18, blocks @ ..] => return lz4(blocks),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => "xz",
        [0x28, 0xb5, 0x2f, 0xfd, ..] => "zstd",
        _ => bail!("the image is compressed in a way that this test does not know; Debian's are lz4, xz or zstd"),
    };
    let file = dir.join("payload");
    fs::write(&file, packed)?;
    let unpacked = unpack(program, &file)?;
    fs::remove_file(file)?;
    Ok(unpacked)
}

/// What `program` unpacks a file to.
fn unpack(program: &str, file: &Path) -> Result<Vec<u8>> {
    let output = Command::new(program).arg("-dc").arg(file).output();
    let output = output.with_context(|| format!("{program} cannot be started; apt-get install {program}"))?;
    if !output.status.success() {
        bail!("{program} cannot unpack {}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(output.stdout)
}

/// The blocks of lz4's legacy format: a length, then that many compressed bytes, eight megabytes at most when
/// unpacked.
fn lz4(mut blocks: &[u8]) -> Result<Vec<u8>> {
    const BLOCK: usize = 8 << 20;
    let mut unpacked = Vec::new();
    while let Some((len, rest)) = blocks.split_first_chunk() {
        let len = u32::from_le_bytes(*len) as usize;
        // The kernel's build appends the unpacked size, which is not a block.
        let Some(block) = rest.get(..len).filter(|_| rest.len() >= 4) else { break };
        unpacked.extend(lz4_flex::block::decompress(block, BLOCK).context("the image's payload is damaged")?);
        blocks = &rest[len..];
    }
    Ok(unpacked)
}
