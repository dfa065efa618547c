//! Names of a file's functions, from its symbol tables.
//!
//! The tables may say anything: a million symbols may share one name of a megabyte, and a short mangled name may stand for
//! an endless one. So what is kept has a bound, for each name and for all together.

use std::fmt::{self, Write as _};

use object::{Object as _, ObjectSymbol as _, ReadRef, SymbolKind};
use relpoline_core::scan::Function;

use crate::shown::Shown;

/// Longest name that is kept, as it stands in the file.
const LONGEST: usize = 1 << 12;
/// Most characters of a name as it was in the source.
const LONGEST_DEMANGLED: usize = 1 << 14;

/// Room for symbols.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    symbols: usize,
    bytes: usize,
}

impl Default for Room {
    /// More than the largest programs need.
    fn default() -> Self {
        Self { symbols: 1 << 21, bytes: 1 << 27 }
    }
}

impl Room {
    fn take(&mut self, name: &str) -> bool {
        let left = (self.symbols.checked_sub(1), self.bytes.checked_sub(name.len()));
        let (Some(symbols), Some(bytes)) = left else { return false };
        *self = Self { symbols, bytes };
        true
    }
}

/// A file's symbols for code, by address.
#[derive(Default)]
pub struct Names {
    symbols: Vec<Symbol>,
    /// Of each symbol, the last function that does not begin behind it.
    functions: Vec<u32>,
    /// Whether the full symbol table is gone.
    pub is_stripped: bool,
}

/// There is no such function.
const NONE: u32 = u32::MAX;

struct Symbol {
    address: u64,
    size: u64,
    /// A function, not a mere label.
    is_function: bool,
    name: Box<str>,
}

impl Names {
    /// Reads both symbol tables, as far as there is room.
    pub fn read<'a, R: ReadRef<'a>>(file: &object::File<'a, R>, room: &mut Room) -> Names {
        let mut names = Names { is_stripped: file.symbol_table().is_none(), ..Names::default() };
        names.add(file, room);
        names
    }

    /// Adds the symbols of another file with the same addresses: the separate debug file.
    pub fn add<'a, R: ReadRef<'a>>(&mut self, file: &object::File<'a, R>, room: &mut Room) {
        let symbols = file.symbols().chain(file.dynamic_symbols());
        // Thunks in hand-written assembly have no type.
        let is_code = |kind| matches!(kind, SymbolKind::Text | SymbolKind::Label | SymbolKind::Unknown);
        let named = symbols.filter(|symbol| symbol.is_definition() && is_code(symbol.kind())).filter_map(|symbol| {
            let name = symbol.name().ok().filter(|name| !name.is_empty() && name.len() <= LONGEST)?;
            let name = room.take(name).then(|| name.into())?;
            let is_function = symbol.kind() == SymbolKind::Text;
            Some(Symbol { address: symbol.address(), size: symbol.size(), is_function, name })
        });
        self.symbols.extend(named);
        self.arrange();
    }

    fn arrange(&mut self) {
        self.symbols.sort_by_key(|symbol| (symbol.address, !symbol.is_function, symbol.size == 0));
        self.symbols.dedup_by_key(|symbol| symbol.address);
        let mut last = NONE;
        let function = |(number, symbol): (u32, &Symbol)| {
            last = if symbol.is_function { number } else { last };
            last
        };
        self.functions = (0..).zip(&self.symbols).map(function).collect();
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
        let last = after.checked_sub(1)?;
        let exact = self.symbols.get(last).filter(|symbol| symbol.address == address);
        let function = || self.symbols.get(usize::try_from(*self.functions.get(last)?).ok()?);
        let symbol = exact.or_else(function)?;
        let is_inside = symbol.size == 0 || address - symbol.address < symbol.size;
        is_inside.then_some(symbol)
    }

    /// The function around an address, as it was in the source.
    pub fn function(&self, address: u64) -> Option<Shown> {
        self.around(address).map(|(name, _)| name.into())
    }

    /// The function around an address as it stands in the file, and how far into it the address is.
    pub fn raw_around(&self, address: u64) -> Option<(String, u64)> {
        let symbol = self.symbol_around(address)?;
        Some((symbol.name.to_string(), address - symbol.address))
    }

    /// `function` or `function+0xoffset` for an address.
    pub fn place(&self, address: u64) -> Option<Shown> {
        let (name, within) = self.around(address)?;
        Some(if within == 0 { name.into() } else { format!("{}+{within:#x}", Shown::from(name)).into() })
    }

    /// The first address and the size of the functions of this name, as it stands in the file or in the source, with
    /// or without its parameters.
    pub fn find(&self, name: &str) -> Vec<(u64, u64)> {
        let is_it = |symbol: &&Symbol| symbol.is_function && is_named(&symbol.name, name);
        self.symbols.iter().filter(is_it).map(|symbol| (symbol.address, symbol.size)).collect()
    }

    /// All symbols: address and name.
    pub fn iter(&self) -> impl Iterator<Item = (u64, &str)> {
        self.symbols.iter().map(|symbol| (symbol.address, &*symbol.name))
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
    // As it is shown, too: that is where the user has it from.
    source == name || source.split('(').next() == Some(name) || *Shown::from(source) == *name
}

/// A text that does not get longer than a name.
struct Short(String);

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        if self.0.len() + text.len() > LONGEST_DEMANGLED {
            return Err(fmt::Error);
        }
        self.0.push_str(text);
        Ok(())
    }
}

/// The name as it was in the source: Rust, C++, or as it stands; also when it would be longer than any name.
fn demangle(name: &str) -> String {
    let mut source = Short(String::new());
    let is_known = match rustc_demangle::try_demangle(name) {
        Ok(rust) => write!(source, "{rust:#}").is_ok(),
        Err(_) if name.starts_with("_Z") => cpp_demangle::Symbol::new(name).is_ok_and(|symbol| {
            symbol.structured_demangle(&mut source, &cpp_demangle::DemangleOptions::default()).is_ok()
        }),
        Err(_) => false,
    };
    if is_known { source.0 } else { name.to_owned() }
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
        let mut names = Names { symbols, ..Names::default() };
        names.arrange();
        names
    }

    #[test]
    fn a_name_that_stands_for_an_endless_one_stays_as_it_is() {
        // Each pair is a type of twice the length of the one before.
        let mut bomb = String::from("_Z1fSt4pairIiiE");
        for n in 0..30_u32 {
            let digit = char::from_digit(n, 36).unwrap().to_ascii_uppercase();
            bomb += &format!("S_IS{digit}_S{digit}_E");
        }
        assert_eq!(demangle(&bomb), bomb);
    }

    #[test]
    fn there_is_room_for_so_many_names() {
        let mut room = Room { symbols: 2, bytes: 5 };
        assert!(!room.take("abcdef") && room.take("abc") && !room.take("abc") && room.take("") && !room.take(""));
    }

    #[test]
    fn an_address_is_named_by_the_function_around_it() {
        let names: Vec<_> = [15, 16, 20, 24, 25, 32, 70].map(|at| three().place(at)).into();
        let wanted = [None, Some("f"), Some("f+0x4"), Some("label"), Some("f+0x9"), None, Some("foo::bar(int)+0x6")];
        assert_eq!(names, wanted.map(|name| name.map(Shown::from)));
    }

    #[test]
    fn a_function_is_found_by_either_name() {
        for name in ["_ZN3foo3barEi", "foo::bar(int)", "foo::bar"] {
            assert_eq!(three().find(name), [(64, 0)], "{name}");
        }
        assert_eq!(three().find("label"), []);
    }
}
