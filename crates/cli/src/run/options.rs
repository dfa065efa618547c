//! What the engine is told: the command line as the value of `RELPOLINE_OPTS`
//! (see [`relpoline_stats::options`] for its form).

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use relpoline_stats::options::{key, needs_escape};

use crate::arguments::EngineArgs;

/// The variable's value. `stats` is the directory for the statistics files, when some are wanted.
pub fn encode(arguments: &EngineArgs, dry_run: bool, stats: Option<&Path>) -> OsString {
    let valued = stats
        .map(|directory| pair(key::STATS, directory.as_os_str()))
        .into_iter()
        .chain(arguments.only.iter().map(|glob| pair(key::ONLY, glob)))
        .chain(arguments.exclude.iter().map(|glob| pair(key::EXCLUDE, glob)))
        .chain(arguments.max_targets.map(|n| pair(key::MAX_TARGETS, n.to_string().as_ref())));
    let switches = [
        (key::COUNT, arguments.count),
        (key::DRY_RUN, dry_run),
        (key::NO_FOLLOW, arguments.no_follow),
        (key::NO_LINK, arguments.no_link),
        (key::NERVOUS, arguments.nervous),
        (key::OFF_IN_SANDBOX, arguments.off_in_sandbox),
    ];
    let bare = switches.into_iter().filter(|(_, on)| *on).map(|(name, _)| name.as_bytes().to_vec());
    OsString::from_vec(valued.chain(bare).collect::<Vec<_>>().join(&b','))
}

/// Adds the profile to start warm from.
pub fn add_profile(options: OsString, profile: &Path) -> OsString {
    let options = options.into_vec();
    let added = pair(key::PROFILE, profile.as_os_str());
    OsString::from_vec(if options.is_empty() { added } else { [options, added].join(&b',') })
}

fn pair(name: &str, value: &OsStr) -> Vec<u8> {
    let mut text = format!("{name}=").into_bytes();
    for &byte in value.as_bytes() {
        if needs_escape(byte) {
            text.extend(format!("%{byte:02x}").bytes());
        } else {
            text.push(byte);
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::arguments::{Arguments, Verb};

    #[test]
    fn the_engine_reads_what_was_asked_for() {
        let line = ["relpoline", "run", "--only", "a,b*", "--max-targets=7", "--count", "--no-link", "--", "x"];
        let Verb::Run(arguments) = Arguments::try_parse_from(line).unwrap().verb else { panic!() };
        let value = encode(&arguments.engine, false, Some(Path::new("/tmp/a b")));
        let read = relpoline_stats::options::parse(value.as_bytes());
        assert_eq!(read.stats.unwrap().bytes().collect::<Vec<_>>(), b"/tmp/a b");
        assert_eq!((read.max_targets, read.count, read.no_link, read.dry_run), (Some(7), true, true, false));
        assert!(read.selects(b"/x/a,bc") && !read.selects(b"/x/ab"));
    }
}
