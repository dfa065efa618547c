//! The engine as it will lie in the memory of a process: its segments, relocated to an address that was
//! chosen beforehand, its imports resolved against the C library that the process has mapped.

use std::collections::HashMap;

use anyhow::{Context, bail};
use object::read::elf::{ElfFile64, ProgramHeader as _};
use object::{Endianness, Object as _, ObjectSymbol as _, RelocationFlags, RelocationTarget, elf};
use relpoline_stats::control::IMAGE_MARK;

use super::memory::PAGE;

/// Offset of `EI_PAD`.
const PAD: usize = 9;

/// The engine, ready to be written.
#[derive(Debug)]
pub struct Image {
    /// Where it is to lie.
    pub base: u64,
    /// Its bytes, up to the end of the last segment's page.
    pub bytes: Vec<u8>,
    /// Bytes from which on nothing but zeroes follows.
    pub filled: usize,
    /// Address, length and protection of each part that is not merely readable.
    pub parts: Vec<(u64, u64, u64)>,
}

/// Bytes of address space that the engine in `file` takes.
pub fn span(file: &[u8]) -> anyhow::Result<u64> {
    let parsed = parse(file)?;
    let end = loads(&parsed).map(|(address, _, size, _)| address + size).max().context("it has no segments")?;
    Ok(end.next_multiple_of(PAGE))
}

fn parse(file: &[u8]) -> anyhow::Result<ElfFile64<'_>> {
    ElfFile64::parse(file).context("the engine's file is damaged")
}

/// Address, file range, size in memory and flags of each mapped segment.
fn loads<'a>(file: &'a ElfFile64<'_>) -> impl Iterator<Item = (u64, (u64, u64), u64, elf::ProgramFlags)> + 'a {
    let endian = Endianness::Little;
    let headers = file.elf_program_headers().iter().filter(move |header| header.p_type(endian) == elf::PT_LOAD);
    headers.map(move |h| (h.p_vaddr(endian), h.file_range(endian), h.p_memsz(endian), h.p_flags(endian)))
}

impl Image {
    /// The engine in `file` at `base`; `imports` are symbols of the C library.
    pub fn new(file: &[u8], base: u64, imports: &HashMap<String, u64>) -> anyhow::Result<Self> {
        let parsed = parse(file)?;
        let mut bytes = vec![0; span(file)? as usize];
        let mut filled = 0;
        let mut parts = Vec::new();
        for (address, (offset, length), size, flags) in loads(&parsed) {
            let from = file.get(offset as usize..(offset + length) as usize).context("the engine's file is cut off")?;
            let to = address as usize..address as usize + from.len();
            filled = filled.max(to.end);
            bytes.get_mut(to).context("the engine's segments overlap")?.copy_from_slice(from);
            let start = address & !(PAGE - 1);
            let protection = match flags & (elf::PF_X | elf::PF_W) {
                elf::PF_X => libc::PROT_READ | libc::PROT_EXEC,
                elf::PF_W => libc::PROT_READ | libc::PROT_WRITE,
                _ => continue,
            };
            let length = (address + size).next_multiple_of(PAGE) - start;
            parts.push((base + start, length, u64::from(protection.unsigned_abs())));
        }
        protect_relocated(&parsed, base, &mut parts);
        parts.retain(|part| part.1 != 0);
        let mut image = Self { base, bytes, filled, parts };
        image.relocate(&parsed, imports)?;
        image.bytes[PAD..PAD + IMAGE_MARK.len()].copy_from_slice(&IMAGE_MARK);
        Ok(image)
    }

    fn relocate(&mut self, file: &ElfFile64<'_>, imports: &HashMap<String, u64>) -> anyhow::Result<()> {
        for (at, relocation) in file.dynamic_relocations().into_iter().flatten() {
            let RelocationFlags::Elf { r_type } = relocation.flags() else { bail!("the engine is no ELF file") };
            let addend = relocation.addend().cast_unsigned();
            let value = match (r_type, relocation.target()) {
                (elf::R_X86_64_RELATIVE, _) => self.base.wrapping_add(addend),
                (elf::R_X86_64_64 | elf::R_X86_64_GLOB_DAT | elf::R_X86_64_JUMP_SLOT, RelocationTarget::Symbol(n)) => {
                    let symbol = file.dynamic_symbol_table().context("it has no symbols")?;
                    let symbol = object::ObjectSymbolTable::symbol_by_index(&symbol, n)?;
                    self.value_of(&symbol, imports)?.wrapping_add(addend)
                }
                (other, _) => bail!("the engine needs a relocation of type {other}, which attaching does not know"),
            };
            let to = self.bytes.get_mut(at as usize..at as usize + 8).context("a relocation lies outside")?;
            to.copy_from_slice(&value.to_le_bytes());
        }
        Ok(())
    }

    fn value_of(
        &self,
        symbol: &object::read::elf::ElfSymbol64<'_, '_>,
        imports: &HashMap<String, u64>,
    ) -> anyhow::Result<u64> {
        if symbol.is_definition() {
            return Ok(self.base + symbol.address());
        }
        let name = symbol.name()?;
        match imports.get(name) {
            Some(&at) => Ok(at),
            None if symbol.is_weak() => Ok(0),
            None => bail!("its C library has no {name}: glibc 2.34 or later is needed"),
        }
    }
}

/// What is writable only for the sake of relocations stays readable.
fn protect_relocated(file: &ElfFile64<'_>, base: u64, parts: &mut [(u64, u64, u64)]) {
    let endian = Endianness::Little;
    let Some(header) = file.elf_program_headers().iter().find(|h| h.p_type(endian) == elf::PT_GNU_RELRO) else {
        return;
    };
    let end = (base + header.p_vaddr(endian) + header.p_memsz(endian)) & !(PAGE - 1);
    for (start, length, protection) in parts {
        let is_writable = *protection & u64::from(libc::PROT_WRITE.unsigned_abs()) != 0;
        if is_writable && *start < end && end <= *start + *length {
            *length -= end - *start;
            *start = end;
        }
    }
}

/// Names that the engine in `file` takes from the C library.
pub fn imports(file: &[u8]) -> anyhow::Result<Vec<String>> {
    let parsed = parse(file)?;
    let undefined = parsed.dynamic_symbols().filter(|symbol| symbol.is_undefined());
    Ok(undefined.filter_map(|symbol| symbol.name().ok().map(str::to_owned)).filter(|name| !name.is_empty()).collect())
}
