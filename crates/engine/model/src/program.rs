//! A program with sites, and the real engine in it: its own start, arena, gates and patches.
//!
//! The program is a page of text, with thunks and sites that call them, and a page of targets. Its text is
//! changed through `/proc/self/mem`, as the engine does it everywhere. Only what finds sites in objects is
//! left out.

use crate::world;
use relpoline_core::arch::encode::rel32;
use relpoline_core::arch::{Reg, thunk};
use relpoline_core::policy::Phase;
use relpoline_core::scan::{self, Function, SiteKind};
use relpoline_engine::object::Listed;
use relpoline_engine::rings::{RING_BYTES, RINGS};
use relpoline_engine::site::{NO_RING, NONE, Site};
use relpoline_engine::state::{Engine, Group, LOCK, engine as the_engine};
use relpoline_engine::{discover, engine};
use relpoline_text::arena::{ARENA_BYTES, Arena};
use relpoline_text::cells::{CELL, CODE_BYTES, Cell, PAGE};
use relpoline_text::frames::Frame;
use relpoline_text::poke::Repoint;
use rustix::mm::{MapFlags, MprotectFlags, ProtFlags};
use std::collections::HashMap;
use std::ffi::{CStr, c_char, c_void};
use std::ops::Range;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

const SITE_BYTES: u64 = 64;
const THUNKS: u64 = 0x800;
const TARGET_BYTES: u64 = 16;
/// Targets there are, besides one that is kept for the end.
pub const TARGETS: u32 = 40;
/// Calls in which any site gets from any state to one that it can stay in.
const CALLS_TO_REST: u32 = 400;

/// A site as the processor knows it.
pub struct Place {
    /// The engine's number of it.
    pub id: u32,
    /// Address of its instruction.
    pub address: u64,
    /// The register that holds the target.
    pub reg: Reg,
    /// It jumps, which must change nothing; else it calls.
    pub jumps: bool,
}

/// See the module's text.
pub struct Program {
    text: u64,
    /// Its sites.
    pub sites: Vec<Place>,
    slow_paths: Vec<u64>,
    gates: Vec<u64>,
    code: Range<u64>,
    counters: Range<u64>,
    rings: Range<u64>,
    /// What was executed of cells that never change, cell by cell.
    executed: Mutex<HashMap<u64, [u8; CELL]>>,
}

impl Program {
    /// A program with as many `sites`, in which the engine was started.
    pub fn start(sites: usize) -> Program {
        let (text, places) = write_text(sites);
        LOCK.reset();
        let _held = LOCK.try_take(1, 1, 1).expect("nobody else has it");
        start_engine();
        // SAFETY: the lock is held.
        let engine = unsafe { the_engine() };
        set_up(engine);
        let arena = Arena::create(&(text..text + 2 * PAGE as u64)).expect("an arena");
        let base = arena.base();
        engine.groups[0] = Some(Group::new(arena).expect("room"));
        add_sites(engine, text, &places);
        let all = engine.sites.as_slice();
        let mut slow_path =
            |thunk, jumps| engine.groups[0].as_mut().and_then(|g| g.slow_path(thunk, jumps)).expect("room");
        let thunks = engine.thunks.as_slice().iter();
        let slow_paths = thunks.flat_map(|thunk| [false, true].map(|jumps| slow_path(*thunk, jumps))).collect();
        let arena = engine.groups[0].as_ref().map(|group| &group.arena).expect("made above");
        Program {
            text,
            slow_paths,
            gates: all.iter().map(|site| site.gate.address(arena)).collect(),
            code: base..base + CODE_BYTES as u64,
            counters: base + CODE_BYTES as u64..base + ARENA_BYTES as u64,
            rings: engine.rings.address(0)..engine.rings.address(RINGS as u16) + RING_BYTES as u64,
            sites: places,
            executed: Mutex::default(),
        }
    }

    /// Address of a target.
    pub fn target(&self, n: u32) -> u64 {
        self.text + PAGE as u64 + u64::from(n) * TARGET_BYTES
    }

    /// Whether there is a target.
    pub fn is_target(&self, at: u64) -> bool {
        (self.target(0)..=self.target(TARGETS)).contains(&at) && at.is_multiple_of(TARGET_BYTES)
    }

    /// Whether a register's slow path begins there.
    pub fn is_slow_path(&self, at: u64) -> bool {
        self.slow_paths.contains(&at)
    }

    /// Whether it is memory that generated code may write.
    pub fn may_be_written(&self, at: u64) -> bool {
        self.counters.contains(&at) || self.rings.contains(&at)
    }

    /// The bytes that a processor would execute there.
    ///
    /// # Panics
    /// When it is no code, or code that was executed before and has changed since.
    pub fn fetch(&self, at: u64) -> [u8; 16] {
        let text = self.text..self.text + PAGE as u64;
        let region = [&text, &self.code].into_iter().find(|region| region.contains(&at));
        let region = region.unwrap_or_else(|| panic!("{at:#x} is executed, which is no code"));
        if region == &self.code {
            self.check_cell(at & !(CELL as u64 - 1));
        }
        let mut bytes = [0xcc; 16];
        for (byte, from) in bytes.iter_mut().zip(at..region.end) {
            // SAFETY: mapped, readable.
            *byte = unsafe { (from as *const u8).read_volatile() };
        }
        bytes
    }

    /// Code that was executed never changes; of a gate's cell all but its two words, and of a board's words
    /// all.
    fn check_cell(&self, cell: u64) {
        // SAFETY: a cell of the arena.
        let mut now = unsafe { (cell as *const [u8; CELL]).read_volatile() };
        // SAFETY: read between two steps.
        let engine = unsafe { the_engine() };
        let arena = engine.groups[0].as_ref().map(|group| &group.arena).expect("made at the start");
        let is_heads = |at| engine.heads.as_slice().iter().any(|head| head.leaves_by(at));
        if self.gates.contains(&cell) || arena.cell_at(cell).is_some_and(is_heads) {
            now[..8].fill(0);
            now[24..32].fill(0);
        }
        let words = arena.cell_at(cell).filter(|cell| engine.boards.as_slice().iter().any(|b| b.has_words_in(*cell)));
        if words.is_some() {
            return;
        }
        let mut executed = self.executed.lock().expect("nobody fails with it");
        let before = *executed.entry(cell).or_insert(now);
        drop(executed);
        assert_eq!(before, now, "the cell at {cell:#x} was executed, and has changed");
    }

    /// Puts the text back as the compiler wrote it, or leads its sites to their gates, whole displacements at
    /// a time, as the tool does when all threads stand still. False, and nothing is done, when somebody holds
    /// the lock.
    pub fn lead_all(&self, to_gates: bool) -> bool {
        // SAFETY: nobody else runs.
        let engine = unsafe { the_engine() };
        if LOCK.try_take(1, 1, u64::MAX).is_none() {
            return false;
        }
        // SAFETY: nobody else runs; threads are between two instructions.
        let mut writer = unsafe { Repoint::begin(self.text, PAGE, false) }.expect("text can be changed");
        for site in engine.sites.as_slice() {
            let gate = engine.arena(site).map(|arena| site.gate.address(arena)).expect("one arena");
            let to = if to_gates { gate } else { site.thunk_at };
            writer.set(site.field, rel32(site.field + 4, to).expect("within reach")).expect("as before");
        }
        writer.finish().expect("as before");
        true
    }

    /// Whether every site leads to its own thunk.
    pub fn is_as_written(&self) -> bool {
        // SAFETY: read between two steps.
        unsafe { the_engine() }.sites.as_slice().iter().all(|site| leads_to(site) == site.thunk_at)
    }

    /// Whether, while promotion is off, no gate leads anywhere but to its thunk.
    pub fn all_is_off(&self) -> bool {
        // SAFETY: read between two steps.
        let engine = unsafe { the_engine() };
        let is_off =
            |site: &Site| site.stuck || engine.arena(site).is_some_and(|arena| site.gate.target(arena).is_none());
        engine.sites.as_slice().iter().all(is_off)
    }

    /// Whether a site has a tree.
    pub fn has_promoted(&self) -> bool {
        // SAFETY: read between two steps.
        unsafe { the_engine() }.sites.as_slice().iter().any(|site| site.state.has_tree())
    }

    /// Whether no site goes past its gate.
    pub fn nothing_is_linked(&self) -> bool {
        // SAFETY: read between two steps.
        let engine = unsafe { the_engine() };
        let at_gate = |site: &Site| engine.arena(site).is_some_and(|arena| leads_to(site) == site.gate.address(arena));
        engine.sites.as_slice().iter().all(|site| site.stuck || at_gate(site))
    }

    /// Calls every site with a target that is new to all of them, until each has learned it or been left
    /// alone; how many sites then have trees.
    ///
    /// # Panics
    /// When a site does not get there: it is dead. Or when a ring was lost.
    pub fn come_to_rest(&self, thread: u64) -> usize {
        // SAFETY: nobody else runs.
        let engine = || unsafe { the_engine() };
        let new = self.target(TARGETS);
        let rest = |site: usize| {
            for n in 0..CALLS_TO_REST {
                crate::processor::call(self, site, new, thread);
                // Looked at now too: here a tree whose order nobody watches is learned anew on every
                // occasion.
                if has_learned(engine(), site, new) {
                    return;
                }
                // What is called is not all that a site may wait for.
                let other = (site + 1) % self.sites.len();
                crate::processor::call(self, other, self.target(n / 8 % TARGETS), thread);
                if has_learned(engine(), site, new) {
                    return;
                }
            }
            panic!("site {site} is dead: {}", tell(engine(), site));
        };
        (0..self.sites.len()).for_each(rest);
        if !world::is_broken() {
            check_rings(engine());
        }
        engine().sites.as_slice().iter().filter(|site| site.state.has_tree()).count()
    }

    /// What the engine knows of a site.
    pub fn tell(&self, site: usize) -> String {
        // SAFETY: read between two steps.
        tell(unsafe { the_engine() }, site)
    }

    /// Likewise, in a child that may not have an arena yet.
    pub fn call_all(&self, thread: u64) {
        for site in 0..self.sites.len() {
            (0..40).for_each(|n| crate::processor::call(self, site, self.target(n / 16), thread));
        }
    }
}

/// Where the text of a site leads.
fn leads_to(site: &Site) -> u64 {
    // SAFETY: the program's text, which is never unmapped.
    let displacement = unsafe { (site.field as *const i32).read_unaligned() };
    (site.field + 4).wrapping_add_signed(displacement.into())
}

/// Whether a site is at rest, and knows `target` if it has a tree.
fn has_learned(engine: &Engine, id: usize, target: u64) -> bool {
    let site = &engine.sites.as_slice()[id];
    let Some(arena) = engine.arena(site) else { return false };
    let leads_to = if site.stuck { Some(0) } else { site.gate.target(arena) };
    let leads_to_cell = |cell: Cell| leads_to == Some(arena.address(cell));
    match site.state.phase() {
        Phase::Cold | Phase::Learning => false,
        Phase::Promoted | Phase::Linked => {
            // None: its judgement was left, and nobody has mended it yet.
            let Some(tree) = engine.trees.as_slice().get(site.tree as usize) else { return false };
            let first = tree.first_target as usize;
            let targets = &engine.targets.as_slice()[first..first + usize::from(tree.targets)];
            (site.stuck || leads_to_cell(tree.head) || leads_to_cell(tree.settling))
                && targets.iter().any(|known| known.address == target)
        }
        Phase::Retpolined => site.stuck || leads_to.is_none() || leads_to == Some(site.gate.counting(arena)),
        Phase::Barred => site.stuck || leads_to.is_none(),
    }
}

/// What there is to know of a site that is not as it should be.
fn tell(engine: &Engine, id: usize) -> String {
    let site = &engine.sites.as_slice()[id];
    let arena = engine.arena(site).expect("one arena");
    let (counters, gate) = (site.counters(), site.gate.target(arena));
    format!(
        "gate {gate:#x?} (counting {:#x}, recording {:?}), ring {}, window {}, cursor {:#x}, misses {} exits {} settle {}, \
         {:?}, linked {} stuck {} (text {}), enabled {} inherited {} frozen {:?}, lock free {}",
        site.gate.counting(arena),
        engine_cell(arena, site.recording),
        site.ring,
        site.window,
        counters.cursor.load(Ordering::Relaxed),
        counters.misses.load(Ordering::Relaxed),
        counters.exits.load(Ordering::Relaxed),
        counters.settle.load(Ordering::Relaxed),
        site.state,
        site.linked,
        site.stuck,
        // SAFETY: the program's text.
        unsafe { ((site.field + 1) as *const u8).read_volatile() },
        engine.enabled,
        engine.inherited,
        engine.frozen,
        LOCK.try_take(1, 1, u64::MAX).is_some(),
    )
}

fn engine_cell(arena: &Arena, cell: u32) -> Option<u64> {
    (cell != NONE).then(|| arena.address(Cell(cell)))
}

/// Every ring is free or a site's.
fn check_rings(engine: &mut Engine) {
    let lent: Vec<u16> = std::iter::from_fn(|| engine.rings.lend()).collect();
    let used = engine.sites.as_slice().iter().filter(|site| site.ring != NO_RING).count();
    assert_eq!(lent.len() + used, RINGS, "rings were lost");
    lent.into_iter().for_each(|ring| engine.rings.give_back(ring));
}

/// The program's pages, as a compiler would fill them.
fn write_text(sites: usize) -> (u64, Vec<Place>) {
    static PROGRAMS: AtomicU64 = AtomicU64::new(0);
    let prot = ProtFlags::READ | ProtFlags::WRITE;
    let flags = MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE;
    // Far from each other: what lies within a jump's reach is used up by one arena after the other.
    let wanted = (1 << 40) + (PROGRAMS.fetch_add(1, Ordering::Relaxed) << 32);
    // SAFETY: fresh pages.
    let text = unsafe { rustix::mm::mmap_anonymous(wanted as *mut c_void, 2 * PAGE, prot, flags) };
    let start = text.expect("two pages");
    let text = start as u64;
    // SAFETY: the first of them.
    let bytes = unsafe { std::slice::from_raw_parts_mut(start.cast::<u8>(), PAGE) };
    bytes.fill(0xcc);
    let gcc = thunk::gcc_bytes(Reg::RAX);
    let llvm = thunk::llvm_bytes(Reg::R11);
    let (first, second) = (THUNKS as usize, THUNKS as usize + 64);
    bytes[first..first + gcc.len()].copy_from_slice(&gcc);
    bytes[second..second + llvm.len()].copy_from_slice(&llvm);
    let mut places = Vec::new();
    for n in 0..sites {
        // Displacements begin at odd addresses too.
        let at = n * SITE_BYTES as usize + n % 8;
        let (reg, thunk) = if n % 2 == 0 { (Reg::RAX, first) } else { (Reg::R11, second) };
        let jumps = n % 3 == 2;
        bytes[at] = if jumps { 0xe9 } else { 0xe8 };
        bytes[at + 1..at + 5].copy_from_slice(&(thunk as i32 - (at as i32 + 5)).to_le_bytes());
        places.push(Place { id: n as u32, address: text + at as u64, reg, jumps });
    }
    // SAFETY: as above.
    unsafe { rustix::mm::mprotect(start, PAGE, MprotectFlags::READ | MprotectFlags::EXEC) }.expect("code");
    (text, places)
}

/// The engine's own start, as in a process that it is attached to, with no objects to look at.
fn start_engine() {
    let mut environment: [*const c_char; 1] = [std::ptr::null()];
    // SAFETY: the lock is held, the environment ends at once, and there are no objects.
    let started = unsafe {
        engine::start_attached(environment.as_mut_ptr(), CStr::to_bytes(c"/model"), false, &Listed::new(0, 0))
    };
    started.expect("the engine starts");
}

/// Executions are short: windows, waits and prices are small, and costs are not measured.
fn set_up(engine: &mut Engine) {
    engine.calibrated = true;
    engine.policy.costs.link = 1;
    let config = &mut engine.policy.config;
    config.cold_calls = 3;
    config.cold_share = u32::MAX;
    (config.window_first, config.window_max) = (8, 64);
    config.settle_calls = 3;
    (config.miss_window, config.miss_window_young, config.exit_window) = (4, 3, 4);
    config.relearn_share = 1 << 28;
    // A tree with many targets is learned anew whenever there is time, and here there always is.
    config.merge_share = 0;
    (config.max_backoff, config.max_retry_backoff) = (1, 1);
    config.retry_ms = 0;
    // They take tens of thousands of calls.
    config.trials = false;
    config.allowance_ms = u32::MAX;
    config.patch_burst = 1 << 20;
}

/// Gives every site a gate and leads the text to them.
fn add_sites(engine: &mut Engine, text: u64, places: &[Place]) {
    // SAFETY: the page written above.
    let bytes = unsafe { std::slice::from_raw_parts(text as *const u8, PAGE) };
    for (offset, thunk) in thunk::find(bytes) {
        engine.thunk_addresses.push(text + offset as u64);
        engine.thunk_registers.push(thunk.reg);
        engine.thunks.push(thunk);
    }
    assert_eq!(engine.thunks.len(), 2);
    for place in places {
        let found = scan::Site {
            address: place.address,
            field: place.address + 1,
            kind: if place.jumps { SiteKind::Jump } else { SiteKind::Call },
            cs_prefix: false,
            thunk: usize::from(place.reg == Reg::R11),
            function: Function::new(text, text + PAGE as u64),
        };
        let frame = if place.jumps { Frame::UNKNOWN } else { Frame::NONE };
        discover::add_site(engine, 0, 0, &found, frame).expect("a gate");
    }
    // SAFETY: nobody runs the program yet.
    let mut writer = unsafe { Repoint::begin(text, PAGE, false) }.expect("text can be changed");
    for site in engine.sites.as_slice() {
        let gate = engine.arena(site).map(|arena| site.gate.address(arena)).expect("one arena");
        writer.set(site.field, rel32(site.field + 4, gate).expect("within reach")).expect("as before");
    }
    writer.finish().expect("as before");
}
