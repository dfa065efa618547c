//! The sites that the dynamic-call patches (Cree, 2019) chose by hand, and three kinds that were spoken of
//! beside them.
//!
//! The three of the patches are three lines of source, inlined into several functions. Since Linux 5.0 some
//! of their targets are compared with first by the kernel itself (`INDIRECT_CALL_INET`): IP packets take a
//! direct call there, and only the others (packet sockets, ARP, forwarding) reach the retpoline, and so a
//! site. Sites are told by their functions here, some of which hold another indirect call besides.
//!
//! The other three: UDP's receive offload hands packets of tunnels on (`udp_gro`; where a kernel knows one
//! tunnel only, since 6.16, by a static call). Files are read, written and looked through by their file
//! system's functions (`vfs`). Security hooks are indirect calls up to 6.11; since 6.12 nearly all are static
//! calls, and hold no site.

use super::device::Site;

/// A line of source and the functions that it is compiled into.
struct Named {
    name: &'static str,
    functions: &'static [&'static str],
    /// Beginnings of further ones.
    starts: &'static [&'static str],
}

const NAMED: [Named; 6] = [
    Named {
        name: "pt_prev->func",
        functions: &["__netif_receive_skb_core", "__netif_receive_skb_one_core", "deliver_skb"],
        starts: &[],
    },
    Named {
        name: "dst_input",
        functions: &[
            "ip_rcv",
            "ip_rcv_finish",
            "ip_sublist_rcv_finish",
            "ipv6_rcv",
            "ip6_rcv_finish",
            "ip6_sublist_rcv_finish",
        ],
        starts: &[],
    },
    Named {
        name: "list receive",
        functions: &["__netif_receive_skb_list_core", "__netif_receive_skb_list_ptype"],
        starts: &[],
    },
    Named {
        name: "udp_gro",
        functions: &[
            "udp_gro_receive",
            "udp_gro_complete",
            "udp4_gro_receive",
            "udp4_gro_complete",
            "udp6_gro_receive",
            "udp6_gro_complete",
        ],
        starts: &[],
    },
    Named {
        name: "vfs",
        functions: &[
            "vfs_read",
            "vfs_write",
            "vfs_readv",
            "vfs_writev",
            "vfs_iter_read",
            "vfs_iter_write",
            "vfs_iocb_iter_read",
            "vfs_iocb_iter_write",
            "new_sync_read",
            "new_sync_write",
            "do_iter_read",
            "do_iter_write",
            "do_iter_readv_writev",
            "do_loop_readv_writev",
            "__kernel_read",
            "__kernel_write",
            "__kernel_write_iter",
            "iterate_dir",
        ],
        starts: &[],
    },
    Named { name: "LSM hook", functions: &[], starts: &["security_"] },
];

/// Which of them `site` belongs to.
#[must_use]
pub fn name_of(site: &Site) -> Option<&'static str> {
    let function = site.function();
    let is_in = |named: &&Named| {
        named.functions.contains(&function) || named.starts.iter().any(|start| function.starts_with(start))
    };
    let named = NAMED.iter().find(is_in)?;
    Some(named.name)
}
