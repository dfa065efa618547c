//! Thunks and sites of a file, by the engine's own rules.

use std::collections::BTreeMap;

use anyhow::{Result, ensure};
use relpoline_core::arch::Reg;
use relpoline_core::arch::thunk::{self, Shape, Thunk};
use relpoline_core::scan::{EhFrameHdr, Function, Functions, Refused, Region, Site, SiteKind, Sites};

use super::elf::Elf;
use crate::symbols::names::Names;

/// Thunks, and branches to them, that a file may have, and functions: several times what the largest programs
/// have.
const MOST_THUNKS: usize = 1 << 20;
const MOST_BRANCHES: usize = 1 << 20;
const MOST_FUNCTIONS: usize = 1 << 22;

/// What was found in a file's code.
pub struct Code {
    /// Thunks by address.
    pub thunks: BTreeMap<u64, Thunk>,
    /// Sites that can be promoted, ascending.
    pub sites: Vec<(Site, Reg)>,
    /// What looks like a site and is left alone, ascending.
    pub refused: Vec<Refused>,
    /// All functions, ascending.
    pub functions: Vec<Function>,
    /// Whether they come from unwind tables, which the engine needs.
    pub has_unwind: bool,
}

/// Where functions are, whatever tells it.
enum Ranges<'a> {
    Unwind(EhFrameHdr<'a>),
    Symbols(Vec<Function>),
}

impl Functions for Ranges<'_> {
    fn containing(&self, address: u64) -> Option<Function> {
        match self {
            Ranges::Unwind(table) => table.containing(address),
            Ranges::Symbols(functions) => functions.as_slice().containing(address),
        }
    }
}

/// Finds thunks and sites.
///
/// # Errors
/// When there are more of them than in any program.
pub fn examine(elf: &Elf<'_>, names: &Names) -> Result<Code> {
    let thunks = thunks(elf, names)?;
    let unwind = elf.unwind().filter(|table| !table.is_empty());
    let has_unwind = unwind.is_some();
    let ranges = unwind.map_or_else(|| Ranges::Symbols(names.functions()), Ranges::Unwind);
    let mut code = Code { thunks, sites: Vec::new(), refused: Vec::new(), functions: Vec::new(), has_unwind };
    if let Ranges::Unwind(table) = &ranges {
        ensure!(table.len() <= MOST_FUNCTIONS, "names more functions than any program has");
    }
    let takers: Vec<(u64, Thunk)> = (code.thunks.iter().filter(|(_, thunk)| thunk.shape.takes_sites()))
        .map(|(address, thunk)| (*address, *thunk))
        .collect();
    for text in elf.texts() {
        code.find_sites(text, &takers, &ranges)?;
    }
    code.functions = match ranges {
        Ranges::Unwind(table) => (0..table.len()).filter_map(|index| table.get(index)).collect(),
        Ranges::Symbols(functions) => functions,
    };
    Ok(code)
}

/// All thunks: those that can be seen, and those that only their name gives away.
fn thunks(elf: &Elf<'_>, names: &Names) -> Result<BTreeMap<u64, Thunk>> {
    let named = names.iter().filter_map(|(address, name)| {
        thunk::symbol_register(name)?;
        Some((address, thunk::match_symbol(name, elf.at(address)?)?))
    });
    let seen = elf.texts().flat_map(|text| {
        thunk::find(text.bytes).map(move |(offset, thunk)| (text.address.wrapping_add(offset as u64), thunk))
    });
    let mut all = BTreeMap::new();
    for (address, thunk) in named.chain(seen) {
        all.insert(address, thunk);
        ensure!(all.len() <= MOST_THUNKS, "holds more thunks than any program");
    }
    Ok(all)
}

impl Code {
    fn find_sites(&mut self, text: Region<'_>, targets: &[(u64, Thunk)], ranges: &Ranges<'_>) -> Result<()> {
        let addresses: Vec<u64> = targets.iter().map(|(address, _)| *address).collect();
        for found in Sites::new(text, &addresses, ranges) {
            let judged = found.and_then(|site| {
                let thunk = targets[site.thunk].1;
                let refused = |reason| Refused { address: site.address, thunk: site.thunk, reason };
                site.refusal(thunk.shape).map_or(Ok((site, thunk.reg)), |reason| Err(refused(reason)))
            });
            match judged {
                Ok(site) => self.sites.push(site),
                Err(refused) => self.refused.push(refused),
            }
            ensure!(self.sites.len() + self.refused.len() <= MOST_BRANCHES, "holds more sites than any program");
        }
        self.refused.sort_by_key(|refused| refused.address);
        Ok(())
    }

    /// How many sites each thunk has, by its address.
    pub fn uses(&self) -> BTreeMap<u64, usize> {
        let takers = self.thunks.iter().filter(|(_, thunk)| thunk.shape.takes_sites());
        let addresses: Vec<u64> = takers.map(|(address, _)| *address).collect();
        let mut uses = BTreeMap::new();
        for (site, _) in &self.sites {
            if let Some(address) = addresses.get(site.thunk) {
                *uses.entry(*address).or_default() += 1;
            }
        }
        uses
    }

    /// Whether a thunk is an indirect jump that gcc wrote inline: nothing uses it, and it stands in the
    /// middle of a function.
    pub fn is_inline_jump(&self, address: u64, thunk: &Thunk, sites: usize) -> bool {
        let function = || self.functions.as_slice().containing(address);
        thunk.shape == Shape::Gcc && sites == 0 && function().is_some_and(|f| f.start != address)
    }
}

/// What a report calls a kind of site.
pub fn kind_name(kind: SiteKind) -> &'static str {
    match kind {
        SiteKind::Call => "call",
        SiteKind::Jump => "jump",
        SiteKind::Cond => "cond",
    }
}
