//! Bytes out of packets and into them.

use super::{HelperCall, errno};
use crate::trap::TrapKind;

/// `BPF_F_RECOMPUTE_CSUM`, `BPF_F_INVALIDATE_HASH`.
const STORE_FLAGS: u64 = 1 | 2;
/// Greatest offset that helpers of socket buffers take.
const MOST_SKB: u64 = i32::MAX as u64;
/// Greatest offset and length that helpers of XDP take.
const MOST_XDP: u64 = 0xffff;
const ETHERNET: u64 = 14;

/// Copies what is at `from` to `to`, or zeroes that when there is nothing (as `bpf_skb_load_bytes` does).
fn load_or_zero(c: &mut HelperCall<'_>, from: Option<u64>, to: u64, len: u64) -> Result<u64, TrapKind> {
    match from {
        Some(from) => {
            let copy = c.read(from, len)?;
            c.write(to, &copy).map(|()| 0)
        }
        None => {
            // Not more than the program has there, whatever it says.
            c.run.bytes_mut(to, len)?;
            c.write(to, &vec![0; len as usize]).map(|()| errno::FAULT)
        }
    }
}

/// `(skb, offset, to, len)`.
pub fn skb_load(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let (offset, len) = (c.args[1] & 0xffff_ffff, c.args[3] & 0xffff_ffff);
    let from = if offset > MOST_SKB || len == 0 { None } else { c.packet_at(offset, len) };
    load_or_zero(c, from, c.args[2], len)
}

/// `(skb, offset, to, len, header)`: from the Ethernet header on, or from the one that follows it.
pub fn skb_load_relative(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let (offset, len) = (c.args[1] & 0xffff_ffff, c.args[3] & 0xffff_ffff);
    let start = match c.args[4] & 0xffff_ffff {
        0 => Some(0),
        1 => Some(ETHERNET),
        _ => None,
    };
    let from = start.filter(|_| offset <= MOST_XDP && len != 0).and_then(|start| c.packet_at(start + offset, len));
    load_or_zero(c, from, c.args[2], len)
}

/// `(skb, offset, from, len, flags)`.
pub fn skb_store(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let (offset, len) = (c.args[1] & 0xffff_ffff, c.args[3] & 0xffff_ffff);
    if c.args[4] & !STORE_FLAGS != 0 {
        return Ok(errno::INVALID);
    }
    let to = if offset > MOST_SKB || len == 0 { None } else { c.packet_at(offset, len) };
    let Some(to) = to else { return Ok(errno::FAULT) };
    let copy = c.read(c.args[2], len)?;
    c.write(to, &copy).map(|()| 0)
}

/// Where a helper of XDP finds its bytes, or what it returns.
fn xdp_place(c: &HelperCall<'_>) -> Result<(u64, u64), u64> {
    let (offset, len) = (c.args[1] & 0xffff_ffff, c.args[3] & 0xffff_ffff);
    if offset > MOST_XDP || len > MOST_XDP {
        return Err(errno::FAULT);
    }
    c.packet_at(offset, len).map(|at| (at, len)).ok_or(errno::INVALID)
}

/// `(xdp, offset, to, len)`.
pub fn xdp_load(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let (from, len) = match xdp_place(c) {
        Ok(place) => place,
        Err(errno) => return Ok(errno),
    };
    let copy = c.read(from, len)?;
    c.write(c.args[2], &copy).map(|()| 0)
}

/// `(xdp, offset, from, len)`.
pub fn xdp_store(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let (to, len) = match xdp_place(c) {
        Ok(place) => place,
        Err(errno) => return Ok(errno),
    };
    let copy = c.read(c.args[2], len)?;
    c.write(to, &copy).map(|()| 0)
}

/// `(_, offset, size)`: big-endian bytes of the packet; from its beginning or, in the negative ranges of
/// classic filters, from its network header or its Ethernet header. Negative when there are none.
pub fn classic(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    const NETWORK: i64 = -0x10_0000;
    const LINK: i64 = -0x20_0000;
    let (offset, size) = (i64::from(c.args[1] as u32 as i32), c.args[2]);
    let from = match offset {
        0.. => offset,
        NETWORK.. => offset - NETWORK + ETHERNET as i64,
        LINK.. => offset - LINK,
        _ => return Ok(errno::FAULT),
    };
    let Some(at) = c.packet_at(from.cast_unsigned(), size) else { return Ok(errno::FAULT) };
    Ok(c.read(at, size)?.iter().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

/// `(xdp)`: bytes of the packet.
pub fn length(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    Ok(c.packet().1)
}
