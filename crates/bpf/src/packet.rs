//! Packets as the kernel's programs expect them: behind a context whose fields `data` and `data_end` have 32 bits.
//!
//! In the kernel the verifier rewrites loads of these fields. Without one, they have to hold real addresses, so a
//! [`PacketBuffer`] lies below 4 GiB:
//!
//! ```text
//! | context: xdp_md or __sk_buff, 192 bytes | flow keys, 64 bytes | packet … |
//! ```
//!
//! The layouts are those of the kernel's `uapi/linux/bpf.h`. Fields that are not mentioned here are zero.

use crate::invocation::Invocation;
use crate::region::Region;
use rustix::mm::{MapFlags, ProtFlags};

const CONTEXT: usize = 192;
const FLOW_KEYS: usize = 64;
const PACKET: usize = CONTEXT + FLOW_KEYS;

/// Offsets in `struct __sk_buff`.
mod skb {
    pub const LEN: usize = 0;
    pub const PROTOCOL: usize = 16;
    pub const DATA: usize = 76;
    pub const DATA_END: usize = 80;
    pub const DATA_META: usize = 140;
    pub const FLOW_KEYS: usize = 144;
    pub const WIRE_LEN: usize = 160;
}

/// What a program's r1 points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// `struct xdp_md`: `data`, `data_end`, `data_meta`.
    Xdp,
    /// `struct __sk_buff`: `len`, `wire_len`, `protocol` (the Ethernet type), `data`, `data_end`, `data_meta`,
    /// `flow_keys`.
    Skb,
}

/// Why there is no buffer below 4 GiB.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("there is no free memory below 4 GiB")]
pub struct NoLowMemory;

/// One packet and its context. See the module's text.
#[derive(Debug)]
pub struct PacketBuffer {
    start: usize,
    mapped: usize,
    /// Bytes of the packet.
    len: usize,
}

// SAFETY: the mapping belongs to this value alone.
unsafe impl Send for PacketBuffer {}

/// Address space at the lowest free place between 256 MiB and 4 GiB.
fn map_low(bytes: usize) -> Option<usize> {
    const STEP: usize = 1 << 20;
    let (prot, flags) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::FIXED_NOREPLACE);
    let mut at = 256 << 20;
    while at + bytes < 1 << 32 {
        // SAFETY: FIXED_NOREPLACE replaces nothing.
        match unsafe { rustix::mm::mmap_anonymous(at as *mut _, bytes, prot, flags) } {
            Ok(got) if got as usize == at => return Some(at),
            // A kernel that does not know the flag took the address as a hint.
            // SAFETY: the mapping was made a moment ago and nobody knows it.
            Ok(got) => drop(unsafe { rustix::mm::munmap(got, bytes) }),
            Err(_) => {}
        }
        at += bytes.next_multiple_of(STEP);
    }
    None
}

impl PacketBuffer {
    /// A buffer for packets of up to `most` bytes.
    ///
    /// # Errors
    /// When there is no room below 4 GiB.
    pub fn new(most: usize) -> Result<PacketBuffer, NoLowMemory> {
        let mapped = most.checked_add(PACKET).filter(|n| *n < 1 << 30).ok_or(NoLowMemory)?;
        let start = map_low(mapped).ok_or(NoLowMemory)?;
        Ok(PacketBuffer { start, mapped, len: 0 })
    }

    fn bytes(&mut self) -> &mut [u8] {
        // SAFETY: mapped for as long as the value lives, and borrowed with it; any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut(self.start as *mut u8, PACKET + self.len) }
    }

    fn field(&mut self, offset: usize, value: u32) {
        self.bytes()[offset..offset + 4].copy_from_slice(&value.to_le_bytes());
    }

    /// Puts `packet` in, as far as there is room, and fills the context.
    pub fn put(&mut self, packet: &[u8], kind: ContextKind) {
        self.len = packet.len().min(self.mapped - PACKET);
        let len = self.len;
        let bytes = self.bytes();
        bytes[..PACKET].fill(0);
        bytes[PACKET..].copy_from_slice(&packet[..len]);
        // All addresses are below 4 GiB.
        let (data, end) = ((self.start + PACKET) as u32, (self.start + PACKET + len) as u32);
        match kind {
            ContextKind::Xdp => {
                for (offset, value) in [(0, data), (4, end), (8, data)] {
                    self.field(offset, value);
                }
            }
            ContextKind::Skb => {
                let protocol = packet.get(12..14).map_or(0, |p| u32::from(u16::from_le_bytes([p[0], p[1]])));
                let keys = (self.start + CONTEXT) as u32;
                for (offset, value) in [
                    (skb::LEN, len as u32),
                    (skb::WIRE_LEN, len as u32),
                    (skb::PROTOCOL, protocol),
                    (skb::DATA, data),
                    (skb::DATA_END, end),
                    (skb::DATA_META, data),
                    (skb::FLOW_KEYS, keys),
                ] {
                    self.field(offset, value);
                }
            }
        }
    }

    /// A run over the packet.
    pub fn invocation(&mut self) -> Invocation<'_> {
        let packet = Region { start: (self.start + PACKET) as u64, len: self.len as u64, writable: true };
        Invocation::new(self.bytes()).packet_within(packet)
    }

    /// The packet, as programs have left it.
    pub fn packet(&mut self) -> &[u8] {
        &self.bytes()[PACKET..]
    }

    /// What the context's `flow_keys` points to, to be filled before a run and read after it.
    pub fn flow_keys(&mut self) -> &mut [u8] {
        &mut self.bytes()[CONTEXT..PACKET]
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        // SAFETY: ours, and no borrow of it is left.
        let _ = unsafe { rustix::mm::munmap(self.start as *mut _, self.mapped) };
    }
}
