//! Any bytes as a profile: refused in a sentence, or shown, merged and exported; nothing of it gives orders to a terminal.
#![no_main]

use libfuzzer_sys::fuzz_target;
use relpoline_cli::profile::{Format, file, show};
use relpoline_stats::Plain;
use relpoline_stats::profile::{Head, MAGIC, VERSION};

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    read(&bytes);
    // The same behind a head that is right.
    if let Some(head) = Head::load(&bytes) {
        let _ = Head { magic: MAGIC, version: VERSION, ..head }.store(&mut bytes);
        read(&bytes);
    }
});

fn read(bytes: &[u8]) {
    let profile = match file::decode(bytes) {
        Ok(profile) => profile,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    let mut json = Vec::new();
    show::json(&mut json, &profile).expect("a profile can be written");
    for shown in [show::text(&profile), String::from_utf8(json).expect("JSON is text")] {
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
    }
    Format::Pprof.render(&profile, None).expect("a profile can be exported");
    let mut twice = profile.clone();
    twice.merge(&profile);
    twice.replace(&profile);
    assert_eq!(twice.sites.len(), profile.sites.len());
}
