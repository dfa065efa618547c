//! An ELF file, as far as it is needed here.
//!
//! Everything a running program needs is read from the program headers, so that a file without section
//! headers is inspected like any other. Sections and symbols only add names. No more is read than that: the
//! segments with code and what unwinds it, relocations, names.

use anyhow::{Context, bail};
use object::elf;
use object::read::elf::{Dyn as _, FileHeader as _, ProgramHeader as _, Rela as _};
use object::{LittleEndian, Object as _, ObjectSection as _, ReadRef};
use relpoline_core::scan::{EhFrameHdr, Function, Region};

use crate::files::Parts;

type Header = elf::FileHeader64<LittleEndian>;
type Segment = elf::ProgramHeader64<LittleEndian>;
const LE: LittleEndian = LittleEndian;
/// The kernel takes no more than a page of 64 KiB of program headers.
const MOST_SEGMENTS: usize = 1170;
/// Segments share pages at their ends.
const MOST_OVERLAP: u64 = 1 << 20;
/// Bytes of an ELF header.
const HEADER_BYTES: u64 = 64;
/// Of strings and PLTs: more than any linker writes.
const MOST: usize = 512;
/// Of sections and of entries that a dynamic section may have.
const MOST_SECTIONS: usize = 1 << 16;
const LONGEST_STRING: usize = 4096;

/// What kind of file it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// An executable that runs wherever it is put.
    Pie,
    /// An executable linked to a fixed address.
    Fixed,
    /// A shared library.
    Library,
}

/// A parsed file.
pub struct Elf<'a> {
    parts: &'a Parts,
    /// The file for the object crate, which knows symbols and sections.
    pub file: object::File<'a, &'a Parts>,
    /// What it is.
    pub kind: Kind,
    segments: &'a [Segment],
    dynamic: Vec<(elf::DynamicTag, u64)>,
}

impl<'a> Elf<'a> {
    /// Parses a file and refuses those that relpoline cannot be loaded with.
    pub fn parse(parts: &'a Parts) -> anyhow::Result<Elf<'a>> {
        let broken = "is truncated or damaged";
        let length = ReadRef::len(parts).unwrap_or(0);
        check_identity(parts.read_bytes_at(0, length.min(HEADER_BYTES)).ok().context("cannot be read")?)?;
        let header = Header::parse(parts).context(broken)?;
        if header.e_machine.get(LE) != elf::EM_X86_64 {
            bail!("is for another processor than x86-64");
        }
        let segments = header.program_headers(LE, parts).context(broken)?;
        let file = object::File::parse(parts).context(broken)?;
        let is_executable = match header.e_type.get(LE) {
            elf::ET_EXEC => true,
            elf::ET_DYN => false,
            elf::ET_REL => bail!("is an object file that is not linked yet"),
            elf::ET_CORE => bail!("is a core dump"),
            _ => bail!("is neither an executable nor a shared library"),
        };
        // Of a file that says that it lies in memory many times over, no one copy is better than another.
        let mapped = segments.iter().filter(|segment| segment.p_type.get(LE) == elf::PT_LOAD);
        let mapped = mapped.fold(0_u64, |sum, segment| sum.saturating_add(segment.p_filesz.get(LE)));
        if segments.len() > MOST_SEGMENTS || mapped > length.saturating_add(MOST_OVERLAP) {
            bail!("{broken}: its segments overlap");
        }
        let dynamic = dynamic(segments, parts);
        let mut found = Elf { parts, file, kind: Kind::Fixed, segments, dynamic };
        found.kind = found.kind(is_executable)?;
        if found.texts().next().is_none() {
            bail!("{broken}: it holds no code");
        }
        Ok(found)
    }

    fn kind(&self, is_executable: bool) -> anyhow::Result<Kind> {
        let has_loader = self.segment(elf::PT_INTERP).is_some();
        let says_pie = self.tag(elf::DT_FLAGS_1).is_some_and(|flags| flags & elf::DF_1_PIE.0 != 0);
        let is_program = is_executable || says_pie;
        if is_program && !has_loader {
            bail!("is statically linked, so relpoline cannot be loaded into it");
        }
        // Executables older than the flag have a loader too, but so have some libraries (libc), by name.
        let is_named = self.tag(elf::DT_SONAME).is_some();
        Ok(match () {
            () if is_executable => Kind::Fixed,
            () if says_pie || has_loader && !is_named => Kind::Pie,
            () => Kind::Library,
        })
    }

    fn segment(&self, kind: elf::ProgramType) -> Option<&'a Segment> {
        self.segments.iter().find(|segment| segment.p_type.get(LE) == kind)
    }

    /// The bytes of a segment that are in the file.
    fn region(&self, segment: &Segment) -> Option<Region<'a>> {
        let bytes = segment.data(LE, self.parts).ok()?;
        Some(Region { address: segment.p_vaddr.get(LE), bytes })
    }

    fn loaded(&self, is_code: bool) -> impl Iterator<Item = Region<'a>> {
        let of_kind = move |segment: &&Segment| {
            let is_executable = segment.p_flags.get(LE).0 & elf::PF_X.0 != 0;
            segment.p_type.get(LE) == elf::PT_LOAD && is_executable == is_code
        };
        let segments = self.segments.iter().filter(of_kind);
        segments.filter_map(|segment| self.region(segment)).filter(|region| !region.bytes.is_empty())
    }

    /// The executable segments.
    pub fn texts(&self) -> impl Iterator<Item = Region<'a>> {
        self.loaded(true)
    }

    /// Bytes at an address, to the end of its segment.
    pub fn at(&self, address: u64) -> Option<&'a [u8]> {
        let all = self.texts().chain(self.loaded(false));
        all.into_iter().find(|region| region.contains(address))?.from(address)
    }

    /// The look-up table of the unwind tables.
    pub fn unwind(&self) -> Option<EhFrameHdr<'a>> {
        let header = self.region(self.segment(elf::PT_GNU_EH_FRAME)?)?;
        // The tables themselves may lie in another segment than their header.
        let frames = EhFrameHdr::frames(header)?;
        let around = self.loaded(false).chain(self.texts()).find(|region| region.contains(frames))?;
        EhFrameHdr::parse(header, around)
    }

    /// The PLTs, which unwind tables often leave out.
    pub fn plts(&self) -> Vec<Function> {
        let is_plt = |name: &str| name == ".plt" || name.starts_with(".plt.");
        let plts = self.file.sections().take(MOST_SECTIONS).filter(|section| section.name().is_ok_and(is_plt));
        let end = |address: u64, size| address.checked_add(size);
        plts.take(MOST).filter_map(|plt| Some(Function::new(plt.address(), end(plt.address(), plt.size())?))).collect()
    }

    /// The build-id in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        let id = self.file.build_id().ok().flatten()?;
        Some(id.iter().map(|byte| format!("{byte:02x}")).collect())
    }

    /// A value in the dynamic section.
    fn tag(&self, tag: elf::DynamicTag) -> Option<u64> {
        self.tags(tag).next()
    }

    fn tags(&self, tag: elf::DynamicTag) -> impl Iterator<Item = u64> {
        self.dynamic.iter().filter(move |(found, _)| *found == tag).map(|(_, value)| *value)
    }

    /// The strings under a tag of the dynamic section.
    pub fn strings(&self, tag: elf::DynamicTag) -> Vec<String> {
        let Some(table) = self.tag(elf::DT_STRTAB).and_then(|address| self.at(address)) else {
            return Vec::new();
        };
        let string = |offset: u64| {
            let bytes = table.get(usize::try_from(offset).ok()?..)?;
            let end = bytes.iter().take(LONGEST_STRING).position(|&byte| byte == 0)?;
            Some(String::from_utf8_lossy(&bytes[..end]).into_owned())
        };
        self.tags(tag).take(MOST).filter_map(string).collect()
    }

    /// The relocations: where, and of what type.
    pub fn relocations(&self) -> impl Iterator<Item = Relocation> {
        let tables = [(elf::DT_RELA, elf::DT_RELASZ), (elf::DT_JMPREL, elf::DT_PLTRELSZ)];
        let tables = tables.into_iter().filter_map(|(address, size)| {
            let size = usize::try_from(self.tag(size)?).ok()?;
            let bytes = self.at(self.tag(address)?)?;
            object::slice_from_all_bytes::<elf::Rela64<LittleEndian>>(bytes.get(..size)?).ok()
        });
        tables.flatten().map(|rela| Relocation { place: rela.r_offset(LE), kind: rela.r_type(LE, false) })
    }

    /// The names of the functions that it takes from other objects.
    pub fn imported(&self) -> impl Iterator<Item = &str> {
        use object::ObjectSymbol as _;
        let imported = self.file.dynamic_symbols().filter(|symbol| symbol.is_undefined());
        imported.filter_map(|symbol| symbol.name().ok())
    }
}

/// One relocation.
pub struct Relocation {
    /// The address it changes.
    pub place: u64,
    /// Its type.
    pub kind: elf::RelocationType,
}

/// Says what a file is that is no ELF file for this machine.
fn check_identity(bytes: &[u8]) -> anyhow::Result<()> {
    match bytes {
        [] => bail!("is empty"),
        [b'#', b'!', ..] => bail!("is a script; inspect its interpreter instead"),
        [0x7f, b'E', b'L', b'F', ..] if bytes.len() < 64 => bail!("is truncated or damaged"),
        [0x7f, b'E', b'L', b'F', 1, ..] => bail!("is a 32-bit file; only x86-64 is supported"),
        [0x7f, b'E', b'L', b'F', 2, 1, ..] => Ok(()),
        [0x7f, b'E', b'L', b'F', 2, ..] => bail!("is for another processor than x86-64"),
        [0x7f, b'E', b'L', b'F', ..] => bail!("is truncated or damaged"),
        _ => bail!("is not an ELF file"),
    }
}

fn dynamic(segments: &[Segment], parts: &Parts) -> Vec<(elf::DynamicTag, u64)> {
    let table = segments.iter().find_map(|segment| segment.dynamic(LE, parts).ok().flatten());
    let entries = table.unwrap_or_default().iter().map(|entry| (entry.d_tag(LE), entry.d_val(LE)));
    entries.take(MOST_SECTIONS).take_while(|(tag, _)| *tag != elf::DT_NULL).collect()
}
