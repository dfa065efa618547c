//! Programs of an object file, made self-contained: functions they call are appended, calls adjusted, and
//! references to maps and data resolved.

use super::core;
use super::externals::Externals;
use super::maps::Definition;
use super::{File, ObjectError};
use crate::insn::{BYTES, CALL, Insn, LD_IMM64, call, imm64, parse};
use crate::program::MOST_INSTRUCTIONS;
use object::{
    Object as _, ObjectSection as _, ObjectSymbol as _, RelocationTarget, SectionFlags, SectionIndex, SymbolKind,
};
use std::collections::{BTreeMap, HashMap};

/// `SHF_EXECINSTR`.
const EXECUTABLE: u64 = 4;

/// Most instructions of all programs of a file, each with the functions that it calls.
const MOST_OF_ALL: usize = 4_000_000;

/// A function: section and slots.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Function {
    section: SectionIndex,
    start: usize,
    end: usize,
}

/// A reference from an instruction to a symbol.
#[derive(Clone, Debug)]
enum Reference {
    /// What it is to.
    To { section: Option<SectionIndex>, address: u64 },
    /// A helper of the host's.
    Helper(u32),
    /// A weak symbol that the file does not define, and nobody else.
    Missing,
    /// Why it leads nowhere.
    Nowhere(String),
}

/// An executable section.
#[derive(Debug)]
struct Text {
    name: String,
    insns: Vec<Insn>,
    references: BTreeMap<usize, Reference>,
}

/// A program ready to be loaded.
#[derive(Debug)]
pub struct Linked {
    /// Its name: the function's.
    pub name: String,
    /// Its section's name.
    pub section: String,
    /// Section and slot of its first instruction, by which initial values of program arrays name it.
    pub at: (SectionIndex, u64),
    /// All its instructions.
    pub insns: Vec<Insn>,
    /// Which definitions its map numbers stand for.
    pub maps: Vec<usize>,
}

/// A program of a file: its name, and its code or why there is none.
pub type Found = (String, Result<Linked, ObjectError>);

/// All code of a file.
pub struct Code<'a> {
    texts: HashMap<SectionIndex, Text>,
    functions: Vec<(String, Function)>,
    definitions: &'a [Definition],
}

impl<'a> Code<'a> {
    /// Reads the executable sections of `file`.
    pub fn read(
        file: &File<'_>,
        definitions: &'a [Definition],
        externals: &Externals,
        target: Option<&core::Target<'_>>,
    ) -> Result<Code<'a>, ObjectError> {
        let mut texts = HashMap::new();
        for section in file.sections() {
            let SectionFlags::Elf { sh_flags, .. } = section.flags() else { continue };
            if sh_flags.0 & EXECUTABLE != 0 && section.size() > 0 {
                texts.insert(section.index(), read_text(file, &section, externals)?);
            }
        }
        let read = |section: &str, slot: usize| {
            let text = texts.values().find(|text| text.name == section)?;
            Some([*text.insns.get(slot)?, text.insns.get(slot + 1).copied().unwrap_or_default()])
        };
        for (section, slot, answer) in core::answers(file, target, read)? {
            let Some(text) = texts.values_mut().find(|text| text.name == section) else { continue };
            match answer {
                core::Answer::Refused(why) => drop(text.references.insert(slot, Reference::Nowhere(why))),
                core::Answer::Changed(insns) => text.insns.iter_mut().skip(slot).zip(insns).for_each(|(i, to)| *i = to),
            }
        }
        let functions = read_functions(file, &texts)?;
        Ok(Code { texts, functions, definitions })
    }

    /// The programs that are wanted: functions of all sections but `.text`, or of `.text` if there is nothing
    /// else.
    pub fn programs(&self, wanted: &impl Fn(&str) -> bool) -> Result<Vec<Found>, ObjectError> {
        let only_text = self.texts.values().all(|text| text.name == ".text");
        let is_program = |f: &&(String, Function)| only_text || self.texts[&f.1.section].name != ".text";
        let mut left = MOST_OF_ALL;
        let programs = self.functions.iter().filter(is_program).filter(|(name, _)| wanted(name));
        programs
            .map(|(name, function)| {
                let linked = self.link(name, function);
                let own = function.end - function.start;
                // Functions may overlap, so that a small file has many instructions.
                left = left.checked_sub(linked.as_ref().map_or(own, |linked| linked.insns.len())).ok_or_else(|| {
                    let section = &self.texts[&function.section].name;
                    ObjectError::section(section, &format!("more than {MOST_OF_ALL} instructions in all programs"))
                })?;
                Ok((name.clone(), linked))
            })
            .collect()
    }

    fn link(&self, name: &str, main: &Function) -> Result<Linked, ObjectError> {
        let (insns, placed, known, maps) = (Vec::new(), Vec::new(), HashMap::new(), Vec::new());
        let mut linker = Linker { code: self, name, insns, placed, known, maps };
        linker.place(main)?;
        linker.connect()?;
        Ok(Linked {
            name: name.into(),
            section: self.texts[&main.section].name.clone(),
            at: (main.section, (main.start * BYTES) as u64),
            insns: linker.insns,
            maps: linker.maps,
        })
    }
}

fn read_text(
    file: &File<'_>,
    section: &object::read::elf::ElfSection64<'_, '_, object::Endianness>,
    externals: &Externals,
) -> Result<Text, ObjectError> {
    let name = section.name().map_err(ObjectError::elf)?.to_string();
    let data = section.data().map_err(ObjectError::elf)?;
    let insns = parse(data).ok_or_else(|| ObjectError::section(&name, "its size is not a multiple of 8"))?;
    let mut references = BTreeMap::new();
    for (offset, relocation) in section.relocations() {
        let slot = usize::try_from(offset).map_or(usize::MAX, |o| o / BYTES);
        let symbol = match relocation.target() {
            RelocationTarget::Symbol(index) => file.symbol_by_index(index).map_err(ObjectError::elf)?,
            _ => return Err(ObjectError::reference(&name, slot, "a relocation without a symbol")),
        };
        if slot >= insns.len() {
            return Err(ObjectError::reference(&name, slot, "a relocation outside of the section"));
        }
        let reference = if symbol.is_undefined() {
            let name = symbol.name().unwrap_or("?");
            match (externals.function(name), externals.find(name)) {
                (Some(number), _) => Reference::Helper(number),
                (None, Some(Ok((section, address)))) => Reference::To { section: Some(section), address },
                (None, Some(Err(why))) => Reference::Nowhere(why),
                (None, None) if symbol.is_weak() => Reference::Missing,
                (None, None) => Reference::Nowhere(format!("'{name}' is not defined in the file")),
            }
        } else {
            Reference::To { section: symbol.section_index(), address: symbol.address() }
        };
        references.insert(slot, reference);
    }
    Ok(Text { name, insns, references })
}

fn read_functions(
    file: &File<'_>,
    texts: &HashMap<SectionIndex, Text>,
) -> Result<Vec<(String, Function)>, ObjectError> {
    let mut functions = Vec::new();
    for symbol in file.symbols().filter(|s| s.kind() == SymbolKind::Text) {
        let Some((section, text)) = symbol.section_index().and_then(|i| Some((i, texts.get(&i)?))) else { continue };
        let name = symbol.name().map_err(ObjectError::elf)?;
        let bytes = symbol.address()..symbol.address().saturating_add(symbol.size());
        let slots = (bytes.start / BYTES as u64) as usize..(bytes.end / BYTES as u64) as usize;
        if slots.is_empty() || slots.end > text.insns.len() || !bytes.start.is_multiple_of(BYTES as u64) {
            return Err(ObjectError::section(&text.name, &format!("function '{name}' is not inside it")));
        }
        functions.push((name.to_string(), Function { section, start: slots.start, end: slots.end }));
    }
    functions.sort_by_key(|(_, f)| (f.section.0, f.start));
    Ok(functions)
}

/// One program being put together.
struct Linker<'a> {
    code: &'a Code<'a>,
    name: &'a str,
    insns: Vec<Insn>,
    /// Functions and where they begin in the program.
    placed: Vec<(Function, usize)>,
    /// The latter, by section, start and end.
    known: HashMap<(usize, usize, usize), usize>,
    maps: Vec<usize>,
}

impl Linker<'_> {
    /// Appends a function, unless it is there already: where it begins.
    fn place(&mut self, function: &Function) -> Result<usize, ObjectError> {
        let key = (function.section.0, function.start, function.end);
        if let Some(at) = self.known.get(&key) {
            return Ok(*at);
        }
        let at = self.insns.len();
        if at + (function.end - function.start) > MOST_INSTRUCTIONS {
            let what = format!("program {}: more than {MOST_INSTRUCTIONS} instructions", self.name);
            return Err(ObjectError::section(&self.code.texts[&function.section].name, &what));
        }
        let text = &self.code.texts[&function.section];
        self.insns.extend_from_slice(&text.insns[function.start..function.end]);
        self.placed.push((function.clone(), at));
        self.known.insert(key, at);
        Ok(at)
    }

    /// Resolves all references of all functions; those that are called join behind, and have their turn.
    fn connect(&mut self) -> Result<(), ObjectError> {
        let mut next = 0;
        while let Some((function, at)) = self.placed.get(next).cloned() {
            for slot in function.start..function.end {
                self.connect_one(&function, slot, at + slot - function.start)?;
            }
            next += 1;
        }
        Ok(())
    }

    fn connect_one(&mut self, function: &Function, slot: usize, at: usize) -> Result<(), ObjectError> {
        let text = &self.code.texts[&function.section];
        let (insn, reference) = (text.insns[slot], text.references.get(&slot).cloned());
        match (insn.opcode, reference) {
            (_, Some(Reference::Nowhere(why))) => Err(self.refuse(text, slot, &why)),
            (LD_IMM64, Some(Reference::Missing)) => {
                self.insns[at] = Insn { src: imm64::NUMBER, imm: 0, ..insn };
                self.insns.get_mut(at + 1).map_or(Ok(()), |second| {
                    second.imm = 0;
                    Ok(())
                })
            }
            (CALL, Some(Reference::Helper(number))) => {
                self.insns[at] = Insn { src: call::HELPER, imm: number.cast_signed(), ..insn };
                Ok(())
            }
            (CALL, Some(Reference::Missing)) => {
                [self.insns[at], _] = core::poison([insn, Insn::default()]);
                Ok(())
            }
            (CALL, reference) if insn.src == call::LOCAL => {
                let (section, base) = match reference {
                    Some(Reference::To { section: Some(section), address }) => (section, address as i64 / BYTES as i64),
                    _ => (function.section, slot as i64),
                };
                // A relocated call counts from its symbol, another from itself.
                let target = base + i64::from(insn.imm) + 1;
                let callee = self.function_at(section, target, text, slot)?;
                let to = self.place(&callee)?;
                self.insns[at].imm = (to as i64 - at as i64 - 1) as i32;
                Ok(())
            }
            (LD_IMM64, Some(Reference::To { section: Some(section), address })) => {
                self.connect_imm64(text, slot, at, (section, address))
            }
            (_, Some(_)) => Err(self.refuse(text, slot, "a relocation of an instruction that cannot have one")),
            _ => Ok(()),
        }
    }

    fn refuse(&self, text: &Text, slot: usize, what: &str) -> ObjectError {
        ObjectError::reference(&text.name, slot, &format!("program {}: {what}", self.name))
    }

    fn function_at(&self, section: SectionIndex, slot: i64, text: &Text, from: usize) -> Result<Function, ObjectError> {
        // They are in that order.
        let at = (section.0, usize::try_from(slot).unwrap_or(usize::MAX));
        let functions = &self.code.functions;
        let found = functions.get(functions.partition_point(|(_, f)| (f.section.0, f.start) < at));
        let found = found.filter(|(_, f)| (f.section.0, f.start) == at).map(|(_, f)| f.clone());
        found.ok_or_else(|| self.refuse(text, from, "a call to where no function begins"))
    }

    /// The address of a function, for a helper that calls back.
    fn connect_function(
        &mut self,
        text: &Text,
        slot: usize,
        at: usize,
        (section, address): (SectionIndex, u64),
    ) -> Result<(), ObjectError> {
        let target = (address as i64 + i64::from(text.insns[slot].imm)) / BYTES as i64;
        let to = self.place(&self.function_at(section, target, text, slot)?)?;
        self.insns[at] = Insn { src: imm64::FUNCTION, imm: (to as i64 - at as i64 - 1) as i32, ..self.insns[at] };
        Ok(())
    }

    fn connect_imm64(
        &mut self,
        text: &Text,
        slot: usize,
        at: usize,
        to: (SectionIndex, u64),
    ) -> Result<(), ObjectError> {
        let (section, address) = to;
        if self.code.texts.contains_key(&section) {
            return self.connect_function(text, slot, at, to);
        }
        let definitions = self.code.definitions;
        let addend = u64::from(text.insns[slot].imm.cast_unsigned());
        let is_data = |d: &Definition| d.spec.name.starts_with('.');
        let found = definitions
            .iter()
            .position(|d| d.section == section && (is_data(d) || d.range.contains(&(address.wrapping_add(addend)))));
        let Some(found) = found else {
            return Err(self.refuse(text, slot, "a reference to something that is neither a map nor data"));
        };
        if let Some(why) = &definitions[found].refused {
            return Err(self.refuse(text, slot, &why.to_string()));
        }
        let number = self.maps.iter().position(|m| *m == found).unwrap_or_else(|| {
            self.maps.push(found);
            self.maps.len() - 1
        });
        let offset = address.wrapping_add(addend);
        let data = is_data(&definitions[found]);
        let second = self
            .insns
            .get_mut(at + 1)
            .ok_or_else(|| ObjectError::reference(&text.name, slot, "a 64-bit immediate load is cut off"))?;
        second.imm = if data { offset as u32 as i32 } else { 0 };
        self.insns[at].src = if data { imm64::MAP_VALUE } else { imm64::MAP };
        self.insns[at].imm = number as i32;
        Ok(())
    }
}
