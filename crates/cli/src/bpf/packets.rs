//! Packets from a pcap file (the classic format, both byte orders, both resolutions).

use anyhow::{Result, bail, ensure};

/// No packet is longer (MAXIMUM_SNAPLEN of libpcap), and each thread keeps room for the longest.
const LONGEST: usize = 1 << 18;

/// The packets of a file's content, as far as they were captured.
///
/// # Errors
/// What is malformed, and at which byte.
pub fn parse(bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
    ensure!(bytes.len() >= 24, "not a pcap file: shorter than its header");
    let big = match bytes[..4] {
        [0xd4 | 0x4d, 0xc3 | 0x3c, 0xb2, 0xa1] => false,
        [0xa1, 0xb2, 0xc3 | 0x3c, 0xd4 | 0x4d] => true,
        [0x0a, 0x0d, 0x0d, 0x0a] => bail!("a pcapng file; convert it with: editcap -F pcap IN OUT"),
        _ => bail!("not a pcap file (tcpdump -w makes them)"),
    };
    let mut packets = Vec::new();
    let mut at = 24;
    while at < bytes.len() {
        let Some(header) = bytes.get(at..at + 16) else {
            bail!("a packet's header is cut off at byte {at}: damaged, or still being written?")
        };
        let len = [header[8], header[9], header[10], header[11]];
        let len = if big { u32::from_be_bytes(len) } else { u32::from_le_bytes(len) } as usize;
        ensure!(len <= LONGEST, "the packet at byte {at} has {len} bytes: damaged");
        let Some(packet) = bytes[at + 16..].get(..len) else {
            bail!("the packet at byte {at} is cut off: damaged, or still being written?")
        };
        packets.push(packet.to_vec());
        at += 16 + len;
    }
    Ok(packets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_packets_and_a_torn_one() {
        let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1];
        file.resize(24, 0);
        for len in [3u8, 5] {
            file.extend([0; 8]);
            file.extend([len, 0, 0, 0, len, 0, 0, 0]);
            file.extend(vec![len; len.into()]);
        }
        assert_eq!(parse(&file).unwrap(), [vec![3; 3], vec![5; 5]]);
        file.pop();
        assert_eq!(
            parse(&file).unwrap_err().to_string(),
            "the packet at byte 43 is cut off: damaged, or still being written?"
        );
    }
}
