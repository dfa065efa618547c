//! A jump that may be there or not, as a pure protocol: what to write at which site, in which order, and what
//! to wait for.
//!
//! That is how the kernel's eBPF compiler, and `relpoline-bpf`, make direct jumps of tail calls. A call with
//! a constant index into an array of programs is compiled to two patch sites:
//!
//! ```text
//! bypass:  jmp  out            no program in the slot: the call does nothing   (nop when there is one)
//!          …                   count the call, pop what the prologue pushed
//! target:  jmp  program        the slot's program                              (nop when there is none)
//!          …                   never executed: the registers are popped already
//! out:
//! ```
//!
//! The order that Alexei Starovoitov and Maciej Fijalkowski settled on in July 2020 keeps a thread that is
//! somewhere between the two sites from ever falling out of the second one:
//!
//! | slot | writes |
//! |---|---|
//! | none → program | target nop→jmp, then bypass jmp→nop |
//! | program → program | target jmp→jmp, nothing else |
//! | program → none | bypass nop→jmp, a grace period, then target jmp→nop |
//! | none → none | nothing |
//!
//! Here any number of slots, each with any number of sites, changes in the same three [`Phase`]s, so a whole
//! update needs **one** grace period (the kernel waits once per poke descriptor). Between writing targets and
//! opening bypasses every core must have seen the former ([`Wait::Sync`]), since instruction fetch is not
//! bound to the order in which data stores become visible.
//!
//! Each site is an aligned [word](crate::word).

/// How the program of one slot changes; addresses are entries for tail calls.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Change {
    /// Empty before and after, or the same program: no site is touched.
    Nothing,
    /// A program comes into an empty slot.
    Insert(u64),
    /// A program takes another's place.
    Replace(u64),
    /// The slot becomes empty.
    Remove,
}

/// What to write at a site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Poke {
    /// The target site: a jump to the program, or a nop.
    Target(Option<u64>),
    /// The bypass site: `true` lets threads through to the target (nop), `false` jumps over it.
    Bypass(bool),
}

/// The phases of an update, in order. All sites of all slots go through one before any goes through the next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Targets of inserted and replaced programs.
    PointTargets,
    /// Bypasses of inserted programs are opened, of removed ones closed.
    SwitchBypasses,
    /// Targets of removed programs become nops.
    ClearTargets,
}

/// What to wait for after a phase.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wait {
    /// Go on at once.
    No,
    /// Until every core has executed a serialising instruction (`membarrier` with SYNC_CORE).
    Sync,
    /// Until every run that was going on has ended, cores synchronised too: a grace period.
    Grace,
}

impl Change {
    /// How a slot changes from `old` to `new`.
    #[must_use]
    pub fn between(old: Option<u64>, new: Option<u64>) -> Change {
        match (old, new) {
            (None, None) => Change::Nothing,
            (Some(a), Some(b)) if a == b => Change::Nothing,
            (None, Some(to)) => Change::Insert(to),
            (Some(_), Some(to)) => Change::Replace(to),
            (Some(_), None) => Change::Remove,
        }
    }

    /// What the slot's sites need in `phase`.
    #[must_use]
    pub fn poke(self, phase: Phase) -> Option<Poke> {
        match (phase, self) {
            (Phase::PointTargets, Change::Insert(to) | Change::Replace(to)) => Some(Poke::Target(Some(to))),
            (Phase::SwitchBypasses, Change::Insert(_)) => Some(Poke::Bypass(true)),
            (Phase::SwitchBypasses, Change::Remove) => Some(Poke::Bypass(false)),
            (Phase::ClearTargets, Change::Remove) => Some(Poke::Target(None)),
            _ => None,
        }
    }

    /// What has to be waited for after `phase` because of this slot.
    #[must_use]
    pub fn wait(self, phase: Phase) -> Wait {
        match (phase, self) {
            (Phase::PointTargets, Change::Insert(_)) => Wait::Sync,
            (Phase::SwitchBypasses, Change::Remove) if !BROKEN => Wait::Grace,
            _ => Wait::No,
        }
    }
}

impl Wait {
    /// The stronger of two.
    #[must_use]
    pub fn and(self, other: Wait) -> Wait {
        match (self, other) {
            (Wait::Grace, _) | (_, Wait::Grace) => Wait::Grace,
            (Wait::Sync, _) | (_, Wait::Sync) => Wait::Sync,
            _ => Wait::No,
        }
    }
}

/// The variant that the tests must catch: bypasses open before their targets are there, and targets are
/// cleared without a grace period.
const BROKEN: bool = cfg!(relpoline_broken = "tail-call-order");

/// The phases in the order in which they are to be gone through.
pub const PHASES: [Phase; 3] = if BROKEN {
    [Phase::SwitchBypasses, Phase::PointTargets, Phase::ClearTargets]
} else {
    [Phase::PointTargets, Phase::SwitchBypasses, Phase::ClearTargets]
};

/// The two sites of one tail call as they stand.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Site {
    /// Whether the bypass lets threads through.
    pub open: bool,
    /// Where the target jumps.
    pub target: Option<u64>,
}

impl Site {
    /// A site as it is first emitted, for a slot that holds `program`.
    #[must_use]
    pub fn fresh(program: Option<u64>) -> Site {
        Site { open: program.is_some(), target: program }
    }

    /// The site after `poke`.
    #[must_use]
    pub fn after(self, poke: Poke) -> Site {
        match poke {
            Poke::Target(target) => Site { target, ..self },
            Poke::Bypass(open) => Site { open, ..self },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    /// Where a thread that executes one tail call can be.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    enum Thread {
        Before,
        Between,
        Went(u64),
        Skipped,
    }

    fn step(thread: Thread, site: Site) -> Result<Thread, ()> {
        match (thread, site) {
            (Thread::Before, Site { open: true, .. }) => Ok(Thread::Between),
            (Thread::Before, _) => Ok(Thread::Skipped),
            (Thread::Between, Site { target: Some(t), .. }) => Ok(Thread::Went(t)),
            (Thread::Between, _) => Err(()),
            (done, _) => Ok(done),
        }
    }

    /// Every interleaving of one thread, which may start at any time, with an update from `old` to `new`:
    /// the programs it may have gone to, or an error when it fell out of the target.
    fn explore(old: Option<u64>, new: Option<u64>) -> Result<Vec<Option<u64>>, ()> {
        let change = Change::between(old, new);
        let mut threads = std::vec![(Thread::Before, Site::fresh(old))];
        let mut ends = Vec::new();
        let finish = |thread, site, ends: &mut Vec<_>| -> Result<(), ()> {
            let mut thread = thread;
            while matches!(thread, Thread::Before | Thread::Between) {
                thread = step(thread, site)?;
            }
            ends.push(if let Thread::Went(t) = thread { Some(t) } else { None });
            Ok(())
        };
        for phase in PHASES {
            let mut next = Vec::new();
            for (thread, site) in threads {
                let mut thread = thread;
                loop {
                    let after = change.poke(phase).map_or(site, |p| site.after(p));
                    // A grace period lets no thread through that is still between the sites.
                    match change.wait(phase) {
                        Wait::Grace if thread == Thread::Between => finish(thread, after, &mut ends)?,
                        _ => next.push((thread, after)),
                    }
                    if !matches!(thread, Thread::Before | Thread::Between) {
                        break;
                    }
                    thread = step(thread, site)?;
                }
            }
            threads = next;
        }
        for (thread, site) in threads {
            assert_eq!(site, Site::fresh(new));
            finish(thread, site, &mut ends)?;
        }
        Ok(ends)
    }

    #[test]
    #[cfg(not(relpoline_broken = "tail-call-order"))]
    fn no_thread_falls_out_and_each_sees_old_or_new() {
        for old in [None, Some(1), Some(2)] {
            for new in [None, Some(2), Some(3)] {
                let ends = explore(old, new).expect("fell out of the target");
                assert!(ends.iter().all(|e| *e == old || *e == new), "{old:?}→{new:?}: {ends:?}");
                assert!(ends.contains(&new));
            }
        }
    }

    #[test]
    #[cfg(relpoline_broken = "tail-call-order")]
    fn the_broken_order_is_caught() {
        assert!(explore(None, Some(1)).is_err() || explore(Some(1), None).is_err());
    }

    #[test]
    fn an_unchanged_slot_costs_nothing() {
        for phase in PHASES {
            for change in [Change::between(None, None), Change::between(Some(7), Some(7))] {
                assert_eq!((change.poke(phase), change.wait(phase)), (None, Wait::No));
            }
        }
    }
}
