//! What only socket buffers have: room at both ends and in the middle, VLAN tags, a type, a hash.

use super::{HelperCall, errno};
use crate::frame::Frame;
use crate::packet::{ContextKind, MOST_SKB, skb};
use crate::trap::TrapKind;

const ETHERNET: u64 = 14;
/// Bytes of both addresses, behind which a tag is inserted.
const ADDRESSES: u64 = 12;
const TAG: u64 = 4;
/// Ethernet types, as they lie in a packet.
const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();
const VLAN_OF_PROVIDER: u16 = 0x88a8_u16.to_be();
/// `PACKET_OTHERHOST`.
const LAST_TYPE: u32 = 3;
/// Flags of `bpf_skb_adjust_room`: encapsulation, whose marks there are not here, and the checksum's.
const ROOM_FLAGS: u64 = 0x1ff | 0xff << 56;
const ENCAP_IPV4: u64 = 1 << 1;
const ENCAP_IPV6: u64 = 1 << 2;
const ENCAP_GRE: u64 = 1 << 3;
const ENCAP_UDP: u64 = 1 << 4;
const NO_CSUM_RESET: u64 = 1 << 5;
const DECAP_IPV4: u64 = 1 << 7;
const DECAP_IPV6: u64 = 1 << 8;
/// Most bytes by which `bpf_skb_adjust_room` changes a packet.
const MOST_ROOM: u64 = 0xfff;

/// The context's `protocol`, as it lies in a packet.
fn protocol(c: &HelperCall<'_>, frame: &Frame) -> Result<u16, TrapKind> {
    Ok(c.field(frame, skb::PROTOCOL)? as u16)
}

/// Makes room of `len` zeroes at `at` bytes from the packet's beginning; false when there is none.
fn open(c: &mut HelperCall<'_>, at: u64, len: u64) -> Result<bool, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let whole = c.read(frame.data, frame.len())?;
    // Before the packet, or else behind it.
    let (data, end) = match frame.data.checked_sub(len).filter(|data| *data >= frame.lowest) {
        Some(data) => (data, frame.end),
        None if frame.end + len <= frame.highest => (frame.data, frame.end + len),
        None => return Ok(false),
    };
    let (head, rest) = whole.split_at(at as usize);
    c.run.reframe(Frame { data, meta: data, end, ..frame });
    c.write(data, head)?;
    c.write(data + at, &vec![0; len as usize])?;
    c.write(data + at + len, rest)?;
    Ok(true)
}

/// Takes `len` bytes out, `at` bytes from the packet's beginning.
fn close(c: &mut HelperCall<'_>, at: u64, len: u64) -> Result<(), TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let head = c.read(frame.data, at)?;
    let data = frame.data + len;
    c.write(data, &head)?;
    c.run.reframe(Frame { data, meta: data, ..frame });
    Ok(())
}

/// `(skb, length, flags)`.
pub fn change_tail(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let len = c.args[1] & 0xffff_ffff;
    if c.args[2] != 0 || len > MOST_SKB as u64 || len < ETHERNET {
        return Ok(errno::INVALID);
    }
    let end = frame.data + len;
    if end > frame.highest {
        return Ok(errno::NO_MEMORY);
    }
    c.run.reframe(Frame { end, ..frame });
    let new = end.saturating_sub(frame.end);
    c.write(frame.end.min(end), &vec![0; new as usize]).map(|()| 0)
}

/// `(skb, bytes, flags)`.
pub fn change_head(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let len = c.args[1] & 0xffff_ffff;
    if c.args[2] != 0 || len > i32::MAX as u64 || frame.len() + len > MOST_SKB as u64 {
        return Ok(errno::INVALID);
    }
    Ok(if open(c, 0, len)? { 0 } else { errno::NO_MEMORY })
}

/// `(skb, length)`: all of a packet is always there.
pub fn pull(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    Ok(if c.args[1] & 0xffff_ffff > frame.len() { errno::NO_MEMORY } else { 0 })
}

/// `(skb, type)`.
pub fn change_type(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let kind = c.args[1] as u32;
    if kind > LAST_TYPE || c.field(&frame, skb::PKT_TYPE)? > LAST_TYPE {
        return Ok(errno::INVALID);
    }
    c.set_field(&frame, skb::PKT_TYPE, kind).map(|()| 0)
}

/// Sets the tag that the packet has beside its bytes.
fn set_tag(c: &mut HelperCall<'_>, tag: Option<(u16, u16)>) -> Result<(), TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let (protocol, tci) = tag.unwrap_or_default();
    c.set_field(&frame, skb::VLAN_PRESENT, tag.is_some().into())?;
    c.set_field(&frame, skb::VLAN_PROTO, protocol.into())?;
    c.set_field(&frame, skb::VLAN_TCI, tci.into())
}

/// `(skb, protocol, flags)`: between IPv4 and IPv6, by room for the longer header or without it. What it
/// holds is the program's affair.
pub fn change_proto(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    /// What an IPv6 header is longer by.
    const LONGER: u64 = 20;
    let frame = c.frame(ContextKind::Skb)?;
    let wanted = c.args[1] as u16;
    if c.args[2] != 0 {
        return Ok(errno::INVALID);
    }
    match (protocol(c, &frame)?, wanted) {
        (IPV4, IPV6) => {
            if frame.len() < ETHERNET || !open(c, ETHERNET, LONGER)? {
                return Ok(errno::NO_MEMORY);
            }
        }
        (IPV6, IPV4) => {
            if frame.len() < ETHERNET + LONGER {
                return Ok(errno::NO_MEMORY);
            }
            close(c, ETHERNET, LONGER)?;
        }
        _ => return Ok(errno::NOT_SUPPORTED),
    }
    c.set_field(&frame, skb::PROTOCOL, wanted.into())?;
    c.set_field(&frame, skb::HASH, 0).map(|()| 0)
}

/// `(skb)`: sets the mark of congestion in the IP header, if its sender knows of such marks: whether it is
/// set then.
pub fn mark_congested(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let (kind, header) = (protocol(c, &frame)?, frame.data + ETHERNET);
    let least = match kind {
        IPV4 => 20,
        IPV6 => 40,
        _ => return Ok(0),
    };
    if frame.len() < ETHERNET + least {
        return Ok(0);
    }
    let bytes = c.read(header, 12)?;
    if kind == IPV6 {
        if bytes[1] & 0x30 == 0 {
            return Ok(0);
        }
        return c.write(header + 1, &[bytes[1] | 0x30]).map(|()| 1);
    }
    match bytes[1] & 3 {
        0 => return Ok(0),
        3 => return Ok(1),
        mark => {
            // The sum, which counts from its lowest byte on, loses what the other byte gains.
            let lost = 0xfbff_u16.wrapping_add(u16::from(mark + 1).to_be());
            let (sum, carry) = u16::from_le_bytes([bytes[10], bytes[11]]).overflowing_add(lost);
            c.write(header + 10, &(sum + u16::from(carry)).to_le_bytes())?;
            c.write(header + 1, &[bytes[1] | 3])?;
        }
    }
    Ok(1)
}

/// `(skb, protocol, tci)`: the tag is beside the packet's bytes; one that was there goes into them.
pub fn vlan_push(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let asked = c.args[1] as u16;
    let wanted = if matches!(asked, VLAN | VLAN_OF_PROVIDER) { asked } else { VLAN };
    if c.field(&frame, skb::VLAN_PRESENT)? != 0 {
        let (protocol, tci) = (c.field(&frame, skb::VLAN_PROTO)? as u16, c.field(&frame, skb::VLAN_TCI)? as u16);
        if frame.len() < ETHERNET || !open(c, ADDRESSES, TAG)? {
            return Ok(errno::NO_MEMORY);
        }
        let (data, _) = c.packet();
        let tag: Vec<u8> = protocol.to_le_bytes().into_iter().chain(tci.to_be_bytes()).collect();
        c.write(data + ADDRESSES, &tag)?;
        c.set_field(&frame, skb::PROTOCOL, protocol.into())?;
    }
    set_tag(c, Some((wanted, c.args[2] as u16))).map(|()| 0)
}

/// Takes the tag out of the packet's bytes, if there is one that its protocol says: what it says.
fn take_tag(c: &mut HelperCall<'_>) -> Result<Option<(u16, u16)>, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let protocol = protocol(c, &frame)?;
    if !matches!(protocol, VLAN | VLAN_OF_PROVIDER) || frame.len() < ETHERNET + TAG {
        return Ok(None);
    }
    let bytes = c.read(frame.data + ADDRESSES, TAG + 2)?;
    close(c, ADDRESSES, TAG)?;
    c.set_field(&frame, skb::PROTOCOL, u16::from_le_bytes([bytes[4], bytes[5]]).into())?;
    Ok(Some((protocol, u16::from_be_bytes([bytes[2], bytes[3]]))))
}

/// `(skb)`: removes the outermost tag; the next one, if there is one, comes out of the packet's bytes.
pub fn vlan_pop(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    if c.field(&frame, skb::VLAN_PRESENT)? == 0 && take_tag(c)?.is_none() {
        return Ok(0);
    }
    let next = take_tag(c)?;
    set_tag(c, next).map(|()| 0)
}

/// `(skb, bytes, mode, flags)`: room behind the Ethernet header (1) or the IP header's least length (0).
pub fn adjust_room(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let [_, by, mode, flags, _] = c.args;
    let by = i64::from(by as u32 as i32);
    let (shrinks, len) = (by < 0, by.unsigned_abs());
    if flags & !ROOM_FLAGS != 0 {
        return Ok(errno::INVALID);
    }
    if len > MOST_ROOM {
        return Ok(errno::FAULT);
    }
    let header = match protocol(c, &frame)? {
        IPV4 => 20,
        IPV6 => 40,
        _ => return Ok(errno::NOT_SUPPORTED),
    };
    let at = match mode & 0xffff_ffff {
        0 => ETHERNET + header,
        1 => ETHERNET,
        _ => return Ok(errno::NOT_SUPPORTED),
    };
    let both = |a, b| flags & (a | b) == a | b;
    if flags & (DECAP_IPV4 | DECAP_IPV6) != 0 && (!shrinks || both(DECAP_IPV4, DECAP_IPV6)) {
        return Ok(errno::INVALID);
    }
    let least = match flags & (DECAP_IPV4 | DECAP_IPV6) {
        DECAP_IPV4 => 20,
        DECAP_IPV6 => 40,
        _ => header,
    };
    let behind = frame.len().saturating_sub(ETHERNET);
    if shrinks && (len >= behind || behind - len < least)
        || !shrinks && frame.len() + len > MOST_SKB as u64
        || frame.len() < at
    {
        return Ok(errno::NOT_SUPPORTED);
    }
    if shrinks {
        if flags & !(DECAP_IPV4 | DECAP_IPV6 | NO_CSUM_RESET | 1) != 0 || frame.len() < at + len {
            return Ok(errno::INVALID);
        }
        close(c, at, len)?;
    } else {
        if both(ENCAP_IPV4, ENCAP_IPV6) || both(ENCAP_GRE, ENCAP_UDP) {
            return Ok(errno::INVALID);
        }
        if !open(c, at, len)? {
            return Ok(errno::NO_MEMORY);
        }
    }
    let now = match flags {
        _ if flags & (ENCAP_IPV6 | DECAP_IPV6) != 0 => IPV6,
        _ if flags & (ENCAP_IPV4 | DECAP_IPV4) != 0 => IPV4,
        _ => return Ok(0),
    };
    c.set_field(&frame, skb::PROTOCOL, now.into()).map(|()| 0)
}

/// `(skb)`: the packet's hash; made of its first bytes where it has none, so that packets of a flow need not
/// be told from each other by it.
pub fn hash(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    let known = c.field(&frame, skb::HASH)?;
    if known != 0 {
        return Ok(known.into());
    }
    // Addresses and ports of IPv4 without options, or addresses of IPv6.
    let (from, len) = match protocol(c, &frame)? {
        IPV4 => (ETHERNET + 12, 12),
        IPV6 => (ETHERNET + 8, 36),
        _ => (0, ETHERNET),
    };
    let bytes = match c.packet_at(from, len) {
        Some(at) => c.read(at, len)?,
        None => Vec::new(),
    };
    let hash = bytes.iter().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193)) | 1;
    c.set_field(&frame, skb::HASH, hash)?;
    Ok(hash.into())
}

/// `(skb, hash)`.
pub fn set_hash(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    c.set_field(&frame, skb::HASH, c.args[1] as u32).map(|()| 0)
}

/// `(skb)`.
pub fn forget_hash(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Skb)?;
    c.set_field(&frame, skb::HASH, 0).map(|()| 0)
}
