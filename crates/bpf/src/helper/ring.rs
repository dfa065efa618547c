//! Records for the host: ring buffers, and events.

use super::{HelperCall, errno};
use crate::map::MapBody;
use crate::trap::TrapKind;

/// `BPF_RB_NO_WAKEUP`, `BPF_RB_FORCE_WAKEUP`.
const WAKEUPS: u64 = 1 | 2;
/// Flags of events: which CPU's ring, and how much of the packet.
const INDEX: u64 = 0xffff_ffff;
const CONTEXT_LEN: u64 = 0xf_ffff << 32;

fn not_a_ring(handle: u64) -> TrapKind {
    TrapKind::NotAMap { value: handle }
}

fn address(map: &MapBody, offset: u64) -> u64 {
    map.values.address(0, 0) + offset
}

/// `(ring, data, size, flags)`.
pub fn output(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [handle, data, size, flags, _] = c.args;
    let map = c.map(handle)?;
    let ring = map.ring().ok_or(not_a_ring(handle))?;
    if flags & !WAKEUPS != 0 {
        return Ok(errno::INVALID);
    }
    let bytes = if size == 0 { Vec::new() } else { c.read(data, size)? };
    let Some(offset) = ring.reserve(size) else {
        return Ok(errno::AGAIN);
    };
    let written = c.write(address(map, offset), &bytes);
    ring.finish(offset, written.is_ok());
    written.map(|()| 0)
}

/// `(ring, size, flags)`: the record's address, or null.
pub fn reserve(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [handle, size, flags, ..] = c.args;
    let map = c.map(handle)?;
    let ring = map.ring().ok_or(not_a_ring(handle))?;
    if flags != 0 {
        return Ok(0);
    }
    c.run.ring = handle;
    Ok(ring.reserve(size).map_or(0, |offset| address(map, offset)))
}

/// `(record, flags)`: the ring is found by the record's address; mostly it is the one that was used last.
pub fn finish(c: &mut HelperCall<'_>, submit: bool) -> Result<u64, TrapKind> {
    let record = c.args[0];
    let ends = |map: &MapBody| {
        let offset = record.wrapping_sub(map.region().start);
        map.ring().is_some_and(|ring| offset < map.region().len && ring.finish(offset, submit))
    };
    if c.map(c.run.ring).is_ok_and(ends) {
        return Ok(0);
    }
    // SAFETY: the runtime outlives its runs, and helpers run inside a read section.
    let shared = unsafe { &*c.run.shared };
    // SAFETY: as above.
    let mut maps = (0..crate::runtime::MAPS as u64).filter_map(|i| unsafe { shared.maps.nth(i) });
    if maps.any(ends) { Ok(0) } else { Err(TrapKind::Refused) }
}

/// `(ring, what)`.
pub fn query(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [handle, what, ..] = c.args;
    Ok(c.map(handle)?.ring().ok_or(not_a_ring(handle))?.query(what))
}

/// `(ctx, map, flags, data, size)`: the data, and as much of the packet as the flags say.
pub fn perf_event(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [_, handle, flags, data, size] = c.args;
    let map = c.map(handle)?;
    let events = map.events().ok_or(not_a_ring(handle))?;
    if flags & !(INDEX | CONTEXT_LEN) != 0 {
        return Ok(errno::INVALID);
    }
    let (packet, len) = c.packet();
    let copied = (flags & CONTEXT_LEN) >> 32;
    if copied > len {
        return Ok(errno::FAULT);
    }
    // A map of no entries is one that the loader makes as large as there are CPUs.
    let (index, most) = (flags & INDEX, u64::from(map.spec.max_entries));
    if index != INDEX && most != 0 && index >= most {
        return Ok(errno::TOO_BIG);
    }
    let mut record = if size == 0 { Vec::new() } else { c.read(data, size)? };
    record.extend(if copied == 0 { Vec::new() } else { c.read(packet, copied)? });
    Ok(if events.add(record) { 0 } else { errno::NO_SPACE })
}
