//! Names of a file's functions, from its symbol tables.
//!
//! The tables may say anything: a million symbols may share one name of a megabyte, and a short mangled name
//! may stand for an endless one. So what is kept has a bound, for each name and for all together. So has the
//! time that mangled names take: then they stay as they are.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt::{self, Write as _};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use object::{Object as _, ObjectSymbol as _, ReadRef, SymbolKind};
use relpoline_core::scan::Function;

use crate::shown::Shown;

/// Longest name that is kept, as it stands in the file.
const LONGEST: usize = 1 << 12;
/// Most bytes of a name as it was in the source.
const LONGEST_DEMANGLED: usize = 1 << 13;
/// Time for all mangled names that this process meets. Those of the largest programs take less than a second,
/// but one of 2 KB can be made to take milliseconds, and there may be one for each address.
const LONGEST_TIME: Duration = Duration::from_secs(5);
/// Most names of a file that are remembered as they were in the source.
const MOST_REMEMBERED: usize = 1 << 16;

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
    /// Names as they were in the source, by the symbol's address: thousands of places are in the same
    /// function.
    sources: RefCell<HashMap<u64, Shown>>,
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
        self.sources.get_mut().clear();
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
    fn around(&self, address: u64) -> Option<(Shown, u64)> {
        let symbol = self.symbol_around(address)?;
        let mut sources = self.sources.borrow_mut();
        if sources.len() >= MOST_REMEMBERED {
            sources.clear();
        }
        let source = sources.entry(symbol.address).or_insert_with(|| demangle(&symbol.name).into());
        Some((source.clone(), address - symbol.address))
    }

    /// How far an address is into the function around it.
    pub fn within(&self, address: u64) -> Option<u64> {
        Some(address - self.symbol_around(address)?.address)
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
        self.around(address).map(|(name, _)| name)
    }

    /// The function around an address as it stands in the file, and how far into it the address is.
    pub fn raw_around(&self, address: u64) -> Option<(String, u64)> {
        let symbol = self.symbol_around(address)?;
        Some((symbol.name.to_string(), address - symbol.address))
    }

    /// `function` or `function+0xoffset` for an address.
    pub fn place(&self, address: u64) -> Option<Shown> {
        let (name, within) = self.around(address)?;
        Some(if within == 0 { name } else { format!("{name}+{within:#x}").into() })
    }

    /// The first address and the size of the functions of this name, as it stands in the file or in the
    /// source, with or without its parameters.
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

/// Whether a symbol is the function `name`: as it stands in the file or in the source, with or without its
/// parameters.
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

/// Time that is spent on mangled names.
struct Time {
    /// Nanoseconds.
    left: AtomicU64,
}

impl Time {
    const fn of(longest: Duration) -> Self {
        Self { left: AtomicU64::new(longest.as_nanos() as u64) }
    }

    /// What `work` returns, unless the time is over. `now` is asked before and after it.
    fn spend<T>(&self, now: impl Fn() -> Duration, work: impl FnOnce() -> T) -> Option<T> {
        if self.left.load(Relaxed) == 0 {
            return None;
        }
        let before = now();
        let done = work();
        let spent = u64::try_from(now().saturating_sub(before).as_nanos()).unwrap_or(u64::MAX);
        // The closure always has a number, so this does not fail.
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| Some(left.saturating_sub(spent)));
        Some(done)
    }
}

/// The name as it was in the source, or as it stands: also when it would be longer than any name, or the time
/// for that is over.
fn demangle(name: &str) -> String {
    static TIME: Time = Time::of(LONGEST_TIME);
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    // Others cost nothing.
    let is_mangled = ["_Z", "_R", "__Z", "__R", "Z", "R"].iter().any(|start| name.starts_with(start));
    let source = if is_mangled { TIME.spend(|| START.elapsed(), || source(name)).flatten() } else { None };
    source.unwrap_or_else(|| name.to_owned())
}

/// The name as it was in the source of a program in Rust or C++.
fn source(name: &str) -> Option<String> {
    let mut source = Short(String::new());
    let is_known = match rustc_demangle::try_demangle(name) {
        Ok(rust) => write!(source, "{rust:#}").is_ok(),
        Err(_) if name.starts_with("_Z") => cpp_demangle::Symbol::new(name).is_ok_and(|symbol| {
            symbol.structured_demangle(&mut source, &cpp_demangle::DemangleOptions::default()).is_ok()
        }),
        Err(_) => false,
    };
    is_known.then_some(source.0)
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

    /// A name in Rust's scheme of which each part is twice the one before, by references to what stands
    /// before.
    fn nested() -> String {
        let number = |n: usize| match n.checked_sub(1) {
            None => "_".to_owned(),
            Some(n) => {
                let digit =
                    |n: usize| char::from(b"0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"[n % 62]);
                let digits = if n < 62 { vec![digit(n)] } else { vec![digit(n / 62), digit(n)] };
                digits.into_iter().chain(['_']).collect()
            }
        };
        let mut name = String::from("_RINvC1a1b");
        let mut before = None;
        for _ in 0..100 {
            let at = name.len() - 2;
            name += &before.map_or("TuuE".into(), |n| format!("TB{0}B{0}E", number(n)));
            before = Some(at);
        }
        name + "E"
    }

    #[test]
    fn a_name_that_refers_to_itself_has_an_end() {
        assert!(rustc_demangle::try_demangle(&nested()).is_ok());
        let mut out = Short(String::new());
        let _ = write!(out, "{:#}", rustc_demangle::demangle(&nested()));
        assert!(out.0.len() > LONGEST_DEMANGLED / 2 && out.0.len() <= LONGEST_DEMANGLED);
        assert_eq!(demangle(&nested()), nested());
    }

    #[test]
    fn when_the_time_for_names_is_over_they_stay_as_they_are() {
        // It is a second later whenever one looks.
        let (looked, named) = (AtomicU64::new(0), AtomicU64::new(0));
        let now = || Duration::from_secs(looked.fetch_add(1, Relaxed));
        let time = Time::of(Duration::from_secs(5));
        for number in 0..100_000 {
            let done = time.spend(now, || named.fetch_add(1, Relaxed));
            assert_eq!(done.is_some(), number < 5);
        }
        assert_eq!((looked.into_inner(), named.into_inner()), (10, 5));
    }

    #[test]
    fn a_function_is_named_once() {
        let names = three();
        let first = names.place(64).unwrap();
        for address in 65..10_000 {
            assert_eq!(names.within(address), Some(address - 64));
            assert!(std::ptr::eq(first.as_str(), names.function(address).unwrap().as_str()));
        }
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
