//! Retpoline thunks: how they look, where they are, and what a copy of one looks like.
//!
//! A thunk jumps to the address in a register without the processor predicting where to:
//!
//! ```text
//!         call set            pushes the address of the capture loop
//! loop:   pause               what a mispredicted return runs into
//!         lfence
//!         jmp  loop
//! set:    mov  %reg, (%rsp)   replaces the return address
//!         ret
//! ```
//!
//! Compilers differ in the padding before `set` and in what the capture loop holds. They give the thunk a
//! hidden symbol that `strip` removes, so [`find`] knows it by its bytes: a capture loop of `pause` and
//! `lfence` is rare enough that a text of 10 MB is searched in a few milliseconds, and every hit is then
//! read in full by [`match_at`].
//!
//! Two forms are too short to be told from ordinary code, `lfence; jmp *%reg` and `jmp *%reg`. They count
//! as thunks only under a thunk's symbol name ([`match_symbol`]).
//!
//! gcc's `thunk-inline` puts the same bytes into each function. A call then reads `jmp over; ind: …; over:
//! call ind`, which is a site (`call ind`) with a thunk of its own. A jump reads just `…`: nothing there
//! names a thunk, so it is found, listed, and never a site.

use super::Reg;

/// What kind of thunk it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Shape {
    /// gcc's, 17 bytes: in a section of its own, or inline before an indirect jump (the bytes are the same).
    Gcc,
    /// gcc's inside a function (`-mindirect-branch=thunk-inline`), followed by the one call that uses it.
    GccInline,
    /// clang's and rustc's, 21 bytes.
    Llvm,
    /// Another padding, or a capture loop without `lfence` or without `pause` (Go, old compilers).
    Other,
    /// `lfence; jmp *%reg`, by symbol name alone.
    Lfence,
    /// `jmp *%reg`, no protection at all, by symbol name alone.
    Jump,
    /// Part of the PLT that lld writes for `-z retpolineplt`.
    LldPlt,
    /// Takes its target from the stack: `__x86_return_thunk` and gcc's `__x86_indirect_thunk`.
    StackTop,
}

impl Shape {
    /// Whether a call or jump to such a thunk is a site: its target is in a register, and the thunk is not
    /// the linker's.
    #[must_use]
    pub const fn takes_sites(self) -> bool {
        !matches!(self, Shape::LldPlt | Shape::StackTop)
    }

    /// Whether its first instruction is a call, which writes the word below the stack pointer.
    #[must_use]
    pub const fn begins_with_call(self) -> bool {
        !matches!(self, Shape::Lfence | Shape::Jump)
    }

    /// What a report calls it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Shape::Gcc => "gcc",
            Shape::GccInline => "gcc inline",
            Shape::Llvm => "llvm",
            Shape::Other => "other",
            Shape::Lfence => "lfence",
            Shape::Jump => "plain jump",
            Shape::LldPlt => "lld plt",
            Shape::StackTop => "return",
        }
    }
}

/// One thunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Thunk {
    /// What kind it is.
    pub shape: Shape,
    /// The register that holds the target; rsp for [`Shape::StackTop`], where it is the stack's top.
    pub reg: Reg,
    /// Length in bytes, from its first instruction to its last.
    pub len: u8,
}

const CALL: u8 = 0xe8;
const PAUSE: [u8; 2] = [0xf3, 0x90];
const LFENCE: [u8; 3] = [0x0f, 0xae, 0xe8];
const RET: u8 = 0xc3;
const INT3: u8 = 0xcc;
/// `lea 8(%rsp), %rsp`.
const DROP: [u8; 5] = [0x48, 0x8d, 0x64, 0x24, 0x08];
/// Length of the call that a thunk starts with.
const HEAD: usize = 5;
/// The farthest `set` lies behind that call.
const MAX_LOOP: usize = 48;
/// Length of gcc's thunk.
const GCC_LEN: u8 = 17;

/// The thunk that starts at the start of `bytes`, if one does.
#[must_use]
pub fn match_at(bytes: &[u8]) -> Option<Thunk> {
    let (&CALL, rest) = bytes.split_first()? else {
        return None;
    };
    let skipped = u32::from_le_bytes(*rest.first_chunk()?) as usize;
    if skipped > MAX_LOOP {
        return None;
    }
    let capture = Capture::read(bytes.get(HEAD..HEAD + skipped)?)?;
    let tail = bytes.get(HEAD + skipped..)?;
    if tail.starts_with(&DROP) {
        let len = (HEAD + skipped + DROP.len() + 1) as u8;
        return (tail.get(DROP.len()) == Some(&RET)).then_some(Thunk { shape: Shape::StackTop, reg: RSP, len });
    }
    let reg = set_register(tail)?;
    let len = (HEAD + skipped + SET_LEN) as u8;
    Some(Thunk { shape: shape(capture, reg, len, bytes), reg, len })
}

const RSP: Reg = match Reg::new(4) {
    Some(reg) => reg,
    None => Reg::RAX,
};

/// What stands between the call and `set`.
struct Capture<'a> {
    pause: bool,
    lfence: bool,
    padding: &'a [u8],
}

impl Capture<'_> {
    /// Reads `pause` and `lfence` in any order, at least one of them, and the jump back to the first.
    fn read(bytes: &[u8]) -> Option<Capture<'_>> {
        let mut capture = Capture { pause: false, lfence: false, padding: &[] };
        let mut rest = bytes;
        loop {
            if let Some(after) = rest.strip_prefix(&PAUSE) {
                capture.pause = true;
                rest = after;
            } else if let Some(after) = rest.strip_prefix(&LFENCE) {
                capture.lfence = true;
                rest = after;
            } else {
                break;
            }
        }
        let [0xeb, back, padding @ ..] = rest else {
            return None;
        };
        let looped = bytes.len() - padding.len();
        capture.padding = padding;
        let closed = isize::from(back.cast_signed()) == -(looped as isize);
        (closed && (capture.pause || capture.lfence)).then_some(capture)
    }
}

/// Length of `mov %reg, (%rsp); ret`.
const SET_LEN: usize = 5;

/// The register of `mov %reg, (%rsp); ret`.
fn set_register(bytes: &[u8]) -> Option<Reg> {
    let [rex @ (0x48 | 0x4c), 0x89, modrm, 0x24, RET, ..] = *bytes else {
        return None;
    };
    (modrm & 0xc7 == 0x04).then(|| Reg::new(modrm >> 3 & 7 | (rex & 4) << 1))?
}

fn shape(capture: Capture<'_>, reg: Reg, len: u8, bytes: &[u8]) -> Shape {
    let full = capture.pause && capture.lfence;
    match capture.padding {
        [] if full && len == GCC_LEN && called_back(&bytes[len as usize..], len) => Shape::GccInline,
        [] if full && len == GCC_LEN => Shape::Gcc,
        [INT3, INT3, INT3, INT3, ..] if full && reg == Reg::R11 => Shape::LldPlt,
        [_, _, _, _] if full && reg == Reg::R11 => Shape::Llvm,
        _ => Shape::Other,
    }
}

/// Whether `after`, the bytes behind a thunk of `len` bytes, start with a call of it.
fn called_back(after: &[u8], len: u8) -> bool {
    let [CALL, rel @ ..] = after else {
        return false;
    };
    rel.first_chunk().map(|rel| i32::from_le_bytes(*rel)) == Some(-(i32::from(len) + 5))
}

/// The thunk at the start of `bytes`, which a symbol called `name` names: also the forms that only a name
/// tells from other code.
#[must_use]
pub fn match_symbol(name: &str, bytes: &[u8]) -> Option<Thunk> {
    let reg = symbol_register(name)?;
    let thunk = match_at(bytes).or_else(|| match_short(bytes))?;
    (thunk.reg == reg).then_some(thunk)
}

/// `[lfence;] jmp *%reg`.
fn match_short(bytes: &[u8]) -> Option<Thunk> {
    let (shape, jump) = match bytes.strip_prefix(&LFENCE) {
        Some(rest) => (Shape::Lfence, rest),
        None => (Shape::Jump, bytes),
    };
    let (number, jump_len) = match *jump {
        [0xff, modrm @ 0xe0..=0xe7, ..] => (modrm & 7, 2),
        [0x41, 0xff, modrm @ 0xe0..=0xe7, ..] => (modrm & 7 | 8, 3),
        _ => return None,
    };
    let len = (bytes.len() - jump.len() + jump_len) as u8;
    Some(Thunk { shape, reg: Reg::new(number)?, len })
}

/// The register that a thunk called `name` jumps through, or `None` when it is no thunk's name.
///
/// `__x86_indirect_thunk_REG` (gcc, and every compiler with external thunks), `__llvm_retpoline_REG` and its
/// older and LVI kin (clang), `__x86_indirect_alt_call_REG`, `…_call_thunk_REG` and so on (Linux),
/// `runtime.retpolineREG` (Go).
#[must_use]
pub fn symbol_register(name: &str) -> Option<Reg> {
    const PREFIXES: [&str; 10] = [
        "__x86_indirect_thunk_",
        "__x86_indirect_alt_call_",
        "__x86_indirect_alt_jmp_",
        "__x86_indirect_call_thunk_",
        "__x86_indirect_jump_thunk_",
        "__llvm_retpoline_",
        "__llvm_external_retpoline_",
        "__llvm_lvi_thunk_",
        "runtime.retpoline",
        "__retpoline_",
    ];
    let register = PREFIXES.iter().find_map(|prefix| name.strip_prefix(prefix))?;
    (0..16).filter_map(Reg::new).find(|reg| reg.name().eq_ignore_ascii_case(long_name(register)))
}

/// Go writes `AX` for rax.
fn long_name(register: &str) -> &str {
    match register {
        "AX" => "rax",
        "CX" => "rcx",
        "DX" => "rdx",
        "BX" => "rbx",
        "BP" => "rbp",
        "SI" => "rsi",
        "DI" => "rdi",
        other => other,
    }
}

/// All thunks in `text` with their offsets, ascending; those known by name alone are not among them.
#[must_use]
pub fn find(text: &[u8]) -> Find<'_> {
    Find { text, pos: 0 }
}

/// The iterator of [`find`].
#[derive(Clone, Debug)]
pub struct Find<'a> {
    text: &'a [u8],
    /// Where the search for the next capture loop goes on.
    pos: usize,
}

impl Iterator for Find<'_> {
    type Item = (usize, Thunk);

    fn next(&mut self) -> Option<(usize, Thunk)> {
        while let Some(found) = next_fence(self.text, self.pos) {
            self.pos = found + 1;
            let Some(start) = found.checked_sub(HEAD) else {
                continue;
            };
            if let Some(thunk) = match_at(&self.text[start..]) {
                return Some((start, thunk));
            }
        }
        None
    }
}

/// Bytes looked at in one go. The test for a whole block has no branch in it, so it becomes vector code.
const BLOCK: usize = 64;

/// The offset of the next `pause` or `lfence` at or after `from`.
fn next_fence(text: &[u8], from: usize) -> Option<usize> {
    let mut at = from;
    while let Some(block) = text.get(at..).and_then(<[u8]>::first_chunk::<{ BLOCK + 1 }>) {
        if may_hold_fence(block)
            && let Some(found) = (at..at + BLOCK).find(|&i| is_fence(&text[i..]))
        {
            return Some(found);
        }
        at += BLOCK;
    }
    (at..text.len()).find(|&i| is_fence(&text[i..]))
}

/// Whether the first two bytes of a `pause` or an `lfence` stand in the block (or the byte after it).
fn may_hold_fence(block: &[u8; BLOCK + 1]) -> bool {
    let mut found = 0;
    for i in 0..BLOCK {
        let (first, second) = (block[i], block[i + 1]);
        let pause = u8::from(first == PAUSE[0]) & u8::from(second == PAUSE[1]);
        let lfence = u8::from(first == LFENCE[0]) & u8::from(second == LFENCE[1]);
        found |= pause | lfence;
    }
    found != 0
}

fn is_fence(bytes: &[u8]) -> bool {
    bytes.starts_with(&PAUSE) || bytes.starts_with(&LFENCE)
}

/// The bytes of a thunk copy.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Body {
    bytes: [u8; 21],
    len: u8,
}

impl Body {
    fn new(source: &[u8]) -> Body {
        let mut bytes = [INT3; 21];
        bytes[..source.len()].copy_from_slice(source);
        Body { bytes, len: source.len() as u8 }
    }
}

impl core::ops::Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..usize::from(self.len)]
    }
}

/// What a copy of `thunk` looks like; it runs anywhere.
///
/// [`Shape::Other`] is copied with a full capture loop. `None` for the shapes that take no sites.
#[must_use]
pub fn body(thunk: Thunk) -> Option<Body> {
    let reg = thunk.reg;
    match thunk.shape {
        Shape::Gcc | Shape::GccInline | Shape::Other => Some(Body::new(&gcc_bytes(reg))),
        Shape::Llvm => Some(Body::new(&llvm_bytes(reg))),
        Shape::Lfence if reg.is_extended() => Some(Body::new(&[0x0f, 0xae, 0xe8, 0x41, 0xff, 0xe0 | reg.low3()])),
        Shape::Lfence => Some(Body::new(&[0x0f, 0xae, 0xe8, 0xff, 0xe0 | reg.low3()])),
        Shape::Jump if reg.is_extended() => Some(Body::new(&[0x41, 0xff, 0xe0 | reg.low3()])),
        Shape::Jump => Some(Body::new(&[0xff, 0xe0 | reg.low3()])),
        Shape::LldPlt | Shape::StackTop => None,
    }
}

/// gcc's thunk for `reg`.
#[must_use]
pub const fn gcc_bytes(reg: Reg) -> [u8; 17] {
    let [rex, modrm] = set_bytes(reg);
    [CALL, 7, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, rex, 0x89, modrm, 0x24, RET]
}

/// LLVM's thunk for `reg` (it uses r11 alone).
#[must_use]
pub const fn llvm_bytes(reg: Reg) -> [u8; 21] {
    let [rex, modrm] = set_bytes(reg);
    [CALL, 11, 0, 0, 0, 0xf3, 0x90, 0x0f, 0xae, 0xe8, 0xeb, 0xf9, 0x0f, 0x1f, 0x40, 0x00, rex, 0x89, modrm, 0x24, RET]
}

/// REX and ModRM of `mov %reg, (%rsp)`.
const fn set_bytes(reg: Reg) -> [u8; 2] {
    [if reg.is_extended() { 0x4c } else { 0x48 }, 0x04 | reg.low3() << 3]
}
