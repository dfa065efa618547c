//! A forked child runs what it inherited, and changes nothing of its parent's.

mod support;

use relpoline_bpf::{CompileError, Engine, Invocation, LoadErrorKind, MapHandle, Options, ProgArray, Runtime};

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(code: i32) -> !;
}

/// The child's answer, below 128.
fn in_a_child(work: impl FnOnce() -> i32) -> i32 {
    // SAFETY: the child runs `work` and ends without unwinding (panics abort) or running destructors.
    match unsafe { fork() } {
        // SAFETY: as above.
        0 => unsafe { _exit(work()) },
        pid => {
            let mut status = 0;
            // SAFETY: a child of ours, and a place for its status.
            assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
            assert_eq!(status & 0x7f, 0, "the child was killed by signal {}", status & 0x7f);
            status >> 8
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
        let code = in_a_child(|| {
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
        assert_eq!(code, 15, "after {calls} calls");
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
