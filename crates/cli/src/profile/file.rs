//! Profiles as files; the layout is [`relpoline_stats::profile`].

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, ensure};
use relpoline_stats::Plain;
use relpoline_stats::file::{set_text, text};
use relpoline_stats::profile::{
    Head, MAGIC, MOST_BYTES, Profile as Stored, ProfiledObject, ProfiledSite, ProfiledTarget, VERSION,
};
use relpoline_stats::record::SHARE_ONE;

use super::model::{BuildId, Place, Profile, Site};

/// Reads a profile.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn read(path: &Path) -> anyhow::Result<Profile> {
    let name = || format!("the profile {} cannot be read", path.display());
    let meta = fs::metadata(path).with_context(name)?;
    ensure!(meta.is_file() && meta.len() <= MOST_BYTES as u64, "{}: it is no file, or too large", name());
    decode(&fs::read(path).with_context(name)?).with_context(name)
}

/// Writes a profile; the file appears whole, and holds nothing secret.
///
/// # Errors
/// When it cannot be written.
pub fn write(path: &Path, profile: &Profile) -> anyhow::Result<()> {
    let name = || format!("the profile cannot be written to {}", path.display());
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut fresh = tempfile::NamedTempFile::new_in(directory).with_context(name)?;
    fresh.write_all(&encode(profile)?).with_context(name)?;
    fresh.persist(path).with_context(name)?;
    Ok(())
}

fn decode(bytes: &[u8]) -> Result<Profile, relpoline_stats::profile::Unusable> {
    let stored = Stored::parse(bytes)?;
    let objects: Vec<(BuildId, String)> = stored
        .objects()
        .map(|object| {
            let length = (object.build_id_len as usize).min(object.build_id.len());
            (object.build_id[..length].to_vec(), String::from_utf8_lossy(text(&object.path)).into_owned())
        })
        .collect();
    let place = |object: u32, offset| Some((objects.get(object as usize)?.0.clone(), offset));
    let mut sites = BTreeMap::new();
    for site in stored.sites() {
        let targets: Vec<(Place, f64)> = stored
            .targets(&site)
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
