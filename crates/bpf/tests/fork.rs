//! A forked child runs what it inherited, and changes nothing of its parent's.

mod support;

use relpoline_bpf::{CompileError, Engine, Invocation, LoadErrorKind, MapHandle, Options, ProgArray, Runtime};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

unsafe extern "C" {
    fn alarm(seconds: u32) -> u32;
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(code: i32) -> !;
}

/// How a child ends that has 20 s for `work`, which answers with less than 128: that, or the signal that ended it.
fn ending(work: impl FnOnce() -> i32) -> Result<i32, i32> {
    // SAFETY: the child runs `work` and ends without unwinding (panics abort) or running destructors.
    match unsafe { fork() } {
        // SAFETY: as above.
        0 => unsafe {
            alarm(20);
            _exit(work())
        },
        pid => {
            let mut status = 0;
            // SAFETY: a child of ours, and a place for its status.
            assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
            if status & 0x7f == 0 { Ok(status >> 8) } else { Err(status & 0x7f) }
        }
    }
}

#[test]
fn a_child_keeps_what_it_had_and_learns_nothing() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 2).unwrap();
    let maps = [MapHandle::Array(array.clone())];
    let variable = "ldxb %r3, [%r1+0]\nldmap %r2, 0\ncall 12\nmov %r0, 9\nexit";
    let variable = support::load(&runtime, "variable", variable, &maps);
    let direct = support::load(&runtime, "direct", "ldmap %r2, 0\nmov %r3, 1\ncall 12\nmov %r0, 9\nexit", &maps);
    let [one, two] = [1, 2].map(|n| support::load(&runtime, "leaf", &format!("mov %r0, {n}\nexit"), &[]));
    array.update(1, Some(&one)).unwrap();
    for calls in [0, 90, 200, 5000] {
        // The site is cold, about to learn, learning, promoted.
        for _ in 0..calls {
            assert_eq!(variable.run(&mut [1]).unwrap(), 1);
        }
        let code = ending(|| {
            let runs = (0..2000).all(|_| {
                variable.invoke(Invocation::new(&mut [1]).engine(Engine::Compiled)) == Ok(1)
                    && direct.run(&mut []) == Ok(1)
            });
            let refused = array.update(1, Some(&two)) == Err(CompileError::Inherited.into())
                && array.swap([(0, None)]) == Err(CompileError::Inherited.into());
            let insns = support::asm::assemble("mov %r0, 1\nexit").unwrap();
            let load = support::load_insns(&runtime, "late", &insns, &[], Options::default());
            let not_loaded = matches!(load, Err(e) if e.kind == LoadErrorKind::Compile(CompileError::Inherited));
            // A runtime of its own works, and freeing what was inherited does no harm.
            let own = Runtime::new()
                .is_ok_and(|own| support::load(&own, "own", "mov %r0, 5\nexit", &[]).run(&mut []) == Ok(5));
            drop((variable.clone(), array.clone()));
            i32::from(runs) | i32::from(refused) << 1 | i32::from(not_loaded) << 2 | i32::from(own) << 3
        });
        assert_eq!(code, Ok(15), "after {calls} calls");
    }
    array.update(1, Some(&two)).unwrap();
    assert_eq!((variable.run(&mut [1]).unwrap(), direct.run(&mut []).unwrap()), (2, 2));
}

#[test]
fn a_child_that_outlives_updates_of_its_parent() {
    let runtime = Runtime::new().unwrap();
    let array = ProgArray::new(&runtime, "array", 1).unwrap();
    let main = "ldmap %r2, 0\nmov %r3, 0\ncall 12\nmov %r0, 9\nexit";
    let main = support::load(&runtime, "main", main, &[MapHandle::Array(array.clone())]);
    let [one, two] = [1, 2].map(|n| support::load(&runtime, "leaf", &format!("mov %r0, {n}\nexit"), &[]));
    array.update(0, Some(&one)).unwrap();
    let (mut theirs, mut ours) = std::os::unix::net::UnixStream::pair().unwrap();
    // SAFETY: as in `in_a_child`.
    let pid = unsafe { fork() };
    use std::io::{Read, Write};
    if pid == 0 {
        // Waits until the parent has changed the code they share.
        let told = theirs.read_exact(&mut [0]).is_ok();
        // SAFETY: ends the child.
        unsafe { _exit(if told { main.run(&mut []).map_or(100, |r| r as i32) } else { 101 }) };
    }
    array.update(0, Some(&two)).unwrap();
    drop(one);
    runtime.quiesce();
    assert_eq!(main.run(&mut []).unwrap(), 2);
    ours.write_all(&[1]).unwrap();
    let mut status = 0;
    // SAFETY: a child of ours, and a place for its status.
    assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 1 << 8, "the slot as it was at the fork");
}

/// What threads of its parent were doing, running, loading, freeing, learning, is nothing that a child waits for.
#[test]
fn a_child_waits_for_no_thread_of_its_parent() {
    let computed = |runtime: &Runtime, name| {
        let array = ProgArray::new(runtime, name, 2).unwrap();
        let text = "ldxb %r3, [%r1+0]\nldmap %r2, 0\ncall 12\nmov %r0, 9\nexit";
        (support::load(runtime, name, text, &[MapHandle::Array(array.clone())]), array)
    };
    let leaf = |runtime: &Runtime, n| support::load(runtime, "leaf", &format!("mov %r0, {n}\nexit"), &[]);
    let stop = AtomicBool::new(false);
    let begun = Barrier::new(4);
    let going = || !stop.load(Ordering::Relaxed);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            // Nearly always in the middle of a run.
            let runtime = Runtime::new().unwrap();
            let long = "mov %r0, 20000\nsub %r0, 1\njne %r0, 0, -2\nexit";
            let long = support::load(&runtime, "long", long, &[]);
            begun.wait();
            while going() {
                assert_eq!(long.run(&mut []).unwrap(), 0);
            }
        });
        scope.spawn(|| {
            let runtime = Runtime::new().unwrap();
            begun.wait();
            while going() {
                drop(leaf(&runtime, 1));
            }
        });
        scope.spawn(|| {
            let runtime = Runtime::new().unwrap();
            begun.wait();
            while going() {
                let (program, array) = computed(&runtime, "theirs");
                array.update(1, Some(&leaf(&runtime, 1))).unwrap();
                assert!((0..3000).all(|_| program.run(&mut [1]) == Ok(1)));
            }
        });
        begun.wait();
        let everything = || {
            let Ok(own) = Runtime::new() else { return 1 };
            let (program, array) = computed(&own, "ours");
            for n in [1, 2] {
                if array.update(1, Some(&leaf(&own, n))).is_err() {
                    return 2;
                }
                if !(0..3000).all(|_| program.run(&mut [1]) == Ok(n)) {
                    return 3;
                }
            }
            own.quiesce();
            0
        };
        let bad = (0..60).map(|_| ending(everything)).find(|end| *end != Ok(0));
        stop.store(true, Ordering::Relaxed);
        assert_eq!(bad, None, "14 is the alarm: it waited");
    });
}
