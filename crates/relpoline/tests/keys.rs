//! Static keys, as a user sees them. The uses that static-keys documents (its README, example and tests) are
//! all here, in our words, and so is what it forbids: changing a key while threads run.

use relpoline::{StaticKey, likely, set_keys, static_key, unlikely};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

const PATCHED: bool = cfg!(all(target_arch = "x86_64", target_os = "linux", not(feature = "no-patch"), not(miri)));

static_key! {
    static OFF: bool = false;
    static ON: bool = true;
}

#[inline(never)]
fn off() -> (bool, bool) {
    (unlikely!(OFF), likely!(OFF))
}
#[inline(never)]
fn on() -> (bool, bool) {
    (unlikely!(ON), likely!(ON))
}

/// Both starting values, both forms, there and back.
#[test]
fn both_forms_follow_a_key() {
    assert_eq!((off(), on()), ((false, false), (true, true)));
    OFF.enable().unwrap();
    ON.disable().unwrap();
    assert_eq!((off(), on()), ((true, true), (false, false)));
    OFF.disable().unwrap();
    ON.enable().unwrap();
    assert_eq!((off(), on()), ((false, false), (true, true)));
    assert_eq!((OFF.initially(), ON.initially()), (false, true));
}

/// A flag of the command line, settled before the work begins and read in its loop.
#[test]
fn a_flag_decides_what_a_loop_does() {
    static_key!(static EXTRA: bool = false);
    fn run(rounds: u32) -> (u32, u32) {
        let (mut extra, mut common) = (0, 0);
        for _ in 0..rounds {
            if unlikely!(EXTRA) {
                extra += 1;
            }
            common += 1;
        }
        (extra, common)
    }
    fn initialise(arguments: &[&str]) {
        if arguments.contains(&"--extra") {
            EXTRA.enable().unwrap();
        }
    }
    initialise(&["program"]);
    assert_eq!(run(10), (0, 10));
    initialise(&["program", "--extra"]);
    assert_eq!(run(10), (10, 10));
}

/// A function that is inlined leaves a branch in each of its callers; all of them follow.
#[test]
fn inlined_branches_follow_too() {
    static_key!(static KEY: bool = false);
    #[inline(always)]
    fn branch() -> char {
        if unlikely!(KEY) { 'A' } else { 'B' }
    }
    fn twice() -> [char; 2] {
        [branch(), branch()]
    }
    assert_eq!((branch(), twice()), ('B', ['B', 'B']));
    KEY.enable().unwrap();
    assert_eq!((branch(), twice()), ('A', ['A', 'A']));
}

/// The forms are expressions, wherever an expression may be.
#[test]
fn branches_stand_wherever_an_expression_may() {
    mod settings {
        relpoline::static_key!(pub(super) static SHOUT: bool = false);
    }
    fn said(what: &str) -> String {
        let ending = match what.len() {
            0 => "",
            _ if unlikely!(settings::SHOUT) => "!",
            _ => ".",
        };
        let change = |c: char| if likely!(settings::SHOUT) { c.to_ascii_uppercase() } else { c };
        what.chars().map(change).collect::<String>() + ending
    }
    assert_eq!(said("so"), "so.");
    settings::SHOUT.enable().unwrap();
    assert_eq!(said("so"), "SO!");
    let mut rounds = 0;
    while unlikely!(settings::SHOUT) && rounds < 10 {
        rounds += 1;
        if rounds == 3 {
            settings::SHOUT.disable().unwrap();
        }
    }
    assert_eq!((rounds, !unlikely!(settings::SHOUT)), (3, true));
}

/// A key that no branch reads can be changed all the same.
#[test]
fn a_key_without_branches_is_a_flag() {
    static_key!(static LONELY: bool = false);
    LONELY.enable().unwrap();
    assert!(LONELY.is_enabled());
    assert_eq!(LONELY.sites().all, 0);
}

static_key!(static SHARED: bool = false);

/// One key in a generic function: a branch per instance.
#[inline(never)]
fn instance<const N: usize>(seen: &mut [u8]) {
    seen[N] = u8::from(unlikely!(SHARED)) + 2 * u8::from(likely!(SHARED));
}
macro_rules! instances {
    ($($high:literal)*) => { [$(
        instance::<{ $high * 8 }>, instance::<{ $high * 8 + 1 }>, instance::<{ $high * 8 + 2 }>,
        instance::<{ $high * 8 + 3 }>, instance::<{ $high * 8 + 4 }>, instance::<{ $high * 8 + 5 }>,
        instance::<{ $high * 8 + 6 }>, instance::<{ $high * 8 + 7 }>,
    )*] };
}
const INSTANCES: [fn(&mut [u8]); 256] =
    instances!(0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30 31);

#[test]
fn hundreds_of_branches_follow_one_key() {
    let all = || {
        let mut seen = [9; 256];
        INSTANCES.iter().for_each(|instance| instance(&mut seen));
        seen
    };
    assert_eq!(all(), [0; 256]);
    SHARED.enable().unwrap();
    assert_eq!(all(), [3; 256]);
    let sites = SHARED.sites();
    if PATCHED {
        assert_eq!((sites.all, sites.falling_through), (512, 256), "one form of two falls through");
    }
    SHARED.disable().unwrap();
    assert_eq!(all(), [0; 256]);
}

#[test]
fn users_are_counted() {
    static_key!(static COUNTED: bool = false);
    let seen = || unlikely!(COUNTED);
    for _ in 0..3 {
        COUNTED.inc().unwrap();
        assert!(seen());
    }
    COUNTED.dec().unwrap();
    COUNTED.dec().unwrap();
    assert!(seen(), "one user is left");
    COUNTED.dec().unwrap();
    assert!(!seen());
    COUNTED.dec().unwrap();
    assert_eq!(COUNTED.count(), 0, "without users it does nothing");
    COUNTED.inc().unwrap();
    COUNTED.inc().unwrap();
    COUNTED.disable().unwrap();
    assert!(!seen(), "whoever disables it does so for all");
    let text = format!("{COUNTED:?}");
    assert!(text.contains("COUNTED") && text.contains("enabled: false"), "{text}");
}

#[test]
fn a_batch_changes_all_its_keys() {
    static_key! {
        static FIRST: bool = false;
        static SECOND: bool = true;
        static THIRD: bool = false;
    }
    let seen = || [unlikely!(FIRST), unlikely!(SECOND), likely!(THIRD)];
    set_keys(&[(&FIRST, true), (&SECOND, false), (&THIRD, true)]).unwrap();
    assert_eq!(seen(), [true, false, true]);
    set_keys(&[(&FIRST, false), (&FIRST, true)]).unwrap();
    assert_eq!(seen(), [true, false, true], "in order");
    set_keys(&[]).unwrap();
}

/// What static-keys forbids. When `set` has returned, every thread acts on the new value.
#[test]
fn a_key_may_change_while_threads_run() {
    static_key!(static LIVE: bool = false);
    static STOP: AtomicBool = AtomicBool::new(false);
    /// Twice the number of changes made; odd while one is under way. What it counts decides the value.
    static STAGE: AtomicU64 = AtomicU64::new(0);
    let changes = if cfg!(miri) { 10 } else { 2000 };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    let mut compared = 0u64;
                    while !STOP.load(Ordering::Relaxed) {
                        let before = STAGE.load(Ordering::SeqCst);
                        let seen = [unlikely!(LIVE), likely!(LIVE)];
                        if before.is_multiple_of(2) && STAGE.load(Ordering::SeqCst) == before {
                            assert_eq!(seen, [before % 4 == 2; 2], "after {before}");
                            compared += 1;
                        }
                        std::thread::yield_now();
                    }
                    compared
                })
            })
            .collect();
        for change in 0..changes {
            STAGE.fetch_add(1, Ordering::SeqCst);
            LIVE.set(change % 2 == 0).unwrap();
            STAGE.fetch_add(1, Ordering::SeqCst);
            if change % 64 == 0 {
                std::thread::yield_now();
            }
        }
        STOP.store(true, Ordering::Relaxed);
        let compared: u64 = threads.into_iter().map(|t| t.join().unwrap()).sum();
        println!("{changes} changes, {compared} comparisons");
    });
}

/// Threads that change the same key wait for each other.
#[test]
fn several_threads_may_change_a_key() {
    static_key!(static CONTENDED: bool = false);
    let rounds = if cfg!(miri) { 5 } else { 500 };
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..rounds {
                    CONTENDED.inc().unwrap();
                    assert!(unlikely!(CONTENDED), "this thread is a user");
                    CONTENDED.dec().unwrap();
                }
            });
        }
    });
    let key: &StaticKey = &CONTENDED;
    assert_eq!((key.count(), unlikely!(CONTENDED)), (0, false));
}

/// What static-keys forbids under these names: switched from many threads while many run through the branches.
#[test]
fn keys_may_be_switched_by_any_thread() {
    use relpoline::compat::static_keys::{define_static_key_true, static_branch_likely};
    define_static_key_true!(SHARED);
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..10_000).filter(|_| static_branch_likely!(SHARED)).count());
            scope.spawn(|| {
                for on in [false, true].repeat(20) {
                    // The safe way, which says when it cannot.
                    SHARED.set(on).expect("text may be patched");
                }
            });
        }
    });
    assert!(static_branch_likely!(SHARED));
    // SAFETY: asks for nothing.
    unsafe { SHARED.disable() };
    assert!(!static_branch_likely!(SHARED) && !SHARED.is_enabled() && SHARED.initial_enabled());
    assert_eq!(SHARED.name(), "SHARED");
}
