//! Static keys, as a user sees them.

use relpoline::{likely, static_key, unlikely};

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

#[test]
fn both_forms_follow_a_key() {
    assert_eq!((off(), on()), ((false, false), (true, true)));
    OFF.enable().unwrap();
    ON.disable().unwrap();
    assert_eq!((off(), on()), ((true, true), (false, false)));
    OFF.disable().unwrap();
    ON.enable().unwrap();
    assert_eq!((off(), on()), ((false, false), (true, true)));
    println!("{OFF:?} {:?} {:?}", OFF.sites(), ON.sites());
}
