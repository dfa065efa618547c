//! Where packets go: devices, by number or by map; CPUs; sockets.

use super::environment::DEVICE;
use super::{HelperCall, errno};
use crate::packet::ContextKind;
use crate::redirect::{Redirect, Way};
use crate::trap::TrapKind;

/// `XDP_ABORTED`, `XDP_REDIRECT`.
const XDP: (u64, u64) = (0, 4);
/// `TC_ACT_SHOT`, `TC_ACT_REDIRECT`.
const TC: (u64, u64) = (2, 7);
/// `BPF_F_INGRESS`.
const INGRESS: u64 = 1;
/// What `bpf_redirect_map` returns when there is no such entry.
const ACTION: u64 = 3;
/// `BPF_F_BROADCAST`.
const BROADCAST: u64 = 8;
/// `BPF_F_EXCLUDE_INGRESS`.
const EXCLUDE_INGRESS: u64 = 16;
/// `struct bpf_redir_neigh`.
const NEIGHBOUR: u64 = 20;

fn device(c: &HelperCall<'_>, way: Way) -> Redirect {
    Redirect::Device { ifindex: c.args[0] as u32, way }
}

/// `(ifindex, flags)`.
pub fn to_device(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let flags = c.args[1];
    if c.context() == Some(ContextKind::Skb) {
        if flags & !INGRESS != 0 {
            return Ok(TC.0);
        }
        let way = if flags & INGRESS != 0 { Way::Ingress } else { Way::Egress };
        c.run.redirect = Some(device(c, way));
        return Ok(TC.1);
    }
    if flags != 0 {
        return Ok(XDP.0);
    }
    c.run.redirect = Some(device(c, Way::Egress));
    Ok(XDP.1)
}

/// `(ifindex, flags)`, for socket buffers.
pub fn to_peer(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    c.frame(ContextKind::Skb)?;
    if c.args[1] != 0 {
        return Ok(TC.0);
    }
    c.run.redirect = Some(device(c, Way::Peer));
    Ok(TC.1)
}

/// `(ifindex, parameters, length, flags)`, for socket buffers.
pub fn to_neighbour(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    c.frame(ContextKind::Skb)?;
    let len = c.args[2] & 0xffff_ffff;
    if len != 0 && len < NEIGHBOUR || c.args[3] != 0 {
        return Ok(TC.0);
    }
    c.run.redirect = Some(device(c, Way::Neighbour));
    Ok(TC.1)
}

/// `(skb, ifindex, flags)`: a copy goes at once. Which devices there are is the host's affair; where it takes
/// no packets there is one.
pub fn clone_to_device(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    c.frame(ContextKind::Skb)?;
    let flags = c.args[2];
    if flags & !INGRESS != 0 {
        return Ok(errno::INVALID);
    }
    let way = if flags & INGRESS != 0 { Way::Ingress } else { Way::Egress };
    let redirect = Redirect::Device { ifindex: c.args[1] as u32, way };
    let (at, len) = c.packet();
    let bytes = c.read(at, len)?;
    // SAFETY: the runtime outlives its runs.
    match &unsafe { &*c.run.shared }.deliver {
        Some(deliver) => deliver(&redirect, &bytes),
        None if c.args[1] as u32 != DEVICE => return Ok(errno::INVALID),
        None => {}
    }
    Ok(0)
}

/// `(map, key, flags)`: where there is no such entry, the verdict that the flags say.
pub fn by_map(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    use crate::map::MapKind::{DevMap, DevMapHash};
    let [handle, key, flags, ..] = c.args;
    let map = c.map(handle)?;
    let kind = map.spec.kind;
    if !kind.redirects() {
        return Err(TrapKind::NotAMap { value: handle });
    }
    let known = if matches!(kind, DevMap | DevMapHash) { BROADCAST | EXCLUDE_INGRESS } else { 0 };
    if flags & !(ACTION | known) != 0 {
        return Ok(XDP.0);
    }
    let exclude_ingress = flags & EXCLUDE_INGRESS != 0;
    // Keys have 32 bits in all of these maps, and the kernel compares 64 with their size.
    let found = u32::try_from(key).ok().and_then(|key| Some((key, map.target(key).ok()?)));
    c.run.redirect = match found {
        _ if flags & BROADCAST != 0 => Some(Redirect::Map { map: handle, kind, key: None, value: 0, exclude_ingress }),
        Some((key, value)) => Some(Redirect::Map { map: handle, kind, key: Some(key), value, exclude_ingress }),
        None => None,
    };
    // The broken variant that the tests must catch: packets are redirected to nowhere.
    let nowhere = cfg!(relpoline_broken = "redirects-to-nowhere");
    Ok(if c.run.redirect.is_some() || nowhere { XDP.1 } else { flags & ACTION })
}
