//! Messages that recvmmsg(2) has received: their control messages, and the datagrams of each.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use nix::sys::socket::{ControlMessageOwned, MsgFlags, RecvMsg};

use super::headers::SocketAddress;
use crate::net::packet::{Packet, append};

/// What the control messages of a message tell.
pub(super) struct Control {
    /// The size of each datagram but the last, if there are several.
    segment: Option<usize>,
    /// The address of ours to which it was sent.
    local: Option<IpAddr>,
    /// They did not fit, so that it is unknown how the message is divided.
    lost: bool,
    /// There are some that are not asked for here, or that did not fit.
    pub(super) strange: bool,
}

impl Control {
    pub(super) fn of<S>(message: &RecvMsg<'_, '_, S>) -> Self {
        let mut this = Control { segment: None, local: None, lost: false, strange: false };
        match message.cmsgs() {
            Ok(control) => control.for_each(|control| match control {
                ControlMessageOwned::UdpGroSegments(size) => this.segment = Some(size as usize),
                // Not ipi_addr, the destination in the IP header: this is the address to answer from, ip(7).
                ControlMessageOwned::Ipv4PacketInfo(info) => {
                    let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                    this.local = (!ip.is_unspecified()).then_some(IpAddr::V4(ip));
                }
                ControlMessageOwned::Ipv6PacketInfo(info) => {
                    let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                    if !ip.is_multicast() && ip.to_ipv4_mapped().is_none() {
                        this.local = Some(IpAddr::V6(ip));
                    }
                }
                _ => this.strange = true,
            }),
            Err(_) => (this.lost, this.strange) = (true, true),
        }
        this
    }
}

/// Appends the datagrams of one message, which begins at `start` in the buffer. If its control messages are lost, it is passed
/// on as one truncated datagram.
#[inline(always)]
pub(super) fn split<S: SocketAddress>(
    message: &RecvMsg<'_, '_, S>,
    control: Option<Control>,
    start: usize,
    max_packet_size: usize,
    packets: &mut Vec<Packet>,
) {
    let Some(from) = message.address.map(S::unpack) else { return };
    let mut cut = message.flags.contains(MsgFlags::MSG_TRUNC);
    let (mut at, mut rest, mut local) = (start, message.bytes, None);
    if let Some(control) = control {
        let segment = control.segment.unwrap_or(rest);
        (local, cut) = (control.local, cut || control.lost);
        while rest > segment && segment > 0 {
            let range = at..at + segment.min(max_packet_size);
            packets.push(Packet { range, from: from.clone(), local, truncated: segment > max_packet_size });
            (at, rest) = (at + segment, rest - segment);
        }
    }
    let truncated = cut || rest > max_packet_size;
    let range = at..at + rest.min(max_packet_size);
    append(packets, || Packet { range, from, local, truncated });
}

/// Returns whether these are many datagrams, and all of one peer.
pub(super) fn is_run(packets: &[Packet]) -> bool {
    packets.len() >= RUN_MIN && packets.iter().all(|packet| packet.from == packets[0].from)
}

/// How many datagrams of one peer must be received at a time, and of no other, before the kernel is asked to join them.
pub(super) const RUN_MIN: usize = 16;
