//! Internet checksums, to the bit as the kernel reckons them: sums in ones' complement have two zeros, and a
//! program sees which one it got.

use super::{HelperCall, errno};
use crate::trap::TrapKind;

/// Flags of `bpf_l3_csum_replace` and `bpf_l4_csum_replace`: bytes of the field that changed.
const FIELD: u64 = 0xf;
const PSEUDO_HEADER: u64 = 0x10;
const MARK_MANGLED_0: u64 = 0x20;
const MARK_ENFORCE: u64 = 0x40;
const IPV6: u64 = 0x80;
/// A checksum of UDP that came out as zero (`CSUM_MANGLED_0`).
const MANGLED_0: u16 = 0xffff;
/// Greatest offset of a checksum.
const MOST: u64 = 0xffff;

fn add(a: u32, b: u32) -> u32 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u32::from(carry)
}

fn subtract(a: u32, b: u32) -> u32 {
    add(a, !b)
}

fn add16(a: u16, b: u16) -> u16 {
    let (sum, carry) = a.overflowing_add(b);
    sum + u16::from(carry)
}

/// `csum_from32to16`.
fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// `csum_partial`: 8 bytes at a time, carries added, 64 bits made 32 in the end.
fn partial(bytes: &[u8], seed: u32) -> u32 {
    let sum = bytes.chunks(8).fold(u64::from(seed), |sum, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        let (sum, carry) = sum.overflowing_add(u64::from_le_bytes(word));
        sum + u64::from(carry)
    });
    add(sum as u32, (sum >> 32) as u32)
}

/// `(from, from_size, to, to_size, seed)`.
pub fn diff(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [from, from_size, to, to_size, seed] = c.args;
    let (from_size, to_size, seed) = (from_size & 0xffff_ffff, to_size & 0xffff_ffff, seed as u32);
    let read = |at, size| if size == 0 { Ok(Vec::new()) } else { c.read(at, size) };
    let (from, to) = (read(from, from_size)?, read(to, to_size)?);
    let sum = match (from.is_empty(), to.is_empty()) {
        (false, false) => subtract(partial(&to, seed), partial(&from, 0)),
        (true, false) => partial(&to, seed),
        (false, true) => !partial(&from, !seed),
        (true, true) => seed,
    };
    Ok(fold(sum).into())
}

/// `csum_replace_by_diff`.
fn by_difference(sum: u16, difference: u32) -> u16 {
    !fold(add(difference, !u32::from(sum)))
}

/// `csum_replace4`.
fn replace4(sum: u16, from: u32, to: u32) -> u16 {
    !fold(add(subtract(u32::from(!sum), from), to))
}

/// `csum_replace2`.
fn replace2(sum: u16, from: u16, to: u16) -> u16 {
    !add16(add16(!sum, !from), to)
}

/// Address of the checksum at r2, and what it is; or what the helper returns.
fn checksum(c: &HelperCall<'_>) -> Result<Result<(u64, u16), u64>, TrapKind> {
    let offset = c.args[1] & 0xffff_ffff;
    if offset > MOST || offset & 1 != 0 {
        return Ok(Err(errno::FAULT));
    }
    let Some(at) = c.packet_at(offset, 2) else { return Ok(Err(errno::FAULT)) };
    let bytes = c.read(at, 2)?;
    Ok(Ok((at, u16::from_le_bytes([bytes[0], bytes[1]]))))
}

/// `(skb, offset, from, to, flags)`.
pub fn replace_l3(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, _, from, to, flags] = c.args;
    if flags & !FIELD != 0 {
        return Ok(errno::INVALID);
    }
    let (at, sum) = match checksum(c)? {
        Ok(found) => found,
        Err(errno) => return Ok(errno),
    };
    let sum = match flags {
        0 if from == 0 => by_difference(sum, to as u32),
        2 => replace2(sum, from as u16, to as u16),
        4 => replace4(sum, from as u32, to as u32),
        _ => return Ok(errno::INVALID),
    };
    c.write(at, &sum.to_le_bytes()).map(|()| 0)
}

/// As [`replace_l3`], for TCP and UDP. Whether the field belongs to the pseudo header matters only where a
/// device has reckoned the sum, which none has here.
pub fn replace_l4(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, _, from, to, flags] = c.args;
    if flags & !(FIELD | PSEUDO_HEADER | MARK_MANGLED_0 | MARK_ENFORCE | IPV6) != 0 {
        return Ok(errno::INVALID);
    }
    let (at, sum) = match checksum(c)? {
        Ok(found) => found,
        Err(errno) => return Ok(errno),
    };
    let mangled = flags & MARK_MANGLED_0 != 0;
    if mangled && flags & MARK_ENFORCE == 0 && sum == 0 {
        return Ok(0);
    }
    let sum = match flags & FIELD {
        0 if from == 0 => by_difference(sum, to as u32),
        2 => replace4(sum, u32::from(from as u16), u32::from(to as u16)),
        4 => replace4(sum, from as u32, to as u32),
        _ => return Ok(errno::INVALID),
    };
    let sum = if mangled && sum == 0 { MANGLED_0 } else { sum };
    c.write(at, &sum.to_le_bytes()).map(|()| 0)
}

/// `(skb, sum)`: only where a device has reckoned the packet's sum.
pub fn update(_: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    Ok(errno::NOT_SUPPORTED)
}
