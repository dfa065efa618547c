//! An engine in another process: finding it, asking it to do something ([`relpoline_stats::control`]).

use std::mem::offset_of;
use std::sync::atomic::AtomicU32;
use std::time::Instant;

use anyhow::{Context, bail, ensure};
use relpoline_stats::Plain as _;
use relpoline_stats::Refusal;
use relpoline_stats::control::{
    self, AREA, Area, Control, Displacement, ENTRY, HOOK_BYTES, Hook, IMAGE_MARK, LOADER_ENTRY, STACK, outcome, phase,
};

use super::hijack::Call;
use super::loader::Loaded;
use super::memory::{Memory, Space, word_in};
use super::session::{PATIENCE, Session};
use super::symbols::Symbols;

/// An engine in another process.
#[derive(Debug)]
pub struct Remote {
    area: u64,
    /// Its functions.
    pub symbols: Symbols,
    /// The loader put it there.
    pub is_preloaded: bool,
}

/// A field of the control: its offset, and whether it has 8 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Field(usize, usize);

/// The field of that name.
macro_rules! field {
    ($name:ident) => {
        $crate::attach::remote::Field::new(
            std::mem::offset_of!(relpoline_stats::control::Control, $name),
            $crate::attach::remote::size_of_field(|control: &relpoline_stats::control::Control| {
                &raw const control.$name
            }),
        )
    };
}
pub(super) use field;

/// Bytes of what a pointer points to.
pub const fn size_of_field<T>(_: fn(&Control) -> *const T) -> usize {
    size_of::<T>()
}

impl Field {
    /// One at `offset`, of `size` bytes.
    pub const fn new(offset: usize, size: usize) -> Self {
        Self(offset, size)
    }
}

/// First bytes of a function that lead to the engine.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Jump {
    /// The function's address, behind an `endbr64`.
    pub at: u64,
    /// Its own bytes.
    pub own: [u8; HOOK_BYTES],
    /// The jump.
    pub jump: [u8; HOOK_BYTES],
}

impl Remote {
    /// The engine in a process, if there is one.
    pub fn find(memory: &impl Space, objects: &[Loaded]) -> anyhow::Result<Option<Self>> {
        let is_engine = |object: &&Loaded| crate::preload::is_engine(object.name.1.as_bytes());
        if let Some(object) = objects.iter().find(is_engine) {
            return Self::in_object(memory, object, true).map(Some);
        }
        for mapping in memory.mappings()?.iter().filter(|m| m.is_anonymous() && m.access == "r--p") {
            let header = memory.array::<16>(mapping.start).unwrap_or_default();
            if header.starts_with(b"\x7fELF") && header.ends_with(&IMAGE_MARK) {
                return Self::in_object(memory, &Loaded::at(memory, mapping.start)?, false).map(Some);
            }
        }
        Ok(None)
    }

    /// The engine whose image is `object`.
    pub fn in_object(memory: &impl Space, object: &Loaded, is_preloaded: bool) -> anyhow::Result<Self> {
        let symbols = Symbols::read(memory, object)?;
        let other = "the engine in it is of another version than this command; restart the program, or use the relpoline that put it there";
        let area = symbols.get(AREA).context(other)?;
        ensure!(symbols.get(ENTRY).is_some() && symbols.get(LOADER_ENTRY).is_some(), other);
        Ok(Self { area, symbols, is_preloaded })
    }

    /// One that lies there, of which nothing else is known.
    pub fn of_area(area: u64) -> Self {
        Self { area, symbols: Symbols::default(), is_preloaded: false }
    }

    /// Address of a function of the engine's.
    pub fn function(&self, name: &str) -> anyhow::Result<u64> {
        self.symbols.get(name).with_context(|| format!("the engine in it has no {name}"))
    }

    /// An address in its area, which lies where the process says.
    fn at(&self, offset: usize) -> u64 {
        self.area.wrapping_add(offset as u64)
    }

    /// Address of the scratch memory.
    pub fn scratch(&self) -> u64 {
        self.at(offset_of!(Area, scratch))
    }

    /// Reads a field.
    pub fn get(&self, memory: &impl Space, field: Field) -> anyhow::Result<u64> {
        let bytes = memory.bytes(self.at(field.0), field.1)?;
        let mut word = [0; 8];
        word[..field.1].copy_from_slice(&bytes);
        Ok(u64::from_le_bytes(word))
    }

    /// Writes a field.
    pub fn set(&self, memory: &Memory, field: Field, value: u64) -> anyhow::Result<()> {
        Ok(memory.write(self.at(field.0), &value.to_le_bytes()[..field.1])?)
    }

    /// Whether the program's sites are led to it.
    pub fn is_live(&self, memory: &impl Space) -> anyhow::Result<bool> {
        Ok(self.get(memory, field!(live))? != 0)
    }

    /// Whether nobody holds its lock.
    pub fn is_unlocked(&self, memory: &impl Space) -> anyhow::Result<bool> {
        let lock = self.get(memory, field!(lock))?;
        Ok(lock == 0 || memory.word(lock)? == 0)
    }

    /// Asks for `command` and waits for the answer.
    pub fn ask(&self, session: &mut Session, command: u32) -> anyhow::Result<()> {
        self.begin(session, command)?;
        self.finish(session)
    }

    /// Asks for `command`.
    pub fn begin(&self, session: &mut Session, command: u32) -> anyhow::Result<()> {
        self.await_predecessor(session)?;
        let memory = &session.memory;
        let tid = self.at(offset_of!(Control, tid));
        self.set(memory, field!(phase), u64::from(phase::NONE))?;
        self.set(memory, field!(command), u64::from(command))?;
        // The thread begins by returning to what lies on top of its stack.
        let top = self.at(offset_of!(Area, stack) + STACK - 64) & !15;
        let start = [self.function(ENTRY)?.to_le_bytes(), [0; 8]].concat();
        memory.write(top, &start)?;
        let code = session.call("starting a thread in it", &[Call::clone(top, tid)])?[0];
        ensure!(code > 0, "it may not have another thread ({}): raise its limit", error_of(code));
        // Only then has the new thread left the code that made it.
        self.await_phase(session, &[phase::BUSY, phase::WAITING, phase::DONE])?;
        session.leave_room()
    }

    /// A thread that a killed predecessor of ours has started is still at it.
    fn await_predecessor(&self, session: &mut Session) -> anyhow::Result<()> {
        let deadline = Instant::now() + PATIENCE;
        while self.serves(session)? {
            ensure!(Instant::now() < deadline, "the engine in it is busy; try again");
            session.pump()?;
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
        Ok(())
    }

    /// Whether the thread that was asked last still exists. A child that was forked meanwhile has its number,
    /// not it.
    fn serves(&self, session: &Session) -> anyhow::Result<bool> {
        let tid = self.get(&session.memory, field!(tid))?;
        Ok(tid != 0 && std::path::Path::new(&format!("/proc/{}/task/{tid}", session.pid)).exists())
    }

    /// Waits until the engine is in one of `phases`.
    pub fn await_phase(&self, session: &mut Session, phases: &[u32]) -> anyhow::Result<()> {
        let deadline = Instant::now() + 6 * PATIENCE;
        while !phases.contains(&u32::try_from(self.get(&session.memory, field!(phase))?)?) {
            ensure!(Instant::now() < deadline, "the engine in it does not answer; try again");
            session.pump()?;
            std::thread::sleep(std::time::Duration::from_micros(50));
        }
        Ok(())
    }

    /// Waits for the answer to what [`Self::begin`] has asked.
    pub fn finish(&self, session: &mut Session) -> anyhow::Result<()> {
        self.await_phase(session, &[phase::DONE])?;
        self.await_predecessor(session)?;
        match u32::try_from(self.get(&session.memory, field!(outcome))?)? {
            0 => Ok(()),
            outcome::GAVE_UP => bail!("it took too long to begin; try again"),
            outcome::NOT_STARTED => bail!("the engine in it was never started; see `relpoline report`"),
            outcome::FROZEN => bail!(
                "the engine in it cannot change anything there: a forked child that could not get memory of its own; restart it"
            ),
            outcome::UNKNOWN => bail!("the engine in it is of another version than this command"),
            off if off == Refusal::Off as u32 => {
                bail!("promotion is switched off; switch it on with relpoline enable {}", session.pid)
            }
            code => {
                let refusal = u8::try_from(code).ok().and_then(Refusal::from_number);
                bail!(
                    "{}",
                    refusal.map_or("the engine in it refuses, for a reason unknown to this command", Refusal::text)
                )
            }
        }
    }

    /// Whether it gave up waiting for us.
    pub fn gave_up(&self, memory: &impl Space) -> anyhow::Result<bool> {
        Ok(self.get(memory, field!(outcome))? == u64::from(outcome::GAVE_UP))
    }

    /// The displacements that the engine has listed.
    pub fn displacements(&self, memory: &impl Space) -> anyhow::Result<Vec<Displacement>> {
        let at = self.get(memory, field!(displacements))?;
        let count = self.get(memory, field!(displacement_count))? as usize;
        ensure!(count <= 1 << 20, "the engine's answer is damaged");
        let bytes = memory.bytes(at, count * size_of::<Displacement>())?;
        let displacement = |bytes: &[u8]| {
            let pair = word_in(bytes, 8);
            let half = |pair: u64| (pair as u32).cast_signed();
            Displacement { at: word_in(bytes, 0), own: half(pair), gate: half(pair >> 32) }
        };
        Ok(bytes.chunks_exact(size_of::<Displacement>()).map(displacement).collect())
    }

    /// The statistics' header.
    pub fn header(&self, memory: &impl Space) -> anyhow::Result<relpoline_stats::Header> {
        let at = self.get(memory, field!(statistics))?;
        let bytes = memory.bytes(at, relpoline_stats::Header::SIZE)?;
        relpoline_stats::Header::load(&bytes).context("the engine's statistics are damaged")
    }

    /// The jumps that were noted.
    pub fn jumps(&self, memory: &impl Space) -> anyhow::Result<Vec<Jump>> {
        let bytes = memory.bytes(self.at(offset_of!(Control, hooks)), control::HOOKS * size_of::<Hook>())?;
        let first = |word: u64| {
            let mut bytes = [0; HOOK_BYTES];
            bytes.copy_from_slice(&word.to_le_bytes()[..HOOK_BYTES]);
            bytes
        };
        let jump = |bytes: &[u8]| Jump {
            at: word_in(bytes, 0),
            own: first(word_in(bytes, 8)),
            jump: first(word_in(bytes, 16)),
        };
        Ok(bytes.chunks_exact(size_of::<Hook>()).map(jump).filter(|jump| jump.at != 0).collect())
    }

    /// Notes jumps that are about to be written, in place of those noted before.
    pub fn note_jumps(&self, memory: &Memory, jumps: &[Jump]) -> anyhow::Result<()> {
        let mut bytes = vec![0; control::HOOKS * size_of::<Hook>()];
        for (to, jump) in bytes.chunks_exact_mut(size_of::<Hook>()).zip(jumps) {
            to[..8].copy_from_slice(&jump.at.to_le_bytes());
            to[8..8 + HOOK_BYTES].copy_from_slice(&jump.own);
            to[16..16 + HOOK_BYTES].copy_from_slice(&jump.jump);
        }
        Ok(memory.write(self.at(offset_of!(Control, hooks)), &bytes)?)
    }
}

/// The error that a system call's negative answer stands for.
pub fn error_of(answer: i64) -> std::io::Error {
    std::io::Error::from_raw_os_error(i32::try_from(answer.wrapping_neg()).unwrap_or(0))
}

const _: () = assert!(size_of::<AtomicU32>() == 4 && size_of::<Displacement>() == 16 && size_of::<Hook>() == 24);
