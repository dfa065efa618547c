//! Where a packet is to go that a program redirected.
//!
//! Nothing is sent here: a run ends with the verdict and the target, and the host does what it does with them
//! ([`crate::PacketBuffer::redirect`], [`crate::RuntimeBuilder::deliver`]).

use crate::map::MapKind;

/// A target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Redirect {
    /// A device, by `bpf_redirect` and its like, or by `bpf_clone_redirect`, which sends a copy and goes on.
    Device {
        /// Its number.
        ifindex: u32,
        /// Which way in.
        way: Way,
    },
    /// An entry of a map, by `bpf_redirect_map`.
    Map {
        /// The map: see [`crate::Map::handle`].
        map: u64,
        /// Its kind: device, CPU or socket.
        kind: MapKind,
        /// The entry's key; `None` for all entries (`BPF_F_BROADCAST`).
        key: Option<u32>,
        /// The first 32 bits of its value: the device, the CPU's queue length, or the socket. 0 for all
        /// entries.
        value: u32,
        /// Whether the device that the packet came from is left out (`BPF_F_EXCLUDE_INGRESS`).
        exclude_ingress: bool,
    },
}

/// How a packet gets to a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Way {
    /// It is sent by it.
    Egress,
    /// As if it had been received by it (`BPF_F_INGRESS`).
    Ingress,
    /// It appears at the device's other end (`bpf_redirect_peer`).
    Peer,
    /// As egress, with a link-layer address that the host looks up (`bpf_redirect_neigh`).
    Neighbour,
}
