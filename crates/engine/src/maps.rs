//! What the kernel has mapped where in this process: `/proc/self/maps`, without the paths.
//!
//! An object is recognised by the file behind its text, device and inode, which only the kernel knows: a path
//! may name another file by now.

use crate::table::Table;
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl;

/// A line of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Mapping {
    /// First address.
    pub start: u64,
    /// Behind the last address.
    pub end: u64,
    /// Device of the file behind it, major number above minor number; 0 for none.
    pub device: u64,
    /// The file's inode; 0 for none.
    pub inode: u64,
    /// Whether it can be read.
    pub readable: bool,
}

/// The device of a file as mappings name it.
#[must_use]
pub const fn device(major: u32, minor: u32) -> u64 {
    (major as u64) << 32 | minor as u64
}

impl Mapping {
    fn parse(line: &[u8]) -> Option<Mapping> {
        let mut rest = line;
        let start = hexadecimal(&mut rest, b'-')?;
        let end = hexadecimal(&mut rest, b' ')?;
        let readable = rest.first() == Some(&b'r');
        rest = rest.get(5..)?;
        hexadecimal(&mut rest, b' ')?;
        let (major, minor) = (hexadecimal(&mut rest, b':')?, hexadecimal(&mut rest, b' ')?);
        let digits = rest.iter().take_while(|byte| byte.is_ascii_digit());
        let inode = digits.fold(0u64, |n, digit| n.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')));
        Some(Mapping { start, end, device: device(major as u32, minor as u32), inode, readable })
    }
}

/// Takes a number and the byte `end` behind it off the start of `text`.
fn hexadecimal(text: &mut &[u8], end: u8) -> Option<u64> {
    let length = text.iter().position(|&byte| byte == end)?;
    let digit = |&byte: &u8| (byte as char).to_digit(16);
    let number = text[..length].iter().try_fold(0u64, |n, byte| Some(n << 4 | u64::from(digit(byte)?)));
    *text = &text[length + 1..];
    number
}

/// `struct procmap_query` (linux/fs.h).
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Query {
    size: u64,
    flags: u64,
    address: u64,
    start: u64,
    end: u64,
    access: u64,
    page_size: u64,
    offset: u64,
    inode: u64,
    major: u32,
    minor: u32,
    name_size: u32,
    build_id_size: u32,
    name: u64,
    build_id: u64,
}

/// `PROCMAP_QUERY`, of Linux 6.11.
const QUERY: ioctl::Opcode = ioctl::opcode::read_write::<Query>(b'f', 17);
const QUERY_READABLE: u64 = 1;

/// The mapping that holds `address`; where the kernel cannot be asked for one, all are read up to it.
#[must_use]
pub fn find(address: u64) -> Option<Mapping> {
    let fd = rustix::fs::open(c"/proc/self/maps", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    let mut query = Query { size: size_of::<Query>() as u64, address, ..Query::default() };
    // SAFETY: the number belongs to that structure, and names are not asked for.
    match unsafe { ioctl::ioctl(&fd, ioctl::Updater::<QUERY, Query>::new(&mut query)) } {
        Ok(()) => {
            let device = device(query.major, query.minor);
            let readable = query.access & QUERY_READABLE != 0;
            Some(Mapping { start: query.start, end: query.end, device, inode: query.inode, readable })
        }
        Err(Errno::NOENT) => None,
        Err(_) => find_in_text(address),
    }
}

fn find_in_text(address: u64) -> Option<Mapping> {
    let mut found = None;
    each(|mapping| {
        if (mapping.start..mapping.end).contains(&address) {
            found = Some(*mapping);
        }
    });
    found
}

/// Calls `visit` for every mapping, ascending; false when nobody can tell all of them.
pub fn each(mut visit: impl FnMut(&Mapping)) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let Ok(fd) = rustix::fs::open(c"/proc/self/maps", flags, Mode::empty()) else { return false };
    let (mut buffer, mut len, mut is_rest) = ([0u8; 2048], 0, false);
    loop {
        let read = match rustix::io::read(&fd, &mut buffer[len..]) {
            Ok(0) => return true,
            Ok(read) => read,
            Err(_) => return false,
        };
        len += read;
        let mut begun = 0;
        while let Some(length) = buffer[begun..len].iter().position(|&byte| byte == b'\n') {
            if !core::mem::take(&mut is_rest) {
                Mapping::parse(&buffer[begun..begun + length]).iter().for_each(&mut visit);
            }
            begun += length + 1;
        }
        if begun == 0 && len == buffer.len() {
            // A long path. What matters stands before it.
            if !core::mem::replace(&mut is_rest, true) {
                Mapping::parse(&buffer).iter().for_each(&mut visit);
            }
            begun = len;
        }
        buffer.copy_within(begun..len, 0);
        len -= begun;
    }
}

/// Fills `table` with all mappings; leaves it empty when nobody can tell.
pub fn list(table: &mut Table<Mapping>) {
    table.clear();
    let mut is_whole = true;
    if !each(|mapping| is_whole &= table.push(*mapping).is_some()) || !is_whole {
        table.clear();
    }
}

/// The mapping that holds `address`.
#[must_use]
pub fn at(mappings: &[Mapping], address: u64) -> Option<&Mapping> {
    let next = mappings.partition_point(|mapping| mapping.start <= address);
    mappings.get(next.checked_sub(1)?).filter(|mapping| address < mapping.end)
}

/// Whether all of `len` bytes from `address` on can be read.
#[must_use]
pub fn is_readable(mappings: &[Mapping], address: u64, len: u64) -> bool {
    let Some(end) = address.checked_add(len) else { return false };
    let mut reached = address;
    while reached < end {
        match at(mappings, reached) {
            Some(mapping) if mapping.readable => reached = mapping.end,
            _ => return false,
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::vec::Vec;

    #[test]
    fn lines_are_read_and_nonsense_is_not() {
        let line = b"7f5e4c000000-7f5e4c021000 r-xp 00001000 fd:0a 131082                     /usr/lib/x";
        let mapping = Mapping::parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end), (0x7f5e_4c00_0000, 0x7f5e_4c02_1000));
        assert_eq!((mapping.device, mapping.inode, mapping.readable), (device(0xfd, 10), 131_082, true));
        assert!(!Mapping::parse(b"1000-2000 --xp 0 00:00 0").unwrap().readable);
        for len in 0..40 {
            assert_eq!(Mapping::parse(&line[..len]), None);
        }
        assert_eq!(Mapping::parse(b"x-y r--p 0 0:0 0"), None);
    }

    #[test]
    fn this_process_is_mapped_and_what_lies_between_is_not() {
        let mut all = Vec::new();
        assert!(each(|mapping| all.push(*mapping)));
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start));
        let here = list as *const () as u64;
        let text = at(&all, here).unwrap();
        assert!(text.readable && text.inode != 0);
        assert!(is_readable(&all, here, text.end - here));
        assert_eq!(find(here), Some(*text));
        assert_eq!(find_in_text(here), Some(*text));
        assert_eq!((find(1), find_in_text(1)), (None, None));
        let gap = all.windows(2).find(|pair| pair[0].end < pair[1].start).unwrap();
        assert!(at(&all, gap[0].end).is_none() && !is_readable(&all, gap[0].end - 1, 2));
    }

    #[test]
    fn a_line_longer_than_the_buffer_is_one_line() {
        let place = std::env::temp_dir().join(std::format!("relpoline-maps-{}", std::process::id()));
        let mut long = place.clone();
        (0..12).for_each(|_| long.push("x".repeat(240)));
        std::fs::create_dir_all(&long).unwrap();
        let file = long.join("file");
        std::fs::write(&file, [7; 4096]).unwrap();
        let path = std::ffi::CString::new(file.as_os_str().as_encoded_bytes()).unwrap();
        let fd = rustix::fs::open(path.as_c_str(), OFlags::RDONLY, Mode::empty()).unwrap();
        // SAFETY: a fresh mapping.
        let at_file = unsafe {
            let prot = rustix::mm::ProtFlags::READ;
            rustix::mm::mmap(core::ptr::null_mut(), 4096, prot, rustix::mm::MapFlags::PRIVATE, &fd, 0).unwrap()
        };
        let mut all = Vec::new();
        assert!(each(|mapping| all.push(*mapping)));
        std::fs::remove_dir_all(&place).unwrap();
        let inode = rustix::fs::fstat(&fd).unwrap().st_ino;
        assert_eq!(at(&all, at_file as u64).unwrap().inode, inode);
        assert!(all.windows(2).all(|pair| pair[0].end <= pair[1].start));
        // SAFETY: mapped above.
        unsafe { rustix::mm::munmap(at_file, 4096).unwrap() };
    }
}
