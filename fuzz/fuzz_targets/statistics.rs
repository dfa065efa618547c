//! Any bytes as the statistics of a process: a header that is right, and records of which nothing is.
#![no_main]

use std::io::Write;

use libfuzzer_sys::fuzz_target;
use relpoline_cli::arguments::ReportFormat;
use relpoline_cli::live::find;
use relpoline_cli::report::digest;
use relpoline_cli::symbols::Symbols;
use relpoline_stats::record::MAGIC;
use relpoline_stats::{Header, Layout, Plain, Stats};

const LAYOUT: Layout = Layout { objects: 2, sites: 6, events: 4, samples: 4, targets: 4 };

fuzz_target!(|bytes: &[u8]| {
    let mut bytes = bytes.to_vec();
    bytes.resize(LAYOUT.file_size().max(bytes.len()), 0);
    let Some(hostile) = Header::load(&bytes) else { return };
    let right = LAYOUT.header();
    // Where the tables are is told, or wrong.
    let (object_offset, site_offset) = (hostile.object_offset % (1 << 16), hostile.site_offset % (1 << 16));
    let is_right = hostile.pid % 2 == 0;
    let header = Header {
        magic: MAGIC,
        version: right.version,
        header_size: right.header_size,
        object_size: right.object_size,
        site_size: right.site_size,
        event_size: right.event_size,
        sample_size: right.sample_size,
        target_size: right.target_size,
        object_offset: if is_right { right.object_offset } else { object_offset },
        site_offset: if is_right { right.site_offset } else { site_offset },
        ..hostile
    };
    header.store(&mut bytes).expect("there is room");
    let mut file = tempfile::Builder::new().prefix("relpoline-fuzz-").tempfile_in("/dev/shm").expect("a file");
    file.write_all(&bytes).expect("there is room");
    let Some(read) = find::read(file.as_file()) else { return };
    let Ok(stats) = Stats::parse(&read) else { return };
    let report = digest::report(&stats, &mut Symbols::default());
    for format in [ReportFormat::Json, ReportFormat::Text, ReportFormat::Html, ReportFormat::Flamegraph] {
        let shown = format.render(&report).expect("what was read can be written");
        assert!(!shown.contains(|c: char| c.is_control() && c != '\n' && c != '\t'));
    }
});
