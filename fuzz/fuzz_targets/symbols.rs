//! Any bytes as a file whose symbols are read: no more is read than there is, and every name is fit to be shown.
#![no_main]

use std::io::Write;
use std::os::unix::ffi::OsStrExt;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::nothing::built_with;
use relpoline_cli::shown;
use relpoline_cli::symbols::{Symbols, build_id_of};
use relpoline_stats::file::set_text;
use relpoline_stats::{ObjectRecord, Plain};

fuzz_target!(|bytes: &[u8]| {
    let mut file = tempfile::Builder::new().prefix("relpoline-fuzz-").tempfile_in("/dev/shm").expect("a file");
    file.write_all(bytes).expect("there is room");
    let _ = build_id_of(file.path());
    let built = built_with(file.path());
    assert!(built.is_none_or(|name| name.len() < 300 && name.chars().all(|c| (' '..='~').contains(&c))));
    let mut record = ObjectRecord { base: 0x1000, ..ObjectRecord::ZERO };
    set_text(&mut record.path, file.path().as_os_str().as_bytes());
    let mut symbols = Symbols::default();
    let mapped = [symbols.map(&record)];
    for address in (0..0x8000).step_by(0x40).chain([u64::MAX]) {
        let name = symbols.name(&mapped, address);
        assert!(name.is_none_or(|name| shown::line(&name) == *name && name.chars().count() <= shown::LONGEST));
        let _ = (symbols.start(&mapped, address), symbols.object(&mapped, address));
    }
    let _ = symbols.find(&mapped, "main");
});
