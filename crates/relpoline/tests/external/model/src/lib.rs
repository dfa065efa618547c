//! The protocols under loom: every interleaving of a change with threads that run through the code.
//!
//! In `crates/relpoline/tests/external`: `RUSTFLAGS='--cfg loom' cargo test -p model`. The deliberate faults
//! `--cfg relpoline_broken="slots-forward"` and `"key-forgets"` fail.
//!
//! Text is simulated by atomics. A change's bytes are released and fetched bytes acquired, as on x86-64, where stores
//! are seen in order. What `membarrier` adds is modelled by what each test's `done` flags say: who reads one set
//! begins after the change.

#![cfg(all(test, loom))]

use loom::sync::Arc;
use loom::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use loom::thread;
use relpoline::__model::{JMP, Slots, TEST, select, set};
use relpoline::{StaticKey, UpdateError};

/// A gate's first bytes.
struct Gate([AtomicU8; 5]);

/// What the updater holds.
struct Writer(Arc<Gate>);

impl Slots for Writer {
    const COUNT: usize = 5;

    fn opcode(&self, index: usize) -> u8 {
        self.0.0[index].load(Ordering::Relaxed)
    }

    fn change(&mut self, index: usize, old: u8, new: u8) -> Result<(), UpdateError> {
        assert_eq!(self.0.0[index].load(Ordering::Relaxed), old);
        self.0.0[index].store(new, Ordering::Release);
        Ok(())
    }
}

impl Gate {
    /// With slot 1 in charge, as an armed gate is.
    fn new() -> Gate {
        Gate([TEST, JMP, JMP, JMP, JMP].map(AtomicU8::new))
    }

    /// Where a call ends: slot by slot, as a processor goes.
    fn call(&self) -> usize {
        (0..5).find(|&i| self.0[i].load(Ordering::Acquire) == JMP).expect("the last slot is never passed over here")
    }
}

/// Calls while the gate goes through `slots` end at one that was current since they began.
fn calls_end_where_they_may(slots: &'static [usize]) {
    loom::model(move || {
        let gate = Arc::new(Gate::new());
        let done: Arc<Vec<AtomicBool>> = Arc::new(slots.iter().map(|_| AtomicBool::new(false)).collect());
        let caller = {
            let (gate, done) = (Arc::clone(&gate), Arc::clone(&done));
            thread::spawn(move || {
                let begun = done.iter().take_while(|d| d.load(Ordering::Acquire)).count();
                let ended = gate.call();
                let all: Vec<usize> = std::iter::once(1).chain(slots.iter().copied()).collect();
                assert!(all[begun..].contains(&ended), "slot {ended} after {begun} of {slots:?}");
            })
        };
        let mut writer = Writer(gate);
        for (&slot, done) in slots.iter().zip(done.iter()) {
            select(&mut writer, slot).unwrap();
            done.store(true, Ordering::Release);
        }
        caller.join().unwrap();
    });
}

#[test]
fn a_call_never_ends_at_a_slot_between() {
    calls_end_where_they_may(&[3]);
}

#[test]
fn there_and_back() {
    calls_end_where_they_may(&[4, 2]);
    calls_end_where_they_may(&[2, 1, 3]);
}

/// A branch on a key with one site, which is off and becomes `values`: what a thread sees is what the key was at
/// some time since it began.
fn branches_see_what_the_key_was(values: &'static [bool]) {
    for likely in [false, true] {
        loom::model(move || {
            let key = Arc::new(StaticKey::new("modelled", false));
            let ahead = if likely { TEST } else { JMP };
            let falls_through_when = likely;
            // Off to begin with: an unlikely site falls through, a likely one jumps.
            let site = Arc::new(AtomicU8::new(if likely { JMP } else { TEST }));
            let done: Arc<Vec<AtomicBool>> = Arc::new(values.iter().map(|_| AtomicBool::new(false)).collect());
            let reader = {
                let (key, site, done) = (Arc::clone(&key), Arc::clone(&site), Arc::clone(&done));
                thread::spawn(move || {
                    let begun = done.iter().take_while(|d| d.load(Ordering::Acquire)).count();
                    let falls = site.load(Ordering::Acquire) == TEST;
                    let seen = if falls { falls_through_when } else { key.is_enabled() };
                    let all: Vec<bool> = std::iter::once(false).chain(values.iter().copied()).collect();
                    assert!(all[begun..].contains(&seen), "{seen} after {begun} changes");
                })
            };
            for (&on, done) in values.iter().zip(done.iter()) {
                let byte = if on { ahead } else { ahead ^ JMP ^ TEST };
                set(&key, on, || {
                    site.store(byte, Ordering::Release);
                    Ok(())
                })
                .unwrap();
                done.store(true, Ordering::Release);
            }
            reader.join().unwrap();
        });
    }
}

#[test]
fn a_branch_sees_what_the_key_was() {
    branches_see_what_the_key_was(&[true]);
    branches_see_what_the_key_was(&[true, false]);
}
