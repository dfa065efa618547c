// SPDX-License-Identifier: GPL-2.0 OR MIT
//! Packets, for the sites of the network's receive path.
//!
//! Linux compares with the IP handlers before it makes an indirect call there, so plain loopback traffic does
//! not reach the retpoline. What does: packet sockets, ARP, and packets that are forwarded.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::mem::{size_of, zeroed};
use std::net::UdpSocket;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Protocols by their number on the wire.
pub const IPV4: u16 = 0x0800;
/// IPv6.
pub const IPV6: u16 = 0x86dd;
/// ARP.
pub const ARP: u16 = 0x0806;
/// For experiments: nobody but a packet socket takes it.
pub const EXPERIMENTAL: u16 = 0x88b5;

/// Switches a network device on.
pub fn up(device: &str) -> bool {
    let mut request = request(device);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as i16;
    control(libc::AF_INET, libc::SIOCSIFFLAGS, (&raw mut request).cast())
}

fn request(device: &str) -> libc::ifreq {
    // SAFETY: all zeroes is a valid request.
    let mut request: libc::ifreq = unsafe { zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(device.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn control(family: i32, what: libc::c_ulong, request: *mut libc::c_void) -> bool {
    // SAFETY: a socket of our own, a request that the caller owns.
    unsafe {
        let socket = libc::socket(family, libc::SOCK_DGRAM, 0);
        let done = socket >= 0 && libc::ioctl(socket, what as _, request) == 0;
        libc::close(socket);
        done
    }
}

/// A packet socket for `protocol` on all devices: `packet_rcv` takes its packets, or with a ring
/// `tpacket_rcv`.
pub fn capture(protocol: u16, with_ring: bool) -> Option<OwnedFd> {
    // SAFETY: a socket of our own, options and a ring of the sizes that are named.
    unsafe {
        let raw = libc::socket(libc::AF_PACKET, libc::SOCK_RAW, i32::from(protocol.to_be()));
        if raw < 0 {
            return None;
        }
        let socket = OwnedFd::from_raw_fd(raw);
        if with_ring {
            let ring =
                libc::tpacket_req { tp_block_size: 1 << 16, tp_block_nr: 4, tp_frame_size: 1 << 11, tp_frame_nr: 128 };
            let set = libc::setsockopt(
                raw,
                libc::SOL_PACKET,
                libc::PACKET_RX_RING,
                (&raw const ring).cast(),
                size_of::<libc::tpacket_req>() as u32,
            );
            if set != 0 {
                return None;
            }
        }
        Some(socket)
    }
}

/// Sends `count` datagrams over loopback to a port that nobody reads.
pub fn datagrams(address: &str, count: usize) {
    let Ok(receiver) = UdpSocket::bind((address, 0)) else { return };
    let (Ok(to), Ok(sender)) = (receiver.local_addr(), UdpSocket::bind((address, 0))) else { return };
    let mut block = [0; 64];
    for _ in 0..count {
        let _ = sender.send_to(&block, to);
        let _ = receiver.recv(&mut block);
    }
}

/// Asks a socket whether something has come, `count` times.
pub fn poll(socket: &impl AsRawFd, count: usize) {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    for _ in 0..count {
        // SAFETY: one entry of ours.
        unsafe { libc::poll(&raw mut poll, 1, 0) };
    }
}

/// What a socket is said to be ready for, of `wanted`.
pub fn readiness(socket: &impl AsRawFd, wanted: i16) -> i16 {
    let mut poll = libc::pollfd { fd: socket.as_raw_fd(), events: wanted, revents: 0 };
    // SAFETY: one entry of ours.
    unsafe { libc::poll(&raw mut poll, 1, 0) };
    poll.revents
}

/// A network device whose other end we are.
pub struct Tunnel(File);

impl Tunnel {
    /// Makes it: `ethernet` for frames instead of IP packets; `napi` for the receive path of drivers, that is
    /// in lists.
    pub fn open(device: &str, ethernet: bool, napi: bool) -> Option<Tunnel> {
        const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
        const IFF_NAPI: i32 = 0x10;
        let open = OpenOptions::new().read(true).write(true).custom_flags(libc::O_NONBLOCK).open("/dev/net/tun");
        let file = open.ok()?;
        let mut request = request(device);
        let kind = if ethernet { libc::IFF_TAP } else { libc::IFF_TUN };
        let flags = kind | libc::IFF_NO_PI | if napi { IFF_NAPI } else { 0 };
        request.ifr_ifru.ifru_flags = flags as i16;
        // SAFETY: a descriptor and a request of ours.
        let made = unsafe { libc::ioctl(file.as_raw_fd(), TUNSETIFF as _, &raw mut request) == 0 };
        (made && up(device)).then_some(Tunnel(file))
    }

    /// Hands in the same packet `count` times.
    pub fn send(&mut self, packet: &[u8], count: usize) {
        for _ in 0..count {
            let _ = self.0.write(packet);
        }
    }
}

/// Gives `device` the address 10.9.0.1/8, and lets the machine forward.
pub fn route_ipv4(device: &str) -> bool {
    let _ = fs::write("/proc/sys/net/ipv4/ip_forward", "1");
    for name in ["all", "default", device] {
        let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/rp_filter"), "0");
        let _ = fs::write(format!("/proc/sys/net/ipv4/conf/{name}/send_redirects"), "0");
    }
    let address = |octets: [u8; 4]| {
        let inet = libc::sockaddr_in {
            sin_family: libc::AF_INET as u16,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from_ne_bytes(octets) },
            sin_zero: [0; 8],
        };
        // SAFETY: both are 16 bytes of plain data.
        unsafe { std::mem::transmute::<libc::sockaddr_in, libc::sockaddr>(inet) }
    };
    let mut request = request(device);
    request.ifr_ifru.ifru_addr = address([10, 9, 0, 1]);
    let named = control(libc::AF_INET, libc::SIOCSIFADDR, (&raw mut request).cast());
    request.ifr_ifru.ifru_addr = address([255, 0, 0, 0]);
    named && control(libc::AF_INET, libc::SIOCSIFNETMASK, (&raw mut request).cast())
}

/// Gives `device` the address fd00::1/8, and lets the machine forward.
pub fn route_ipv6(device: &str) -> bool {
    let _ = fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1");
    let name = std::ffi::CString::new(device).expect("no zero in it");
    // SAFETY: a string that outlives the call.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    let mut address = [0; 16];
    (address[0], address[15]) = (0xfd, 1);
    let mut request = libc::in6_ifreq {
        ifr6_addr: libc::in6_addr { s6_addr: address },
        ifr6_prefixlen: 8,
        ifr6_ifindex: index as i32,
    };
    control(libc::AF_INET6, libc::SIOCSIFADDR, (&raw mut request).cast())
}

/// An IPv4 packet from 10.1.1.1 to `to` that holds an empty UDP datagram.
pub fn ipv4_packet(to: [u8; 4]) -> Vec<u8> {
    datagram(to, 0x5678, &[])
}

/// An IPv4 packet from 10.1.1.1 to `to` that holds a UDP datagram without a checksum.
pub fn datagram(to: [u8; 4], port: u16, content: &[u8]) -> Vec<u8> {
    let len = (28 + content.len() as u16).to_be_bytes();
    let mut packet = vec![0x45, 0, len[0], len[1], 0, 0, 0, 0, 64, 17, 0, 0, 10, 1, 1, 1];
    packet.extend(to);
    let sum: u32 = packet.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]]))).sum();
    let folded = !((sum & 0xffff) + (sum >> 16)) as u16;
    packet[10..12].copy_from_slice(&folded.to_be_bytes());
    packet.extend([0x12, 0x34]);
    packet.extend(port.to_be_bytes());
    packet.extend((8 + content.len() as u16).to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(content);
    packet
}

/// The port of VXLAN, a tunnel for frames in UDP.
pub const VXLAN: u16 = 4789;
/// The network that is tunnelled.
const NETWORK: u32 = 7;

/// A frame as VXLAN wraps it (RFC 7348, section 5): flags, and the network's number.
pub fn in_vxlan(frame: &[u8]) -> Vec<u8> {
    let mut content = vec![8, 0, 0, 0];
    content.extend((NETWORK << 8).to_be_bytes());
    content.extend(frame);
    content
}

/// Makes a network device for VXLAN.
pub fn vxlan(device: &str) -> bool {
    const INFO_KIND: u16 = 1;
    const INFO_DATA: u16 = 2;
    const VXLAN_ID: u16 = 1;
    const VXLAN_PORT: u16 = 15;
    let data = [attribute(VXLAN_ID, &NETWORK.to_ne_bytes()), attribute(VXLAN_PORT, &VXLAN.to_be_bytes())].concat();
    let info = [attribute(INFO_KIND, b"vxlan\0"), attribute(INFO_DATA, &data)].concat();
    let create = (libc::NLM_F_CREATE | libc::NLM_F_EXCL) as u16;
    link(libc::RTM_NEWLINK, create, &[named(device), attribute(libc::IFLA_LINKINFO, &info)].concat())
}

/// Removes a network device.
pub fn remove(device: &str) -> bool {
    link(libc::RTM_DELLINK, 0, &named(device))
}

fn named(device: &str) -> Vec<u8> {
    attribute(libc::IFLA_IFNAME, &[device.as_bytes(), &[0]].concat())
}

/// An attribute of a netlink message: length, kind, content, and up to the next word.
fn attribute(kind: u16, content: &[u8]) -> Vec<u8> {
    let mut bytes = (4 + content.len() as u16).to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(content);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// Asks the kernel to do something to a network device (rtnetlink(7)); whether it did.
fn link(what: u16, flags: u16, attributes: &[u8]) -> bool {
    const HEADERS: usize = 32;
    let flags = flags | (libc::NLM_F_REQUEST | libc::NLM_F_ACK) as u16;
    let mut message = ((HEADERS + attributes.len()) as u32).to_ne_bytes().to_vec();
    message.extend(what.to_ne_bytes());
    message.extend(flags.to_ne_bytes());
    // Neither a sequence number nor a sender, and of the device nothing but its attributes.
    message.resize(HEADERS, 0);
    message.extend(attributes);
    let mut answer = [0; 512];
    // SAFETY: a socket of our own; a message and a place for the answer of the sizes that are named.
    let len = unsafe {
        let socket = libc::socket(libc::AF_NETLINK, libc::SOCK_RAW, libc::NETLINK_ROUTE);
        let sent = libc::send(socket, message.as_ptr().cast(), message.len(), 0);
        let len = if sent > 0 { libc::recv(socket, answer.as_mut_ptr().cast(), answer.len(), 0) } else { -1 };
        libc::close(socket);
        len
    };
    // An error of 0 is what says that it was done.
    len >= 20 && answer[4..6] == (libc::NLMSG_ERROR as u16).to_ne_bytes() && answer[16..20] == [0; 4]
}

/// An IPv6 packet from fd00:1::1 to fd00:2::2 without a payload.
pub fn ipv6_packet() -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0, 0, 0, 59, 64];
    for net in [1, 2] {
        let mut address = [0; 16];
        (address[0], address[3], address[15]) = (0xfd, net, net);
        packet.extend(address);
    }
    packet
}

/// A frame to everybody that holds `protocol`; for ARP, a request that concerns nobody here.
pub fn frame(protocol: u16) -> Vec<u8> {
    let mut frame = vec![0xff; 6];
    frame.extend([2, 0, 0, 0, 0, 9]);
    frame.extend(protocol.to_be_bytes());
    frame.extend([0, 1, 8, 0, 6, 4, 0, 1, 2, 0, 0, 0, 0, 9, 10, 77, 1, 1, 0, 0, 0, 0, 0, 0, 10, 77, 1, 2]);
    frame.resize(64, 0);
    frame
}
