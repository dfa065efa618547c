//! A profile for people, and as JSON.

use std::fmt::Write as _;
use std::io;

use serde::{Serialize, Serializer};

use super::model::{Place, Profile, Site};
use crate::report::digest::hexadecimal;
use crate::report::text::grouped;
use crate::shown::{self, Shown, cut};
use crate::symbols::Known;

/// Version of the JSON's schema; within it fields are only added.
const SCHEMA: u32 = 1;
/// Targets shown per site.
const TARGETS: usize = 3;

/// What is shown of a profile. Sites and targets become text one at a time: a file of 64 MiB names four
/// million of them.
#[derive(Serialize)]
struct Listed<'a> {
    schema: u32,
    objects: Vec<ShownObject>,
    #[serde(serialize_with = "sites")]
    sites: Sites<'a>,
}

/// Sites, those with the most calls first.
struct Sites<'a> {
    profile: &'a Profile,
    known: Known,
    sorted: Vec<(&'a Place, &'a Site)>,
}

fn sites<S: Serializer>(all: &Sites<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(all.iter())
}

fn targets<S: Serializer>(one: &Targets<'_>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(one.iter())
}

#[derive(Serialize)]
struct ShownObject {
    path: Shown,
    build_id: Shown,
    /// Whether the file of that build is there, so that names are known.
    found: bool,
}

#[derive(Serialize)]
struct ShownSite<'a> {
    object: Shown,
    offset: Shown,
    symbol: Option<Shown>,
    calls: u64,
    chain: u32,
    #[serde(serialize_with = "targets")]
    targets: Targets<'a>,
}

/// The targets of a site.
struct Targets<'a> {
    of: &'a Sites<'a>,
    site: &'a Site,
}

#[derive(Serialize)]
struct ShownTarget {
    object: Shown,
    offset: Shown,
    symbol: Option<Shown>,
    share: f64,
}

/// Names for places, from the files of the same builds.
pub(super) fn known(profile: &Profile) -> Known {
    Known::read(profile.objects.iter().map(|(id, path)| (id.as_slice(), path.as_str())))
}

impl Sites<'_> {
    fn path(&self, place: &Place) -> Shown {
        self.profile.objects.get(&place.0).map(Shown::from).unwrap_or_default()
    }

    fn iter(&self) -> impl Iterator<Item = ShownSite<'_>> {
        self.sorted.iter().map(|(place, site)| ShownSite {
            object: self.path(place),
            offset: format!("{:#x}", place.1).into(),
            symbol: self.known.place(&place.0, place.1),
            calls: site.calls,
            chain: site.chain,
            targets: Targets { of: self, site },
        })
    }
}

impl Targets<'_> {
    fn iter(&self) -> impl Iterator<Item = ShownTarget> {
        self.site.targets.iter().map(|(place, share)| ShownTarget {
            object: self.of.path(place),
            offset: format!("{:#x}", place.1).into(),
            symbol: self.of.known.place(&place.0, place.1),
            share: *share,
        })
    }
}

fn listed(profile: &Profile) -> Listed<'_> {
    let known = known(profile);
    let mut sorted: Vec<(&Place, &Site)> = profile.sites.iter().collect();
    sorted.sort_by_key(|(_, site)| std::cmp::Reverse(site.calls));
    let objects = profile.objects.iter().map(|(id, path)| ShownObject {
        path: path.into(),
        build_id: hexadecimal(id),
        found: known.has(id),
    });
    Listed { schema: SCHEMA, objects: objects.collect(), sites: Sites { profile, known, sorted } }
}

/// As JSON.
///
/// # Errors
/// When it cannot be written.
pub fn json(out: impl io::Write, profile: &Profile) -> io::Result<()> {
    shown::write_json(out, &listed(profile))
}

/// For people.
#[must_use]
pub fn text(profile: &Profile) -> String {
    let shown = listed(profile);
    let mut out = String::new();
    // Writing to a string does not fail.
    let count = |number: usize, what: &str| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
    let _ = writeln!(out, "{} in {}", count(shown.sites.sorted.len(), "site"), count(shown.objects.len(), "object"));
    for object in &shown.objects {
        let gone = if object.found { "" } else { "  (this build is not there)" };
        let _ = writeln!(out, "  {}  {}{gone}", object.build_id, object.path);
    }
    if !shown.sites.sorted.is_empty() {
        let _ = writeln!(out, "\n{:>15}  site, targets", "calls");
    }
    for site in shown.sites.iter() {
        let name = site.symbol.clone().unwrap_or_else(|| format!("{}+{}", site.object, site.offset).into());
        let _ = writeln!(out, "{:>15}  {}", grouped(site.calls), cut(&name, 60));
        for target in site.targets.iter().take(TARGETS) {
            let name = target.symbol.clone().unwrap_or_else(|| format!("{}+{}", target.object, target.offset).into());
            let _ = writeln!(out, "{:17}{:>5.1} % {}", "", target.share * 100.0, cut(&name, 52));
        }
        let more = site.targets.site.targets.len().saturating_sub(TARGETS);
        if more > 0 {
            let _ = writeln!(out, "{:17}and {more} more", "");
        }
    }
    out
}
