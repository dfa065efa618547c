//! Code that is exchanged and freed while threads run it.

use relpoline_patch::code::{CodeError, Draft, Entry, Switch};
use relpoline_patch::gate::Gate;
use relpoline_patch::space::Space;
use relpoline_patch::switch::Form;
use relpoline_patch::word::{jump_word, nop_word};
use relpoline_patch::{grace, reclaim};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Function = unsafe extern "C" fn() -> u32;

/// What is freed, and when, is one for the whole process.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn space() -> Arc<Space> {
    Arc::new(Space::create(1 << 16).expect("code memory"))
}

/// `mov $n, %eax; ret`
fn constant(space: &Arc<Space>, n: u32) -> Entry<Function> {
    let mut draft = Draft::take(space, 6).expect("room");
    draft.write(0, &[&[0xb8][..], &n.to_le_bytes(), &[0xc3]].concat());
    // SAFETY: such a function.
    unsafe { Entry::new(&draft.publish(), 0) }.expect("there")
}

fn call(gate: &Gate<Function>) -> u32 {
    // SAFETY: called where it lives.
    gate.enter(|f| unsafe { f() }).expect("this process")
}

/// Frees all that can be.
fn freed() {
    reclaim::wait();
    reclaim::reap();
}

#[test]
fn a_gate_leads_on_and_what_it_led_to_is_freed() {
    let _alone = alone();
    let space = space();
    let gate = Gate::new(&constant(&space, 1)).unwrap();
    assert_eq!(call(&gate), 1);
    let used = space.used();
    for n in 0..10_000 {
        gate.lead_to(&constant(&space, n)).unwrap();
        assert_eq!(call(&gate), n);
        // More code than the space has room for.
        assert!(space.used() < 1 << 15, "nothing is freed");
    }
    freed();
    assert_eq!(space.used(), used);
    drop(gate);
    freed();
    assert_eq!(space.used(), 0);
}

/// Code of a gate that was led elsewhere lives as long as somebody is inside, and no longer.
#[test]
fn nothing_is_freed_under_a_thread() {
    let _alone = alone();
    let space = space();
    let gate = Gate::new(&constant(&space, 1)).unwrap();
    let (used, mut within) = (space.used(), 0);
    gate.enter(|_| {
        let old = gate.leads_to().address();
        gate.lead_to(&constant(&space, 2)).unwrap();
        within = space.used();
        // SAFETY: this thread came in before.
        assert_eq!(unsafe { (old as *const u8).read_volatile() }, 0xb8);
    })
    .unwrap();
    assert!(within > used);
    freed();
    assert_eq!(space.used(), used);
}

/// Eight threads call, directly and through code that calls the gate, while it is led to ever new code. Each value is one that was
/// current since the call began. Freed code is filled with traps, so nobody can be in it unnoticed.
#[test]
fn calls_are_right_while_gates_change() {
    let _alone = alone();
    let space = space();
    let gate = Arc::new(Gate::new(&constant(&space, 0)).unwrap());
    let mut draft = Draft::take(&space, 5).unwrap();
    // jmp gate
    let rel = i32::try_from(gate.address() as i64 - draft.address(5) as i64).unwrap();
    draft.write(0, &[&[0xe9][..], &rel.to_le_bytes()].concat());
    draft.keep(gate.clone());
    // SAFETY: a function that goes on as one of that type, which it keeps.
    let through = Gate::new(&unsafe { Entry::<Function>::new(&draft.publish(), 0) }.unwrap()).unwrap();
    let (done, stop) = (AtomicU32::new(0), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8)
            .map(|n| {
                let (gate, through, done, stop) = (&gate, &through, &done, &stop);
                scope.spawn(move || {
                    let mut calls = 0u64;
                    while !stop.load(Ordering::Relaxed) {
                        let before = done.load(Ordering::Acquire);
                        let value = call(if n % 2 == 0 { gate } else { through });
                        assert!(value >= before, "{value} after {before} was everywhere");
                        calls += 1;
                    }
                    calls
                })
            })
            .collect();
        for n in 1..5_000 {
            gate.lead_to(&constant(&space, n)).unwrap();
            done.store(n, Ordering::Release);
        }
        stop.store(true, Ordering::Relaxed);
        let calls: u64 = workers.into_iter().map(|worker| worker.join().expect("no call goes wrong")).sum();
        assert!(calls > 0);
    });
    drop((through, gate));
    freed();
    freed();
    assert_eq!(space.used(), 0);
}

/// `test`, then 1; or a jump to where 2 is returned.
#[test]
fn a_switch_switches() {
    let _alone = alone();
    let space = space();
    for (site, jump) in [(vec![0xa9, 6, 0, 0, 0], 5), (vec![0xa8, 6], 2)] {
        let mut draft = Draft::take(&space, jump + 12).unwrap();
        let one = [0xb8, 1, 0, 0, 0, 0xc3];
        draft.write(0, &[&site[..], &one, &[0xb8, 2, 0, 0, 0, 0xc3]].concat());
        let code = draft.publish();
        // SAFETY: such a function, in both forms.
        let (entry, switch) = unsafe { (Entry::<Function>::new(&code, 0).unwrap(), Switch::new(&code, 0).unwrap()) };
        let gate = Gate::new(&entry).unwrap();
        assert_eq!((call(&gate), switch.form()), (1, Some(Form::FallingThrough)));
        for _ in 0..3 {
            switch.set(Form::Jumping).unwrap();
            assert_eq!(call(&gate), 2);
            switch.set(Form::FallingThrough).unwrap();
            assert_eq!(call(&gate), 1);
        }
        // SAFETY: it is refused.
        assert_eq!(unsafe { Switch::new(&code, jump) }.map(|_| ()), Err(CodeError::NotThere));
    }
}

#[test]
fn a_word_of_code_changes() {
    let _alone = alone();
    let space = space();
    let mut draft = Draft::take(&space, 24).unwrap();
    draft.write(0, &[&nop_word().to_le_bytes()[..], &[0xb8, 1, 0, 0, 0, 0xc3], &[0xb8, 2, 0, 0, 0, 0xc3]].concat());
    let code = draft.publish();
    // SAFETY: such a function, whatever the word is.
    let gate = Gate::new(&unsafe { Entry::<Function>::new(&code, 0) }.unwrap()).unwrap();
    assert_eq!(call(&gate), 1);
    let jump = jump_word(code.address(0), code.address(14)).unwrap();
    // SAFETY: both words are right.
    unsafe {
        assert_eq!(code.replace_word(0, jump), Ok(nop_word()));
        grace::sync_cores();
        assert_eq!(call(&gate), 2);
        assert_eq!(code.replace_word(4, jump), Err(CodeError::NotThere));
        assert_eq!(code.replace_word(24, jump), Err(CodeError::NotThere));
    }
}

#[test]
fn what_cannot_be_is_refused() {
    let _alone = alone();
    let (space, other) = (space(), space());
    assert_eq!(Draft::take(&space, 1 << 20).map(|_| ()), Err(CodeError::NoRoom));
    let gate = Gate::new(&constant(&space, 1)).unwrap();
    assert_eq!(gate.lead_to(&constant(&other, 2)), Err(CodeError::OtherSpace));
    assert_eq!(call(&gate), 1);
}

/// A child neither runs nor changes its parent's code, and has its own.
#[test]
fn a_child_is_told() {
    let _alone = alone();
    let space = space();
    let gate = Gate::new(&constant(&space, 1)).unwrap();
    // SAFETY: the child only does what this crate promises there, and ends.
    let pid = unsafe { libc::fork() };
    if pid == 0 {
        let refused = gate.enter(|_| ()) == Err(CodeError::Inherited)
            && gate.lead_to(&gate.leads_to()) == Err(CodeError::Inherited)
            && Draft::take(&space, 1).map(|_| ()) == Err(CodeError::Inherited);
        let own = Arc::new(Space::create(1 << 16).expect("code memory"));
        let mine = Gate::new(&constant(&own, 5)).expect("this process");
        let right = refused && call(&mine) == 5 && mine.lead_to(&constant(&own, 6)).is_ok() && call(&mine) == 6;
        // SAFETY: ends the child, without what its parent's test harness has to do.
        unsafe { libc::_exit(i32::from(!right)) };
    }
    let mut status = -1;
    // SAFETY: the status is writable.
    assert_eq!((unsafe { libc::waitpid(pid, &raw mut status, 0) }, status), (pid, 0));
    assert_eq!(call(&gate), 1);
}
