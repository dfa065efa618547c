//! A profile for people, and as JSON.

use std::fmt::Write as _;
use std::io;

use serde::Serialize;

use super::model::{Place, Profile, Site};
use crate::report::digest::hexadecimal;
use crate::report::text::grouped;
use crate::shown::{self, Shown, cut};
use crate::symbols::Known;

/// Version of the JSON's schema; within it fields are only added.
const SCHEMA: u32 = 1;
/// Targets shown per site.
const TARGETS: usize = 3;

#[derive(Serialize)]
struct Listed {
    schema: u32,
    objects: Vec<ShownObject>,
    sites: Vec<ShownSite>,
}

#[derive(Serialize)]
struct ShownObject {
    path: Shown,
    build_id: Shown,
    /// Whether the file of that build is there, so that names are known.
    found: bool,
}

#[derive(Serialize)]
struct ShownSite {
    object: Shown,
    offset: Shown,
    symbol: Option<Shown>,
    calls: u64,
    chain: u32,
    targets: Vec<ShownTarget>,
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

fn listed(profile: &Profile) -> Listed {
    let known = known(profile);
    let path = |place: &Place| profile.objects.get(&place.0).map(Shown::from).unwrap_or_default();
    let site = |(place, site): (&Place, &Site)| ShownSite {
        object: path(place),
        offset: format!("{:#x}", place.1).into(),
        symbol: known.place(&place.0, place.1),
        calls: site.calls,
        chain: site.chain,
        targets: site
            .targets
            .iter()
            .map(|(place, share)| ShownTarget {
                object: path(place),
                offset: format!("{:#x}", place.1).into(),
                symbol: known.place(&place.0, place.1),
                share: *share,
            })
            .collect(),
    };
    let mut sites: Vec<ShownSite> = profile.sites.iter().map(site).collect();
    sites.sort_by_key(|site| std::cmp::Reverse(site.calls));
    let objects = profile.objects.iter().map(|(id, path)| ShownObject {
        path: path.into(),
        build_id: hexadecimal(id),
        found: known.has(id),
    });
    Listed { schema: SCHEMA, objects: objects.collect(), sites }
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
    let _ = writeln!(out, "{} in {}", count(shown.sites.len(), "site"), count(shown.objects.len(), "object"));
    for object in &shown.objects {
        let gone = if object.found { "" } else { "  (this build is not there)" };
        let _ = writeln!(out, "  {}  {}{gone}", object.build_id, object.path);
    }
    if !shown.sites.is_empty() {
        let _ = writeln!(out, "\n{:>15}  site, targets", "calls");
    }
    for site in &shown.sites {
        let name = site.symbol.clone().unwrap_or_else(|| format!("{}+{}", site.object, site.offset).into());
        let _ = writeln!(out, "{:>15}  {}", grouped(site.calls), cut(&name, 60));
        for target in site.targets.iter().take(TARGETS) {
            let name = target.symbol.clone().unwrap_or_else(|| format!("{}+{}", target.object, target.offset).into());
            let _ = writeln!(out, "{:17}{:>5.1} % {}", "", target.share * 100.0, cut(&name, 52));
        }
        let more = site.targets.len().saturating_sub(TARGETS);
        if more > 0 {
            let _ = writeln!(out, "{:17}and {more} more", "");
        }
    }
    out
}
