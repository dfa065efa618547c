//! A source that is written for static-keys 0.8 does the same when its one import is changed.
//!
//! `compat/program.rs`, and `compat/readme.rs` with what static-keys' README shows, are included twice, behind either import.
#![cfg(all(not(miri), target_arch = "x86_64", target_os = "linux"))]

mod theirs {
    use static_keys::{
        self, StaticFalseKey, StaticKey, StaticTrueKey, define_static_key_false, define_static_key_true,
        new_static_false_key, new_static_true_key, static_branch_likely, static_branch_unlikely,
    };
    include!("compat/program.rs");
}

mod ours {
    use relpoline::compat::static_keys::{
        self, StaticFalseKey, StaticKey, StaticTrueKey, define_static_key_false, define_static_key_true,
        new_static_false_key, new_static_true_key, static_branch_likely, static_branch_unlikely,
    };
    include!("compat/program.rs");
}

mod their_readme {
    use static_keys::{self, define_static_key_false, static_branch_unlikely};
    include!("compat/readme.rs");
}

mod our_readme {
    use relpoline::compat::static_keys::{self, define_static_key_false, static_branch_unlikely};
    include!("compat/readme.rs");
}

/// static-keys must not be switched while other threads run: so nothing else is tested here.
#[test]
fn the_same_source_does_the_same() {
    let theirs = theirs::run();
    assert_eq!(ours::run(), theirs);
    assert!(theirs.iter().any(|&taken| taken) && theirs.iter().any(|&taken| !taken));
    assert!(theirs::branches() > 0);
    // Without patching there are no branches to count.
    assert!(ours::branches() >= 8 || ours::branches() == 0);

    let done = our_readme::main();
    assert_eq!(done, their_readme::main());
    let routines = "routines";
    assert_eq!(done[0], [routines, routines]);
    assert_eq!(done[1], ["something", routines, "something", routines, "with the flag"]);
    assert_eq!(done[2], [routines]);
}
