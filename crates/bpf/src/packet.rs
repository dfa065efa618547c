//! Packets as the kernel's programs expect them: behind a context whose fields `data` and `data_end` have 32
//! bits.
//!
//! In the kernel the verifier rewrites loads of these fields. Without one, they have to hold real addresses,
//! so a [`PacketBuffer`] lies below 4 GiB:
//!
//! ```text
//! | context: xdp_md or __sk_buff, 192 bytes | flow keys, 64 | head room, 256 | packet … | tail room … |
//! ```
//!
//! The device is number 1, as in the kernel's test runs, and packets are for another host unless their
//! Ethernet address is zero, a group's or everybody's. How much room there is before and behind a packet is
//! as in a test run, too. The layouts are those of the kernel's `uapi/linux/bpf.h`. Fields that are not
//! mentioned here are zero.

use crate::frame::{After, Frame};
use crate::invocation::Invocation;
use crate::proof::Layout;
use crate::redirect::Redirect;
use crate::region::Region;
pub use crate::section::ContextKind;
use rustix::mm::{MapFlags, ProtFlags};

const CONTEXT: usize = 192;
const FLOW_KEYS: usize = 64;
/// `XDP_PACKET_HEADROOM`.
const HEAD_ROOM: usize = 256;
const PACKET: usize = CONTEXT + FLOW_KEYS + HEAD_ROOM;
/// What the kernel keeps at the head room's beginning (`struct xdp_frame`).
const KEPT: usize = 40;
/// Bytes that a packet and its tail room have in the kernel's frame of a page, and at least here.
const FRAME: usize = 4096 - HEAD_ROOM - 320;
/// What socket buffers grow to at most (`BPF_SKB_MAX_LEN`).
pub const MOST_SKB: usize = 4 * 4096 - 320;

/// Offsets in `struct xdp_md`.
pub mod xdp {
    #![allow(missing_docs, reason = "the structure's names")]
    pub const DATA: usize = 0;
    pub const DATA_END: usize = 4;
    pub const DATA_META: usize = 8;
    pub const INGRESS_IFINDEX: usize = 12;
}

/// Offsets in `struct __sk_buff`.
pub mod skb {
    #![allow(missing_docs, reason = "the structure's names")]
    pub const LEN: usize = 0;
    pub const PKT_TYPE: usize = 4;
    pub const PROTOCOL: usize = 16;
    pub const VLAN_PRESENT: usize = 20;
    pub const VLAN_TCI: usize = 24;
    pub const VLAN_PROTO: usize = 28;
    pub const IFINDEX: usize = 40;
    pub const HASH: usize = 68;
    pub const DATA: usize = 76;
    pub const DATA_END: usize = 80;
    pub const DATA_META: usize = 140;
    pub const FLOW_KEYS: usize = 144;
    pub const WIRE_LEN: usize = 160;
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
    /// Room for the packet and what it may grow by.
    room: usize,
    /// The packet, and where it is to go.
    after: After,
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
        let room = most.max(MOST_SKB);
        let mapped = room.checked_add(PACKET).filter(|n| *n < 1 << 30).ok_or(NoLowMemory)?;
        let start = map_low(mapped).ok_or(NoLowMemory)?;
        let after = After { frame: frame(start, room, 0, ContextKind::Xdp), redirect: None };
        Ok(PacketBuffer { start, mapped, room, after })
    }

    /// Bytes from offset `from` on, for as long as the buffer lives.
    fn bytes<'a>(&mut self, from: usize, len: usize) -> &'a mut [u8] {
        // SAFETY: callers stay within what is mapped, and let nobody have it for longer than they have
        // `self`; any bytes are valid.
        unsafe { std::slice::from_raw_parts_mut((self.start + from) as *mut u8, len) }
    }

    fn field(&mut self, offset: usize, value: u32) {
        self.bytes(offset, 4).copy_from_slice(&value.to_le_bytes());
    }

    /// Puts `packet` in, as far as there is room, and fills the context.
    pub fn put(&mut self, packet: &[u8], kind: ContextKind) {
        let len = packet.len().min(self.room);
        // What an earlier packet left before this one is nobody's business.
        self.bytes(0, PACKET).fill(0);
        self.bytes(PACKET, len).copy_from_slice(&packet[..len]);
        let frame = frame(self.start, self.room, len, kind);
        self.after = After { frame, redirect: None };
        // SAFETY: the buffer's own context.
        unsafe { frame.describe() };
        match kind {
            ContextKind::Xdp => self.field(xdp::INGRESS_IFINDEX, 1),
            ContextKind::Skb => {
                let protocol = packet.get(12..14).map_or(0, |p| u32::from(u16::from_le_bytes([p[0], p[1]])));
                self.field(skb::PROTOCOL, protocol);
                self.field(skb::PKT_TYPE, packet_type(packet));
                self.field(skb::IFINDEX, 1);
                self.field(skb::FLOW_KEYS, (self.start + CONTEXT) as u32);
            }
        }
    }

    /// A run over the packet.
    pub fn invocation(&mut self) -> Invocation<'_> {
        let Frame { context, data, end, .. } = self.after.frame;
        let packet = Region { start: data, len: end - data, writable: true };
        let input = self.bytes(0, (end - context) as usize);
        Invocation::new(input).packet_within(packet, &mut self.after)
    }

    /// The packet, as programs have left it.
    pub fn packet(&mut self) -> &[u8] {
        let Frame { data, end, .. } = self.after.frame;
        self.bytes(data as usize - self.start, (end - data) as usize)
    }

    /// The metadata that programs have put before it (`bpf_xdp_adjust_meta`).
    pub fn metadata(&mut self) -> &[u8] {
        let Frame { meta, data, .. } = self.after.frame;
        self.bytes(meta as usize - self.start, (data - meta) as usize)
    }

    /// Where it is to go, if the last run ended with `XDP_REDIRECT` or `TC_ACT_REDIRECT`.
    #[must_use]
    pub fn redirect(&self) -> Option<Redirect> {
        self.after.redirect
    }

    /// What the context's `flow_keys` points to, to be filled before a run and read after it.
    pub fn flow_keys(&mut self) -> &mut [u8] {
        self.bytes(CONTEXT, FLOW_KEYS)
    }
}

/// What a proof knows of a context.
pub fn layout(kind: ContextKind) -> Layout {
    let (data, end) = match kind {
        ContextKind::Xdp => (xdp::DATA, xdp::DATA_END),
        ContextKind::Skb => (skb::DATA, skb::DATA_END),
    };
    Layout { data: data as i64, end: end as i64, size: CONTEXT as i64 }
}

/// A packet of `len` bytes in a buffer that begins at `start`.
fn frame(start: usize, room: usize, len: usize, kind: ContextKind) -> Frame {
    let data = (start + PACKET) as u64;
    let (kept, room) = match kind {
        ContextKind::Xdp => (KEPT, len.max(FRAME)),
        ContextKind::Skb => (0, room),
    };
    let lowest = (start + CONTEXT + FLOW_KEYS + kept) as u64;
    let (highest, end) = (data + room as u64, data + len as u64);
    Frame { kind, context: start as u64, lowest, highest, meta: data, data, end }
}

/// `PACKET_HOST` and its like, as the kernel's loopback device would have it, whose own address is zero.
fn packet_type(packet: &[u8]) -> u32 {
    match packet.get(..6) {
        None | Some([0, 0, 0, 0, 0, 0]) => 0,
        Some([0xff, 0xff, 0xff, 0xff, 0xff, 0xff]) => 1,
        Some(address) if address[0] & 1 != 0 => 2,
        Some(_) => 3,
    }
}

impl Drop for PacketBuffer {
    fn drop(&mut self) {
        // SAFETY: ours, and no borrow of it is left.
        let _ = unsafe { rustix::mm::munmap(self.start as *mut _, self.mapped) };
    }
}
