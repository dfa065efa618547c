//! Lines of `/proc/PID/maps`: what a process has mapped where.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

/// The list may have so many bytes: more than a process of the usual limits can have mapped.
const MOST: u64 = 1 << 25;

/// A line.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Line<'a> {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
    /// As in `r-xp`.
    pub access: &'a [u8],
    /// Numbers of the device that the file is on, as in `fd:01`.
    pub device: (u32, u32),
    /// Number of the file on it; 0 for none.
    pub inode: u64,
    /// Path of the file, or a name in brackets, or nothing. A process may call its files and memory what it
    /// likes, but a line feed in a name is written as an escape.
    pub path: &'a [u8],
}

impl<'a> Line<'a> {
    /// Reads a line, without its line feed.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.splitn(6, |&byte| byte == b' ');
        let mut addresses = fields.next()?.splitn(2, |&byte| byte == b'-');
        let mut address = || u64::from_str_radix(std::str::from_utf8(addresses.next()?).ok()?, 16).ok();
        let (start, end) = (address()?, address()?);
        let access = fields.next()?;
        let _offset = fields.next()?;
        let mut numbers = fields.next()?.splitn(2, |&byte| byte == b':');
        let mut number = || u32::from_str_radix(std::str::from_utf8(numbers.next()?).ok()?, 16).ok();
        let device = (number()?, number()?);
        let inode = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let path = fields.next().unwrap_or_default().trim_ascii_start();
        Some(Self { start, end, access, device, inode, path })
    }
}

/// Gives each line of a process' list to `each`, until that says to stop.
///
/// # Errors
/// When we may not look, or it is longer than any list.
pub fn each(pid: u32, each: impl FnMut(Line<'_>) -> bool) -> io::Result<()> {
    lines(File::open(format!("/proc/{pid}/maps"))?, MOST, each)
}

fn lines(list: impl Read, most: u64, mut each: impl FnMut(Line<'_>) -> bool) -> io::Result<()> {
    let mut list = BufReader::new(list.take(most));
    let (mut line, mut read) = (Vec::new(), 0);
    loop {
        line.clear();
        read += list.read_until(b'\n', &mut line)? as u64;
        if read >= most {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it has more mapped than any process"));
        }
        if line.is_empty() {
            return Ok(());
        }
        let text = line.strip_suffix(b"\n").unwrap_or(&line);
        if Line::parse(text).is_some_and(|line| !each(line)) {
            return Ok(());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_read() {
        let text = b"7ffc0e5ea000-7ffc0e60b000 rw-p 00000000 fd:01 4711                       /tmp/a b (deleted)";
        let line = Line::parse(text).unwrap();
        assert_eq!((line.start, line.end, line.inode), (0x7ffc_0e5e_a000, 0x7ffc_0e60_b000, 4711));
        assert_eq!(line.device, (0xfd, 1));
        assert_eq!((line.access, line.path), (&b"rw-p"[..], &b"/tmp/a b (deleted)"[..]));
        assert_eq!(Line::parse(b"1-2 r--p 0 0:0 0").unwrap().path, b"");
        for other in [&b""[..], b"1", b"1-2", b"1-2 r--p", b"1-2 r--p 0 0:0", b"1-2 r--p 0 0:0 x", b"g-2 r--p 0 0:0 0"]
        {
            assert_eq!(Line::parse(other), None);
        }
    }

    #[test]
    fn a_list_has_an_end() {
        let list = b"1-2 r--p 0 0:0 1\n2-3 r--p 0 0:0 2\n3-4 r--p 0 0:0 3\n";
        let read = |most, stop| {
            let mut seen = Vec::new();
            let all = lines(&list[..], most, |line| {
                seen.push(line.inode);
                line.inode != stop
            });
            (all.is_ok(), seen)
        };
        assert_eq!(read(1000, 9), (true, vec![1, 2, 3]));
        assert_eq!(read(1000, 2), (true, vec![1, 2]));
        assert!(!read(40, 9).0);
        each(std::process::id(), |line| line.start >= line.end || line.path != b"[stack]").unwrap();
    }
}
