//! The protocols under loom: every interleaving of a change with threads that run through the code.
//!
//! In `crates/relpoline/tests/external`: `RUSTFLAGS='--cfg loom' cargo test -p model`. The deliberate faults
//! `--cfg relpoline_broken="slots-forward"`, `"key-forgets"` and `"straight-across"` fail.
//!
//! Text is simulated by atomics. A change's bytes are released and fetched bytes acquired, as on x86-64, where stores
//! are seen in order. What `membarrier` adds is modelled by what each test's `done` flags say: who reads one set
//! begins after the change.

#![cfg(all(test, loom))]

use loom::sync::Arc;
use loom::sync::Mutex;
use loom::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, Ordering};
use loom::thread;
use relpoline::StaticKey;
use relpoline::__model::set;
use relpoline_patch::route::{self, AWAY, Bytes, GATE, Route, TARGET};
use relpoline_patch::slots::{JMP, Slots, TEST, select};
use relpoline_patch::text::TextError;

/// A gate's first bytes.
struct Gate([AtomicU8; 5]);

/// What the updater holds.
struct Writer(Arc<Gate>);

impl Slots for Writer {
    const COUNT: usize = 5;

    fn opcode(&self, index: usize) -> u8 {
        self.0.0[index].load(Ordering::Relaxed)
    }

    fn change(&mut self, index: usize, old: u8, new: u8) -> Result<(), TextError> {
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

/// What the displacement of a call to its gate says, and how far its islands are.
const TO_GATE: i32 = 0x0102_0304;
const DISTANCE: i8 = -2;
/// Displacements to targets, which differ in every byte: of the gate's, and of each other's.
const TARGETS: [i32; 3] = [0x1122_3344, 0x5566_7788, 0x0a0b_0c0d];

/// A call that is found: its displacement, and where its gate leads.
struct Caller {
    bytes: [AtomicU8; 4],
    gate: AtomicI32,
    /// Held while a thread fetches. A barrier makes every thread fetch anew: it comes after those that have begun.
    fetching: Mutex<()>,
}

fn route_to(target: i32) -> Route {
    Route::new(TO_GATE, DISTANCE, target).expect("islands are within reach")
}

impl Caller {
    /// At its first target, as its gate is.
    fn new() -> Caller {
        let bytes = TARGETS[0].to_le_bytes().map(AtomicU8::new);
        Caller { bytes, gate: AtomicI32::new(TARGETS[0]), fetching: Mutex::new(()) }
    }

    fn load(&self, order: Ordering) -> i32 {
        i32::from_le_bytes([0, 1, 2, 3].map(|n| self.bytes[n].load(order)))
    }

    /// Where a call ends: at a target, or at an island, which leads to the gate, which leads on.
    fn call(&self) -> i32 {
        let fetched = {
            let _fetching = self.fetching.lock().unwrap();
            self.load(Ordering::Acquire)
        };
        if TARGETS.contains(&fetched) {
            return fetched;
        }
        let is_there = |target: &i32| (GATE..TARGET).any(|station| route_to(*target).at(station) == fetched);
        assert!(TARGETS.iter().any(is_there), "a call goes to {fetched:x}, where nothing is");
        self.gate.load(Ordering::Acquire)
    }
}

/// What the updater holds.
struct Changes(Arc<Caller>);

impl Bytes for Changes {
    fn displacement(&self, _field: u64) -> i32 {
        self.0.load(Ordering::Relaxed)
    }

    fn byte(&mut self, at: u64, old: u8, new: u8) -> Result<(), TextError> {
        let byte = &self.0.bytes[at as usize];
        assert_eq!(byte.load(Ordering::Relaxed), old);
        byte.store(new, Ordering::Release);
        Ok(())
    }

    fn fence(&mut self) -> Result<(), TextError> {
        drop(self.0.fetching.lock().unwrap());
        Ok(())
    }
}

/// Calls go to a target that was current since they began, by way of islands or not, and never to where nothing is.
fn callers_go_where_they_may(updates: &'static [usize]) {
    let mut model = loom::model::Builder::new();
    // All interleavings of thirty steps and ten would take for ever.
    model.preemption_bound = Some(3);
    model.check(move || {
        let caller = Arc::new(Caller::new());
        let done: Arc<Vec<AtomicBool>> = Arc::new(updates.iter().map(|_| AtomicBool::new(false)).collect());
        let thread = {
            let (caller, done) = (Arc::clone(&caller), Arc::clone(&done));
            thread::spawn(move || {
                let begun = done.iter().take_while(|d| d.load(Ordering::Acquire)).count();
                let ended = caller.call();
                let all: Vec<i32> = std::iter::once(&0).chain(updates).map(|&n| TARGETS[n]).collect();
                assert!(all[begun..].contains(&ended), "{ended:x} after {begun} updates");
            })
        };
        let mut text = Changes(Arc::clone(&caller));
        let mut old = route_to(TARGETS[0]);
        for (&n, done) in updates.iter().zip(done.iter()) {
            let new = route_to(TARGETS[n]);
            // Nobody goes straight to the old target any more; then the gate changes; then callers go on.
            route::step(&mut text, 0, &old, AWAY).unwrap();
            text.fence().unwrap();
            caller.gate.store(TARGETS[n], Ordering::Release);
            route::walk(&mut text, std::iter::once((0, old)), AWAY).unwrap();
            route::walk(&mut text, std::iter::once((0, new)), TARGET).unwrap();
            done.store(true, Ordering::Release);
            old = new;
        }
        assert_eq!(caller.load(Ordering::Relaxed), old.at(TARGET));
        thread.join().unwrap();
    });
}

#[test]
fn a_caller_goes_to_the_old_target_or_the_new_one() {
    callers_go_where_they_may(&[1]);
}

#[test]
fn a_caller_is_led_on_and_back() {
    callers_go_where_they_may(&[1, 2]);
    callers_go_where_they_may(&[2, 0]);
}
