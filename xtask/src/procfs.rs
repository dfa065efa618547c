//! What /proc tells about running processes: processor time and descendants.
//!
//! `stat` splits user from system time but counts in ticks of 10 ms; `schedstat` gives nanoseconds on the
//! processor, user and system together. Servers are measured with the latter, since a request is short.

use std::fs;
use std::os::unix::fs::MetadataExt;

use anyhow::{Context, Result};

/// Whether this process may install packages and change users.
pub fn am_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// Seconds of processor time that a process has used, all its threads together.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let mut nanoseconds = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        let text = fs::read_to_string(thread?.path().join("schedstat"))?;
        nanoseconds += on_cpu(&text).with_context(|| format!("cannot read schedstat {text:?}"))?;
    }
    Ok(nanoseconds as f64 / 1e9)
}

/// The first number of a schedstat line.
pub fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split_whitespace().next()?.parse().ok()
}

/// Ticks of user and system time of the children a process has waited for.
pub fn waited_children_ticks(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid} is gone"))?;
    let fields = fields_after_name(&text);
    let field = |n: usize| fields.get(n).and_then(|text| text.parse::<u64>().ok());
    // cutime and cstime, fields 16 and 17 counted from one; the name is the second.
    field(13).zip(field(14)).map(|(user, system)| user + system).context("cannot read stat")
}

/// The direct children of a process.
pub fn children(parent: u32) -> Result<Vec<u32>> {
    let entries = fs::read_dir("/proc")?.filter_map(Result::ok);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(pids.filter(|&pid| parent_of(pid) == Some(parent)).collect())
}

fn parent_of(pid: u32) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    fields_after_name(&text).get(1)?.parse().ok()
}

/// The fields from the state on. The name before it may hold blanks and brackets.
fn fields_after_name(stat: &str) -> Vec<&str> {
    stat.rsplit_once(')').map_or(Vec::new(), |(_, rest)| rest.split_whitespace().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_fields() {
        let fields = fields_after_name("17 (a) b) (c) S 4 17 17 0");
        assert_eq!(fields[..2], ["S", "4"]);
    }

    #[test]
    fn this_process_has_used_time_and_has_a_parent() {
        let own = std::process::id();
        assert!(cpu_seconds(own).is_ok_and(|seconds| seconds > 0.0));
        let parent = parent_of(own).expect("a parent");
        assert!(children(parent).is_ok_and(|all| all.contains(&own)));
    }
}
