// SPDX-License-Identifier: GPL-2.0 OR MIT
//! The three sites of the dynamic-call patches, and what a change of traffic does at them; and three kinds of
//! sites that were named after them: UDP's receive offload, files, security hooks.
//!
//! Each stage sends one kind of traffic until a tree of the line's functions leads to the handler of that
//! kind; the next kind must be learned by the same line, and where both kinds go through one branch, by the
//! same branch.

use std::fs::{self, File, OpenOptions};
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};

use crate::kernel_text;
use crate::machine::{insmod, rmmod};
use crate::module::{self, Site, relpoline, said, wait_until};
use crate::report::Report;
use crate::traffic::{self, ARP, EXPERIMENTAL, IPV4, IPV6, Tunnel};

const CORE: [&str; 2] = ["__netif_receive_skb_core", "__netif_receive_skb_one_core"];
const LIST: [&str; 1] = ["__netif_receive_skb_list_core"];

/// All lines and changes.
pub fn run(report: &mut Report) {
    if !insmod("tun") {
        report.check(false, "the module tun can be loaded");
        return;
    }
    captures(report);
    forwarding(report);
    lists(report);
    sockets(report);
    let offload = tunnels(report);
    files(report);
    let hooks = hooks(report);
    let listed = said(relpoline(&["sites", "--named"])).unwrap_or_default();
    let mut names = vec!["[pt_prev->func]", "[dst_input]", "[list receive]", "[vfs]"];
    names.extend(offload.then_some("[udp_gro]"));
    names.extend(hooks.then_some("[LSM hook]"));
    for name in names {
        report.check(listed.contains(name), format!("relpoline kernel sites --named shows {name}"));
    }
    for line in listed.lines().filter(|line| line.contains("promoted") && !line.contains("[LSM hook]")) {
        report.note(line);
    }
    rmmod("tun");
}

/// The sites in `functions` that lead to `target`.
fn leading(functions: &[&str], target: &str) -> Vec<Site> {
    let mut sites = module::sites();
    sites.retain(|site| functions.iter().any(|name| site.is_in(name)) && site.leads_to(target));
    sites
}

/// Says which other sites lead to `target`: where a kernel's compiler has put the line, if not into
/// `functions`.
fn elsewhere(report: &mut Report, functions: &[&str], target: &str) {
    for site in module::sites() {
        if site.leads_to(target) && !functions.iter().any(|name| site.is_in(name)) {
            report.note(format!("{target} is led to by {}", site.place));
        }
    }
}

/// Sends until a site in `functions` leads to `target`; which ones do then.
fn learned(functions: &[&str], target: &str, mut send: impl FnMut()) -> Vec<Site> {
    wait_until(60, || {
        send();
        !leading(functions, target).is_empty()
    });
    leading(functions, target)
}

/// Whether one of `after` is one of `before`, and has learned anew since.
fn same_site_relearned(before: &[Site], after: &[Site]) -> bool {
    after.iter().any(|now| before.iter().any(|then| then.address == now.address && now.relearned > then.relearned))
}

/// pt_prev->func, on loopback: an IPv4 capture without a ring, then an IPv6 capture with one.
fn captures(report: &mut Report) {
    let sockets = (traffic::capture(IPV4, false), traffic::capture(IPV6, true));
    report.check(sockets.0.is_some() && sockets.1.is_some(), "packet sockets for IPv4 and IPv6");
    let ipv4 = learned(&CORE, "packet_rcv", || traffic::datagrams("127.0.0.1", 400));
    report.check(!ipv4.is_empty(), "pt_prev->func learns packet_rcv from IPv4 over loopback");
    let ipv6 = learned(&CORE, "tpacket_rcv", || traffic::datagrams("::1", 400));
    let same = same_site_relearned(&ipv4, &ipv6);
    report.check(same, "IPv4 changes to IPv6: the same branch learns tpacket_rcv anew");
}

/// dst_input: packets that are forwarded, then such that have no route; then the same for IPv6.
fn forwarding(report: &mut Report) {
    let functions = ["ip_rcv", "ip_rcv_finish", "ip_sublist_rcv_finish"];
    let Some(mut tunnel) = Tunnel::open("rlp1", false, false) else {
        report.check(false, "a tunnel for packets to forward");
        return;
    };
    report.check(traffic::route_ipv4("rlp1") && traffic::route_ipv6("rlp1"), "routes for packets to forward");
    let there = learned(&functions, "ip_forward", || tunnel.send(&traffic::ipv4_packet([10, 2, 2, 2]), 500));
    report.check(!there.is_empty(), "dst_input learns ip_forward");
    elsewhere(report, &functions, "ip_forward");
    let nowhere = learned(&functions, "ip_error", || tunnel.send(&traffic::ipv4_packet([99, 9, 9, 9]), 500));
    report.check(same_site_relearned(&there, &nowhere), "routes go: the same branch learns ip_error anew");
    let ipv6 = ["ipv6_rcv", "ip6_rcv_finish", "ip6_sublist_rcv_finish"];
    let there = learned(&ipv6, "ip6_forward", || tunnel.send(&traffic::ipv6_packet(), 500));
    report.check(!there.is_empty(), "IPv4 changes to IPv6: dst_input learns ip6_forward");
}

/// The list receive path: ARP, then a protocol of our own, from a device that hands packets over in lists.
fn lists(report: &mut Report) {
    let Some(mut tunnel) = Tunnel::open("rlp2", true, true) else {
        report.check(false, "a device that hands packets over in lists");
        return;
    };
    let arp = learned(&LIST, "arp_rcv", || tunnel.send(&traffic::frame(ARP), 500));
    report.check(!arp.is_empty(), "the list receive path learns arp_rcv");
    let _socket = traffic::capture(EXPERIMENTAL, false);
    let other = learned(&LIST, "packet_rcv", || tunnel.send(&traffic::frame(EXPERIMENTAL), 500));
    report
        .check(same_site_relearned(&arp, &other), "ARP changes to another protocol: the same branch learns packet_rcv");
}

/// TCP changes to UDP: at the socket, where the kernel has no list of likely targets.
fn sockets(report: &mut Report) {
    let (Ok(tcp), Ok(udp)) = (TcpListener::bind("127.0.0.1:0"), UdpSocket::bind("127.0.0.1:0")) else { return };
    let before = learned(&["sock_poll"], "tcp_poll", || traffic::poll(&tcp, 3000));
    report.check(!before.is_empty(), "sock_poll learns tcp_poll");
    let after = learned(&["sock_poll"], "udp_poll", || traffic::poll(&udp, 3000));
    report.check(same_site_relearned(&before, &after), "TCP changes to UDP: the same branch learns udp_poll anew");
    let was = after.iter().any(|site| site.before == "tcp_poll" || site.leads_to("tcp_poll"));
    report.check(was, "and still tells what it led to before");
}

/// UDP's receive offload hands a tunnel's packets to the tunnel. Whether the kernel has that, and by an
/// indirect call.
fn tunnels(report: &mut Report) -> bool {
    let is_direct = kernel_text::Symbols::read().address("udp_tunnel_update_gro_rcv").is_some();
    if is_direct {
        report.note("udp_gro: this kernel hands packets to its only tunnel by a static call, which is direct");
        return false;
    }
    if !insmod("vxlan") {
        report.note("udp_gro: this kernel has no vxlan to receive for");
        return false;
    }
    let device = Tunnel::open("rlp4", false, true);
    let (Some(mut device), true) = (device, traffic::vxlan("rlp3") && traffic::up("rlp3")) else {
        report.check(false, "a vxlan device, and one that packets for it come from");
        return false;
    };
    let packet = traffic::datagram([10, 9, 0, 1], traffic::VXLAN, &traffic::in_vxlan(&traffic::frame(ARP)));
    let functions = ["udp_gro_receive", "udp4_gro_receive"];
    let there = learned(&functions, "vxlan_gro_receive", || device.send(&packet, 500));
    report.check(!there.is_empty(), "udp_gro learns vxlan_gro_receive");
    drop(device);
    traffic::remove("rlp3");
    if rmmod("vxlan") {
        report
            .check(leading(&functions, "vxlan_gro_receive").is_empty(), "and no tree leads there when vxlan has gone");
    }
    true
}

/// Reading, writing, and looking through directories.
fn files(report: &mut Report) {
    let write = |path: &str| {
        let Ok(mut file) = OpenOptions::new().write(true).open(path) else { return };
        for _ in 0..2000 {
            // /dev/full takes nothing.
            let _ = file.write(&[0]);
        }
    };
    let null = learned(&["vfs_write"], "write_null", || write("/dev/null"));
    report.check(!null.is_empty(), "vfs_write learns write_null");
    let full = learned(&["vfs_write"], "write_full", || write("/dev/full"));
    report.check(same_site_relearned(&null, &full), "another file: the same branch learns write_full anew");
    let read = learned(&["vfs_read"], "read_null", || {
        let Ok(mut file) = File::open("/dev/null") else { return };
        for _ in 0..2000 {
            let _ = file.read(&mut [0]);
        }
    });
    report.check(!read.is_empty(), "vfs_read learns read_null");
    // Other parts have looked through both directories: what was learned there is forgotten.
    module::tell("relearn");
    let list = |path: &str| {
        for _ in 0..300 {
            let _ = fs::read_dir(path).map(Iterator::count);
        }
    };
    let sysfs = learned(&["iterate_dir"], "kernfs_fop_readdir", || list("/sys/kernel"));
    report.check(!sysfs.is_empty(), "iterate_dir learns kernfs_fop_readdir");
    let symbols = kernel_text::Symbols::read();
    let names = ["proc_fd_iterate", "proc_readfd"];
    let target = names.into_iter().find(|name| symbols.address(name).is_some()).unwrap_or_default();
    let proc = learned(&["iterate_dir"], target, || list("/proc/self/fd"));
    report
        .check(same_site_relearned(&sysfs, &proc), format!("another directory: the same branch learns {target} anew"));
}

/// Security hooks, where they are indirect calls: since 6.12 Linux makes static calls of them.
fn hooks(report: &mut Report) -> bool {
    const MANY: usize = 50;
    let is_hook = |site: &Site| site.place.starts_with("security_");
    let count = module::sites().iter().filter(|site| is_hook(site)).count();
    if count < MANY {
        report
            .note(format!("LSM hooks are static calls in this kernel: {count} indirect calls are left in security_…"));
        return count > 0;
    }
    let mut found = Vec::new();
    wait_until(60, || {
        for _ in 0..500 {
            let _ = fs::metadata("/dev/full").and_then(|_| File::open("/dev/null"));
        }
        found = module::sites();
        found.retain(|site| is_hook(site) && !site.targets.is_empty());
        !found.is_empty()
    });
    let names = found.iter().take(2).map(|site| format!("{}: {}", site.place, site.targets.join(", ")));
    let names: Vec<String> = names.collect();
    report
        .check(!found.is_empty(), format!("{} security hooks learn their modules: {}", found.len(), names.join("; ")));
    true
}
