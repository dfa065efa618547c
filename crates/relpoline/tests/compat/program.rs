// A program that uses everything that static-keys offers to programs on an operating system.

define_static_key_false!(OFF);
define_static_key_true!(ON);
/// Keys of a library: public, and documented.
pub static PUBLIC_OFF: StaticFalseKey = new_static_false_key();
pub static PUBLIC_ON: StaticTrueKey = new_static_true_key();

fn switch<const S: bool>(key: &StaticKey<S>, on: bool) {
    // SAFETY: nobody else runs through the branches.
    unsafe { if on { key.enable() } else { key.disable() } }
    assert_eq!(key.is_enabled(), on);
}

/// Each branch in both layouts.
#[inline(never)]
fn taken() -> [bool; 8] {
    [
        static_branch_unlikely!(OFF),
        static_branch_likely!(OFF),
        static_branch_unlikely!(ON),
        static_branch_likely!(ON),
        static_branch_unlikely!(PUBLIC_OFF),
        static_branch_likely!(PUBLIC_OFF),
        static_branch_unlikely!(PUBLIC_ON),
        static_branch_likely!(self::PUBLIC_ON),
    ]
}

/// What the branches say as the keys change.
pub fn run() -> Vec<bool> {
    static_keys::global_init();
    assert!(!OFF.initial_enabled() && ON.initial_enabled());
    let mut seen = taken().to_vec();
    for on in [true, true, false, true, false] {
        switch(&OFF, on);
        switch(&PUBLIC_ON, on);
        seen.extend(taken());
        switch(&ON, !on);
        switch(&PUBLIC_OFF, !on);
        seen.extend(taken());
    }
    seen
}

pub fn branches() -> usize {
    static_keys::jump_entries_count()
}
