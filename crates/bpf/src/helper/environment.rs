//! Questions about the machine around, as answered where there is none. A host that knows better answers them
//! by a helper of its own under the same number ([`crate::RuntimeBuilder::helper`]).

use super::{HelperCall, errno};
use crate::packet::ContextKind;
use crate::trap::TrapKind;

/// `struct bpf_fib_lookup`.
const ROUTE: u64 = 64;
const ROUTE_FLAGS: u64 = 0x3f;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct bpf_sock_tuple` of IPv4 and of IPv6.
const TUPLES: [u64; 2] = [12, 36];

/// The device that packets come from: see [`crate::PacketBuffer`].
pub const DEVICE: u32 = 1;
/// `BPF_FIB_LKUP_RET_FWD_DISABLED`.
const FORWARDS_NOTHING: u64 = 5;

/// `(ctx, parameters, length, flags)`: the only device forwards nothing.
pub fn no_route(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, parameters, len, flags, _] = c.args;
    if len & 0xffff_ffff < ROUTE || flags & 0xffff_ffff & !ROUTE_FLAGS != 0 {
        return Ok(errno::INVALID);
    }
    let asked = c.read(parameters, ROUTE)?;
    Ok(match (asked[0], u32::from_le_bytes([asked[8], asked[9], asked[10], asked[11]])) {
        (AF_INET | AF_INET6, DEVICE) => FORWARDS_NOTHING,
        (AF_INET | AF_INET6, _) => errno::NO_SUCH_DEVICE,
        _ => errno::FAMILY,
    })
}

/// `(ctx, device, length, difference, flags)`: whether the packet fits the device, which is as wide as a
/// loopback device.
pub fn check_mtu(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    /// `BPF_MTU_CHK_SEGS`.
    const SEGMENTS: u64 = 1;
    /// `BPF_MTU_CHK_RET_FRAG_NEEDED`.
    const TOO_LONG: u64 = 1;
    const ETHERNET: u32 = 14;
    const MTU: u32 = 65536;
    let [_, device, place, difference, flags] = c.args;
    let (device, difference) = (device as u32, difference as u32);
    let known = if c.context() == Some(ContextKind::Skb) { SEGMENTS } else { 0 };
    if flags & !known != 0 {
        return Ok(errno::INVALID);
    }
    let asked = c.read(place, 4)?.try_into().map_or(0, u32::from_le_bytes);
    if flags != 0 && (asked != 0 || difference != 0) {
        return Ok(errno::INVALID);
    }
    if !matches!(device, 0 | DEVICE) {
        return Ok(errno::NO_SUCH_DEVICE);
    }
    let len = if asked == 0 { c.packet().1 as u32 } else { asked.wrapping_add(ETHERNET) };
    // As the kernel reckons, in 32 bits with a sign.
    let len = len.wrapping_add(difference).cast_signed();
    c.write(place, &MTU.to_le_bytes())?;
    Ok(if len > (MTU + ETHERNET).cast_signed() { TOO_LONG } else { 0 })
}

/// `(ctx, tuple, length, network, flags)`: none.
pub fn no_socket(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let len = c.args[2] & 0xffff_ffff;
    if TUPLES.contains(&len) {
        c.read(c.args[1], len)?;
    }
    Ok(0)
}
