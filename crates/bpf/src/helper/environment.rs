//! Questions about the machine around, as answered where there is none. A host that knows better answers them by a helper
//! of its own under the same number ([`crate::RuntimeBuilder::helper`]).

use super::{HelperCall, errno};
use crate::trap::TrapKind;

/// `struct bpf_fib_lookup`.
const ROUTE: u64 = 64;
const ROUTE_FLAGS: u64 = 0x3f;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `struct bpf_sock_tuple` of IPv4 and of IPv6.
const TUPLES: [u64; 2] = [12, 36];

/// The device that packets come from: see [`crate::PacketBuffer`].
const DEVICE: u32 = 1;
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

/// `(ctx, tuple, length, network, flags)`: none.
pub fn no_socket(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let len = c.args[2] & 0xffff_ffff;
    if TUPLES.contains(&len) {
        c.read(c.args[1], len)?;
    }
    Ok(0)
}
