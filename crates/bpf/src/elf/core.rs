//! CO-RE relocations (`struct bpf_core_relo` in `.BTF.ext`; the kernel's Documentation/bpf/btf.rst): instructions that depend
//! on how the kernel lays its types out.
//!
//! There is no kernel here. What programs ask about structures that programs, users or the wire see is the same in every
//! kernel, so what the compiler put there is right. All else is refused, in the programs that ask it.

use super::btf::Btf;
use super::{File, ObjectError};
use crate::insn::BYTES;
use object::{Object as _, ObjectSection as _};

/// Structures whose layout never changes.
const FIXED: [&str; 17] = [
    "xdp_md",
    "__sk_buff",
    "bpf_sock",
    "bpf_sock_tuple",
    "bpf_fib_lookup",
    "bpf_flow_keys",
    "bpf_tunnel_key",
    "ethhdr",
    "vlan_hdr",
    "arphdr",
    "iphdr",
    "ipv6hdr",
    "in6_addr",
    "tcphdr",
    "udphdr",
    "icmphdr",
    "icmp6hdr",
];
/// The kind of relocation that asks for a type's number in the file itself.
const TYPE_ID_LOCAL: u32 = 6;
/// Bytes of the shortest record: instruction, type, access, kind.
const RECORD: u32 = 16;
/// Bytes of the shortest header that knows of CO-RE.
const HEADER: usize = 32;

/// Those that cannot be resolved: section, slot, and why.
pub fn unresolved(file: &File<'_>) -> Result<Vec<(String, usize, String)>, ObjectError> {
    let (Some(extension), Some(types)) = (file.section_by_name(".BTF.ext"), file.section_by_name(".BTF")) else {
        return Ok(Vec::new());
    };
    let data = extension.data().map_err(ObjectError::elf)?;
    let btf = Btf::parse(types.data().map_err(ObjectError::elf)?);
    let btf = btf.ok_or_else(|| ObjectError::section(".BTF", "malformed type information"))?;
    read(data, &btf).ok_or_else(|| ObjectError::section(".BTF.ext", "malformed relocations"))
}

fn read(data: &[u8], btf: &Btf<'_>) -> Option<Vec<(String, usize, String)>> {
    let word = |at: usize| Some(u32::from_le_bytes(data.get(at..at.checked_add(4)?)?.try_into().ok()?));
    let header = word(4)? as usize;
    let mut found = Vec::new();
    if header < HEADER || word(28)? == 0 {
        return Some(found);
    }
    let begin = header.checked_add(word(24)? as usize)?;
    let end = begin.checked_add(word(28)? as usize)?;
    let size = word(begin).filter(|size| *size >= RECORD)? as usize;
    let mut at = begin + 4;
    while at < end {
        let (section, count) = (btf.string(word(at)?)?, word(at + 4)?);
        at += 8;
        for _ in 0..count {
            let (offset, id, kind) = (word(at)?, word(at + 4)?, word(at + 12)?);
            // A flavour of a type is that type.
            let name = btf.name_of(id).unwrap_or("?").split("___").next().unwrap_or_default();
            if kind != TYPE_ID_LOCAL && !FIXED.contains(&name) {
                let why = format!("a CO-RE relocation against '{name}', a type of the kernel that there is not here");
                found.push((section.into(), offset as usize / BYTES, why));
            }
            at += size;
        }
    }
    Some(found)
}
