//! Packets from capture files (pcap in all its forms, pcapng), and back into one (pcap).
//!
//! Programs for the kernel's contexts begin with an Ethernet header. Captures of other links that say what
//! protocol their packets are of get one, with addresses of zero.

use anyhow::{Context, Result, bail, ensure};

/// No packet is longer (MAXIMUM_SNAPLEN of libpcap), and each thread keeps room for the longest.
const LONGEST: usize = 1 << 18;
/// What the packets of a file may take in memory, and what each takes besides its bytes.
const MOST: usize = 1 << 29;
const EACH: usize = 64;

/// `LINKTYPE_ETHERNET` (the numbers are those of tcpdump.org/linktypes.html).
pub const ETHERNET: u32 = 1;

/// The packets of a capture, and which link each came by.
pub type Packets = Vec<(u32, Vec<u8>)>;

/// The packets of a file's content, as far as they were captured.
///
/// # Errors
/// What is malformed, and at which byte.
pub fn parse(bytes: &[u8]) -> Result<Packets> {
    if bytes.starts_with(&[0x0a, 0x0d, 0x0d, 0x0a]) {
        return parse_blocks(bytes);
    }
    ensure!(bytes.len() >= 24, "not a pcap file: shorter than its header");
    let big = match bytes[..4] {
        [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1] => false,
        [0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d] => true,
        _ => bail!("not a pcap file (tcpdump -w makes them)"),
    };
    // The upper bits say how long a checksum of the link follows each packet.
    let link = word(bytes, 20, big) & 0x0fff_ffff;
    let (mut packets, mut room) = (Vec::new(), MOST);
    let mut at = 24;
    while at < bytes.len() {
        let Some(header) = bytes.get(at..at + 16) else {
            bail!("a packet's header is cut off at byte {at}: damaged, or still being written?")
        };
        let len = word(header, 8, big) as usize;
        packets.push((link, packet(bytes, at, at + 16, len, &mut room)?));
        at += 16 + len;
    }
    Ok(packets)
}

fn word(bytes: &[u8], at: usize, big: bool) -> u32 {
    let word = bytes.get(at..at + 4).and_then(|word| word.try_into().ok()).unwrap_or_default();
    if big { u32::from_be_bytes(word) } else { u32::from_le_bytes(word) }
}

/// The packet of `len` bytes at `from`, whose header is at `at`, if there is room for it.
fn packet(bytes: &[u8], at: usize, from: usize, len: usize, room: &mut usize) -> Result<Vec<u8>> {
    ensure!(len <= LONGEST, "the packet at byte {at} has {len} bytes: damaged");
    let left = room.checked_sub(len + EACH);
    *room = left.with_context(|| format!("more packets than fit into {} MiB: split the file", MOST >> 20))?;
    match bytes.get(from..from + len) {
        Some(packet) => Ok(packet.to_vec()),
        None => bail!("the packet at byte {at} is cut off: damaged, or still being written?"),
    }
}

/// The packets of a pcapng file: sections, interfaces, and two kinds of packets.
fn parse_blocks(bytes: &[u8]) -> Result<Packets> {
    const SECTION: u32 = 0x0a0d_0d0a;
    const MAGIC: u32 = 0x1a2b_3c4d;
    let (mut at, mut big, mut links, mut packets) = (0, false, Vec::new(), Vec::new());
    let mut room = MOST;
    while at < bytes.len() {
        if word(bytes, at, false) == SECTION {
            big = word(bytes, at + 8, true) == MAGIC;
            links.clear();
        }
        let len = word(bytes, at + 4, big) as usize;
        let block = bytes.get(at..at.saturating_add(len)).filter(|_| len >= 12 && len.is_multiple_of(4));
        let block = block.with_context(|| format!("the block at byte {at} is cut off or damaged"))?;
        match word(block, 0, big) {
            // An interface: 16 bits of link.
            1 => links.push(word(block, 8, big) >> if big { 16 } else { 0 } & 0xffff),
            // A packet, of the interface that it names or of the first.
            kind @ (3 | 6) => {
                let (interface, from, len) = match kind {
                    6 => (word(block, 8, big) as usize, 28, word(block, 20, big) as usize),
                    _ => (0, 12, (word(block, 8, big) as usize).min(block.len().saturating_sub(16))),
                };
                let link = links.get(interface);
                let link = link.with_context(|| format!("the packet at byte {at} is of no interface"))?;
                packets.push((*link, packet(block, at, from, len, &mut room)?));
            }
            _ => {}
        }
        at += len;
    }
    Ok(packets)
}

/// The packet as it would be by Ethernet.
///
/// # Errors
/// A link that does not say what its packets are.
pub fn by_ethernet(link: u32, packet: &[u8]) -> Result<Vec<u8>> {
    const RAW: [u32; 4] = [12, 101, 228, 229];
    let (kind, from) = match link {
        ETHERNET => return Ok(packet.to_vec()),
        // IP without anything before it; BSD's loopback, with a number of 4 bytes before it.
        _ if RAW.contains(&link) => (version(packet.first()), 0),
        0 | 108 => (version(packet.get(4)), 4),
        // Linux's cooked captures, of both versions.
        113 => (packet.get(14..16).and_then(|kind| kind.try_into().ok()), 16),
        276 => (packet.get(..2).and_then(|kind| kind.try_into().ok()), 20),
        _ => bail!(
            "packets of link type {link}, which programs for Ethernet cannot read (--context raw gives them as they are)"
        ),
    };
    let rest = packet.get(from..).unwrap_or_default();
    let kind: [u8; 2] = kind.unwrap_or_default();
    Ok([&[0; 12], &kind[..], rest].concat())
}

/// The Ethernet type of a packet whose first byte is `first`.
fn version(first: Option<&u8>) -> Option<[u8; 2]> {
    match first.map(|byte| byte >> 4) {
        Some(4) => Some([0x08, 0x00]),
        Some(6) => Some([0x86, 0xdd]),
        _ => None,
    }
}

/// A pcap file of packets of one link, a microsecond after each other.
pub fn write(link: u32, packets: &[Vec<u8>]) -> Vec<u8> {
    let words = |words: &[u32]| words.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<u8>>();
    // Magic, version 2.4, zone, accuracy, longest packet, link.
    let mut file = words(&[0xa1b2_c3d4, 2 | 4 << 16, 0, 0, LONGEST as u32, link]);
    for (i, packet) in packets.iter().enumerate() {
        let (i, len) = (i as u32, packet.len() as u32);
        file.extend(words(&[i / 1_000_000, i % 1_000_000, len, len]));
        file.extend(packet);
    }
    file
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_packets_and_a_torn_one() {
        let mut file = write(ETHERNET, &[vec![3; 3], vec![5; 5]]);
        assert_eq!(parse(&file).unwrap(), [(1, vec![3; 3]), (1, vec![5; 5])]);
        file.pop();
        assert_eq!(
            parse(&file).unwrap_err().to_string(),
            "the packet at byte 43 is cut off: damaged, or still being written?"
        );
    }

    #[test]
    fn blocks_of_both_byte_orders() {
        for big in [false, true] {
            let word = |word: u32| if big { word.to_be_bytes() } else { word.to_le_bytes() };
            let half = |half: u16| if big { half.to_be_bytes() } else { half.to_le_bytes() };
            let block = |kind: u32, body: Vec<u8>| {
                let len = word(body.len() as u32 + 12);
                [&word(kind)[..], &len, &body, &len].concat()
            };
            let interface = |link: u16| block(1, [&half(link)[..], &half(0), &word(0)].concat());
            let mut file = block(0x0a0d_0d0a, [&word(0x1a2b_3c4d)[..], &[0; 12]].concat());
            file.extend(interface(1));
            file.extend(interface(101));
            let packet = [&word(1)[..], &[0; 8], &word(3), &word(3), &[0x45, 7, 8, 0]].concat();
            file.extend(block(6, packet));
            file.extend(block(3, [&word(2)[..], &[9, 9, 0, 0]].concat()));
            file.extend(block(5, vec![0; 8]));
            let packets = parse(&file).unwrap();
            assert_eq!(packets[0], (101, vec![0x45, 7, 8]));
            assert_eq!(packets[1].0, 1);
            assert!(parse(&file[..file.len() - 4]).is_err());
        }
    }

    /// Packets without bytes take no room in a file, and much in memory.
    #[test]
    fn there_is_room_for_so_many_packets() {
        let mut room = 2 * EACH + 3;
        let mut take = |len| packet(&[7; 8], 0, 0, len, &mut room).is_ok();
        assert!(take(0) && take(2) && !take(2) && !take(0));
    }

    #[test]
    fn links_that_are_no_ethernet() {
        let ip = [0x60, 1];
        let by = |link, head: &[u8]| by_ethernet(link, &[head, &ip[..]].concat());
        let cooked = [&[0; 14][..], &[0x86, 0xdd]].concat();
        let second = [&[0x86, 0xdd][..], &[0; 18]].concat();
        let whole = [&[0; 12][..], &[0x86, 0xdd, 0x60, 1]].concat();
        for (link, head) in [(101, &[][..]), (0, &[30, 0, 0, 0]), (113, &cooked), (276, &second)] {
            assert_eq!(by(link, head).unwrap(), whole, "{link}");
        }
        assert_eq!(by(1, &[]).unwrap(), ip);
        assert!(by(105, &[]).unwrap_err().to_string().contains("link type 105"));
    }
}
