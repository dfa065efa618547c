//! Names of a file's functions, from its symbol tables.

use object::{Object as _, ObjectSymbol as _, SymbolKind};
use relpoline_core::scan::Function;

/// A file's symbols for code, by address.
#[derive(Default)]
pub struct Names {
    symbols: Vec<Symbol>,
    /// Whether the full symbol table is gone.
    pub is_stripped: bool,
}

struct Symbol {
    address: u64,
    size: u64,
    /// A function, not a mere label.
    is_function: bool,
    name: String,
}

impl Names {
    /// Reads both symbol tables.
    pub fn read(file: &object::File<'_>) -> Names {
        let mut names = Names { symbols: Vec::new(), is_stripped: file.symbol_table().is_none() };
        names.add(file);
        names
    }

    /// Adds the symbols of another file with the same addresses: the separate debug file.
    pub fn add(&mut self, file: &object::File<'_>) {
        let symbols = file.symbols().chain(file.dynamic_symbols());
        // Thunks in hand-written assembly have no type.
        let is_code = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
        let named = symbols.filter(|symbol| symbol.is_definition() && is_code(symbol.kind())).filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty())?.to_owned();
            let is_function = symbol.kind() == SymbolKind::Text;
            Some(Symbol { address: symbol.address(), size: symbol.size(), is_function, name })
        });
        self.symbols.extend(named);
        self.symbols.sort_by_key(|symbol| (symbol.address, !symbol.is_function, symbol.size == 0));
        self.symbols.dedup_by_key(|symbol| symbol.address);
    }

    /// The symbol at exactly this address, as it stands in the file.
    pub fn raw(&self, address: u64) -> Option<&str> {
        let at = self.symbols.binary_search_by_key(&address, |symbol| symbol.address).ok()?;
        Some(&self.symbols[at].name)
    }

    /// The function around an address, as it was in the source, and how far into it the address is.
    pub fn around(&self, address: u64) -> Option<(String, u64)> {
        let symbol = self.symbol_around(address)?;
        Some((demangle(&symbol.name), address - symbol.address))
    }

    fn symbol_around(&self, address: u64) -> Option<&Symbol> {
        let after = self.symbols.partition_point(|symbol| symbol.address <= address);
        let before = self.symbols.get(..after)?;
        let exact = before.last().filter(|symbol| symbol.address == address);
        let symbol = exact.or_else(|| before.iter().rev().find(|symbol| symbol.is_function))?;
        let is_inside = symbol.size == 0 || address - symbol.address < symbol.size;
        is_inside.then_some(symbol)
    }

    /// The function around an address, as it was in the source.
    pub fn function(&self, address: u64) -> Option<String> {
        self.around(address).map(|(name, _)| name)
    }

    /// The function around an address as it stands in the file, and how far into it the address is.
    pub fn raw_around(&self, address: u64) -> Option<(String, u64)> {
        let symbol = self.symbol_around(address)?;
        Some((symbol.name.clone(), address - symbol.address))
    }

    /// `function` or `function+0xoffset` for an address.
    pub fn place(&self, address: u64) -> Option<String> {
        let (name, within) = self.around(address)?;
        Some(if within == 0 { name } else { format!("{name}+{within:#x}") })
    }

    /// The first address and the size of the functions of this name, as it stands in the file or in the source, with
    /// or without its parameters.
    pub fn find(&self, name: &str) -> Vec<(u64, u64)> {
        let is_it = |symbol: &&Symbol| symbol.is_function && is_named(&symbol.name, name);
        self.symbols.iter().filter(is_it).map(|symbol| (symbol.address, symbol.size)).collect()
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
                functions.push(Function::new(symbol.address, end));
            }
        }
        functions
    }
}

/// Whether a symbol is the function `name`: as it stands in the file or in the source, with or without its parameters.
pub fn is_named(symbol: &str, name: &str) -> bool {
    if symbol == name {
        return true;
    }
    let source = demangle(symbol);
    source == name || source.split('(').next() == Some(name)
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

    fn three() -> Names {
        let symbol = |address, size, is_function, name: &str| Symbol { address, size, is_function, name: name.into() };
        let symbols =
            vec![symbol(16, 16, true, "f"), symbol(24, 0, false, "label"), symbol(64, 0, true, "_ZN3foo3barEi")];
        Names { symbols, is_stripped: false }
    }

    #[test]
    fn an_address_is_named_by_the_function_around_it() {
        let names: Vec<_> = [15, 16, 20, 24, 25, 32, 70].map(|at| three().place(at)).into();
        let wanted = [None, Some("f"), Some("f+0x4"), Some("label"), Some("f+0x9"), None, Some("foo::bar(int)+0x6")];
        assert_eq!(names, wanted.map(|name| name.map(str::to_owned)));
    }

    #[test]
    fn a_function_is_found_by_either_name() {
        for name in ["_ZN3foo3barEi", "foo::bar(int)", "foo::bar"] {
            assert_eq!(three().find(name), [(64, 0)], "{name}");
        }
        assert_eq!(three().find("label"), []);
    }
}
