//! Names of functions, from the symbol tables.

use object::{Object as _, ObjectSymbol as _, SymbolKind};
use relpoline_core::scan::Function;

use super::elf::Elf;

/// A file's symbols for code, by address.
pub struct Names {
    symbols: Vec<Symbol>,
    /// Whether the full symbol table is gone.
    pub is_stripped: bool,
}

struct Symbol {
    address: u64,
    size: u64,
    name: String,
}

impl Names {
    /// Reads both symbol tables.
    pub fn read(elf: &Elf<'_>) -> Names {
        let symbols = elf.file.symbols().chain(elf.file.dynamic_symbols());
        // Thunks in hand-written assembly have no type.
        let is_code = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
        let named = symbols.filter(|symbol| symbol.is_definition() && is_code(symbol.kind())).filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?.to_owned();
            Some(Symbol { address: symbol.address(), size: symbol.size(), name })
        });
        let mut symbols: Vec<Symbol> = named.collect();
        symbols.sort_by_key(|symbol| (symbol.address, symbol.size == 0));
        symbols.dedup_by_key(|symbol| symbol.address);
        Names { symbols, is_stripped: elf.file.symbol_table().is_none() }
    }

    /// The symbol at exactly this address, as it stands in the file.
    pub fn raw(&self, address: u64) -> Option<&str> {
        let at = self.symbols.binary_search_by_key(&address, |symbol| symbol.address).ok()?;
        Some(&self.symbols[at].name)
    }

    /// The function around an address, as it was in the source.
    pub fn function(&self, address: u64) -> Option<String> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let symbol = self.symbols.get(after.checked_sub(1)?)?;
        let is_inside = address == symbol.address || address - symbol.address < symbol.size;
        is_inside.then(|| demangle(&symbol.name))
    }

    /// All symbols: address and name.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.symbols.iter().map(|symbol| (symbol.address, symbol.name.as_str()))
    }

    /// The ranges of the symbols that have a size, without overlaps: functions for a file without unwind
    /// tables.
    pub fn functions(&self) -> Vec<Function> {
        let mut functions: Vec<Function> = Vec::new();
        for symbol in self.symbols.iter().filter(|symbol| symbol.size > 0) {
            let end = symbol.address.saturating_add(symbol.size);
            let is_apart = functions.last().is_none_or(|last| last.end <= symbol.address);
            if is_apart {
                let is_part = symbol.name.ends_with(".cold");
                functions.push(Function { is_part, ..Function::new(symbol.address, end) });
            }
        }
        functions
    }
}

/// The name as it was in the source: Rust, C++, or as it stands.
fn demangle(name: &str) -> String {
    if let Ok(rust) = rustc_demangle::try_demangle(name) {
        return format!("{rust:#}");
    }
    let is_cpp = name.starts_with("_Z");
    let cpp = is_cpp.then(|| cpp_demangle::Symbol::new(name).ok()?.demangle().ok());
    cpp.flatten().unwrap_or_else(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_as_in_the_source() {
        assert_eq!(demangle("_ZN3foo3barEi"), "foo::bar(int)");
        assert_eq!(demangle("_RNvC4core3run"), "core::run");
        assert_eq!(demangle("_Z"), "_Z");
        assert_eq!(demangle("main"), "main");
    }
}
