//! A process' memory, read without stopping it: `process_vm_readv`, which needs the right to trace the
//! process.
//!
//! Statistics need no such right. This is for what no file holds: the code in an arena, and what its counters
//! say between two judgements.

use std::io;
use std::time::Duration;

use super::patience::Patience;

/// Reading takes no longer, whatever lies there.
const LONGEST: Duration = Duration::from_secs(60);

/// Reads `buffer.len()` bytes at `address`.
///
/// # Errors
/// When we may not, or nothing is there: [`why`] says it in words.
pub fn read(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    let _patience = Patience::of(LONGEST);
    read_now(pid, address, buffer)
}

fn read_now(pid: u32, address: u64, buffer: &mut [u8]) -> io::Result<()> {
    let local = libc::iovec { iov_base: buffer.as_mut_ptr().cast(), iov_len: buffer.len() };
    let remote = libc::iovec { iov_base: address as *mut libc::c_void, iov_len: buffer.len() };
    // SAFETY: `local` is a live buffer; the kernel checks the other process' address.
    let got = unsafe { libc::process_vm_readv(pid.cast_signed(), &raw const local, 1, &raw const remote, 1, 0) };
    match usize::try_from(got) {
        Ok(got) if got == buffer.len() => Ok(()),
        Ok(_) => Err(io::ErrorKind::UnexpectedEof.into()),
        Err(_) => Err(io::Error::last_os_error()),
    }
}

/// Reads `N` bytes at each of these addresses; `None` where that fails.
///
/// # Errors
/// When nothing at all can be read.
pub fn read_all<const N: usize>(pid: u32, addresses: &[u64]) -> io::Result<Vec<Option<[u8; N]>>> {
    let _patience = Patience::of(LONGEST);
    let mut found = Vec::with_capacity(addresses.len());
    if let Some(&first) = addresses.first() {
        read(pid, first, &mut [0; N])?;
    }
    for address in addresses {
        let mut bytes = [0; N];
        found.push(read_now(pid, *address, &mut bytes).is_ok().then_some(bytes));
    }
    Ok(found)
}

/// Why memory cannot be read, and what to do about it.
pub fn why(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EPERM) => {
            "reading its memory is not permitted: run as root, or lower kernel.yama.ptrace_scope".into()
        }
        Some(libc::ENOSYS) => "this kernel has no process_vm_readv".into(),
        _ => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn own_memory_is_read_and_a_hole_is_an_error() {
        let (word, mut copy) = (0x1234_5678_u32.to_le_bytes(), [0; 4]);
        super::read(std::process::id(), word.as_ptr() as u64, &mut copy).unwrap();
        assert_eq!(copy, word);
        assert!(super::read(std::process::id(), 8, &mut copy).is_err());
    }
}
