//! The reader of profiles against whole, cut and hostile files.

use proptest::prelude::*;
use relpoline_stats::Plain;
use relpoline_stats::profile::{Head, MAGIC, Profile, ProfiledObject, ProfiledSite, ProfiledTarget, Unusable, VERSION};

/// A profile with one object, sites at the given offsets and one target each.
fn sample(offsets: &[u64]) -> Vec<u8> {
    let count = u32::try_from(offsets.len()).unwrap();
    let head = Head { magic: MAGIC, version: VERSION, objects: 1, sites: count, targets: count };
    let mut bytes = vec![0; Head::SIZE + ProfiledObject::SIZE];
    head.store(&mut bytes).unwrap();
    for (n, offset) in (0..).zip(offsets) {
        let mut record = [0; ProfiledSite::SIZE];
        ProfiledSite { offset: *offset, calls: 1, object: 0, first_target: n, targets: 1, chain: 1 }
            .store(&mut record)
            .unwrap();
        bytes.extend(record);
    }
    for offset in offsets {
        let mut record = [0; ProfiledTarget::SIZE];
        ProfiledTarget { offset: offset + 7, object: 0, share: 1 << 16 }.store(&mut record).unwrap();
        bytes.extend(record);
    }
    bytes
}

#[test]
fn a_site_is_found_by_its_offset() {
    let bytes = sample(&[8, 16, 99]);
    let profile = Profile::parse(&bytes).unwrap();
    for offset in [8, 16, 99] {
        let site = profile.site(0, offset).unwrap();
        assert_eq!(profile.targets(&site).map(|target| target.offset).collect::<Vec<_>>(), [offset + 7]);
    }
    assert!(profile.site(0, 9).is_none() && profile.site(1, 8).is_none());
}

#[test]
fn what_is_no_profile_is_named() {
    let bytes = sample(&[8]);
    assert_eq!(Profile::parse(b"").unwrap_err(), Unusable::Magic);
    assert_eq!(Profile::parse(&bytes[..bytes.len() - 1]).unwrap_err(), Unusable::CutOff);
    let mut other = bytes;
    other[8] = 9;
    assert_eq!(Profile::parse(&other).unwrap_err(), Unusable::Version(9));
}

proptest! {
    #[test]
    fn hostile_profiles_never_panic(
        writes in prop::collection::vec((0..400_usize, any::<u8>()), 0..32),
        object in 0..3_u32,
        offset in 0..200_u64,
    ) {
        let mut bytes = sample(&[8, 16, 99]);
        let length = bytes.len();
        for (at, value) in writes {
            bytes[8 + at % (length - 8)] = value;
        }
        if let Ok(profile) = Profile::parse(&bytes) {
            let _ = profile.objects().count();
            if let Some(site) = profile.site(object, offset) {
                let _ = profile.targets(&site).count();
            }
            for site in profile.sites() {
                let _ = profile.targets(&site).count();
            }
        }
    }
}
