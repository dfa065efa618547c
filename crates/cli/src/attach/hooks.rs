//! Functions whose first instruction is led to the engine.
//!
//! A preloaded engine has its own `prctl`, `syscall` and `execve`, which the loader prefers to the C library's: by them
//! it hears of a sandbox before it is shut, and of programs that are about to be started. An attached one comes too
//! late for that. So the first five bytes of the C library's become a jump; the engine's functions do all that the
//! library's do and never call them. No jump inside the function may lead into these bytes, and no thread may stand
//! in them when they are written.

use iced_x86::{Decoder, DecoderOptions, FlowControl};
use relpoline_stats::control::{HOOK_BYTES, LOADER_ENTRY, room_in_empty_function};

use super::loader::Loader;
use super::memory::{Memory, PAGE, Space as _};
use super::remote::{Jump, Remote};
use super::symbols::Symbols;
use super::tracee::Thread;

/// Larger functions are not what is looked for.
const MOST: u64 = 4096;
const ENDBR64: [u8; 4] = [0xf3, 0x0f, 0x1e, 0xfa];

/// The C library's functions that would be led to the engine, as far as they can be.
#[derive(Debug, Default)]
pub struct Hooks {
    /// `prctl` and `syscall`: both, or none.
    pub sandbox: Vec<Jump>,
    /// `execve`.
    pub exec: Vec<Jump>,
}

impl Hooks {
    /// Works out what the first bytes would become.
    pub fn plan(memory: &Memory, libc: &Symbols, engine: &Symbols) -> Self {
        let jump = |name: &str| {
            let (function, size) = libc.extent(name)?;
            from(memory, function, size.min(MOST), engine.get(name)?)
        };
        let sandbox = ["prctl", "syscall"].map(jump);
        Self {
            sandbox: if sandbox.iter().all(Option::is_some) {
                sandbox.into_iter().flatten().collect()
            } else {
                Vec::new()
            },
            exec: jump("execve").into_iter().collect(),
        }
    }
}

/// The jump from the function at `function` to `to`; `None` when there is no room for it.
fn from(memory: &Memory, function: u64, size: u64, to: u64) -> Option<Jump> {
    let code = memory.bytes(function, size as usize).ok()?;
    let skip = if code.starts_with(&ENDBR64) { ENDBR64.len() } else { 0 };
    let at = function.wrapping_add(skip as u64);
    let jump = encode(at, to)?;
    let mut decoder = Decoder::with_ip(64, &code, function, DecoderOptions::NONE);
    let is_free = decoder.iter().all(|instruction| {
        let is_branch = !matches!(instruction.flow_control(), FlowControl::Next | FlowControl::Return);
        !(is_branch && is_behind_first(at, instruction.near_branch_target()))
    });
    let own = *code.get(skip..)?.first_chunk::<HOOK_BYTES>()?;
    let in_one_page = is_in_one_page(at);
    // Somebody else's jump is there.
    (is_free && in_one_page && own[0] != 0xe9).then_some(Jump { at, own, jump })
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
