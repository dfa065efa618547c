//! A profile in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::Path;

use relpoline_stats::file::text;
use relpoline_stats::record::SHARE_ONE;
use relpoline_stats::{LastTargetRecord, ObjectRecord, SiteRecord, State, Stats};

use crate::report::digest::objects;
use crate::report::{self, Report};
use crate::symbols::{Mapped, Symbols, build_id_of};

/// A build-id, as far as it is kept.
pub type BuildId = Vec<u8>;
/// A place in an object.
pub type Place = (BuildId, u64);

/// What was learned.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Profile {
    /// Paths of objects, by build-id.
    pub objects: BTreeMap<BuildId, String>,
    /// Sites, by where they are.
    pub sites: BTreeMap<Place, Site>,
}

/// A site that was promoted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Site {
    /// Calls that were counted, and those that are reckoned where not all were; at least 1.
    pub calls: u64,
    /// How many of the targets stand in the hot chain.
    pub chain: u32,
    /// Targets in the order of comparing, with their share of the calls (0 to 1).
    pub targets: Vec<(Place, f64)>,
}

impl Profile {
    /// The sites of one object, by their offsets.
    ///
    /// # Errors
    /// When the object cannot be read, or is of no build that is known here.
    pub fn sites_of(&self, object: &Path) -> anyhow::Result<impl Iterator<Item = (&Place, &Site)>> {
        let id = build_id_of(object)?;
        anyhow::ensure!(
            self.objects.contains_key(&id),
            "the profile knows no site of this build of {}",
            object.display()
        );
        Ok(self.sites.iter().filter(move |((build_id, _), _)| *build_id == id))
    }

    /// What a process has learned. Sites in objects without a build-id, and targets that no file holds,
    /// cannot be kept.
    ///
    /// Sites weigh what `report`, which is on the same process, knows and reckons of their calls.
    pub fn of(stats: &Stats<'_>, report: &Report, symbols: &mut Symbols) -> Self {
        let weights = weights(report);
        let records = objects(stats);
        let mapped: Vec<Mapped> = records.iter().map(|record| symbols.map(record)).collect();
        let here = Here { records, mapped, symbols };
        let mut all: HashMap<u32, Vec<LastTargetRecord>> = HashMap::new();
        for target in stats.last_targets() {
            all.entry(target.site).or_default().push(target);
        }
        let mut profile = Self::default();
        for (index, record) in stats.numbered_sites() {
            let is_promoted = State::from_number(record.state).is_some_and(State::is_promoted);
            let Some(place) = here.place(record.address).filter(|_| is_promoted) else { continue };
            let targets = here.targets(&record, all.get(&index));
            if targets.is_empty() {
                continue;
            }
            for (build_id, _) in targets.iter().map(|(place, _)| place).chain([&place]) {
                profile.objects.entry(build_id.clone()).or_insert_with(|| here.path(build_id));
            }
            let calls = weights.get(&record.address).copied().unwrap_or_default().max(1);
            profile.sites.insert(place, Site { calls, chain: record.chain.into(), targets });
        }
        profile
    }

    /// Adds another profile. Of two builds of one path the other one's stays; how many sites went.
    pub fn merge(&mut self, other: &Self) -> usize {
        let dropped = self.drop_other_builds(other);
        for (place, site) in &other.sites {
            match self.sites.get_mut(place) {
                Some(known) => known.merge(site),
                None => {
                    self.sites.insert(place.clone(), site.clone());
                }
            }
        }
        dropped
    }

    /// Takes over what a newer run has found; what it says nothing of stays. How many sites went.
    pub fn replace(&mut self, newer: &Self) -> usize {
        let dropped = self.drop_other_builds(newer);
        self.sites.extend(newer.sites.clone());
        dropped
    }

    /// Drops what belongs to another build of a path that `newer` has.
    fn drop_other_builds(&mut self, newer: &Self) -> usize {
        let paths: HashSet<&String> = newer.objects.values().collect();
        let is_old = |build_id: &BuildId, path: &String| !newer.objects.contains_key(build_id) && paths.contains(path);
        let old: HashSet<BuildId> =
            self.objects.iter().filter(|(id, path)| is_old(id, path)).map(|(id, _)| id.clone()).collect();
        let before = self.sites.len();
        self.sites.retain(|(build_id, _), site| {
            site.targets.retain(|((target, _), _)| !old.contains(target));
            !old.contains(build_id) && !site.targets.is_empty()
        });
        self.objects.retain(|build_id, _| !old.contains(build_id));
        self.objects.extend(newer.objects.clone());
        before - self.sites.len()
    }
}

impl Site {
    /// Adds the calls of the same site elsewhere.
    #[expect(clippy::cast_precision_loss, reason = "shares need no more than 53 bits")]
    fn merge(&mut self, other: &Self) {
        let (mine, theirs) = (self.calls as f64, other.calls as f64);
        let mut all: BTreeMap<Place, f64> = BTreeMap::new();
        for (targets, weight) in [(&self.targets, mine), (&other.targets, theirs)] {
            for (place, share) in targets {
                *all.entry(place.clone()).or_default() += share * weight / (mine + theirs);
            }
        }
        self.targets = all.into_iter().collect();
        self.targets.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.calls = self.calls.saturating_add(other.calls);
        self.chain = self.chain.max(other.chain).min(u32::try_from(self.targets.len()).unwrap_or(u32::MAX));
    }
}

/// Calls of sites by their addresses: those that were counted, and those that are reckoned.
fn weights(report: &Report) -> HashMap<u64, u64> {
    let address = |site: &report::schema::Site| u64::from_str_radix(site.address.strip_prefix("0x")?, 16).ok();
    let weight =
        |site: &report::schema::Site| Some((address(site)?, site.calls().saturating_add(site.calls_estimated)));
    report.sites.iter().filter_map(weight).collect()
}

/// The objects of one process.
struct Here<'a> {
    records: Vec<ObjectRecord>,
    mapped: Vec<Mapped>,
    symbols: &'a Symbols,
}

impl Here<'_> {
    fn place(&self, address: u64) -> Option<Place> {
        let (index, offset) = self.symbols.object(&self.mapped, address)?;
        let build_id = build_id(self.records.get(index)?);
        (!build_id.is_empty()).then_some((build_id, offset))
    }

    fn targets(&self, record: &SiteRecord, all: Option<&Vec<LastTargetRecord>>) -> Vec<(Place, f64)> {
        let share = |fixed: u32| f64::from(fixed.min(SHARE_ONE)) / f64::from(SHARE_ONE);
        let known: Vec<(u64, u32)> = match all {
            Some(all) => all.iter().map(|target| (target.address, target.share)).collect(),
            None => record.targets.iter().map(|target| (target.address, target.share)).collect(),
        };
        let known = known.into_iter().take_while(|(address, _)| *address != 0);
        known.filter_map(|(address, fixed)| Some((self.place(address)?, share(fixed)))).collect()
    }

    fn path(&self, id: &BuildId) -> String {
        let record = self.records.iter().find(|record| build_id(record) == *id);
        record.map(|record| String::from_utf8_lossy(text(&record.path)).into_owned()).unwrap_or_default()
    }
}

fn build_id(record: &ObjectRecord) -> BuildId {
    record.build_id.get(..usize::from(record.build_id_len)).unwrap_or_default().to_vec()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A profile of one site at 0x10 of build `id` of /bin/p, with targets at these offsets in it.
    pub fn profile(id: u8, calls: u64, targets: &[(u64, f64)]) -> Profile {
        let build_id = vec![id; 20];
        let targets = targets.iter().map(|(offset, share)| ((build_id.clone(), *offset), *share)).collect();
        Profile {
            objects: [(build_id.clone(), "/bin/p".to_owned())].into(),
            sites: [((build_id, 0x10), Site { calls, chain: 1, targets })].into(),
        }
    }

    #[test]
    fn shares_are_weighted_by_calls() {
        let mut merged = profile(1, 300, &[(0x20, 1.0)]);
        assert_eq!(merged.merge(&profile(1, 100, &[(0x30, 0.5), (0x20, 0.5)])), 0);
        let site = merged.sites.values().next().unwrap();
        let targets: Vec<(u64, f64)> = site.targets.iter().map(|((_, offset), share)| (*offset, *share)).collect();
        assert_eq!((site.calls, targets), (400, vec![(0x20, 0.875), (0x30, 0.125)]));
    }

    #[test]
    fn another_build_of_the_same_file_goes() {
        let mut kept = profile(1, 300, &[(0x20, 1.0)]);
        assert_eq!(kept.replace(&profile(2, 1, &[(0x30, 1.0)])), 1);
        assert_eq!(kept, profile(2, 1, &[(0x30, 1.0)]));
        let mut kept = profile(1, 300, &[(0x20, 1.0)]);
        assert_eq!(kept.replace(&Profile::default()), 0);
        assert_eq!(kept, profile(1, 300, &[(0x20, 1.0)]));
    }
}
