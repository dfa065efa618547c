//! A warm start: sites that an earlier run has promoted get their trees before they are called for the first
//! time.
//!
//! The profile is read once, at start, into memory of our own, since a file that is mapped may be cut off by
//! anybody who may write it. A target is believed when it lies in an object that is mapped; what else may be
//! wrong with it costs misses, which lead to learning as always.

use crate::calibrate;
use crate::memory;
use crate::report;
use crate::state::Engine;
use relpoline_core::policy::{Event, Phase};
use relpoline_core::tree::{MAX_TARGETS, Target};
use relpoline_stats::options::Escaped;
use relpoline_stats::profile::{MOST_BYTES, OBJECTS, Profile, ProfiledSite};
use rustix::fs::{Mode, OFlags};

/// A profile, and what of it was found here.
pub struct Warm {
    profile: Option<Profile<'static>>,
    /// For each of its objects: the object here, or [`NOWHERE`].
    here: [u16; OBJECTS],
    targets: [Target; MAX_TARGETS],
}

const NOWHERE: u16 = u16::MAX;

impl Warm {
    /// No profile.
    #[must_use]
    pub const fn none() -> Warm {
        Warm { profile: None, here: [NOWHERE; OBJECTS], targets: [Target { address: 0, share: 0 }; MAX_TARGETS] }
    }

    /// Another object is at number `index` from now on.
    pub fn forget(&mut self, index: usize) {
        self.here.iter_mut().filter(|here| usize::from(**here) == index).for_each(|here| *here = NOWHERE);
    }

    /// Reads the profile at `path`. What cannot be used is as good as none.
    pub fn read(&mut self, path: Escaped<'_>) {
        self.profile = bytes_of(path).and_then(|bytes| Profile::parse(bytes).ok());
    }
}

/// The content of a file, in memory that is never given back.
fn bytes_of(path: Escaped<'_>) -> Option<&'static [u8]> {
    let mut buffer = [0; 4096];
    let length = path.copy_to(&mut buffer)?.len();
    *buffer.get_mut(length)? = 0;
    let path = core::ffi::CStr::from_bytes_with_nul(buffer.get(..=length)?).ok()?;
    let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK, Mode::empty()).ok()?;
    let size = usize::try_from(rustix::fs::fstat(&fd).ok()?.st_size).ok()?;
    if size == 0 || size > MOST_BYTES {
        return None;
    }
    let start = memory::reserve(size)?;
    // SAFETY: fresh memory of that size, which nobody else knows.
    let bytes = unsafe { core::slice::from_raw_parts_mut(start, size) };
    let mut at = 0;
    while at < size {
        match rustix::io::read(&fd, &mut bytes[at..]) {
            Ok(0) | Err(_) => return None,
            Ok(read) => at += read,
        }
    }
    Some(bytes)
}

/// Promotes the cold sites that the profile knows. To be called after objects were looked at.
pub fn apply(engine: &mut Engine) {
    let Some(profile) = engine.warm.profile else { return };
    find_objects(engine, profile);
    let now = calibrate::now();
    for id in 0..engine.sites.len() as u32 {
        if let Some(known) = known(engine, profile, id) {
            promote(engine, profile, id, &known, now);
        }
    }
}

/// Finds the profile's objects among those that are mapped, and counts the sites of theirs that are not
/// there.
fn find_objects(engine: &mut Engine, profile: Profile<'static>) {
    for (n, object) in profile.objects().take(OBJECTS).enumerate() {
        let length = object.build_id_len as usize;
        let build_id = object.build_id.get(..length).unwrap_or_default();
        let before = engine.warm.here[n];
        let is_there = engine.objects.as_slice().get(usize::from(before)).is_some_and(|known| known.loaded);
        if build_id.is_empty() || is_there {
            continue;
        }
        for index in 0..engine.objects.len() {
            let is_loaded = engine.objects.as_slice().get(index).is_some_and(|known| known.loaded);
            let is_it = engine.share.object(index).is_some_and(|record| {
                usize::from(record.build_id_len) == length && record.build_id.get(..length) == Some(build_id)
            });
            if is_loaded && is_it {
                engine.warm.here[n] = index as u16;
                if before == NOWHERE {
                    count_stale(engine, profile, n as u32, index);
                }
                break;
            }
        }
    }
}

fn count_stale(engine: &mut Engine, profile: Profile<'static>, object: u32, index: usize) {
    let Some(&here) = engine.objects.as_slice().get(index) else { return };
    let mut found = 0;
    engine.each_site(index, |engine, id| {
        let site = engine.sites.as_slice().get(id as usize);
        found += usize::from(site.is_some_and(|s| profile.site(object, s.address.wrapping_sub(here.base)).is_some()));
    });
    let known = profile.sites().filter(|site| site.object == object).count();
    engine.share.header().profile_stale += known.saturating_sub(found) as u32;
}

/// What the profile knows of a site that was not called yet.
fn known(engine: &Engine, profile: Profile<'static>, id: u32) -> Option<ProfiledSite> {
    let site = engine.sites.as_slice().get(id as usize)?;
    if site.gone || site.state.phase() != Phase::Cold || site.record != crate::site::NONE {
        return None;
    }
    let object = engine.warm.here.iter().position(|here| *here == site.object)?;
    let base = engine.objects.as_slice().get(usize::from(site.object))?.base;
    profile.site(object as u32, site.address.wrapping_sub(base))
}

fn promote(engine: &mut Engine, profile: Profile<'static>, id: u32, known: &ProfiledSite, now: u64) {
    let most = usize::from(engine.policy.config.max_targets).min(MAX_TARGETS);
    let (mut count, mut chain) = (0, 0);
    for (n, target) in profile.targets(known).take(most).enumerate() {
        let Some(address) = address(engine, id, target.object, target.offset) else { continue };
        engine.warm.targets[count] = Target { address, share: target.share.min(1 << 16) };
        count += 1;
        chain += usize::from(n < known.chain as usize);
    }
    if count == 0 {
        return;
    }
    // A copy that the event may borrow while the engine changes.
    let targets = engine.warm.targets;
    engine.decide(id, Event::Known { targets: &targets[..count], chain }, now);
    let is_promoted = engine.sites.as_slice().get(id as usize).is_some_and(|site| site.state.has_tree());
    engine.share.header().sites_warm += u32::from(is_promoted);
    report::site(engine, id);
}

/// Where a target is here: inside an object that is mapped, and within reach of the site's arena.
fn address(engine: &Engine, id: u32, object: u32, offset: u64) -> Option<u64> {
    let here = *engine.warm.here.get(object as usize).filter(|here| **here != NOWHERE)?;
    let known = engine.objects.as_slice().get(usize::from(here)).filter(|known| known.loaded)?;
    let address = known.base.checked_add(offset)?;
    let site = engine.sites.as_slice().get(id as usize)?;
    ((known.start..known.end).contains(&address) && engine.arena(site)?.reaches(address)).then_some(address)
}
