//! Grace periods when the kernel's barrier is refused by a filter that was installed after it had been registered for.
//!
//! Alone in its process, since barriers are given up for all of it.

use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use relpoline_patch::grace::{Domain, Reader, readers_fence};

static DOMAIN: Domain = Domain::new();
/// What readers look at, and whether they shall end.
static VALUE: AtomicPtr<AtomicU64> = AtomicPtr::new(std::ptr::null_mut());
static STOP: AtomicBool = AtomicBool::new(false);
/// Uses of a value after its grace period.
static LATE: AtomicU64 = AtomicU64::new(0);

const GOOD: u64 = 1;
const POISON: u64 = 2;

/// Refuses `membarrier` to this thread and those that it starts.
fn refuse_barriers() {
    let load = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    let (equal, give) = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K, libc::BPF_RET | libc::BPF_K);
    let step = |code: u32, jf, k| libc::sock_filter { code: code as u16, jt: 0, jf, k };
    let mut filter = [
        step(load, 0, 0),
        step(equal, 1, libc::SYS_membarrier as u32),
        step(give, 0, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        step(give, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: the program is alive during the calls, and the kernel copies it.
    let done = unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
            && libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) == 0
    };
    assert!(done, "{}", std::io::Error::last_os_error());
    // SAFETY: a system call without pointers.
    let asked = unsafe { libc::syscall(libc::SYS_membarrier, libc::MEMBARRIER_CMD_PRIVATE_EXPEDITED_SYNC_CORE, 0, 0) };
    assert_eq!(asked, -1);
}

/// Looks at the value, again and again, and lets go of it in between.
fn read() {
    let reader: &'static Reader = Box::leak(Box::default());
    DOMAIN.register(reader);
    while !STOP.load(Ordering::Relaxed) {
        reader.enter(&DOMAIN);
        // SAFETY: values are leaked, not freed: poison stands for freeing.
        let value = unsafe { &*VALUE.load(Ordering::Acquire) };
        for _ in 0..30 {
            if value.load(Ordering::Relaxed) == POISON {
                LATE.fetch_add(1, Ordering::Relaxed);
            }
        }
        reader.leave();
    }
}

#[test]
fn a_barrier_that_is_refused_later_is_missed_by_nobody() {
    // Values are used again: there are many grace periods.
    let values: &[AtomicU64] = Box::leak((0..64).map(|_| AtomicU64::new(GOOD)).collect());
    VALUE.store(std::ptr::from_ref(&values[0]).cast_mut(), Ordering::Release);
    let readers: Vec<_> = (0..2).map(|_| std::thread::spawn(read)).collect();
    // Barriers are to be had, and one has been had.
    DOMAIN.wait();
    assert!(!readers_fence(), "the kernel has no barriers to refuse");
    refuse_barriers();
    DOMAIN.wait();
    assert!(readers_fence(), "nobody took note");
    let begun = Instant::now();
    let mut periods = 0;
    while begun.elapsed() < Duration::from_secs(3) {
        let (old, new) = (&values[periods % 64], &values[(periods + 1) % 64]);
        new.store(GOOD, Ordering::Relaxed);
        VALUE.store(std::ptr::from_ref(new).cast_mut(), Ordering::Release);
        DOMAIN.wait();
        old.store(POISON, Ordering::Relaxed);
        periods += 1;
    }
    STOP.store(true, Ordering::Relaxed);
    readers.into_iter().for_each(|reader| reader.join().expect("readers do not panic"));
    assert_eq!(LATE.load(Ordering::Relaxed), 0, "values were used after their grace period, in {periods} of them");
    assert!(periods > 20, "{periods}");
}
