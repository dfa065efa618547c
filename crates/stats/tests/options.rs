//! The option string, both ways.

use proptest::prelude::*;
use relpoline_stats::options::{Escaped, needs_escape, parse};

/// What the tool does to a value (it may allocate).
fn escape(value: &[u8]) -> String {
    value.iter().map(|&b| if needs_escape(b) { format!("%{b:02x}") } else { char::from(b).to_string() }).collect()
}

#[test]
fn a_full_string_is_understood() {
    let options = parse(b"stats=/run/x,only=lib*,max_targets=4,count,no_link,nervous,future=1,,");
    assert_eq!(options.stats, Some(Escaped(b"/run/x")));
    assert_eq!((options.max_targets, options.nervous), (Some(4), true));
    assert_eq!((options.count, options.no_link, options.dry_run), (true, true, false));
}

#[test]
fn globs_select_by_path_and_by_name() {
    let options = parse(b"only=lib*,only=/usr/bin/*,exclude=libc.so*");
    assert!(options.selects(b"/usr/lib/libm.so.6"));
    assert!(options.selects(b"/usr/bin/perl"));
    assert!(!options.selects(b"/usr/lib/libc.so.6"));
    assert!(!options.selects(b"/opt/perl"));
    assert!(parse(b"").selects(b"/anything"));
    assert!(parse(b"only=a%2cb").selects(b"a,b"));
}

#[test]
fn a_value_that_does_not_fit_is_refused() {
    assert_eq!(Escaped(b"abc").copy_to(&mut [0; 2]), None);
    assert_eq!(Escaped(b"%61%").copy_to(&mut [0; 2]).as_deref(), Some(&b"a%"[..]));
}

proptest! {
    #[test]
    fn any_value_survives_the_escape(value in prop::collection::vec(any::<u8>(), 0..64)) {
        let text = format!("stats={},count", escape(&value));
        let options = parse(text.as_bytes());
        prop_assert_eq!(options.stats.unwrap().bytes().collect::<Vec<_>>(), value);
        prop_assert!(options.count);
    }

    #[test]
    fn noise_never_panics(noise in prop::collection::vec(any::<u8>(), 0..256)) {
        let options = parse(&noise);
        let _ = options.selects(&noise);
        let _ = options.stats.map(|s| s.bytes().count());
    }
}
