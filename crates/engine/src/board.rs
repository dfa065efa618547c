//! Sites that go on changing for ever: they get a [board] in place of trees.
//!
//! A tree is never written over, for a thread may stand in it for any time. So a site whose targets keep
//! changing would fill its arena. When it has built as many trees of its own as it may (`OWN_TREES`), or the
//! arena is half full, it gets its board: code that stays as it is, but compares with words of data and leads
//! through words of gates, both of which can be exchanged at any time.
//!
//! What makes that right is behind it. Every word of a board leads to a *leaf*: a tree of one target, which
//! compares again, jumps there or to the program's own thunk, and never changes. Who reads an old key and a
//! new word, or the other way round, or stands between the two for an hour, comes to a leaf that knows
//! nothing of this, and goes where it wants to. Leaves are shared by all sites with the same register and
//! thunk, so there are as many as there are targets.
//!
//! A forked child has its own keys and, once it has an arena of its own, its own words; until then its
//! parent's words with its own keys, which is a mixture like any other.

use crate::memory;
use crate::site::{NONE, Site, Tree};
use crate::state::Engine;
use core::sync::atomic::Ordering;
use relpoline_core::arch::encode::gate_word;
use relpoline_core::policy::Reason;
use relpoline_core::tree::board::{self, BoardSpec, SLOTS};
use relpoline_core::tree::{self, CELL, Target, TreeSpec};
use relpoline_text::arena::{Arena, Counters};
use relpoline_text::broken;
use relpoline_text::cells::Cell;
use relpoline_text::frames::Shape;
use relpoline_text::stub;
use relpoline_text::sync::AtomicU64;

use core::mem::offset_of;

/// Trees that a site may build before it gets a board. Not a fault: none, for tests that want boards at once.
const OWN_TREES: u16 = if cfg!(relpoline_broken = "boards-at-once") {
    0
} else if cfg!(relpoline_model) {
    2
} else {
    24
};
/// Of 64 parts of an arena's room: how many may be spent before there are boards only, …
const TREES_UNTIL: u32 = 32;
/// … and before there are no more boards either: leaves are for everybody.
const BOARDS_UNTIL: u32 = 56;
/// Words of a gate cell.
const WORDS: usize = CELL / 8;
/// Leaves that can be found again.
const LEAVES: usize = if cfg!(relpoline_model) { 256 } else { 1 << 17 };
/// Places at which a leaf is looked for.
const PLACES: usize = 64;

/// What is known of a leaf. It is claimed by its number, filled by who claimed it, and `address` comes last:
/// what can be found does not change any more, even if the engine's lock was broken.
#[repr(C)]
struct Leaf {
    number: AtomicU64,
    address: AtomicU64,
    target: AtomicU64,
    thunk: AtomicU64,
    form: AtomicU64,
}

/// Finds leaves by what they do.
pub struct Leaves {
    start: *const Leaf,
}

// SAFETY: all atomics, in memory that is never unmapped.
unsafe impl Send for Leaves {}

impl Leaves {
    /// No leaves, for a static.
    #[must_use]
    pub const fn none() -> Leaves {
        Leaves { start: core::ptr::null() }
    }

    /// Reserves what it needs; `None` when the process may not have that much address space.
    #[must_use]
    pub fn reserve() -> Option<Leaves> {
        Some(Leaves { start: memory::reserve(LEAVES * size_of::<Leaf>())?.cast() })
    }

    fn at(&self, place: usize) -> &Leaf {
        // SAFETY: within the reservation; all zero is a leaf that nobody claimed.
        unsafe { &*self.start.add(place % LEAVES) }
    }
}

/// What a leaf is to do.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Wanted {
    target: u64,
    thunk: u64,
    /// The register, the arena it lies in, and whatever else its code depends on.
    form: u64,
}

impl Wanted {
    fn number(&self) -> u64 {
        let mix = |hash: u64, value: u64| {
            let mixed = (hash ^ value).wrapping_mul(0x9e37_79b9_7f4a_7c15);
            mixed ^ (mixed >> 29)
        };
        mix(mix(mix(0, self.form), self.thunk), self.target).max(1)
    }
}

/// A site's board.
#[derive(Clone, Copy)]
pub struct Board {
    /// Its entry among the trees.
    pub tree: u32,
    /// Address of its keys, …
    keys: u64,
    /// … which are negative when flags are kept.
    keeps_flags: bool,
    /// The cells of its words.
    words: [Cell; SLOTS / WORDS],
}

impl Board {
    fn key(&self, slot: usize) -> &AtomicU64 {
        // SAFETY: one of the words of data that were taken for this board; they are never unmapped.
        unsafe { &*(self.keys as *const AtomicU64).add(slot % SLOTS) }
    }

    fn word(&self, slot: usize) -> (Cell, usize) {
        (self.words[slot / WORDS % self.words.len()], slot % WORDS)
    }

    fn word_at(&self, arena: &Arena, slot: usize) -> u64 {
        let (cell, index) = self.word(slot);
        arena.address(cell) + index as u64 * 8
    }

    /// Whether its words lie in `cell`.
    #[must_use]
    pub fn has_words_in(&self, cell: Cell) -> bool {
        self.words.contains(&cell)
    }

    /// Lets a slot lead to `leaf` when the target is `key`.
    fn plug(&self, arena: &Arena, slot: usize, key: u64, leaf: u64) {
        let (cell, index) = self.word(slot);
        if let Some(word) = gate_word(self.word_at(arena, slot), leaf) {
            arena.word(cell, index).store(word, Ordering::Release);
            self.key(slot).store(board::key(key, self.keeps_flags), Ordering::Release);
        }
    }

    /// Lets a slot find nothing. (Who calls address 0 comes to the leaf that was there, and goes on to its
    /// thunk.)
    fn unplug(&self, slot: usize) {
        self.key(slot).store(0, Ordering::Release);
    }
}

impl Engine {
    /// Whether a site is to have a board instead of another tree.
    pub fn is_spent(&self, site: &Site) -> bool {
        // The broken variant that the tests must catch: trees are built until there is no room.
        if broken!("no-boards") {
            return false;
        }
        site.built >= OWN_TREES || self.arena(site).is_some_and(|arena| arena.spent() >= TREES_UNTIL)
    }

    /// The site's board, with the targets of the policy's plan, as a tree.
    ///
    /// # Errors
    /// When there is no room for it, or for a single one of its leaves.
    #[inline(never)]
    pub fn board_for_plan(&mut self, id: u32) -> Result<u32, Reason> {
        let index = self.board_of(id)?;
        let board = *self.boards.as_slice().get(index as usize).ok_or(Reason::ArenaFull)?;
        let mut used = 0;
        let mut last = None;
        while used < SLOTS {
            let Some(target) = self.hottest_after(last) else { break };
            last = Some(target);
            let Some(leaf) = self.leaf(id, target.address) else { continue };
            let Some(site) = self.sites.as_slice().get(id as usize) else { break };
            let Some(arena) = self.arena(site) else { break };
            board.plug(arena, used, target.address, leaf);
            self.note_target(board.tree, used, target);
            used += 1;
        }
        (used..SLOTS).for_each(|slot| board.unplug(slot));
        if let Some(tree) = self.trees.get_mut(board.tree as usize) {
            (tree.targets, tree.chain) = (used as u16, used as u16);
        }
        if used == 0 { Err(Reason::ArenaFull) } else { Ok(board.tree) }
    }

    /// The target of the plan that comes behind `last` in descending order of shares.
    #[inline(never)]
    fn hottest_after(&self, last: Option<Target>) -> Option<Target> {
        let rank = |target: &Target| (target.share, target.address);
        let rest = self.policy.plan().targets().iter();
        rest.filter(|target| last.is_none_or(|last| rank(target) < rank(&last)))
            .max_by_key(|target| rank(target))
            .copied()
    }

    fn note_target(&mut self, tree: u32, slot: usize, target: Target) {
        let Some(first) = self.trees.as_slice().get(tree as usize).map(|tree| tree.first_target as usize) else {
            return;
        };
        if let Some(known) = self.targets.get_mut(first + slot) {
            *known = target;
        }
    }

    /// The number of the site's board, which is built if need be. One whose misses would come round to
    /// itself, for the site has become stuck, is replaced once.
    #[inline(never)]
    fn board_of(&mut self, id: u32) -> Result<u32, Reason> {
        let Some(&site) = self.sites.as_slice().get(id as usize) else { return Err(Reason::ArenaFull) };
        let by_miss_gate =
            |board: &Board| self.trees.as_slice().get(board.tree as usize).is_some_and(|tree| tree.by_miss_gate);
        match self.boards.as_slice().get(site.board as usize) {
            Some(board) if by_miss_gate(board) != site.stuck => return Ok(site.board),
            _ => {}
        }
        let board = self.build_board(&site)?;
        let index = self.boards.push(board).ok_or(Reason::ArenaFull)? as u32;
        if let Some(site) = self.sites.get_mut(id as usize) {
            site.board = index;
        }
        Ok(index)
    }

    #[inline(never)]
    fn build_board(&mut self, site: &Site) -> Result<Board, Reason> {
        let first = self.targets.extend(&[Target { address: 0, share: 0 }; SLOTS]).ok_or(Reason::ArenaFull)?;
        let counts = self.options().count;
        let arena = self.arena(site).filter(|arena| arena.spent() < BOARDS_UNTIL).ok_or(Reason::ArenaFull)?;
        let keys = arena.take_data(SLOTS).ok_or(Reason::ArenaFull)?;
        let mut words = [Cell(0); SLOTS / WORDS];
        for cell in &mut words {
            *cell = take_words(arena, site)?;
        }
        let keeps_flags = site.kind.keeps_flags();
        let board = Board { tree: NONE, keys, keeps_flags, words };
        let counter = |offset: usize| site.counters + offset as u64;
        let spec = BoardSpec {
            reg: site.reg,
            keys,
            words: core::array::from_fn(|slot| board.word_at(arena, slot)),
            miss: if site.stuck { site.gate.counting(arena) } else { site.gate.miss_address(arena) },
            hits_counter: counts.then(|| counter(offset_of!(Counters, calls))),
            keeps_flags,
        };
        let head =
            arena.take_in_column(site.gate.cell.column()).or_else(|| arena.take_run(1)).ok_or(Reason::ArenaFull)?;
        let settling = write_board(arena, site, &spec, head)?;
        let tree = Tree {
            // It is found by its site alone.
            fingerprint: 0,
            head,
            settling,
            older: NONE,
            first_target: first as u32,
            targets: 0,
            chain: 0,
            linked: NONE,
            linked_body: NONE,
            counts_exits: false,
            by_miss_gate: !site.stuck,
            is_board: true,
        };
        let tree = self.trees.push(tree).ok_or(Reason::ArenaFull)? as u32;
        Ok(Board { tree, ..board })
    }

    /// Address of the leaf for `target` at sites like this one: one that is there, or a new one.
    #[inline(never)]
    fn leaf(&self, id: u32, target: u64) -> Option<u64> {
        let site = self.sites.as_slice().get(id as usize)?;
        let form = [u64::from(site.reg.number()), u64::from(site.arena), u64::from(site.kind.keeps_flags())];
        let form = form.iter().fold(0, |form, part| form << 8 | part);
        let wanted = Wanted { target, thunk: site.way, form };
        let number = wanted.number();
        for place in 0..PLACES {
            let leaf = self.leaves.at(number as usize % LEAVES + place);
            let claimed = leaf.number.compare_exchange(0, number, Ordering::AcqRel, Ordering::Acquire);
            if claimed.is_ok() {
                let built = self.build_leaf(site, target);
                leaf.target.store(target, Ordering::Relaxed);
                leaf.thunk.store(wanted.thunk, Ordering::Relaxed);
                leaf.form.store(wanted.form, Ordering::Relaxed);
                leaf.address.store(built.unwrap_or(0), Ordering::Release);
                if built.is_none() {
                    leaf.number.store(0, Ordering::Release);
                }
                return built;
            }
            let address = leaf.address.load(Ordering::Acquire);
            let found = Wanted {
                target: leaf.target.load(Ordering::Relaxed),
                thunk: leaf.thunk.load(Ordering::Relaxed),
                form: leaf.form.load(Ordering::Relaxed),
            };
            if claimed == Err(number) && address != 0 && found == wanted {
                return Some(address);
            }
        }
        None
    }

    #[inline(never)]
    fn build_leaf(&self, site: &Site, target: u64) -> Option<u64> {
        let arena = self.arena(site)?;
        let targets = [Target { address: target, share: 0 }];
        let spec = TreeSpec {
            reg: site.reg,
            // The broken variant that the tests must catch: a leaf takes the board's word for it.
            targets: if broken!("leaf-believes") { &[] } else { &targets },
            chain: 1,
            miss: if broken!("leaf-believes") { target } else { site.way },
            hits_counter: None,
            exits: None,
            keeps_flags: site.kind.keeps_flags(),
        };
        let body_cells = tree::body_size(&spec) / CELL;
        let head = arena.take_run(1 + body_cells as u32)?;
        let body = Cell(head.0 + 1);
        // SAFETY: the cells were taken just now.
        let (head_buf, body_buf) = unsafe { (arena.fresh(head, 1), arena.fresh(body, body_cells)) };
        // The thunk's copy is that of one kind of frame, and so is the leaf.
        arena.describe(head, 1 + body_cells as u32, Shape::Flat, site.frame);
        tree::emit(&spec, head_buf, arena.address(head), body_buf, arena.address(body)).ok()?;
        Some(arena.address(head))
    }
}

/// A gate cell of which each word leads to the program's thunk.
#[inline(never)]
fn take_words(arena: &Arena, site: &Site) -> Result<Cell, Reason> {
    let cell = arena.take_loose().ok_or(Reason::ArenaFull)?;
    arena.describe(cell, 1, Shape::Flat, site.frame);
    for index in 0..WORDS {
        let at = arena.address(cell) + index as u64 * 8;
        let word = gate_word(at, site.way).ok_or(Reason::OutOfRange)?;
        arena.word(cell, index).store(word, Ordering::Relaxed);
    }
    Ok(cell)
}

/// Writes a board behind its `head`; the stub that settles it.
#[inline(never)]
fn write_board(arena: &Arena, site: &Site, spec: &BoardSpec, head: Cell) -> Result<Cell, Reason> {
    let body_cells = board::body_size(spec.keeps_flags) / CELL;
    let settling = arena.take_run(1 + body_cells as u32).ok_or(Reason::ArenaFull)?;
    let body = Cell(settling.0 + 1);
    // SAFETY: all these cells were taken just now.
    let (head_buf, settling_buf, body_buf) =
        unsafe { (arena.fresh(head, 1), arena.fresh(settling, 1), arena.fresh(body, body_cells)) };
    arena.describe(head, 1, Shape::Flat, site.frame);
    arena.describe(settling, 1 + body_cells as u32, Shape::Flat, site.frame);
    board::emit(spec, head_buf, arena.address(head), body_buf, arena.address(body)).map_err(|_| Reason::OutOfRange)?;
    let (at, slow_at, to) = (arena.address(settling), site.gate.slow(arena), arena.address(head));
    stub::emit_settling(settling_buf, at, site.counters, slow_at, to, spec.keeps_flags)
        .map_err(|_| Reason::OutOfRange)?;
    Ok(settling)
}
