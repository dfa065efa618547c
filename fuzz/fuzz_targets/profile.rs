//! Any bytes as a profile, and as a statistics file: refused, or read to the end without harm. The engine reads profiles
//! with this reader, in other people's processes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_stats::Stats;
use relpoline_stats::profile::{Head, MAGIC, Profile, VERSION};
use relpoline_stats::{Plain, options};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    read(&bytes);
    let _ = Stats::parse(&bytes).map(|stats| (stats.objects().count(), stats.sites().count(), stats.events().count()));
    let _ = options::parse(&bytes).selects(b"/bin/program");
    // The same behind a head that is right: what fuzzing would take long to find.
    if let Some(head) = Head::load(&bytes) {
        let _ = Head { magic: MAGIC, version: VERSION, ..head }.store(&mut bytes);
        read(&bytes);
    }
});

fn read(bytes: &[u8]) {
    let profile = match Profile::parse(bytes) {
        Ok(profile) => profile,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let size = profile.objects().count() + profile.sites().count();
    assert!(size <= bytes.len());
    for site in profile.sites().take(1000) {
        assert!(profile.targets(&site).take(1000).count() <= site.targets as usize);
        if let Some(found) = profile.site(site.object, site.offset) {
            assert_eq!((found.object, found.offset), (site.object, site.offset));
        }
    }
}
