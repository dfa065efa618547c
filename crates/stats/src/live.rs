//! Where the statistics of living processes are: in one place per user, which engines and tools agree on.
//!
//! That place is `/dev/shm/relpoline-UID`, mode 0700, UID being the user that the process *is* when it makes
//! its file. `/dev/shm` is memory, is there wherever glibc's shared memory works, needs no environment variable
//! (daemons have none), and a process that has changed its user (a worker of a web server) still has a place of
//! its own. Anybody may make directories in `/dev/shm`, so whoever uses one looks first, through a descriptor that
//! was opened without following links, whether it is a directory, its own, and closed to others
//! ([`is_private`]); if it is not, there are no statistics.
//!
//! A run that ends with a report (`relpoline run --report`) has a directory of its own inside, so that its
//! files outlive their processes; everybody else removes its file at an orderly end. Files of processes that
//! were killed are removed by the tools that find them, and by engines that make files of their own: a process holds a
//! shared lock (`flock`) on its file, which lasts as long as its mapping, so a file without one is nobody's.

/// Where users' directories are; what follows is the user's number in decimal.
pub const PREFIX: &str = "/dev/shm/relpoline-";
/// Start of the names of runs' directories.
pub const RUN_PREFIX: &str = "run-";
/// End of the names of statistics files; before it is the process' number as it sees itself.
pub const SUFFIX: &str = ".stats";

/// Whether a directory with this owner and mode is `user`'s alone.
#[must_use]
pub const fn is_private(owner: u32, mode: u32, user: u32) -> bool {
    const KIND: u32 = 0o170_000;
    const DIRECTORY: u32 = 0o040_000;
    owner == user && mode & KIND == DIRECTORY && mode & 0o077 == 0
}

/// Which run a process belongs to, by the directory that it was told to write to: the 64-bit FNV-1a hash of its
/// path. A process that cannot write there, since it has changed its user, is found by it.
#[must_use]
pub fn run_id(directory: impl Iterator<Item = u8>) -> u64 {
    directory.fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_closed_directory_of_ones_own_is_private() {
        assert!(is_private(7, 0o040_700, 7));
        for (owner, mode) in [(8, 0o040_700), (7, 0o040_755), (7, 0o041_777), (7, 0o100_600), (7, 0o120_700)] {
            assert!(!is_private(owner, mode, 7), "{owner} {mode:o}");
        }
    }
}
