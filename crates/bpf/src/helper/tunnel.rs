//! The tunnel that a packet is to be put into, which the program itself can read again. Packets come out of
//! none here.

use super::{HelperCall, errno};
use crate::packet::ContextKind;
use crate::run::Tunnel;
use crate::trap::TrapKind;
use std::ops::Range;

/// Bytes of `struct bpf_tunnel_key`, and of its predecessors.
const SIZE: u64 = 44;
const REMOTE_IPV4: u64 = 8;
const PREDECESSORS: [u64; 4] = [REMOTE_IPV4, 22, 24, 28];
/// Its members.
const REMOTE: Range<usize> = 4..20;
const EXTENSION: Range<usize> = 22..24;
const LABEL: Range<usize> = 24..28;
const LOCAL: Range<usize> = 28..44;
/// Flags of both helpers; the fifth means one thing to each.
const IPV6: u64 = 1;
const ZERO_SUM: u64 = 1 << 1;
const KEEP_WHOLE: u64 = 1 << 2;
const NUMBERED: u64 = 1 << 3;
const TELL_FLAGS: u64 = 1 << 4;
const NO_KEY: u64 = 1 << 4;
/// Bits of `tunnel_flags`.
const HAS_SUM: u16 = 1;
const HAS_KEY: u16 = 1 << 2;
const IS_NUMBERED: u16 = 1 << 3;
const IS_WHOLE: u16 = 1 << 8;
const NOT_CACHED: u16 = 1 << 13;
/// Bits of an IPv6 label.
const LABEL_BITS: u32 = 0xf_ffff;

/// `(skb, to, size, flags)`.
pub fn key(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    c.frame(ContextKind::Skb)?;
    let (to, size, flags) = (c.args[1], c.args[2] & 0xffff_ffff, c.args[3]);
    // Not more than the program has there, whatever it says.
    c.run.bytes_mut(to, size)?;
    let (bytes, result) = match known(c.run.tunnel, size, flags) {
        Ok(key) => (key[..size as usize].to_vec(), 0),
        Err(errno) => (vec![0; size as usize], errno),
    };
    c.write(to, &bytes).map(|()| result)
}

/// What a program is told of a tunnel, or which error.
fn known(tunnel: Option<Tunnel>, size: u64, flags: u64) -> Result<[u8; SIZE as usize], u64> {
    let tunnel = tunnel.filter(|_| flags & !(IPV6 | TELL_FLAGS) == 0).ok_or(errno::INVALID)?;
    let wide = flags & IPV6 != 0;
    if tunnel.wide != wide {
        return Err(errno::PROTOCOL);
    }
    if size != SIZE && !PREDECESSORS.contains(&size) || size == REMOTE_IPV4 && wide {
        return Err(errno::INVALID);
    }
    let mut key = tunnel.key;
    let used = if wide { 16 } else { 4 };
    // Whoever receives the packet sees it from the other end.
    key[REMOTE].fill(0);
    key[LOCAL].fill(0);
    key[REMOTE][..used].copy_from_slice(&tunnel.key[LOCAL][..used]);
    key[LOCAL][..used].copy_from_slice(&tunnel.key[REMOTE][..used]);
    let told = if flags & TELL_FLAGS != 0 { tunnel.flags } else { 0 };
    key[EXTENSION].copy_from_slice(&told.to_be_bytes());
    let label = u32::from_le_bytes([key[24], key[25], key[26], key[27]]) & LABEL_BITS;
    key[LABEL].copy_from_slice(&if wide { label } else { 0 }.to_le_bytes());
    Ok(key)
}

/// `(skb, from, size, flags)`.
pub fn set_key(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    c.frame(ContextKind::Skb)?;
    let (from, size, flags) = (c.args[1], c.args[2] & 0xffff_ffff, c.args[3]);
    if flags & !(IPV6 | ZERO_SUM | KEEP_WHOLE | NUMBERED | NO_KEY) != 0 {
        return Ok(errno::INVALID);
    }
    if size != SIZE && !PREDECESSORS.contains(&size) {
        return Ok(errno::INVALID);
    }
    let mut key = [0; SIZE as usize];
    key[..size as usize].copy_from_slice(&c.read(from, size)?);
    let (wide, is_set) = (flags & IPV6 != 0, |part: Range<usize>| key[part].iter().any(|byte| *byte != 0));
    if !wide && is_set(LABEL) || is_set(EXTENSION) {
        return Ok(errno::INVALID);
    }
    let bit = |there: bool, bit: u16| if there { bit } else { 0 };
    let told = NOT_CACHED
        | bit(flags & ZERO_SUM == 0, HAS_SUM)
        | bit(flags & KEEP_WHOLE != 0, IS_WHOLE)
        | bit(flags & NUMBERED != 0, IS_NUMBERED)
        | bit(flags & NO_KEY == 0, HAS_KEY);
    c.run.tunnel = Some(Tunnel { key, wide, flags: told });
    Ok(0)
}
