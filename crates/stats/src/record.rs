//! The records. The engine stores into them through a pointer, one writer per file, on its slow path only;
//! the tool reads copies of them out of bytes (see [`crate::file`]).
//!
//! A record becomes visible when the count in the header passes it, so the engine fills it first. A site's
//! record is written again at every judgement; a reader of a living process may see a mixture of two
//! judgements unless it looks at [`SiteRecord::sequence`], which is odd while the record is being written.

use crate::plain::record;

/// First eight bytes of a statistics file.
pub const MAGIC: u64 = u64::from_le_bytes(*b"RLPSTATS");
/// Version of this layout; a reader takes no other.
pub const VERSION: u32 = 3;
/// Hottest targets kept per site. A tree may have more: see [`SiteRecord::target_count`].
pub const TARGETS: usize = 8;
/// Refused children kept by path. More are only counted.
pub const REFUSALS: usize = 8;
/// Arenas there can be.
pub const ARENAS: usize = 16;
/// Number of a share of one: shares are 16.16 fixed point.
pub const SHARE_ONE: u32 = 1 << 16;
/// [`SiteRecord::reg`] when the register is not known.
pub const NO_REG: u8 = 0xff;

record! {
    /// Start of the file.
    pub struct Header {
        /// [`MAGIC`], written last: without it the file is unfinished and is skipped.
        pub magic: u64,
        /// [`VERSION`].
        pub version: u32,
        /// Bytes of this header.
        pub header_size: u32,
        /// Process, as it sees itself (in its own pid namespace).
        pub pid: u32,
        /// Process it was forked from, or 0 for the first image.
        pub forked_from: u32,
        /// Bits of [`crate::codes::flag`].
        pub flags: u32,
        /// 1 while promotion is on.
        pub enabled: u32,
        /// [`crate::Refusal`] when it is not on, else 0.
        pub refusal: u32,
        /// Highest number of patches seen in any one second.
        pub patches_per_s_max: u32,
        /// Engine version as text, zero-padded.
        pub engine_version: [u8; 16],
        /// Time-stamp counter at start, at the last write, and its frequency (0: unknown).
        pub start_tsc: u64,
        /// See `start_tsc`.
        pub last_tsc: u64,
        /// See `start_tsc`.
        pub tsc_hz: u64,
        /// Cycles spent scanning and re-pointing at start and on dlopen.
        pub startup_cycles: u64,
        /// Cycles spent judging, building and linking.
        pub learn_cycles: u64,
        /// Judgements made.
        pub judgements: u64,
        /// Gate stores that changed a site's destination.
        pub patches: u64,
        /// One-byte links written into program text.
        pub links: u64,
        /// One-byte links that the system refused.
        pub links_refused: u64,
        /// Bytes of the arena that are populated.
        pub arena_bytes: u64,
        /// Sites judged for which this file had no record left.
        pub sites_lost: u64,
        /// Cost of a direct call, in 1/16 cycles.
        pub cost_direct: u32,
        /// Cost of a call through the retpoline, in 1/16 cycles.
        pub cost_retpoline: u32,
        /// Cost of a mispredicted conditional branch, in 1/16 cycles.
        pub cost_mispredict: u32,
        /// Cost of one compare-and-jump that is not taken, in 1/16 cycles.
        pub cost_compare: u32,
        /// Where the object records start.
        pub object_offset: u32,
        /// Bytes of one object record.
        pub object_size: u32,
        /// Object records in use.
        pub object_count: u32,
        /// Object records there is room for.
        pub object_capacity: u32,
        /// Where the site records start.
        pub site_offset: u32,
        /// Bytes of one site record.
        pub site_size: u32,
        /// Site records in use.
        pub site_count: u32,
        /// Site records there is room for.
        pub site_capacity: u32,
        /// Children that were started by exec without the engine.
        pub refused_children: u32,
        /// Sites promoted now.
        pub sites_promoted: u32,
        /// Sites learning now.
        pub sites_learning: u32,
        /// Sites judged and left to their retpoline now.
        pub sites_retpolined: u32,
        /// Where the event records start.
        pub event_offset: u32,
        /// Bytes of one event record.
        pub event_size: u32,
        /// Event records there is room for: a ring.
        pub event_capacity: u32,
        /// Where the sample records start.
        pub sample_offset: u32,
        /// Bytes of one sample record.
        pub sample_size: u32,
        /// Sample records there is room for.
        pub sample_capacity: u32,
        /// Sample records in use.
        pub sample_count: u32,
        /// Sites that were promoted at the start, from a profile.
        pub sites_warm: u32,
        /// Sites of a profile that are not there any more, in objects that are.
        pub profile_stale: u32,
        /// Where the target records start.
        pub target_offset: u32,
        /// Bytes of one target record.
        pub target_size: u32,
        /// Target records there is room for.
        pub target_capacity: u32,
        /// Target records in use.
        pub target_count: u32,
        /// Sites of objects that are gone whose records were used again.
        pub unlisted_sites: u32,
        /// Calls of theirs that found their target in a tree; exact with [`crate::codes::flag::COUNT`], else
        /// 0.
        pub unlisted_hits: u64,
        /// Calls of theirs that took the retpoline.
        pub unlisted_retpolined: u64,
        /// Events that ever happened; the last [`Header::event_capacity`] of them are there.
        pub event_count: u64,
        /// Ticks between two samples.
        pub sample_interval: u64,
        /// Time-stamp counter at the last sample.
        pub last_sample: u64,
        /// Calls that took the retpoline, as far as they were counted, of all sites.
        pub calls_retpolined: u64,
        /// Which run the process belongs to ([`crate::live::run_id`]), or 0.
        pub run: u64,
        /// Where the engine has put code of its own.
        pub arenas: [ArenaRecord; ARENAS],
        /// The first of them.
        pub refusals: [RefusalRecord; REFUSALS],
        /// Path of the executable, zero-padded, cut at the front when too long.
        pub program: [u8; 256],
    }
}

record! {
    /// A program that this process started by exec without the engine in it.
    pub struct RefusalRecord {
        /// [`crate::Refusal`].
        pub refusal: u8,
        /// Its path, zero-padded, cut at the front when too long.
        pub program: [u8; 127],
    }
}

record! {
    /// An executable or a library.
    pub struct ObjectRecord {
        /// What is added to the addresses in the file (`l_addr`).
        pub base: u64,
        /// Thunks found.
        pub thunks: u32,
        /// Sites found, the refused ones included.
        pub sites: u32,
        /// Sites left alone.
        pub refused: u32,
        /// `relpoline_core::policy::Reason` when the whole object was left alone, else 0.
        pub reason: u8,
        /// 1 while it is mapped, 0 after dlclose.
        pub loaded: u8,
        /// Bytes of `build_id` in use, at most 20.
        pub build_id_len: u8,
        /// Reserved, zero.
        pub reserved: u8,
        /// The start of its build-id.
        pub build_id: [u8; 20],
        /// Reserved, zero.
        pub reserved2: u32,
        /// Its path, zero-padded, cut at the front when too long.
        pub path: [u8; 232],
    }
}

record! {
    /// A call or jump site. Written from its first judgement on (or at once, when refused), so that a program
    /// with ten thousand sites does not touch ten thousand records at start.
    pub struct SiteRecord {
        /// Address of the instruction; 0 marks an unused record.
        pub address: u64,
        /// Odd while the record is being written.
        pub sequence: u32,
        /// Index of its object record.
        pub object: u16,
        /// [`crate::Kind`].
        pub kind: u8,
        /// [`crate::State`].
        pub state: u8,
        /// `relpoline_core::policy::Reason`.
        pub reason: u8,
        /// Register that holds the target, by its number in instruction encoding, or [`NO_REG`].
        pub reg: u8,
        /// Targets in the tree (0 to 96); the hottest [`TARGETS`] of them are in `targets`.
        pub target_count: u8,
        /// How many of them stand in the hot chain before the tree proper.
        pub chain: u8,
        /// Times it went back to learning.
        pub relearned: u32,
        /// Times its gate was re-pointed.
        pub patches: u32,
        /// What was left of the countdown of misses when `misses` was written: a reader that may look into
        /// the process adds what has been counted since.
        pub misses_left: u32,
        /// Time-stamp counter at its last judgement.
        pub learned_at: u64,
        /// Time-stamp counter when it got into its state.
        pub since: u64,
        /// Calls that found their target in the tree: exact with [`crate::codes::flag::COUNT`], else 0.
        pub hits: u64,
        /// Calls that missed in the tree and took the retpoline.
        pub misses: u64,
        /// Calls counted while learning. They took the retpoline too.
        pub calls_seen: u64,
        /// Address of its gate, 0 when it has none.
        pub gate: u64,
        /// Address of its tree's head, 0 without a tree.
        pub tree: u64,
        /// Address of the rest of the tree.
        pub tree_body: u64,
        /// Address of its recording stub, 0 when it never learned.
        pub recording: u64,
        /// Address of what its code counts: a cursor (8 bytes), hits (8 bytes), the countdown of misses.
        pub counters: u64,
        /// Address of the engine's copy of the program's thunk.
        pub thunk: u64,
        /// Bytes of `tree_body`, 0 when the head holds everything.
        pub tree_body_bytes: u32,
        /// 1 when a link cannot be undone any more, and everything happens at the miss gate.
        pub stuck: u32,
        /// The hottest targets, hottest first; an address of 0 ends the list.
        pub targets: [TargetRecord; TARGETS],
    }
}

record! {
    /// A target of a site.
    pub struct TargetRecord {
        /// Its address.
        pub address: u64,
        /// Its share of the site's calls in the window that was judged, 16.16.
        pub share: u32,
        /// Reserved, zero.
        pub reserved: u32,
    }
}

record! {
    /// Memory in which the engine puts code.
    pub struct ArenaRecord {
        /// Its first address; 0 for none.
        pub start: u64,
        /// Its bytes.
        pub bytes: u64,
    }
}

record! {
    /// A site got into another state. Events are a ring: the newest overwrite the oldest.
    pub struct EventRecord {
        /// Time-stamp counter.
        pub at: u64,
        /// The hottest target, or 0.
        pub target: u64,
        /// Calls of the site that had taken the retpoline by then, as far as they were counted.
        pub retpolined: u64,
        /// Index of the site's record.
        pub site: u32,
        /// Promotions out of learning only, else 0: share of the calls that the tree's targets cover (16.16).
        pub covered: u32,
        /// Likewise: share of the calls whose target a branch predictor would foresee (16.16).
        pub accuracy: u32,
        /// Likewise: what the model makes of a call through the tree, in 1/16 cycles.
        pub tree_cost: u32,
        /// Likewise: what the model makes of a call through the retpoline, in 1/16 cycles.
        pub retpoline_cost: u32,
        /// [`crate::State`] from now on.
        pub state: u8,
        /// `relpoline_core::policy::Reason`.
        pub reason: u8,
        /// Targets in the tree.
        pub target_count: u8,
        /// How many of them stand in the hot chain.
        pub chain: u8,
    }
}

record! {
    /// One of all targets of a site, as the process has ended: [`SiteRecord::targets`] has the hottest only.
    pub struct LastTargetRecord {
        /// Its address.
        pub address: u64,
        /// Index of the site's record.
        pub site: u32,
        /// Its share of the site's calls, 16.16.
        pub share: u32,
    }
}

record! {
    /// How things stood at a time. When the table is full every other sample is dropped and the interval
    /// doubled, so that it always covers the whole life of the process.
    pub struct SampleRecord {
        /// Time-stamp counter.
        pub at: u64,
        /// Calls that took direct jumps; exact with [`crate::codes::flag::COUNT`], else 0.
        pub hits: u64,
        /// Calls that took the retpoline, as far as they were counted.
        pub retpolined: u64,
        /// Cycles spent judging, building and linking.
        pub learn_cycles: u64,
        /// Patches.
        pub patches: u32,
        /// Sites promoted.
        pub promoted: u32,
        /// Sites learning.
        pub learning: u32,
        /// Sites judged and left to their retpoline.
        pub left: u32,
    }
}
