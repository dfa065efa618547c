//! Functions whose first instruction is led to the engine.
//!
//! A preloaded engine leads `prctl`, `syscall` and `execve` to itself before the program has begun: by them
//! it hears of a sandbox before it is shut, and of programs that are about to be started. For an attached one
//! this is done here, with the same bytes ([`room_in_entry`]). No thread may stand in them when they are
//! written.

use relpoline_stats::control::{
    ENTRIES, HOOK_BYTES, ITERATE, LOADER_ENTRY, PUSHES, hook, room_in_empty_function, room_in_entry,
};

use super::loader::Loader;
use super::memory::{Memory, PAGE, Space as _};
use super::remote::{Jump, Remote};
use super::symbols::Symbols;
use super::tracee::Thread;

/// Larger functions are not what is looked for.
const MOST: u64 = 4096;

/// Works out how the C library's functions would be led to the engine: all of them, or none.
pub fn plan(memory: &Memory, libc: &Symbols, engine: &Symbols) -> Vec<Jump> {
    let jump = |(n, (function, entry)): (usize, &(&str, &str))| {
        let (at, size) = libc.extent(function)?;
        from(memory, hook::PRCTL + n, at, size.min(MOST), engine.get(entry)?)
    };
    ENTRIES.iter().enumerate().map(jump).collect::<Option<_>>().unwrap_or_default()
}

/// Likewise `dl_iterate_phdr`, by which unwinders walk, if it begins as the engine knows it.
pub fn plan_iterate(memory: &Memory, libc: &Symbols, engine: &Symbols) -> Option<Jump> {
    let (function, entry) = ITERATE;
    let (at, size) = libc.extent(function)?;
    from(memory, hook::ITERATE, at, size.min(MOST), engine.get(entry)?)
}

/// Whether a jump is that of `dl_iterate_phdr`: none of the others begins so.
pub fn is_of_unwinders(jump: &Jump) -> bool {
    PUSHES.starts_with(&jump.own)
}

/// The jump from the function at `function` to `to`; `None` when there is no room for it.
fn from(memory: &Memory, hook: usize, function: u64, size: u64, to: u64) -> Option<Jump> {
    let code = memory.bytes(function, size as usize).ok()?;
    let skip = room_in_entry(hook, &code)?;
    let at = function.wrapping_add(skip);
    let own = *code.get(skip as usize..)?.first_chunk::<HOOK_BYTES>()?;
    Some(Jump { at, own, jump: encode(at, to)? }).filter(|_| is_in_one_page(at))
}

/// Whether `place` is one of the bytes of a jump at `at`, but not its first.
fn is_behind_first(at: u64, place: u64) -> bool {
    (1..HOOK_BYTES as u64).contains(&place.wrapping_sub(at))
}

fn is_in_one_page(at: u64) -> bool {
    at % PAGE + HOOK_BYTES as u64 <= PAGE
}

/// `jmp to` at `at`.
fn encode(at: u64, to: u64) -> Option<[u8; HOOK_BYTES]> {
    let distance = i32::try_from(to.wrapping_sub(at.wrapping_add(HOOK_BYTES as u64)).cast_signed()).ok()?.to_le_bytes();
    Some([0xe9, distance[0], distance[1], distance[2], distance[3]])
}

/// The jump from the loader's notice to the engine; `None` when the notice does not look as expected.
pub fn of_notice(memory: &Memory, loader: &Loader, engine: &Remote) -> anyhow::Result<Option<Jump>> {
    let noted = engine.jumps(memory)?;
    let notice = loader.notice(memory)?;
    if let Some(&known) = noted.iter().find(|jump| jump.at.wrapping_sub(notice) < HOOK_BYTES as u64) {
        return Ok(Some(known));
    }
    let code: [u8; 12] = memory.array(notice)?;
    let to = engine.function(LOADER_ENTRY)?;
    Ok(room_in_empty_function(&code).and_then(|skip| {
        let at = notice.wrapping_add(skip);
        let own = *code.get(skip as usize..)?.first_chunk()?;
        is_in_one_page(at).then_some(Jump { at, own, jump: encode(at, to)? })
    }))
}

/// Whether a thread that stands still does so inside the bytes of one of `jumps`.
pub fn is_inside(thread: &Thread, jumps: &[Jump]) -> anyhow::Result<bool> {
    let at = thread.registers()?.rip;
    Ok(jumps.iter().any(|jump| is_behind_first(jump.at, at)))
}

/// Writes the jumps, or the functions' own bytes, where the other is found. Threads must stand still.
pub fn write(memory: &Memory, jumps: &[Jump], lead: bool) -> anyhow::Result<()> {
    for jump in jumps {
        let (from, to) = if lead { (jump.own, jump.jump) } else { (jump.jump, jump.own) };
        if memory.array(jump.at).is_ok_and(|found: [u8; HOOK_BYTES]| found == from) {
            memory.write(jump.at, &to)?;
        }
    }
    Ok(())
}
