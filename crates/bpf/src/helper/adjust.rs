//! XDP's packets that grow and shrink at either end.

use super::{HelperCall, errno};
use crate::frame::Frame;
use crate::packet::ContextKind;
use crate::trap::TrapKind;

/// Least bytes of a packet (`ETH_HLEN`).
const LEAST: u64 = 14;
/// Most bytes of metadata, a multiple of 4 that a byte can count.
const MOST_META: u64 = 252;

fn delta(c: &HelperCall<'_>) -> i64 {
    i64::from(c.args[1] as u32 as i32)
}

/// `(xdp, delta)`: moves the packet's beginning; metadata move along.
pub fn head(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Xdp)?;
    let meta = frame.data - frame.meta;
    let data = frame.data.wrapping_add_signed(delta(c));
    if data < frame.lowest + meta || data > frame.end - LEAST.min(frame.end) {
        return Ok(errno::INVALID);
    }
    // Metadata of a program that did not ask for any are none.
    let moved = if meta == 0 { Vec::new() } else { c.read(frame.meta, meta)? };
    c.run.reframe(Frame { data, meta: data - meta, ..frame });
    c.write(data - meta, &moved).map(|()| 0)
}

/// `(xdp, delta)`: moves the packet's end. What is new is zero.
pub fn tail(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Xdp)?;
    let end = frame.end.wrapping_add_signed(delta(c));
    if end > frame.highest || end < frame.data + LEAST {
        return Ok(errno::INVALID);
    }
    c.run.reframe(Frame { end, ..frame });
    let new = end.saturating_sub(frame.end);
    c.write(frame.end.min(end), &vec![0; new as usize]).map(|()| 0)
}

/// `(xdp, delta)`: moves the beginning of the metadata before the packet.
pub fn meta(c: &mut HelperCall<'_>) -> Result<u64, TrapKind> {
    let frame = c.frame(ContextKind::Xdp)?;
    let meta = frame.meta.wrapping_add_signed(delta(c));
    if meta < frame.lowest || meta > frame.data {
        return Ok(errno::INVALID);
    }
    let len = frame.data - meta;
    if !len.is_multiple_of(4) || len > MOST_META {
        return Ok(errno::ACCESS);
    }
    c.run.reframe(Frame { meta, ..frame });
    Ok(0)
}
