//! Any bytes as an object with symbols and debug information, for which a profile is exported: refused in a sentence, or
//! lines of words.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::profile::Format;
use relpoline_cli::profile::model::{Profile, Site};
use relpoline_cli::symbols::build_id_of;

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().prefix("relpoline-fuzz-").tempfile_in("/dev/shm").expect("a file");
    file.write_all(bytes).expect("there is room");
    let Ok(id) = build_id_of(file.path()) else { return };
    let place = |offset| (id.clone(), offset);
    let targets = vec![(place(0x1000), 0.5), (place(0x1100), 0.5)];
    let sites =
        (0x1000..0x1400).step_by(5).map(|at| (place(at), Site { calls: 9, chain: 1, targets: targets.clone() }));
    let path = file.path().display().to_string();
    let profile = Profile { objects: [(id.clone(), path)].into(), sites: sites.collect() };
    for format in [Format::Autofdo, Format::Bolt, Format::Pprof] {
        match format.render(&profile, Some(file.path())) {
            Err(error) => assert!(!format!("{error:#}").is_empty()),
            Ok(_) if format == Format::Pprof => {}
            Ok((bytes, _)) => {
                let text = String::from_utf8(bytes).expect("it is text");
                assert!(!text.contains(|c: char| c.is_control() && c != '\n'));
            }
        }
    }
});
