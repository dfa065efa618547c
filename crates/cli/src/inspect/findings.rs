//! What was found, as a structure: what `relpoline inspect --json` writes.
//!
//! Within schema 1 fields are only ever added. Readers should ignore what they do not know. Addresses are
//! those in the file, as strings: `0x…`.

use relpoline_core::arch::thunk::{self, symbol_register};
use serde::{Deserialize, Serialize};

use super::code::{self, Code};
use super::elf::{Elf, Kind};
use crate::shown::Shown;
use crate::symbols::names::Names;

/// Bytes of all names in it together: a million sites may lie in functions with names of half a KiB.
const MOST_OF_NAMES: usize = 1 << 26;
/// Thunks that are taken from libraries: there is one for each register, by each of a few names.
const MOST_IMPORTED: usize = 512;

/// What a jump through a thunk of its own is called.
const INLINE_JUMP: &str = "gcc inline jump";

/// Version of the schema.
pub const SCHEMA: u32 = 1;

/// Everything printed.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Inspection {
    /// [`SCHEMA`].
    pub schema: u32,
    /// One per file, in the order given.
    pub files: Vec<Entry>,
}

impl Inspection {
    /// Under the current schema.
    #[must_use]
    pub fn new(files: Vec<Entry>) -> Inspection {
        Inspection { schema: SCHEMA, files }
    }
}

/// A file, inspected or not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Entry {
    /// It could be inspected.
    Found(Box<Findings>),
    /// It could not.
    Failed(Failure),
}

impl Entry {
    /// What was found, if it could be inspected.
    #[must_use]
    pub fn findings(&self) -> Option<&Findings> {
        match self {
            Entry::Found(findings) => Some(findings),
            Entry::Failed(_) => None,
        }
    }

    /// Why not, if it could not.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        match self {
            Entry::Found(_) => None,
            Entry::Failed(failure) => Some(failure),
        }
    }
}

/// A file that could not be inspected.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Failure {
    /// Its path.
    pub path: Shown,
    /// Why, with the path.
    pub error: Shown,
}

/// What was found in a file.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Findings {
    /// Its path.
    pub path: Shown,
    /// `pie`, `fixed` or `library`.
    pub kind: Shown,
    /// Its build-id in hexadecimal, if it has one.
    pub build_id: Option<Shown>,
    /// Whether its full symbol table is gone.
    pub stripped: bool,
    /// Whether it has unwind tables, without which no site is trusted.
    pub unwind_tables: bool,
    /// Functions known.
    pub functions: usize,
    /// Its thunks.
    pub thunks: Vec<Thunk>,
    /// Sites that can be promoted.
    pub sites: Vec<Site>,
    /// What looks like a site and is left alone.
    pub refused: Vec<Refused>,
    /// Thunks it takes from a library. Calls of them go through the PLT: no protection, and no sites.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub imported_thunks: Vec<Shown>,
    /// Indirect branches through no thunk.
    pub unprotected: Unprotected,
    /// The libraries it is linked to.
    pub libraries: Vec<Library>,
    /// All in one sentence.
    pub conclusion: Shown,
}

/// A thunk.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Thunk {
    /// Its address.
    pub address: Shown,
    /// Its shape: `gcc`, `gcc inline`, `gcc inline jump`, `llvm`, `other`, `lfence`, `plain jump`, `lld plt`,
    /// `return`.
    pub shape: Shown,
    /// The register it jumps through.
    pub register: Shown,
    /// Its symbol, unless that is gone.
    pub symbol: Option<Shown>,
    /// Calls and jumps to it that can be promoted.
    pub sites: usize,
}

/// A site.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Site {
    /// Its address.
    pub address: Shown,
    /// `call`, `jump` (a tail call or a computed goto) or `cond` (a conditional jump).
    pub kind: Shown,
    /// The register that holds its target.
    pub register: Shown,
    /// The function it stands in: its name, or its address.
    pub function: Shown,
}

/// A branch to a thunk that is left alone.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Refused {
    /// Its address.
    pub address: Shown,
    /// The function it stands in, if that has a name.
    pub function: Option<Shown>,
    /// Why.
    pub reason: Shown,
}

/// Indirect branches through no thunk.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
pub struct Unprotected {
    /// PLT entries.
    pub plt: usize,
    /// Calls of other objects' functions without a PLT (`-fno-plt`).
    pub got_calls: usize,
    /// Calls through a register or memory.
    pub calls: usize,
    /// Jumps through a register or memory.
    pub jumps: usize,
    /// The first thousand of the last two.
    pub places: Vec<Place>,
}

/// An instruction.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Place {
    /// Its address.
    pub address: Shown,
    /// The function it stands in, if that has a name.
    pub function: Option<Shown>,
    /// As the assembler writes it.
    pub instruction: Shown,
}

/// A library the file is linked to, directly or not.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Library {
    /// As the file names it.
    pub name: Shown,
    /// Where it is, if it was found.
    pub path: Option<Shown>,
    /// Its thunks; null when it could not be read.
    pub thunks: Option<usize>,
}

impl Findings {
    pub(super) fn new(
        path: Shown,
        elf: &Elf<'_>,
        names: &Names,
        code: &Code,
        unprotected: Unprotected,
        libraries: Vec<Library>,
    ) -> Findings {
        let mut room = Room { left: MOST_OF_NAMES, last: None };
        let mut findings = Findings {
            path,
            kind: kind_name(elf.kind).into(),
            build_id: elf.build_id().map(Shown::from),
            stripped: names.is_stripped,
            unwind_tables: code.has_unwind,
            functions: code.functions.len(),
            thunks: thunks(code, names, &mut room),
            sites: sites(code, names, &mut room),
            refused: refused(code, names, &mut room),
            imported_thunks: imported_thunks(elf),
            unprotected,
            libraries,
            conclusion: Shown::default(),
        };
        findings.conclusion = findings.conclude().into();
        findings
    }

    /// Indirect branches through no thunk, all kinds together.
    #[must_use]
    pub fn unprotected_count(&self) -> usize {
        let Unprotected { plt, got_calls, calls, jumps, .. } = self.unprotected;
        plt + got_calls + calls + jumps
    }

    fn conclude(&self) -> String {
        let can = self.sites.len();
        let all = can + self.refused.len();
        match (can, all) {
            _ if self.thunks.is_empty() && !self.imported_thunks.is_empty() => {
                "It takes its thunks from a library; link them into it, and it can be promoted.".to_owned()
            }
            _ if self.thunks.is_empty() && self.unprotected_count() == 0 => {
                "It has no indirect branches: there is nothing to promote.".to_owned()
            }
            _ if self.thunks.is_empty() => "It was built without retpolines: there is nothing to promote.".to_owned(),
            (0, 0) => "It has retpolines, but no call or jump that uses them.".to_owned(),
            _ if !self.unwind_tables => {
                format!("It has no unwind tables, so relpoline leaves all of its {all} sites alone.")
            }
            (1, 1) => "relpoline can promote its only site.".to_owned(),
            _ if can == all => format!("relpoline can promote all of its {} sites.", grouped(all)),
            _ => format!("relpoline can promote {} of its {} sites.", grouped(can), grouped(all)),
        }
    }
}

fn kind_name(kind: Kind) -> &'static str {
    match kind {
        Kind::Pie => "pie",
        Kind::Fixed => "fixed",
        Kind::Library => "library",
    }
}

fn imported_thunks(elf: &Elf<'_>) -> Vec<Shown> {
    let thunks = elf.imported().filter(|name| symbol_register(name).is_some());
    thunks.take(MOST_IMPORTED).map(Shown::from).collect()
}

/// Room for names. What stands in one function shares its name.
struct Room {
    left: usize,
    last: Option<Shown>,
}

impl Room {
    /// The name, unless there is no room for it any more.
    fn keep(&mut self, name: Shown) -> Option<Shown> {
        if self.last.as_ref() != Some(&name) {
            self.left = self.left.checked_sub(name.len())?;
            self.last = Some(name);
        }
        self.last.clone()
    }
}

/// A number with its thousands apart.
pub(super) fn grouped(number: usize) -> String {
    let digits = number.to_string();
    let mut out = String::new();
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

fn thunks(code: &Code, names: &Names, room: &mut Room) -> Vec<Thunk> {
    let uses = code.uses();
    let describe = |(address, thunk): (&u64, &thunk::Thunk)| {
        let sites = uses.get(address).copied().unwrap_or(0);
        let is_inline = code.is_inline_jump(*address, thunk, sites);
        let shape = if is_inline { INLINE_JUMP } else { thunk.shape.name() };
        Thunk {
            address: format!("{address:#x}").into(),
            shape: shape.into(),
            register: thunk.reg.name().into(),
            symbol: names.raw(*address).and_then(|name| room.keep(name.into())),
            sites,
        }
    };
    code.thunks.iter().map(describe).collect()
}

fn sites(code: &Code, names: &Names, room: &mut Room) -> Vec<Site> {
    let mut function = |address, start: u64| {
        let named = names.function(address).or_else(|| names.function(start));
        named.and_then(|name| room.keep(name)).unwrap_or_else(|| format!("{start:#x}").into())
    };
    let describe = |(site, register): &(relpoline_core::scan::Site, relpoline_core::arch::Reg)| Site {
        address: format!("{:#x}", site.address).into(),
        kind: code::kind_name(site.kind).into(),
        register: register.name().into(),
        function: function(site.address, site.function.start),
    };
    code.sites.iter().map(describe).collect()
}

fn refused(code: &Code, names: &Names, room: &mut Room) -> Vec<Refused> {
    let refused = code.refused.iter().map(|found| (found.address, found.reason.to_string()));
    let uses = code.uses();
    let is_inline = |(address, thunk): &(&u64, &thunk::Thunk)| {
        code.is_inline_jump(**address, thunk, uses.get(address).copied().unwrap_or(0))
    };
    let inline = code.thunks.iter().filter(is_inline);
    let inline =
        inline.map(|(address, _)| (*address, "its thunk is inlined, so there is no branch to re-point".to_owned()));
    let mut all: Vec<(u64, String)> = refused.chain(inline).collect();
    all.sort();
    let describe = |(address, reason): (u64, String)| Refused {
        address: format!("{address:#x}").into(),
        function: names.function(address).and_then(|name| room.keep(name)),
        reason: reason.into(),
    };
    all.into_iter().map(describe).collect()
}
