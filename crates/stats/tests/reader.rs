//! The reader against files it did not write: cut off, overwritten, pure noise.

use proptest::prelude::*;
use relpoline_stats::file::{set_text, text};
use relpoline_stats::record::MAGIC;
use relpoline_stats::{EventRecord, Header, Layout, Malformed, ObjectRecord, Plain, SampleRecord, SiteRecord, Stats};

const LAYOUT: Layout = Layout { objects: 4, sites: 16, events: 4, samples: 8, targets: 4 };

/// Bytes of noise at most. Few for Miri, which takes a minute for four thousand.
const NOISE: usize = if cfg!(miri) { 256 } else { 4096 };

/// A file with one object and three sites, the second of them unused.
fn sample() -> Vec<u8> {
    let mut bytes = vec![0; LAYOUT.file_size()];
    let mut header = LAYOUT.header();
    header.magic = MAGIC;
    header.object_count = 1;
    header.site_count = 3;
    header.event_count = 6;
    header.sample_count = 1;
    header.store(&mut bytes).unwrap();
    for number in 0..6 {
        let event = EventRecord { at: number, ..EventRecord::ZERO };
        event.store(&mut bytes[LAYOUT.event_offset() + (number as usize % 4) * EventRecord::SIZE..]).unwrap();
    }
    SampleRecord { at: 9, ..SampleRecord::ZERO }.store(&mut bytes[LAYOUT.sample_offset()..]).unwrap();
    let mut object = ObjectRecord::ZERO;
    object.base = 0x5555_0000_0000;
    set_text(&mut object.path, b"/bin/prog");
    object.store(&mut bytes[LAYOUT.object_offset()..]).unwrap();
    for (index, address) in [(0, 0x1000_u64), (2, 0x2000)] {
        let mut site = SiteRecord::ZERO;
        site.address = address;
        site.targets[7].share = 5;
        site.store(&mut bytes[LAYOUT.site_offset() + index * SiteRecord::SIZE..]).unwrap();
    }
    bytes
}

/// Walks through everything, so that a bad bound would show.
fn read_all(bytes: &[u8]) -> Result<(usize, usize), Malformed> {
    let stats = Stats::parse(bytes)?;
    let _ = (stats.events().count(), stats.samples().count(), stats.last_targets().count());
    Ok((stats.objects().count(), stats.sites().count()))
}

#[test]
fn sizes_are_those_the_documentation_names() {
    assert_eq!(size_of::<SiteRecord>(), 256);
    assert_eq!(size_of::<ObjectRecord>(), 280);
    assert_eq!(align_of::<Header>(), 8);
    assert!(LAYOUT.site_offset().is_multiple_of(64));
}

#[test]
fn what_was_written_is_read() {
    let bytes = sample();
    let stats = Stats::parse(&bytes).unwrap();
    let object = stats.objects().next().unwrap();
    assert_eq!((object.base, text(&object.path)), (0x5555_0000_0000, &b"/bin/prog"[..]));
    let sites: Vec<_> = stats.sites().map(|site| (site.address, site.targets[7].share)).collect();
    assert_eq!(sites, [(0x1000, 5), (0x2000, 5)]);
    assert_eq!(stats.numbered_sites().map(|(index, _)| index).collect::<Vec<_>>(), [0, 2]);
    assert_eq!(stats.samples().map(|sample| sample.at).collect::<Vec<_>>(), [9]);
}

#[test]
fn of_a_ring_that_went_round_the_newest_are_read_in_order() {
    let bytes = sample();
    let stats = Stats::parse(&bytes).unwrap();
    assert_eq!(stats.events().map(|event| event.at).collect::<Vec<_>>(), [2, 3, 4, 5]);
}

#[test]
fn an_unfinished_file_is_named_as_such() {
    assert_eq!(read_all(&[]), Err(Malformed::Short));
    assert_eq!(read_all(&vec![0; LAYOUT.file_size()]), Err(Malformed::Magic));
}

#[test]
fn another_version_and_other_sizes_are_refused() {
    let mut bytes = sample();
    bytes[8] = 9;
    assert_eq!(read_all(&bytes), Err(Malformed::Version(9)));
    let mut bytes = sample();
    bytes[12] ^= 1;
    assert_eq!(read_all(&bytes), Err(Malformed::Sizes));
}

#[test]
fn a_count_beyond_the_capacity_is_clipped() {
    let mut bytes = sample();
    let mut header = Header::load(&bytes).unwrap();
    header.site_count = u32::MAX;
    header.site_capacity = u32::MAX;
    header.event_count = u64::MAX;
    header.event_capacity = u32::MAX;
    header.sample_count = u32::MAX;
    header.sample_capacity = u32::MAX;
    header.target_count = u32::MAX;
    header.target_capacity = u32::MAX;
    header.store(&mut bytes).unwrap();
    assert_eq!(read_all(&bytes), Ok((1, 2)));
}

#[test]
fn a_long_path_keeps_its_end() {
    let mut field = [1; 8];
    set_text(&mut field, b"/usr/lib/libc.so");
    assert_eq!(text(&field), b"libc.so");
}

proptest! {
    #[test]
    fn a_truncated_file_never_panics(cut in 0..LAYOUT.file_size()) {
        let bytes = sample();
        let _ = read_all(&bytes[..cut]);
    }

    #[test]
    fn a_file_overwritten_anywhere_never_panics(
        writes in prop::collection::vec((0..LAYOUT.file_size(), any::<u8>()), 1..64),
        keep_magic in any::<bool>(),
    ) {
        let mut bytes = sample();
        for (at, value) in writes {
            if !keep_magic || at >= 16 {
                bytes[at] = value;
            }
        }
        let _ = read_all(&bytes);
    }

    #[test]
    fn noise_after_a_valid_start_never_panics(noise in prop::collection::vec(any::<u8>(), 0..NOISE)) {
        let mut bytes = sample();
        bytes.truncate(16);
        bytes.extend(noise);
        let _ = read_all(&bytes);
    }

    #[test]
    fn records_come_back_as_stored(address in any::<u64>(), hits in any::<u64>(), share in any::<u32>()) {
        let mut site = SiteRecord::ZERO;
        (site.address, site.hits, site.targets[3].share) = (address, hits, share);
        let mut bytes = [0; SiteRecord::SIZE];
        site.store(&mut bytes).unwrap();
        prop_assert_eq!(SiteRecord::load(&bytes), Some(site));
    }
}
