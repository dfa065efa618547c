//! Where the statistics of living processes are: in one place per user, which engines and tools agree on.
//!
//! That place is `/dev/shm/relpoline-UID`, mode 0700, UID being the user that the process *is* when it makes
//! its file. `/dev/shm` is memory, is there wherever glibc's shared memory works, needs no environment
//! variable (daemons have none), and a process that has changed its user (a worker of a web server) still has
//! a place of its own. Anybody may make directories in `/dev/shm`, so whoever uses one looks first, through a
//! descriptor that was opened without following links, whether it is a directory, its own, and closed to
//! others ([`is_private`]); if it is not, there are no statistics.
//!
//! A run that ends with a report (`relpoline run --report`) has a directory of its own inside, so that its
//! files outlive their processes; everybody else removes its file at an orderly end. Files of processes that
//! were killed are removed by the tools that find them, and by engines that make files of their own: a
//! process holds a shared lock (`flock`) on its file, which lasts as long as its mapping, so a file without
//! one is nobody's.
//!
//! Beside them lies a list of files without retpolines ([`CLEAN`]), so that libc is not looked through by
//! every program that starts. `relpoline run` makes it, and engines add to it. It consists of 64-bit words
//! that stand for a file as it was: its device, inode, size and times. A word has its row by its lowest bits;
//! the oldest in a row goes when another one comes. Who can write to it can keep other programs of the same
//! user from being promoted, as he can in other ways; that is all.
//!
//! Containers may share one `/dev/shm`, and in each of them a process has the number 1. So a file is named by
//! all that tells a process from others, as the process itself sees it ([`Name`]).

/// Where users' directories are; what follows is the user's number in decimal.
pub const PREFIX: &str = "/dev/shm/relpoline-";
/// Start of the names of runs' directories.
pub const RUN_PREFIX: &str = "run-";
/// End of the names of statistics files.
pub const SUFFIX: &str = ".stats";

/// Name of the list of files that were found to have no retpolines, in a user's directory.
pub const CLEAN: &str = "clean";
/// Its length: [`CLEAN_ROWS`] rows.
pub const CLEAN_BYTES: u64 = (CLEAN_ROWS * CLEAN_ROW * 8) as u64;
/// Rows of the list.
pub const CLEAN_ROWS: usize = 512;
/// Words in a row.
pub const CLEAN_ROW: usize = 8;

/// The name of a process' statistics file: `PID-NAMESPACE-STARTED.stats`, in decimal, without leading zeros.
///
/// After an exec the process has the name that it had before, and the newest image's file takes the older
/// one's place.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Name {
    /// The process' number as it sees itself.
    pub pid: u32,
    /// The inode of its pid namespace; 0 when it could not tell, as where there is no `/proc`.
    pub namespace: u64,
    /// When it was started, as `/proc/PID/stat` says (field 22); 0 when it could not tell.
    pub started: u64,
}

impl Name {
    /// Room for the longest name.
    pub const MOST: usize = 10 + 1 + 20 + 1 + 20 + SUFFIX.len();

    /// Writes the name into `buffer`; its length. `None` when there is no room.
    #[must_use]
    pub fn write(&self, buffer: &mut [u8]) -> Option<usize> {
        let mut end = 0;
        for (number, after) in [(u64::from(self.pid), "-"), (self.namespace, "-"), (self.started, SUFFIX)] {
            end = append_number(buffer, end, number)?;
            buffer.get_mut(end..end + after.len())?.copy_from_slice(after.as_bytes());
            end += after.len();
        }
        Some(end)
    }

    /// Reads a name; `None` when no engine would write it like that.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Name> {
        let mut numbers = name.strip_suffix(SUFFIX.as_bytes())?.split(|&byte| byte == b'-').map(number);
        let (pid, namespace, started) = (numbers.next()??, numbers.next()??, numbers.next()??);
        let pid = u32::try_from(pid).ok().filter(|&pid| pid != 0)?;
        numbers.next().is_none().then_some(Name { pid, namespace, started })
    }
}

fn append_number(buffer: &mut [u8], at: usize, number: u64) -> Option<usize> {
    let at = if number < 10 { at } else { append_number(buffer, at, number / 10)? };
    *buffer.get_mut(at)? = b'0' + (number % 10) as u8;
    Some(at + 1)
}

/// A number of digits alone that is written in the one way in which we write it.
fn number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() || (digits.len() > 1 && digits.first() == Some(&b'0')) {
        return None;
    }
    digits.iter().try_fold(0u64, |number, byte| {
        let digit = byte.checked_sub(b'0').filter(|&digit| digit < 10)?;
        number.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// When a process was started, in the text of its `/proc/PID/stat`. Its name, in parentheses, may hold
/// anything.
#[must_use]
pub fn started(stat: &[u8]) -> Option<u64> {
    let behind_name = stat.iter().rposition(|&byte| byte == b')')?;
    // Field 2 is the name.
    number(stat.get(behind_name + 2..)?.split(|&byte| byte == b' ').nth(22 - 3)?)
}

/// Whether a directory with this owner and mode is `user`'s alone.
#[must_use]
pub const fn is_private(owner: u32, mode: u32, user: u32) -> bool {
    const KIND: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    owner == user && mode & KIND == DIRECTORY && mode & 0o077 == 0
}

/// Which run a process belongs to, by the directory that it was told to write to: the 64-bit FNV-1a hash of
/// its path. A process that cannot write there, since it has changed its user, is found by it.
#[must_use]
pub fn run_id(directory: impl Iterator<Item = u8>) -> u64 {
    directory.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        for (pid, namespace, started) in [(1, 0, 0), (u32::MAX, u64::MAX, u64::MAX), (4_194_304, 4_026_531_836, 10)] {
            let name = Name { pid, namespace, started };
            let mut buffer = [0; Name::MOST];
            let length = name.write(&mut buffer).unwrap();
            assert_eq!(Name::parse(&buffer[..length]), Some(name));
            assert_eq!(name.write(&mut buffer[..length - 1]), None);
        }
    }

    #[test]
    fn other_names_are_nobodys() {
        let others = [
            "7.stats",
            "7-1.stats",
            "0-1-2.stats",
            "07-1-2.stats",
            "7-01-2.stats",
            "7-1-2-3.stats",
            "+7-1-2.stats",
            "7--2.stats",
            "7-1-.stats",
            "7-1-2",
            "7-1-2.stats.stats",
            " 7-1-2.stats",
            "4294967296-1-2.stats",
            "7-1-18446744073709551616.stats",
            ".stats",
            "",
            "7-1-\u{662}.stats",
        ];
        for name in others {
            assert_eq!(Name::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn the_start_is_found_behind_any_name() {
        let fields = " S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 99 5 18446744073709551615";
        for name in ["a", "a b", ") S 1 2", "((", "x) y) 3"] {
            let stat = std::format!("7 ({name}){fields}");
            assert_eq!(started(stat.as_bytes()), Some(1234), "{name}");
        }
        for cut in ["", "7 (a", "7 (a)", "7 (a) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0"] {
            assert_eq!(started(cut.as_bytes()), None, "{cut}");
        }
    }

    #[test]
    fn only_a_closed_directory_of_ones_own_is_private() {
        assert!(is_private(7, 0o040_700, 7));
        for (owner, mode) in [(8, 0o040_700), (7, 0o040_755), (7, 0o041_777), (7, 0o100_600), (7, 0o120_700)] {
            assert!(!is_private(owner, mode, 7), "{owner} {mode:o}");
        }
    }
}
