//! Profiles as files; the layout is [`relpoline_stats::profile`].

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Context;
use relpoline_stats::Plain;
use relpoline_stats::file::{set_text, text};
use relpoline_stats::profile::{
    Head, MAGIC, MOST_BYTES, OBJECTS, Profile as Stored, ProfiledObject, ProfiledSite, ProfiledTarget, VERSION,
};
use relpoline_stats::record::SHARE_ONE;

use super::model::{BuildId, Place, Profile, Site};
use crate::files::open;
use crate::files::written::{PRIVATE, Written};

/// Reads a profile.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(path: &Path) -> anyhow::Result<Profile> {
    let name = || format!("the profile {} cannot be read", path.display());
    decode(&open::all_of(open::named(path).with_context(name)?, MOST_BYTES as u64).with_context(name)?)
        .with_context(name)
}

/// Where a profile is written.
///
/// # Errors
/// When none can be written there.
pub fn place(path: &Path) -> anyhow::Result<Written> {
    Written::new(path).with_context(|| format!("the profile cannot be written to {}", path.display()))
}

/// Reads what is there; an empty profile when there is nothing.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read_at(place: &Written) -> anyhow::Result<Profile> {
    let name = || format!("the profile {} cannot be read", place.path().display());
    let bytes = place.content(MOST_BYTES as u64).with_context(name)?;
    bytes.map_or_else(|| Ok(Profile::default()), |bytes| decode(&bytes).with_context(name))
}

/// Writes a profile; the file appears whole.
///
/// # Errors
/// When it cannot be written.
pub fn write(place: &Written, profile: &Profile) -> anyhow::Result<()> {
    let name = || format!("the profile cannot be written to {}", place.path().display());
    place.write(&encode(profile)?, PRIVATE).with_context(name)
}

/// Reads a profile's bytes.
///
/// # Errors
/// When they are none.
pub fn decode(bytes: &[u8]) -> Result<Profile, relpoline_stats::profile::Unusable> {
    let stored = Stored::parse(bytes)?;
    let objects: Vec<(BuildId, String)> = stored
        .objects()
        .take(OBJECTS)
        .map(|object| {
            let length = (object.build_id_len as usize).min(object.build_id.len());
            (object.build_id[..length].to_vec(), String::from_utf8_lossy(text(&object.path)).into_owned())
        })
        .collect();
    let place = |object: u32, offset| Some((objects.get(object as usize)?.0.clone(), offset));
    let mut sites = BTreeMap::new();
    // Sites that share their targets, as no profile of ours has them, would grow without bound.
    let mut left = stored.target_count();
    for site in stored.sites() {
        let own = (site.targets as usize).min(left);
        left -= own;
        let targets: Vec<(Place, f64)> = stored
            .targets(&site)
            .take(own)
            .filter_map(|target| {
                let share = f64::from(target.share.min(SHARE_ONE)) / f64::from(SHARE_ONE);
                Some((place(target.object, target.offset)?, share))
            })
            .collect();
        if let Some(at) = place(site.object, site.offset).filter(|_| !targets.is_empty()) {
            sites.insert(at, Site { calls: site.calls.max(1), chain: site.chain, targets });
        }
    }
    Ok(Profile { objects: objects.into_iter().collect(), sites })
}

fn encode(profile: &Profile) -> anyhow::Result<Vec<u8>> {
    // Objects are numbered in their order, so sites come out ascending, as the engine's search wants them.
    let numbers: BTreeMap<&BuildId, u32> = profile.objects.keys().zip(0..).collect();
    let number = |id: &BuildId| numbers.get(id).copied().unwrap_or(u32::MAX);
    let (mut objects, mut sites, mut targets) = (Vec::new(), Vec::new(), Vec::new());
    for (build_id, path) in &profile.objects {
        let mut record =
            ProfiledObject { build_id_len: u32::try_from(build_id.len().min(20))?, ..ProfiledObject::ZERO };
        for (to, from) in record.build_id.iter_mut().zip(build_id) {
            *to = *from;
        }
        set_text(&mut record.path, path.as_bytes());
        push(&mut objects, &record);
    }
    for ((build_id, offset), site) in &profile.sites {
        let record = ProfiledSite {
            offset: *offset,
            calls: site.calls,
            object: number(build_id),
            first_target: u32::try_from(targets.len() / ProfiledTarget::SIZE)?,
            targets: u32::try_from(site.targets.len())?,
            chain: site.chain,
        };
        push(&mut sites, &record);
        for ((build_id, offset), share) in &site.targets {
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "0 to 1 in fixed point")]
            let share = (share.clamp(0.0, 1.0) * f64::from(SHARE_ONE)).round() as u32;
            push(&mut targets, &ProfiledTarget { offset: *offset, object: number(build_id), share });
        }
    }
    let head = Head {
        magic: MAGIC,
        version: VERSION,
        objects: u32::try_from(profile.objects.len())?,
        sites: u32::try_from(profile.sites.len())?,
        targets: u32::try_from(targets.len() / ProfiledTarget::SIZE)?,
    };
    let mut bytes = Vec::new();
    push(&mut bytes, &head);
    Ok([bytes, objects, sites, targets].concat())
}

fn push<T: Plain>(bytes: &mut Vec<u8>, record: &T) {
    let start = bytes.len();
    bytes.resize(start + T::SIZE, 0);
    // There is room for exactly this record.
    let _ = record.store(&mut bytes[start..]);
}

#[cfg(test)]
mod tests {
    use super::super::model::tests::profile;
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let mut all = profile(1, 300, &[(0x20, 0.75), (0x30, 0.25)]);
        all.merge(&Profile { objects: [(vec![2; 20], "/lib/l.so".into())].into(), ..Profile::default() });
        let bytes = encode(&all).unwrap();
        assert_eq!(decode(&bytes).unwrap(), all);
        let stored = Stored::parse(&bytes).unwrap();
        assert!(stored.site(0, 0x10).is_some() && stored.site(0, 0x11).is_none());
    }
}
