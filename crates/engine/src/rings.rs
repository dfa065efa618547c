//! The rings into which learning sites record their calls: address space for [`relpoline_learn::rings`].

use crate::memory;

pub use relpoline_learn::rings::RING_BYTES;

/// Rings there are: sites that can learn at one time.
pub const RINGS: usize = 256;

/// A pool of rings.
pub type Rings = relpoline_learn::rings::Rings<{ RINGS / 64 }>;

/// Reserves the address space; `None` when the kernel refuses it.
#[must_use]
pub fn reserve() -> Option<Rings> {
    let start = memory::reserve(Rings::BYTES)? as u64;
    // SAFETY: just reserved, zeroes; the engine's memory is never unmapped, and nobody else knows of it.
    Some(unsafe { Rings::at(start) })
}
