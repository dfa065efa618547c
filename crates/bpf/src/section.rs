//! What a program is for, by the name of its section, as libbpf reads it.

/// What a program's r1 points to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ContextKind {
    /// `struct xdp_md`: `data`, `data_end`, `data_meta`, `ingress_ifindex` (1).
    Xdp,
    /// `struct __sk_buff`: `len`, `wire_len`, `protocol` (the Ethernet type), `pkt_type`, `ifindex` (1),
    /// `data`, `data_end`, `data_meta`, `flow_keys`, `hash` and the fields of a VLAN tag where helpers set
    /// them.
    Skb,
}

/// What a program expects in r1.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expects {
    /// A packet behind a context of the kernel's.
    Context(ContextKind),
    /// What is agreed between it and its host: its section says nothing.
    Anything,
    /// Something of the kernel's that there is not here, which the text names.
    Elsewhere(&'static str),
}

/// Sections by the part of their name before a slash or a dot.
const XDP: [&str; 1] = ["xdp"];
const SKB: [&str; 16] = [
    "tc",
    "tcx",
    "classifier",
    "action",
    "netkit",
    "socket",
    "cgroup_skb",
    "flow_dissector",
    "sk_skb",
    "lwt_in",
    "lwt_out",
    "lwt_xmit",
    "lwt_seg6local",
    "sk_reuseport",
    "tc_cls_act",
    "cgroup/skb",
];
const ELSEWHERE: [(&str, &str); 37] = [
    ("kprobe", "tracing"),
    ("kretprobe", "tracing"),
    ("ksyscall", "tracing"),
    ("kretsyscall", "tracing"),
    ("uprobe", "tracing"),
    ("uretprobe", "tracing"),
    ("usdt", "tracing"),
    ("tracepoint", "tracing"),
    ("tp", "tracing"),
    ("raw_tracepoint", "tracing"),
    ("raw_tp", "tracing"),
    ("tp_btf", "tracing"),
    ("fentry", "tracing"),
    ("fexit", "tracing"),
    ("fmod_ret", "tracing"),
    ("freplace", "replacing functions of other programs"),
    ("iter", "iterating over things of the kernel"),
    ("lsm", "the kernel's security hooks"),
    ("lsm_cgroup", "the kernel's security hooks"),
    ("perf_event", "performance events"),
    ("struct_ops", "operations of the kernel"),
    ("syscall", "system calls"),
    ("sk_msg", "messages of sockets"),
    ("sk_lookup", "looking up sockets"),
    ("sockops", "events of sockets"),
    ("cgroup", "control groups"),
    ("lirc_mode2", "infrared receivers"),
    ("netfilter", "netfilter"),
    ("kprobe.multi", "tracing"),
    ("kretprobe.multi", "tracing"),
    ("kprobe.session", "tracing"),
    ("uprobe.multi", "tracing"),
    ("uretprobe.multi", "tracing"),
    ("uprobe.session", "tracing"),
    ("fsession", "tracing"),
    ("lsm.s", "the kernel's security hooks"),
    ("iter.s", "iterating over things of the kernel"),
];

/// What programs in a section called `section` expect.
#[must_use]
pub fn expects(section: &str) -> Expects {
    // libbpf's mark of programs that are not loaded by themselves.
    let section = section.strip_prefix('?').unwrap_or(section);
    let is =
        |name: &str| section.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '.']));
    if XDP.into_iter().any(is) {
        Expects::Context(ContextKind::Xdp)
    } else if SKB.into_iter().any(is) {
        Expects::Context(ContextKind::Skb)
    } else if let Some((_, what)) = ELSEWHERE.iter().find(|(name, _)| is(name)) {
        Expects::Elsewhere(what)
    } else {
        Expects::Anything
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_as_libbpf_reads_them() {
        let (xdp, skb) = (Expects::Context(ContextKind::Xdp), Expects::Context(ContextKind::Skb));
        for (section, expected) in [
            ("xdp", xdp),
            ("xdp.frags", xdp),
            ("xdp/parse", xdp),
            ("xdp.frags/devmap", xdp),
            ("?xdp", xdp),
            ("xdp_md", Expects::Anything),
            ("tc", skb),
            ("tcx/ingress", skb),
            ("classifier/x", skb),
            ("cgroup_skb/egress", skb),
            ("cgroup/skb", skb),
            ("socket", skb),
            ("flow_dissector", skb),
            ("kprobe/tcp_connect", Expects::Elsewhere("tracing")),
            ("tp/sched/sched_switch", Expects::Elsewhere("tracing")),
            ("fentry.s/x", Expects::Elsewhere("tracing")),
            ("cgroup/connect4", Expects::Elsewhere("control groups")),
            ("sk_skb/stream_parser", skb),
            (".text", Expects::Anything),
            ("", Expects::Anything),
            ("mine", Expects::Anything),
        ] {
            assert_eq!(expects(section), expected, "{section}");
        }
    }
}
