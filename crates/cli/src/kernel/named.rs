//! The sites that the dynamic-call patches (Cree, 2019) chose by hand.
//!
//! They are three lines of source, inlined into several functions. Since Linux 5.0 some of their targets are
//! compared with first by the kernel itself (`INDIRECT_CALL_INET`): IP packets take a direct call there, and only
//! the others (packet sockets, ARP, forwarding) reach the retpoline, and so a site. Sites are told by their functions
//! here, some of which hold another indirect call besides.

use super::device::Site;

/// A line of source and the functions that it is compiled into.
struct Named {
    name: &'static str,
    functions: &'static [&'static str],
}

const NAMED: [Named; 3] = [
    Named {
        name: "pt_prev->func",
        functions: &["__netif_receive_skb_core", "__netif_receive_skb_one_core", "deliver_skb"],
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
    },
    Named { name: "list receive", functions: &["__netif_receive_skb_list_core", "__netif_receive_skb_list_ptype"] },
];

/// Which of the three lines `site` belongs to.
#[must_use]
pub fn name_of(site: &Site) -> Option<&'static str> {
    let named = NAMED.iter().find(|named| named.functions.contains(&site.function()))?;
    Some(named.name)
}
