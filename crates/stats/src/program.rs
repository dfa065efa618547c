//! Whether a program can take the preload, judged from its file's bytes alone.
//!
//! Most programs do not mind: musl's loader, say, finds nothing in the engine that it would have to do. But a
//! loader of another class or machine writes a complaint to stderr, and AddressSanitizer ends a program in
//! which something comes before it. And an environment that a program made for another one is only added to
//! when that one will take it out again. So both the tool (before it starts a program) and the engine (when
//! the program it lives in calls exec) look first. The file is read through a closure, a few dozen bytes at a
//! time, which works with `pread` on a descriptor, with a mapping and with a test's array. Nothing is
//! allocated, and [`examine`] needs few bytes of stack: the engine calls it on stacks that others have
//! measured out. Questions that need the file system (set-id bits, capabilities) are the caller's.

use core::ffi::CStr;

use crate::Plain;
use crate::codes::Refusal;

/// Longest interpreter line of a script that Linux reads.
pub const SCRIPT_LINE: usize = 256;

const CLASS_64: u8 = 2;
const LITTLE_ENDIAN: u8 = 1;
const MACHINE_X86_64: u16 = 62;
const HEADER_SIZE: usize = 64;
const SEGMENT_SIZE: usize = 56;
/// More program headers than Linux loads (`ELF_MIN_ALIGN / sizeof(Phdr)` on the smallest page).
const MOST_SEGMENTS: u16 = 65_536_u32.div_ceil(SEGMENT_SIZE as u32) as u16;
const SEGMENT_LOAD: u32 = 1;
const SEGMENT_DYNAMIC: u32 = 2;
const SEGMENT_INTERPRETER: u32 = 3;
const DYNAMIC_SIZE: usize = 16;
const DYNAMIC_NEEDED: u64 = 1;
const DYNAMIC_STRINGS: u64 = 5;
/// Dynamic entries that are looked at; programs have some thirty.
const MOST_DYNAMIC: u64 = 1024;
/// AddressSanitizer's library, by gcc and by clang.
const SANITIZERS: [&[u8]; 2] = [b"libasan.so", b"libclang_rt.asan"];
const SEGMENT_PROPERTY: u32 = 0x6474_e553;
const NOTE_PROPERTY: u32 = 5;
const PROPERTY_X86_FEATURES: u32 = 0xc000_0002;
const FEATURE_SHADOW_STACK: u32 = 2;

/// What a file is to exec.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Program {
    /// A script: its [`interpreter`] is the program that counts.
    Script,
    /// An ELF program that a glibc loads.
    Fit,
    /// It cannot take the preload.
    Unfit(Refusal),
}

/// Reads from a file: `read_at(offset, buffer)` fills the buffer as far as the file reaches and returns how
/// many bytes it got.
pub type ReadAt<'a> = dyn FnMut(u64, &mut [u8]) -> usize + 'a;

/// Looks at a program.
pub fn examine(read_at: &mut ReadAt<'_>) -> Program {
    let mut head = [0; HEADER_SIZE];
    let length = read_at(0, &mut head).min(HEADER_SIZE);
    match &head[..length] {
        [b'#', b'!', ..] => Program::Script,
        [0x7f, b'E', b'L', b'F', ..] if length == HEADER_SIZE => match elf(&head, read_at) {
            Ok(()) => Program::Fit,
            Err(refusal) => Program::Unfit(refusal),
        },
        _ => Program::Unfit(Refusal::NotElf),
    }
}

/// The path of the interpreter that a script names; `None` when it names none.
pub fn interpreter<'a>(read_at: &mut ReadAt<'_>, line: &'a mut [u8; SCRIPT_LINE + 1]) -> Option<&'a CStr> {
    let length = read_at(0, &mut line[..SCRIPT_LINE]).min(SCRIPT_LINE);
    let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
    let end = line[..length].iter().position(|byte| matches!(byte, b'\n' | 0)).unwrap_or(length);
    let start = 2 + line.get(2..end)?.iter().position(|byte| !blank(byte))?;
    let end = line[start..end].iter().position(blank).map_or(end, |blank| start + blank);
    line[end] = 0;
    CStr::from_bytes_with_nul(line.get(start..=end)?).ok()
}

/// Whether a program says that it can run with a shadow stack; it does if the system switches one on.
pub fn is_marked_for_shadow_stacks(read_at: &mut ReadAt<'_>) -> bool {
    let mut head = [0; HEADER_SIZE];
    if read_at(0, &mut head) < HEADER_SIZE {
        return false;
    }
    let property = Segments::of(&head).find(read_at, |kind, _| kind == SEGMENT_PROPERTY);
    property.is_some_and(|(offset, _, size)| wants_shadow_stack(offset, size, read_at))
}

/// Looks at an ELF file with the header `head`.
fn elf(head: &[u8; HEADER_SIZE], read_at: &mut ReadAt<'_>) -> Result<(), Refusal> {
    if head[4] != CLASS_64 {
        return Err(Refusal::OtherClass);
    }
    if head[5] != LITTLE_ENDIAN || field::<u16>(head, 18) != MACHINE_X86_64 {
        return Err(Refusal::OtherMachine);
    }
    let segments = Segments::of(head);
    let Some((offset, _, size)) = segments.find(read_at, |kind, _| kind == SEGMENT_INTERPRETER) else {
        return Err(Refusal::Static);
    };
    if !is_glibc(offset, size, read_at) {
        return Err(Refusal::OtherLoader);
    }
    if needs_sanitizer(&segments, read_at) { Err(Refusal::AddressSanitizer) } else { Ok(()) }
}

/// Whether the program is linked with AddressSanitizer's library. That ends the program when it does not come
/// first among the libraries, as it does not behind a preload.
fn needs_sanitizer(segments: &Segments, read_at: &mut ReadAt<'_>) -> bool {
    let Some((dynamic, _, size)) = segments.find(read_at, |kind, _| kind == SEGMENT_DYNAMIC) else { return false };
    let entries = MOST_DYNAMIC.min(size / DYNAMIC_SIZE as u64);
    let entry = |index: u64, read_at: &mut ReadAt<'_>| {
        let mut entry = [0; DYNAMIC_SIZE];
        let whole = read_at(dynamic.wrapping_add(index * DYNAMIC_SIZE as u64), &mut entry) == DYNAMIC_SIZE;
        whole.then(|| (field::<u64>(&entry, 0), field::<u64>(&entry, 8)))
    };
    let strings = (0..entries).find_map(|index| entry(index, read_at).filter(|(tag, _)| *tag == DYNAMIC_STRINGS));
    let Some((_, address)) = strings else { return false };
    let holds = |kind, segment: (u64, u64, u64)| kind == SEGMENT_LOAD && address.wrapping_sub(segment.1) < segment.2;
    let Some((offset, start, _)) = segments.find(read_at, holds) else { return false };
    let strings = offset.wrapping_add(address - start);
    (0..entries).any(|index| {
        let Some((DYNAMIC_NEEDED, name)) = entry(index, read_at) else { return false };
        let mut text = [0; 16];
        let length = read_at(strings.wrapping_add(name), &mut text).min(text.len());
        SANITIZERS.iter().any(|library| text[..length].starts_with(library))
    })
}

/// A program header table in a file.
struct Segments {
    table: u64,
    entry_size: u64,
    count: u16,
}

impl Segments {
    fn of(head: &[u8; HEADER_SIZE]) -> Self {
        let count = field::<u16>(head, 56).min(MOST_SEGMENTS);
        Self { table: field(head, 32), entry_size: u64::from(field::<u16>(head, 54)), count }
    }

    /// Offset, address and size in the file of the first segment that is wanted, by its kind and those.
    fn find(&self, read_at: &mut ReadAt<'_>, wanted: impl Fn(u32, (u64, u64, u64)) -> bool) -> Option<(u64, u64, u64)> {
        (0..u64::from(self.count)).find_map(|index| {
            let mut segment = [0; SEGMENT_SIZE];
            let whole = read_at(self.table.wrapping_add(index * self.entry_size), &mut segment) == SEGMENT_SIZE;
            let found = (field::<u64>(&segment, 8), field::<u64>(&segment, 16), field::<u64>(&segment, 32));
            (whole && wanted(field::<u32>(&segment, 0), found)).then_some(found)
        })
    }
}

/// Whether the loader's path at `offset` is that of glibc, by its file name. It ends at its first zero, as
/// for the kernel: a linker script may put more into its segment. Loaders deep in a store (Nix, Guix) have
/// long paths: the end of it is enough.
fn is_glibc(offset: u64, size: u64, read_at: &mut ReadAt<'_>) -> bool {
    const LONGEST: u64 = 4096;
    // Little: some programs are started from small stacks.
    let mut piece = [0; 32];
    let mut end = 0;
    loop {
        let length = read_at(offset.wrapping_add(end), &mut piece).min(piece.len());
        if let Some(zero) = piece[..length].iter().position(|&byte| byte == 0) {
            end += zero as u64;
            break;
        }
        end += length as u64;
        if length < piece.len() || end >= LONGEST {
            return false;
        }
    }
    if end >= size {
        return false;
    }
    let wanted = piece.len().min(end as usize);
    let length = read_at(offset.wrapping_add(end - wanted as u64), &mut piece[..wanted]).min(wanted);
    let path = &piece[..length];
    let name = path.rsplit(|&byte| byte == b'/').next().unwrap_or_default();
    let is_whole = name.len() < path.len() || end as usize == length;
    is_whole && (name == b"ld-linux-x86-64.so.2" || name.starts_with(b"ld-lsb-x86-64.so."))
}

/// Whether the property note at `offset` marks the program for shadow stacks.
fn wants_shadow_stack(offset: u64, size: u64, read_at: &mut ReadAt<'_>) -> bool {
    let mut note = [0; 256];
    let wanted = note.len().min(usize::try_from(size).unwrap_or(usize::MAX));
    let length = read_at(offset, &mut note[..wanted]).min(wanted);
    let is_property = field::<u32>(&note, 0) == 4 && field::<u32>(&note, 8) == NOTE_PROPERTY;
    // Header (12 bytes), owner "GNU\0", then properties {type, size, data padded to 8}.
    let mut rest = note[..length].get(16..).unwrap_or_default();
    while is_property && rest.len() >= 12 {
        if field::<u32>(rest, 0) == PROPERTY_X86_FEATURES {
            return field::<u32>(rest, 8) & FEATURE_SHADOW_STACK != 0;
        }
        let data = field::<u32>(rest, 4) as usize;
        rest = rest.get(8 + data.next_multiple_of(8)..).unwrap_or_default();
    }
    false
}

/// Whether glibc's tunables (`GLIBC_TUNABLES`) switch shadow stacks on for programs marked for them.
#[must_use]
pub fn tunables_enable_shadow_stack(tunables: &[u8]) -> bool {
    tunables
        .split(|&byte| byte == b':')
        .any(|tunable| matches!(tunable, b"glibc.cpu.x86_shstk=on" | b"glibc.cpu.x86_shstk=permissive"))
}

/// The integer at `offset`, 0 when the bytes end before it.
fn field<T: Plain>(bytes: &[u8], offset: usize) -> T {
    bytes.get(offset..).and_then(T::load).unwrap_or(T::ZERO)
}
