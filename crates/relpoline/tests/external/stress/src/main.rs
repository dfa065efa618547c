//! Eight threads run through keys, static calls and dynamic calls while others change them.
//!
//! `stress SECONDS [PLUGIN.so]`. Every callee returns a number that identifies it, and every change tells
//! what is expected from when on; the first wrong result ends the program with status 1. With a plug-in, it
//! is loaded, used and unloaded all the while.

use relpoline::{dynamic_call, likely, static_call, static_key, unlikely};
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

static_key! {
    static KEY: bool = false;
    static PAUSES: bool = true;
}
static_call!(fn current(x: u64) -> u64 = numbered::<0>);
dynamic_call!(fn apply(x: u64) -> u64);

fn numbered<const N: u64>(x: u64) -> u64 {
    std::hint::black_box(x) * 100 + N
}
const TARGETS: [fn(u64) -> u64; 12] = [
    numbered::<0>, numbered::<1>, numbered::<2>, numbered::<3>, numbered::<4>, numbered::<5>, numbered::<6>,
    numbered::<7>, numbered::<8>, numbered::<9>, numbered::<10>, numbered::<11>,
];

/// What must be seen from now on; odd stages mean that a change is under way and both values may be seen.
struct Expected(AtomicU64);

impl Expected {
    const fn new() -> Expected {
        Expected(AtomicU64::new(0))
    }

    /// Runs `change`, after which `value` is expected.
    fn change(&self, value: u64, change: impl FnOnce()) {
        let stage = (self.0.load(Ordering::SeqCst) >> 8) + 1;
        self.0.store(stage << 8, Ordering::SeqCst);
        change();
        self.0.store((stage + 1) << 8 | value, Ordering::SeqCst);
    }

    /// Runs `observe` and checks its value, unless a change came in between.
    fn check(&self, what: &str, observe: impl FnOnce() -> u64) {
        let before = self.0.load(Ordering::SeqCst);
        let seen = observe();
        let after = self.0.load(Ordering::SeqCst);
        if before == after && before >> 8 & 1 == 0 && seen != before & 0xff {
            eprintln!("{what}: {seen} instead of {}", before & 0xff);
            std::process::exit(1);
        }
    }
}

static KEY_VALUE: Expected = Expected::new();
static CALL_VALUE: Expected = Expected::new();
static STOP: AtomicBool = AtomicBool::new(false);

fn work(seed: u64) -> u64 {
    let mut x = seed;
    let mut calls = 0;
    while !STOP.load(Ordering::Relaxed) {
        for _ in 0..1000 {
            KEY_VALUE.check("unlikely", || u64::from(unlikely!(KEY)));
            KEY_VALUE.check("likely", || u64::from(likely!(KEY)));
            KEY_VALUE.check("inlined", inlined);
            CALL_VALUE.check("static call", || {
                let result = current(x & 0xffff);
                assert_eq!(result / 100, x & 0xffff, "argument");
                result % 100
            });
            x = x.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let n = (x >> 33) % if x >> 60 == 0 { 12 } else { 3 };
            let result = apply(TARGETS[n as usize], 5);
            if result != 500 + n {
                eprintln!("dynamic call: {result} instead of {}", 500 + n);
                std::process::exit(1);
            }
            if unlikely!(PAUSES) {
                std::hint::spin_loop();
            }
        }
        calls += 5000;
    }
    calls
}

/// The same sites, several times in one function.
fn inlined() -> u64 {
    let seen = [unlikely!(KEY), likely!(KEY), unlikely!(KEY)];
    if seen == [true; 3] { 1 } else if seen == [false; 3] { 0 } else { KEY_VALUE.0.load(Ordering::SeqCst) & 0xff }
}

fn toggle() -> u64 {
    let mut changes = 0;
    while !STOP.load(Ordering::Relaxed) {
        let value = u64::from(!KEY.is_enabled());
        KEY_VALUE.change(value, || KEY.set(value == 1).expect("toggle"));
        PAUSES.set(changes % 3 == 0).expect("toggle");
        changes += 1;
    }
    changes
}

fn update() -> u64 {
    let mut changes = 0;
    while !STOP.load(Ordering::Relaxed) {
        let n = (changes * 5) % if changes / 64 % 2 == 0 { 4 } else { 12 };
        CALL_VALUE.change(n, || current::update(TARGETS[n as usize]).expect("update"));
        match changes % 512 {
            0 => apply::forget(),
            128 => apply::pause(),
            192 => apply::resume(),
            320 => drop(apply::pin(&TARGETS[3..6])),
            400 => apply::resume(),
            _ => {}
        }
        changes += 1;
    }
    changes
}

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(handle: *mut c_void) -> c_int;
}

fn load_and_unload(path: &CStr) -> u64 {
    let mut loads = 0;
    while !STOP.load(Ordering::Relaxed) {
        // SAFETY: the plug-in is ours; its function is called between load and unload.
        let outcome = unsafe {
            let handle = dlopen(path.as_ptr(), 2);
            assert!(!handle.is_null(), "the plug-in cannot be loaded");
            let check = dlsym(handle, c"plugin_check".as_ptr());
            assert!(!check.is_null());
            let outcome = std::mem::transmute::<*mut c_void, extern "C" fn() -> u32>(check)();
            dlclose(handle);
            outcome
        };
        assert_eq!(outcome, 0, "the plug-in's step");
        loads += 1;
        if loads == 20 {
            return loads;
        }
    }
    loads
}

fn main() {
    let seconds: f64 = std::env::args().nth(1).and_then(|a| a.parse().ok()).unwrap_or(2.0);
    let plugin = std::env::args().nth(2).map(|p| CString::new(p).expect("a path"));
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::exit(1);
    }));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..8).map(|n| scope.spawn(move || work(n))).collect();
        let toggler = scope.spawn(toggle);
        let updater = scope.spawn(update);
        let loader = plugin.as_deref().map(|path| scope.spawn(|| load_and_unload(path)));
        let end = Instant::now() + Duration::from_secs_f64(seconds);
        std::thread::sleep(end - Instant::now());
        STOP.store(true, Ordering::Relaxed);
        let calls: u64 = workers.into_iter().map(|w| w.join().expect("worker")).sum();
        let (toggles, updates) = (toggler.join().expect("toggler"), updater.join().expect("updater"));
        let loads = loader.map_or(0, |l| l.join().expect("loader"));
        println!("{calls} uses, {toggles} toggles, {updates} updates, {loads} loads, none wrong");
        // None of them was found by accident only, and all are where they should be.
        let callers = current::state().callers();
        assert!(callers.all > 0 && callers.direct == callers.all, "{callers:?}");
        println!("{callers:?}");
        println!("{:?} {:?} {:?}", KEY.sites(), current::state(), apply::stats());
    });
}
