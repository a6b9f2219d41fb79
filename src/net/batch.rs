//! Many UDP datagrams with one system call: recvmmsg and sendmmsg, with the kernel's coalescing (UDP_GRO) and
//! segmentation (UDP_SEGMENT, "GSO"), and the local address of each datagram (IP_PKTINFO). Linux only.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::cmsg_space;
use nix::errno::Errno;
use nix::libc::{c_int, in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, ControlMessageOwned, MsgFlags, MultiHeaders, RecvMsg, SockaddrIn, SockaddrIn6, SockaddrLike,
    getsockopt, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use super::packet::{Outgoing, PAYLOAD_MAX, Packet};
use crate::address::Address;

/// The kernel's features for one socket, detected when it is opened.
#[derive(Debug)]
pub(crate) struct Batch {
    /// Whether one message received may be several datagrams.
    gro: bool,
    /// The length of the longest segment into which the kernel is asked to split a message; 0 if it is not asked at
    /// all. It shrinks when the kernel refuses: a segment must fit the MTU of the path to the destination, which is not
    /// known beforehand.
    segment_max: usize,
    ipv6: bool,
    /// The kernel reports the destination of each datagram.
    destinations: bool,
    /// Control messages have come that are not asked for here, or may come.
    strange: bool,
    #[cfg(test)]
    calls: usize,
}

impl Batch {
    /// Switches on what the kernel has for this socket, if that is not done yet; what it refuses stays off. `bound` is
    /// the socket's address.
    pub(super) fn new(socket: BorrowedFd<'_>, bound: IpAddr) -> Self {
        let ipv6 = bound.is_ipv6();
        let gro = prepare(socket, ipv6);
        // Otherwise each datagram is for that address, and answers are from it.
        let destinations = !is_one_address(bound);
        if !destinations {
            watch_destinations(socket, ipv6, false);
        }
        // Only asked for, not set: a kernel before 4.18 would ignore the control message and send a whole run as one
        // datagram.
        let gso = getsockopt(&socket, sockopt::UdpGsoSegment).is_ok();
        Batch {
            gro,
            segment_max: if gso { PAYLOAD_MAX } else { 0 },
            ipv6,
            destinations,
            strange: true,
            #[cfg(test)]
            calls: 0,
        }
    }

    /// Receives what waits, as many messages as `buffer` has room for, and appends the datagrams to `packets`. Returns
    /// whether more may wait. A datagram longer than `max_packet_size` is marked as truncated.
    ///
    /// The local address of each is never IPv4-mapped; after a broadcast or an IPv4 multicast it is the one that the
    /// system would answer from, and `None` if there is none (IPv6 multicast).
    ///
    /// One message needs 64 KiB with GRO, otherwise `max_packet_size` up to that: [`room`](Self::room). If the buffer is smaller
    /// than that, datagrams that the kernel has coalesced and that do not fit are lost.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] when none waits; otherwise what recvmmsg(2) says.
    pub(crate) fn receive(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        max_packet_size: usize,
        most: usize,
        packets: &mut Vec<Packet>,
    ) -> io::Result<bool> {
        match self.ipv6 {
            false => self.receive_as::<SockaddrIn>(socket, buffer, max_packet_size, most, packets),
            true => self.receive_as::<SockaddrIn6>(socket, buffer, max_packet_size, most, packets),
        }
    }

    fn receive_as<S: SocketAddress>(
        &mut self,
        socket: BorrowedFd<'_>,
        buffer: &mut [u8],
        max_packet_size: usize,
        most: usize,
        packets: &mut Vec<Packet>,
    ) -> io::Result<bool> {
        debug_assert!(!buffer.is_empty());
        let room = self.room(max_packet_size).min(buffer.len()).max(1);
        // Exact, because a datagram received into a shorter rest at the end would be truncated.
        let mut slices: Vec<_> =
            buffer.chunks_exact_mut(room).take(most.min(MESSAGES_MAX)).map(|slice| [IoSliceMut::new(slice)]).collect();
        let count = slices.len();
        // New ones for each call: nix does not set the lengths of address and control messages again, which the kernel
        // has overwritten with what it used, so that the next call would find room for less, or for nothing.
        let mut headers = MultiHeaders::<S>::preallocate(count, Some(self.control_space()));
        #[cfg(test)]
        (self.calls += 1);
        let messages = recvmmsg(socket.as_raw_fd(), &mut headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None)?;
        let (mut received, mut strange) = (0, false);
        for message in messages {
            strange |= split(&message, received * room, max_packet_size, packets);
            received += 1;
        }
        self.strange = strange;
        // recvmmsg stops early only when the queue is empty, or at an error, which it keeps for the next call and for
        // which epoll has an event.
        Ok(received == count)
    }

    /// How many bytes of the buffer one message needs. More than 64 times that is of no use.
    pub(crate) fn room(&self, max_packet_size: usize) -> usize {
        if self.gro { COALESCED_MAX } else { max_packet_size.min(COALESCED_MAX) }
    }

    /// Sends from the front of `datagrams`, which lie in `bytes`. Returns how many the kernel has accepted; an error
    /// concerns the first one that was not accepted.
    ///
    /// Datagrams to one destination are cheapest if they are contiguous in `bytes` and of equal size.
    pub(crate) fn send(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        datagrams: &[Outgoing],
    ) -> (usize, io::Result<()>) {
        let mut sent = 0;
        while sent < datagrams.len() {
            match self.send_some(socket, &datagrams[sent..], bytes) {
                Ok(taken) => sent += taken,
                Err(Errno::EINTR) => {}
                Err(errno) => return (sent, Err(errno.into())),
            }
        }
        (sent, Ok(()))
    }

    /// Sends at least one datagram, with one system call unless the kernel refuses to cut the first run.
    fn send_some(&mut self, socket: BorrowedFd<'_>, datagrams: &[Outgoing], bytes: &[u8]) -> nix::Result<usize> {
        let (runs, segment) = self.runs(datagrams);
        match self.transmit(socket, &runs, segment, bytes) {
            // The segment does not fit the MTU (EMSGSIZE, in older kernels EINVAL), or the device or an IPsec policy
            // on the way cannot do it (EIO). Or the error has to do with something else, and comes again.
            Err(errno @ (Errno::EMSGSIZE | Errno::EINVAL | Errno::EIO)) if segment > 0 => {
                let alone: Vec<_> = runs[0].chunks(1).collect();
                let sent = self.transmit(socket, &alone, 0, bytes)?;
                self.segment_max = if errno == Errno::EIO { 0 } else { segment - 1 };
                Ok(sent)
            }
            result => result,
        }
    }

    /// Collects what one call can send: runs, and the size of the segments that the kernel shall cut them into; or
    /// single datagrams and 0.
    ///
    /// nix's sendmmsg has one list of control messages for all messages of a call, hence one source and one size. A
    /// message that is no longer than a segment is not cut, so a single datagram may go between runs.
    fn runs<'a>(&self, datagrams: &'a [Outgoing]) -> (Vec<&'a [Outgoing]>, usize) {
        let source = datagrams[0].source();
        let segment = if self.run_len(datagrams) > 1 { datagrams[0].range.len() } else { 0 };
        let mut runs = Vec::with_capacity(MESSAGES_MAX.min(datagrams.len()));
        let mut rest = datagrams;
        while runs.len() < MESSAGES_MAX && rest.first().is_some_and(|first| first.source() == source) {
            let (run, others) = rest.split_at(self.run_len(rest));
            let fits = match run {
                [one] => segment == 0 || (1..=segment).contains(&one.range.len()),
                several => several[0].range.len() == segment,
            };
            if !fits {
                break;
            }
            runs.push(run);
            rest = others;
        }
        (runs, segment)
    }

    /// How many datagrams at the front the kernel can cut from one block: to one destination, one after the other in
    /// the bytes, and of one size, except that the last may be shorter. An empty one cannot be cut from anything.
    fn run_len(&self, datagrams: &[Outgoing]) -> usize {
        let first = &datagrams[0];
        let len = first.range.len();
        if !(1..=self.segment_max).contains(&len) {
            return 1;
        }
        let joins = |last: &Outgoing, next: &Outgoing| {
            last.range.len() == len
                && (1..=len).contains(&next.range.len())
                && next.range.start == last.range.end
                && next.range.end - first.range.start <= PAYLOAD_MAX
                && next.to == first.to
                && next.source() == first.source()
        };
        1 + datagrams.windows(2).take(SEGMENTS_MAX - 1).take_while(|pair| joins(&pair[0], &pair[1])).count()
    }

    /// sendmmsg(2) of runs from one source. Returns how many datagrams it has sent.
    fn transmit(
        &mut self,
        socket: BorrowedFd<'_>,
        runs: &[&[Outgoing]],
        segment: usize,
        bytes: &[u8],
    ) -> nix::Result<usize> {
        #[cfg(test)]
        (self.calls += 1);
        match self.ipv6 {
            false => transmit::<SockaddrIn>(socket, runs, segment, bytes),
            true => transmit::<SockaddrIn6>(socket, runs, segment, bytes),
        }
    }

    /// Room for the control messages that are asked for here; and, if there may be strange ones, for all the time
    /// stamps, counters and header fields that someone may have asked for with options of the socket: if one does not
    /// fit, nix shows none. A counter comes only if it is not zero.
    fn control_space(&self) -> Vec<u8> {
        match self.strange {
            true => cmsg_space!(c_int, in_pktinfo, in6_pktinfo, [u8; 256]),
            false if self.destinations => cmsg_space!(c_int, c_int, in_pktinfo, in6_pktinfo),
            false => cmsg_space!(c_int, c_int),
        }
    }
}

/// sendmmsg(2) of runs from one source. Returns how many datagrams it has sent.
fn transmit<S: SocketAddress>(
    socket: BorrowedFd<'_>,
    runs: &[&[Outgoing]],
    segment: usize,
    bytes: &[u8],
) -> nix::Result<usize> {
    let segment = segment as u16; // At most PAYLOAD_MAX. 0 asks for nothing.
    let cut = ControlMessage::UdpGsoSegments(&segment);
    // The space must be exact: the kernel would take the rest for another message, and refuse it.
    match runs[0][0].source() {
        None if segment == 0 => send_messages::<S>(socket, runs, bytes, &[], None),
        None => send_messages::<S>(socket, runs, bytes, &[cut], Some(cmsg_space!(u16))),
        Some(IpAddr::V4(ip)) => {
            let source = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
            let pin = ControlMessage::Ipv4PacketInfo(&info);
            send_messages::<S>(socket, runs, bytes, &[cut, pin], Some(cmsg_space!(u16, in_pktinfo)))
        }
        Some(IpAddr::V6(ip)) => {
            // The interface, for a link-local address, is in the scope of the destination.
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            let pin = ControlMessage::Ipv6PacketInfo(&info);
            send_messages::<S>(socket, runs, bytes, &[cut, pin], Some(cmsg_space!(u16, in6_pktinfo)))
        }
    }
}

/// Switches on the options for receiving datagrams. This must be done before the socket is bound, because the kernel
/// records the destination of a datagram when it arrives, not when it is fetched. Returns whether there is coalescing.
pub(super) fn prepare(socket: BorrowedFd<'_>, ipv6: bool) -> bool {
    watch_destinations(socket, ipv6, true);
    setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// Asks for the destination of each datagram, or no longer.
fn watch_destinations(socket: BorrowedFd<'_>, ipv6: bool, on: bool) {
    // A dual-stack socket needs both. For an IPv4 client IPV6_PKTINFO has only the destination in the IP header, which
    // may be a broadcast address.
    let _ = setsockopt(&socket, sockopt::Ipv4PacketInfo, &on);
    if ipv6 {
        let _ = setsockopt(&socket, sockopt::Ipv6RecvPacketInfo, &on);
    }
}

/// Returns whether this is an address from which answers can be sent, and neither a wildcard nor a group. A broadcast
/// address cannot be told by its looks, but a socket may not connect to it.
fn is_one_address(ip: IpAddr) -> bool {
    let connects = || std::net::UdpSocket::bind((ip, 0)).and_then(|socket| socket.connect((ip, 9))).is_ok();
    !ip.is_unspecified() && !ip.is_multicast() && connects()
}

/// The kind of address that the sockets of a family have.
trait SocketAddress: SockaddrLike + Copy {
    fn pack(address: SocketAddr) -> Self;
    fn unpack(self) -> Address;
}

impl SocketAddress for SockaddrIn {
    fn pack(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => address.into(),
            SocketAddr::V6(_) => unreachable!("an IPv4 socket"),
        }
    }

    fn unpack(self) -> Address {
        Address::Inet(SocketAddr::V4(self.into()))
    }
}

impl SocketAddress for SockaddrIn6 {
    fn pack(address: SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => SocketAddrV6::new(address.ip().to_ipv6_mapped(), address.port(), 0, 0).into(),
            SocketAddr::V6(address) => address.into(),
        }
    }

    fn unpack(self) -> Address {
        SocketAddr::V6(self.into()).into()
    }
}

impl Outgoing {
    /// The source to ask the kernel for. It says EINVAL to an address of the other family, and to a link-local one
    /// without an interface: there the system's choice is better than no answer.
    fn source(&self) -> Option<IpAddr> {
        let from = self.local?.to_canonical();
        let usable = match (from, self.to.as_inet()?) {
            (IpAddr::V4(_), to) => to.ip().to_canonical().is_ipv4(),
            (IpAddr::V6(from), SocketAddr::V6(to)) => {
                to.ip().to_ipv4_mapped().is_none() && (!from.is_unicast_link_local() || to.scope_id() != 0)
            }
            (IpAddr::V6(_), SocketAddr::V4(_)) => false,
        };
        usable.then_some(from)
    }
}

/// sendmmsg(2): each run is one message.
fn send_messages<S: SocketAddress>(
    socket: BorrowedFd<'_>,
    runs: &[&[Outgoing]],
    bytes: &[u8],
    control: &[ControlMessage<'_>],
    space: Option<Vec<u8>>,
) -> nix::Result<usize> {
    let extent = |run: &[Outgoing]| run[0].range.start..run[run.len() - 1].range.end;
    let slices: Vec<_> = runs.iter().map(|run| [IoSlice::new(&bytes[extent(run)])]).collect();
    // There is no other kind of address on a UDP socket; the kernel would say EDESTADDRREQ to none.
    let addresses: Vec<_> = runs.iter().map(|run| run[0].to.as_inet().map(S::pack)).collect();
    let mut headers = MultiHeaders::preallocate(runs.len(), space);
    let flags = MsgFlags::MSG_DONTWAIT;
    let sent = sendmmsg(socket.as_raw_fd(), &mut headers, &slices, &addresses, control, flags)?.count();
    Ok(runs[..sent].iter().map(|run| run.len()).sum())
}

/// Appends the datagrams of one message, which begins at `start` in the buffer. Returns whether it has control messages
/// that are not asked for here, or that did not fit.
fn split<S: SocketAddress>(
    message: &RecvMsg<'_, '_, S>,
    start: usize,
    max_packet_size: usize,
    packets: &mut Vec<Packet>,
) -> bool {
    let Some(from) = message.address.map(S::unpack) else { return false };
    // Without control messages the boundaries of the datagrams are unknown: the message is passed on as one truncated
    // datagram.
    let control = message.cmsgs();
    let cut = message.flags.contains(MsgFlags::MSG_TRUNC) || control.is_err();
    let (mut segment, mut local, mut strange) = (message.bytes, None, control.is_err());
    for control in control.into_iter().flatten() {
        match control {
            // Comes only with a message that is several datagrams: the size of each but the last.
            ControlMessageOwned::UdpGroSegments(size) => segment = size as usize,
            // Not ipi_addr, the destination in the IP header: this is the address to answer from, ip(7).
            ControlMessageOwned::Ipv4PacketInfo(info) => {
                let ip = Ipv4Addr::from(info.ipi_spec_dst.s_addr.to_ne_bytes());
                local = (!ip.is_unspecified()).then_some(IpAddr::V4(ip));
            }
            ControlMessageOwned::Ipv6PacketInfo(info) => {
                let ip = Ipv6Addr::from(info.ipi6_addr.s6_addr);
                if !ip.is_multicast() && ip.to_ipv4_mapped().is_none() {
                    local = Some(IpAddr::V6(ip));
                }
            }
            _ => strange = true,
        }
    }
    let mut at = 0;
    loop {
        let len = segment.min(message.bytes - at);
        let last = at + len == message.bytes;
        let truncated = len > max_packet_size || (cut && last);
        let range = start + at..start + at + len.min(max_packet_size);
        packets.push(Packet { range, from: from.clone(), local, truncated });
        at += len;
        if last || len == 0 {
            return strange;
        }
    }
}

/// Messages of one system call. Beyond some dozens the call itself is no longer what costs.
const MESSAGES_MAX: usize = 64;

/// The most that GRO makes of several datagrams, headers included: GRO_LEGACY_MAX_SIZE, which holds for UDP always.
const COALESCED_MAX: usize = 65_536;

/// UDP_MAX_SEGMENTS, which newer kernels have raised to 128.
const SEGMENTS_MAX: usize = 64;

#[cfg(test)]
mod tests;
