//! BOLT's `.fdata`: a line per branch that was taken.
//!
//! ```text
//! 1 CALLER OFFSET 1 TARGET OFFSET MISPREDICTED CALLS       (1: a symbol; offsets in hexadecimal)
//! ```

use std::fmt::Write;
use std::path::Path;

use super::model::Profile;
use super::show::known;

/// The file for one object, and how many of its sites had to be left out.
///
/// # Errors
/// When the object cannot be read, or is of no build in the profile.
pub fn render(profile: &Profile, object: &Path) -> anyhow::Result<(Vec<u8>, usize)> {
    let sites = profile.sites_of(object)?;
    let known = known(profile);
    let (mut out, mut left_out) = (String::new(), 0);
    for ((id, offset), site) in sites {
        let Some((caller, within)) = known.raw(id, *offset) else {
            left_out += 1;
            continue;
        };
        for ((build_id, offset), share) in &site.targets {
            let Some((target, inside)) = known.raw(build_id, *offset).filter(|_| build_id == id) else { continue };
            let calls = super::calls(site.calls, *share);
            // Writing to a string does not fail.
            let _ = writeln!(out, "1 {caller} {within:x} 1 {target} {inside:x} 0 {calls}");
        }
    }
    Ok((out.into_bytes(), left_out))
}
