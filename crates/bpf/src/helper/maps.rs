//! Look-ups, updates, queues and stacks.

use super::{HelperCall, errno};
use crate::map::{MapBody, MapError, Mode};
use crate::trap::TrapKind;

/// `BPF_F_LOCK`.
const LOCK: u64 = 4;

/// What a look-up gives: an address, or null.
fn found(result: Result<u64, MapError>) -> Result<u64, TrapKind> {
    match result {
        Err(MapError::NoSlot) => Err(TrapKind::NoSlot),
        found => Ok(found.unwrap_or(0)),
    }
}

fn done(result: Result<(), MapError>) -> u64 {
    result.map_or_else(MapError::errno, |()| 0)
}

pub fn lookup(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let result = c.with_key(map, |key| map.lookup(key))?;
    // What is known now need not be asked again in this run.
    c.run.slot = crate::slot::known();
    found(result)
}

/// `(map, key, cpu)`.
pub fn lookup_in_slot(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let slot = (c.args[2] & 0xffff_ffff) as usize;
    found(c.with_key(map, |key| map.lookup_in(key, slot))?)
}

/// What the kernel makes of an update's flags: in arrays, the index is looked at between one check of them
/// and the next.
fn mode(map: &MapBody, key: &[u8], flags: u64) -> Result<Mode, MapError> {
    use crate::map::MapKind::{Array, Hash, PerCpuArray};
    let kind = map.spec.kind;
    let lockable = matches!(kind, Array | PerCpuArray | Hash);
    let mode = Mode::from_flags(if lockable { flags & !LOCK } else { flags }).ok_or(MapError::Unsupported)?;
    if matches!(kind, Array | PerCpuArray) {
        match map.index(key) {
            Err(MapError::BeyondEnd) => return Err(MapError::BeyondEnd),
            _ if mode == Mode::Create => return Err(MapError::Exists),
            _ => {}
        }
    }
    // No map here has values with spin locks.
    if flags & LOCK != 0 { Err(MapError::Unsupported) } else { Ok(mode) }
}

/// `(map, key, value, flags)`.
pub fn update(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let key = c.key(map)?;
    let value = c.read(c.args[2], map.spec.value_size.into())?;
    let map = map.writable();
    Ok(done(map.and_then(|map| map.update(&key, &value, mode(map, &key, c.args[3])?))))
}

/// `(map, key)`.
pub fn delete(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    Ok(done(c.with_key(map, |key| map.writable().and_then(|map| map.delete(key)))?))
}

/// `(map, value, flags)`: queues, stacks and Bloom filters.
pub fn push(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    if map.line().is_none() && map.bloom().is_none() {
        return Err(TrapKind::NotAMap { value: c.args[0] });
    }
    let value = c.read(c.args[1], map.spec.value_size.into())?;
    let mode = Mode::from_flags(c.args[2]).ok_or(MapError::Unsupported);
    Ok(done(mode.and_then(|mode| map.writable()?.update(&[], &value, mode))))
}

/// `(map, value)`: the next value of a queue or stack, taken out or not; whether a Bloom filter may have it.
pub fn next(c: &mut HelperCall<'_>, take: bool) -> Result<u64, TrapKind> {
    let map = c.map(c.args[0])?;
    let size = map.spec.value_size;
    if let Some(bloom) = map.bloom() {
        let value = c.read(c.args[1], size.into())?;
        return Ok(match take {
            true => errno::OPERATION,
            false if bloom.has(&value) => 0,
            false => errno::NO_ENTRY,
        });
    }
    let line = map.line().ok_or(TrapKind::NotAMap { value: c.args[0] })?;
    // Not more than the program has there, whatever the map's size is, and before anything is taken out.
    c.run.bytes_mut(c.args[1], size.into())?;
    let value = line.next(take);
    c.write(c.args[1], value.as_deref().unwrap_or(&vec![0; size as usize]))?;
    Ok(if value.is_some() { 0 } else { errno::NO_ENTRY })
}

/// `(map, place, key)`: the next entry of a walk. `place` is two words, the value's address and where the
/// walk is. 0 at the end.
pub fn walk(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let [handle, place, key, ..] = c.args;
    let map = c.map(handle)?;
    if u64::from(map.spec.key_size) > crate::callback::MOST_KEY {
        return Err(TrapKind::NotAMap { value: handle });
    }
    let at = c.read(place + 8, 8)?.try_into().map_or(0, u64::from_le_bytes);
    match map.next(at) {
        Err(MapError::NoSlot) => Err(TrapKind::NoSlot),
        Err(_) => Err(TrapKind::NotAMap { value: handle }),
        Ok(None) => Ok(0),
        Ok(Some((found, value, at))) => {
            c.write(key, &found)?;
            c.write(place, &value.to_le_bytes())?;
            c.write(place + 8, &at.to_le_bytes())?;
            Ok(1)
        }
    }
}
