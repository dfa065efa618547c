//! What no safe function may do to its host, whatever it is given: crash it, or hold it up for ever.
//!
//! With `RUSTFLAGS='--cfg relpoline_broken="…"'` these fail: `helpers-are-free` (the test of charging never ends),
//! `read-only-is-written`, `runs-nest-for-ever` (the thread's stack overflows), `waits-with-lock` (the watchdog barks).

mod support;

use relpoline_bpf::{
    Engine, Invocation, LoadErrorKind, Map, MapError, MapHandle, MapKind, MapSpec, Mode, Options, ProgArray, Program,
    Runtime, TrapKind,
};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use support::{load, load_with};

const ENGINES: [Engine; 2] = [Engine::Interpreter, Engine::Compiled];

fn spec(kind: MapKind, key_size: u32, value_size: u32, max_entries: u32) -> MapSpec {
    MapSpec { name: "map".into(), kind, key_size, value_size, max_entries, read_only: false, hashes: 0 }
}

/// Ends the process when the test is not done in a minute: what is looked for are waits without end.
struct Watchdog(Arc<AtomicBool>);

impl Watchdog {
    fn start() -> Watchdog {
        let done: Arc<AtomicBool> = Arc::default();
        let seen = done.clone();
        std::thread::spawn(move || {
            let begin = std::time::Instant::now();
            while !seen.load(Ordering::Relaxed) {
                if begin.elapsed().as_secs() > 60 {
                    eprintln!("somebody waits for ever");
                    std::process::abort();
                }
                std::thread::sleep(std::time::Duration::from_millis(20));
            }
        });
        Watchdog(done)
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// `BPF_F_RDONLY_PROG`: programs read, the host writes; frozen: nobody writes.
#[test]
fn read_only_maps_refuse_updates() {
    let runtime = Runtime::new().unwrap();
    for kind in [MapKind::Array, MapKind::PerCpuArray, MapKind::Hash, MapKind::LruHash] {
        let map = Map::new(&runtime, &MapSpec { read_only: true, ..spec(kind, 4, 8, 4) }).unwrap();
        map.set(&[0; 4], &[5; 8], Mode::Any).unwrap();
        let maps = [MapHandle::Map(map.clone())];
        let call = |number: u32| {
            format!(
                "stw [%r10-4], 0\nstdw [%r10-16], 7\nmov %r2, %r10\nadd %r2, -4\nmov %r3, %r10\nadd %r3, -16\n\
                 mov %r4, 0\nldmap %r1, 0\ncall {number}\nexit"
            )
        };
        let write = format!("{}\nstdw [%r0+0], 1\nmov %r0, 0\nexit", call(1).trim_end_matches("exit"));
        for engine in ENGINES {
            let run = |text: &str| load(&runtime, "p", text, &maps).invoke(Invocation::new(&mut []).engine(engine));
            // Minus EPERM.
            let refused = run(&call(2)).map(u64::cast_signed);
            assert_eq!(refused, Ok(-1), "{kind:?} update");
            assert_eq!(run(&call(3)).map(u64::cast_signed), Ok(-1), "{kind:?} delete");
            let trap = run(&write).unwrap_err();
            assert!(matches!(trap.kind, TrapKind::OutOfBounds { write: true, .. }), "{kind:?}: {trap}");
        }
        // Of a per-CPU array it is the value of the CPU that this ran on.
        assert!(map.get(&[0; 4]).unwrap().chunks(8).all(|value| value == [5; 8] || value == [0; 8]));
        map.freeze();
        assert_eq!(map.set(&[0; 4], &[6; 8], Mode::Any), Err(MapError::ReadOnly));
        assert_eq!(map.delete(&[0; 4]), Err(MapError::ReadOnly));
    }
}

/// Copies of a megabyte in a loop are paid for like the instructions that they stand for.
#[test]
fn what_helpers_do_is_charged() {
    let calls = Arc::new(AtomicU64::new(0));
    let counted = calls.clone();
    let runtime = Runtime::builder()
        .helper(1000, move |call| {
            counted.fetch_add(1, Ordering::Relaxed);
            let bytes = call.read(call.args[0], call.args[1])?;
            call.write(call.args[0], &bytes).map(|()| 0)
        })
        .helper(1001, |call| call.charge(1_000_000).map(|()| 0))
        .helper(1002, |_| Ok(0))
        .build()
        .unwrap();
    let forever =
        |setup: &str, helper: u32| format!("mov %r6, %r1\n{setup}\nL:\nmov %r1, %r6\ncall {helper}\nja L\nexit");
    let mut input = vec![1u8; 1 << 20];
    let options = Options { budget: Some(1 << 20), ..Options::default() };
    for engine in ENGINES {
        let mut calls_of = |helper: u32, setup: &str| {
            calls.store(0, Ordering::Relaxed);
            let text = forever(setup, helper).replace("mov %r1, %r6\ncall", "mov %r1, %r6\nmov %r2, %r7\ncall");
            let program = load_with(&runtime, "p", &format!("mov %r7, %r2\n{text}"), &[], options);
            let trap = program.invoke(Invocation::new(&mut input).engine(engine)).unwrap_err();
            assert_eq!(trap.kind, TrapKind::Budget, "{helper}");
            calls.load(Ordering::Relaxed)
        };
        // 2 MiB are 2^18 instructions, of 2^20.
        assert!((3..=5).contains(&calls_of(1000, "")), "{engine:?}");
        calls_of(1001, "");
        calls_of(1002, "");
        // What a run may not touch is not charged, and not copied.
        let text = "mov %r1, 64\nmov32 %r2, -1\ncall 1000\nexit";
        let trap = load(&runtime, "p", text, &[]).invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
        assert!(matches!(trap.kind, TrapKind::OutOfBounds { .. }), "{trap}");
    }
}

/// Something that throws again when what was thrown is dropped.
struct Bomb;

impl Drop for Bomb {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            panic!("dropped");
        }
    }
}

#[test]
fn whatever_a_helper_throws_is_caught() {
    let runtime = Runtime::builder()
        .helper(1000, |_| std::panic::panic_any(Bomb))
        .printk(|_| std::panic::panic_any(Bomb))
        .build()
        .unwrap();
    for engine in ENGINES {
        for text in ["call 1000\nexit", "stdw [%r10-8], 97\nmov %r1, %r10\nadd %r1, -8\nmov %r2, 2\ncall 6\nexit"] {
            let trap = load(&runtime, "p", text, &[]).invoke(Invocation::new(&mut []).engine(engine)).unwrap_err();
            assert_eq!(trap.kind, TrapKind::Panicked);
        }
    }
}

/// A helper that runs the program that calls it.
#[test]
fn runs_nest_only_so_deep() {
    static PROGRAM: OnceLock<Program> = OnceLock::new();
    static DEEPEST: AtomicU64 = AtomicU64::new(0);
    let again = |_: &mut relpoline_bpf::HelperCall<'_>| {
        DEEPEST.fetch_add(1, Ordering::Relaxed);
        let inner = PROGRAM.get().unwrap().run(&mut [0; 8]);
        Ok(inner.map_or_else(|trap| u64::from(trap.kind == TrapKind::TooDeep), |r0| r0 + 1))
    };
    let runtime = Runtime::builder().helper(1000, again).build().unwrap();
    PROGRAM.set(load(&runtime, "again", "call 1000\nexit", &[])).ok().unwrap();
    assert_eq!(PROGRAM.get().unwrap().run(&mut []), Ok(DEEPEST.load(Ordering::Relaxed)));
    assert!(DEEPEST.load(Ordering::Relaxed) < 100);
    // What ended by that is not counted any more.
    assert!(PROGRAM.get().unwrap().run(&mut []).is_ok());
}

/// Destructors of a thread's values run programs, when much of the thread is gone.
#[test]
fn threads_that_end_may_run_programs() {
    struct Runs(Program);
    impl Drop for Runs {
        fn drop(&mut self) {
            DROPPED.fetch_add(self.0.run(&mut []).unwrap() + self.0.interpret(&mut []).unwrap(), Ordering::Relaxed);
        }
    }
    static DROPPED: AtomicU64 = AtomicU64::new(0);
    thread_local!(static KEPT: std::cell::RefCell<Vec<Runs>> = const { std::cell::RefCell::new(Vec::new()) });
    let runtime = Runtime::new().unwrap();
    let options = Options { count: true, ..Options::default() };
    let program = load_with(&runtime, "p", "call 7\nmov %r0, 1\nexit", &[], options);
    for early in [true, false] {
        for _ in 0..50 {
            let program = program.clone();
            std::thread::spawn(move || {
                // Before or after what the crate keeps for the thread: destructors run in the order of first uses.
                let keep = |program: &Program| KEPT.with_borrow_mut(|kept| kept.push(Runs(program.clone())));
                if early {
                    keep(&program);
                }
                program.run(&mut []).unwrap();
                if !early {
                    keep(&program);
                }
            })
            .join()
            .unwrap();
        }
    }
    assert_eq!(DROPPED.load(Ordering::Relaxed), 200);
    // Those of threads that have ended are counted, those of their very end may be.
    assert!(program.hits().unwrap() >= 100);
}

/// An update waits for runs; helpers of those runs look at arrays, make and drop them, and load programs.
#[test]
fn helpers_and_updates_do_not_wait_for_each_other() {
    let _watchdog = Watchdog::start();
    static INSIDE: OnceLock<(Runtime, ProgArray, Program)> = OnceLock::new();
    static REFUSED: AtomicU64 = AtomicU64::new(0);
    static SPARE: Mutex<Vec<Program>> = Mutex::new(Vec::new());
    let looks = |_: &mut relpoline_bpf::HelperCall<'_>| {
        let (runtime, array, program) = INSIDE.get().unwrap();
        let begin = std::time::Instant::now();
        // Long enough for an update to begin to wait.
        while begin.elapsed().as_millis() < 2 {
            std::hint::black_box((array.programs(), array.contains(program), program.variable_calls()));
            drop(ProgArray::new(runtime, "short", 3).unwrap());
            drop(SPARE.lock().unwrap().pop());
            std::hint::black_box(program.hits());
        }
        let insns = support::asm::assemble("mov %r0, 1\nexit").unwrap();
        let late = support::load_insns(runtime, "late", &insns, &[], Options::default());
        REFUSED.fetch_add(u64::from(matches!(late, Err(e) if e.kind == LoadErrorKind::InsideRun)), Ordering::Relaxed);
        Ok(0)
    };
    let runtime = Runtime::builder().helper(1000, looks).build().unwrap();
    let array = ProgArray::new(&runtime, "array", 2).unwrap();
    let maps = [MapHandle::Array(array.clone())];
    let text = "call 1000\nldmap %r2, 0\nmov %r3, 1\ncall 12\nmov %r0, 9\nexit";
    let program = load(&runtime, "p", text, &maps);
    let leaf = load(&runtime, "leaf", "mov %r0, 1\nexit", &[]);
    INSIDE.set((runtime.clone(), array.clone(), program.clone())).ok().unwrap();
    let stop = AtomicBool::new(false);
    let runs = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Ordering::Relaxed) {
                    assert!([1, 9].contains(&program.run(&mut []).unwrap()));
                    runs.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let spare = load(&runtime, "spare", "mov %r0, 3\nexit", &[]);
                SPARE.lock().unwrap().push(spare);
                array.swap([(0, Some(&leaf))]).unwrap();
            }
        });
        // Until runs were under way for long, which takes a while to begin.
        while runs.load(Ordering::Relaxed) < 50 {
            array.update(1, Some(&leaf)).unwrap();
            array.update(1, None).unwrap();
        }
        stop.store(true, Ordering::Relaxed);
    });
    assert_eq!(REFUSED.load(Ordering::Relaxed), runs.load(Ordering::Relaxed));
}

unsafe extern "C" {
    fn fork() -> i32;
    fn waitpid(pid: i32, status: *mut i32, options: i32) -> i32;
    fn _exit(code: i32) -> !;
    fn setrlimit(resource: i32, limit: *const [u64; 2]) -> i32;
}

/// Where there is no memory for a map it is refused; the host goes on.
#[test]
fn maps_that_are_too_large_are_refused() {
    let runtime = Runtime::new().unwrap();
    // SAFETY: the child makes maps, limits itself, and ends.
    let pid = unsafe { fork() };
    if pid == 0 {
        let limited = || {
            let hash = Map::new(&runtime, &spec(MapKind::Hash, 512, 1, 1 << 20)).ok()?;
            let status = std::fs::read_to_string("/proc/self/status").ok()?;
            let size = status.lines().find_map(|line| line.strip_prefix("VmSize:"))?;
            let size: u64 = size.trim().trim_end_matches(" kB").parse().ok()?;
            let most = (size << 10) + (32 << 20);
            // SAFETY: RLIMIT_AS of this child alone.
            (unsafe { setrlimit(9, &[most, most]) } == 0).then_some(())?;
            let refused = |kind, key: u32, value: u32, entries: u32| {
                Map::new(&runtime, &spec(kind, key, value, entries)).is_err()
            };
            let maps = refused(MapKind::Array, 4, 1 << 30, 1)
                && refused(MapKind::Array, 4, 8, 1 << 27)
                && refused(MapKind::PerCpuArray, 4, 1 << 28, 1)
                && refused(MapKind::Hash, 8, 64, 1 << 24)
                && refused(MapKind::LruHash, 8, 64, 1 << 24)
                && refused(MapKind::RingBuf, 0, 0, 1 << 29);
            // Keys have their room from the start: who has a map can fill it.
            let keys = refused(MapKind::Hash, 512, 1, 1 << 20) && refused(MapKind::LpmTrie, 260, 1, 1 << 20);
            let filled = (0u64..1 << 10).all(|n| {
                let mut key = [0; 512];
                key[..8].copy_from_slice(&n.to_le_bytes());
                hash.set(&key, &[1], Mode::Any).is_ok()
            });
            (maps && keys && filled).then_some(())
        };
        let fine = limited().is_some();
        // SAFETY: ends the child.
        unsafe { _exit(i32::from(!fine)) }
    }
    let mut status = -1;
    // SAFETY: a child of ours, and a place for its status.
    assert_eq!(unsafe { waitpid(pid, &raw mut status, 0) }, pid);
    assert_eq!(status, 0);
    assert_eq!(Map::new(&runtime, &spec(MapKind::Hash, 513, 8, 4)).err(), Some(MapError::BadSize));
}

/// Public functions that take numbers and slices as they come.
#[test]
fn any_argument_is_answered() {
    let insns = support::asm::assemble("mov %r0, 1\nexit").unwrap();
    assert!(relpoline_bpf::decode::decode(&insns, 2).is_err());
    assert!(relpoline_bpf::decode::decode(&insns, usize::MAX).is_err());
    let runtime = Runtime::new().unwrap();
    let many = vec![insns[0]; 1_000_001];
    let error = support::load_insns(&runtime, "many", &many, &[], Options::default()).unwrap_err();
    assert_eq!(error.kind, LoadErrorKind::TooLarge);
    let array = Map::new(&runtime, &spec(MapKind::Array, 4, 8, 1)).unwrap();
    for key in [&[][..], &[0; 3], &[0; 5], &[1, 0, 0, 0], &[0xff; 4]] {
        assert!(array.get(key).is_err() && array.set(key, &[0; 8], Mode::Any).is_err());
    }
    assert!(array.set(&[0; 4], &[0; 7], Mode::Any).is_err());
    assert_eq!(array.consume(|_| ()), 0);
}
