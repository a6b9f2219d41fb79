//! Many UDP datagrams with one system call: recvmmsg and sendmmsg, with the kernel's coalescing (UDP_GRO) and
//! segmentation (UDP_SEGMENT, "GSO"), and the local address of each datagram (IP_PKTINFO). Linux only.

mod headers;
mod received;

use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::libc::{in_addr, in_pktinfo, in6_addr, in6_pktinfo};
use nix::sys::socket::{
    ControlMessage, MsgFlags, SockaddrIn, SockaddrIn6, getsockopt, recvmmsg, sendmmsg, setsockopt, sockopt,
};

use self::headers::{Headers, Kept, MESSAGES_MAX, SocketAddress, Space};
use self::received::{Control, is_run, split};
use super::packet::{Outgoing, PAYLOAD_MAX, Packet};
use super::socket::Shared;
use crate::address::Address;

/// The kernel's features for one socket, detected when it is opened.
#[derive(Debug)]
pub(crate) struct Batch {
    coalescing: Coalescing,
    shared: Shared,
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

/// Whether one message received may be several datagrams of one peer, which the kernel has joined (GRO).
#[derive(Clone, Copy, Debug, PartialEq)]
enum Coalescing {
    /// The kernel cannot do it, or others may read the socket and would not expect it.
    Never,
    /// It is off until one peer sends many datagrams at a time. Others gain nothing from it, and pay for the control messages
    /// that tell how a message is divided.
    Later,
    /// It is on, and stays on: the kernel does not divide the messages that wait already.
    Now,
}

impl Batch {
    /// Switches on what the kernel has for this socket, if that is not done yet; what it refuses stays off. `bound` is
    /// the socket's address.
    pub(super) fn new(socket: BorrowedFd<'_>, bound: IpAddr, shared: Shared) -> Self {
        let ipv6 = bound.is_ipv6();
        // Otherwise each datagram is for that address, and answers are from it.
        let destinations = !is_one_address(bound);
        watch_destinations(socket, ipv6, destinations);
        // Only asked for, not set: a kernel before 4.18 would ignore the control message and send a whole run as one
        // datagram.
        let gso = getsockopt(&socket, sockopt::UdpGsoSegment).is_ok();
        Batch {
            coalescing: Coalescing::of(socket, &shared),
            shared,
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
    /// One message needs up to [`room_max`](Self::room_max). If the buffer is smaller than that, datagrams that the kernel has
    /// coalesced and that do not fit are lost.
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
        let mut kept = Kept::<S>::take();
        let space = self.control_space();
        let headers = kept.for_receiving(count, space);
        #[cfg(test)]
        (self.calls += 1);
        let result =
            recvmmsg(socket.as_raw_fd(), &mut headers.headers, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None);
        let messages = match result {
            Ok(messages) => messages,
            Err(errno) => {
                Kept::keep(kept);
                return Err(errno.into());
            }
        };
        let (before, mut received, mut strange) = (packets.len(), 0, self.strange);
        if space == Space::Nothing {
            for message in messages {
                split(&message, None, received * room, max_packet_size, packets);
                received += 1;
            }
        } else {
            strange = false;
            for message in messages {
                let control = Control::of(&message);
                strange |= control.strange;
                split(&message, Some(control), received * room, max_packet_size, packets);
                received += 1;
            }
        }
        self.strange = strange;
        kept.has_received(space);
        Kept::keep(kept);
        if self.coalescing == Coalescing::Later && is_run(&packets[before..]) {
            self.coalesce(socket);
        }
        // recvmmsg stops early only when the queue is empty, or at an error, which it keeps for the next call and for
        // which epoll has an event.
        Ok(received == count)
    }

    /// How many bytes of the buffer one message needs.
    fn room(&self, max_packet_size: usize) -> usize {
        if self.coalescing == Coalescing::Now { COALESCED_MAX } else { max_packet_size.min(COALESCED_MAX) }
    }

    /// How many bytes of the buffer one message may need, now or later. More than 64 times that is of no use.
    pub(crate) fn room_max(&self, max_packet_size: usize) -> usize {
        if self.coalescing == Coalescing::Never { max_packet_size.min(COALESCED_MAX) } else { COALESCED_MAX }
    }

    /// From now on the kernel joins datagrams, unless others would get them too.
    #[cold]
    fn coalesce(&mut self, socket: BorrowedFd<'_>) {
        let is_on = self.shared.unless(|| switch_on(socket)).unwrap_or(false);
        self.coalescing = if is_on { Coalescing::Now } else { Coalescing::Never };
    }

    /// From now on others may read the socket.
    pub(super) fn share(&self) {
        self.shared.begin();
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
        match self.ipv6 {
            false => self.send_as::<SockaddrIn>(socket, bytes, datagrams),
            true => self.send_as::<SockaddrIn6>(socket, bytes, datagrams),
        }
    }

    fn send_as<S: SocketAddress>(
        &mut self,
        socket: BorrowedFd<'_>,
        bytes: &[u8],
        datagrams: &[Outgoing],
    ) -> (usize, io::Result<()>) {
        let mut kept = Kept::<S>::take();
        let (mut sent, mut result) = (0, Ok(()));
        while sent < datagrams.len() && result.is_ok() {
            match self.send_some(socket, &datagrams[sent..], bytes, &mut kept) {
                Ok(taken) => sent += taken,
                Err(Errno::EINTR) => {}
                Err(errno) => result = Err(errno.into()),
            }
        }
        Kept::keep(kept);
        (sent, result)
    }

    /// Sends at least one datagram, with one system call unless the kernel refuses to cut the first run: runs, and the
    /// size of the segments that the kernel shall cut them into; or single datagrams and 0.
    ///
    /// nix's sendmmsg has one list of control messages for all messages of a call, hence one source and one size. A
    /// message that is no longer than a segment is not cut, so a single datagram may go between runs.
    fn send_some<S: SocketAddress>(
        &mut self,
        socket: BorrowedFd<'_>,
        datagrams: &[Outgoing],
        bytes: &[u8],
        kept: &mut Kept<S>,
    ) -> nix::Result<usize> {
        let (source, mut segment) = (datagrams[0].source(), 0);
        let mut slices = Vec::with_capacity(MESSAGES_MAX.min(datagrams.len()));
        let mut addresses = std::mem::take(&mut kept.addresses);
        addresses.clear();
        // Usually each one is for another peer.
        let (singles, mut rest) = datagrams.split_at(singles(datagrams, source));
        slices.extend(singles.iter().map(|datagram| [IoSlice::new(&bytes[datagram.range.clone()])]));
        addresses.extend(singles.iter().map(|datagram| datagram.to.inet().map(S::pack)));
        while let [first, others @ ..] = rest
            && slices.len() < MESSAGES_MAX
            && first.source() == source
        {
            let (mut end, mut after, len) = (first.range.end, others, first.range.len());
            let count = self.run_len(rest);
            if count > 1 {
                if !slices.is_empty() && len != segment {
                    break;
                }
                (segment, end, after) = (len, rest[count - 1].range.end, &rest[count..]);
            } else if segment > 0 && !(1..=segment).contains(&len) {
                break;
            }
            slices.push([IoSlice::new(&bytes[first.range.start..end])]);
            // There is no other kind of address on a UDP socket; the kernel would say EDESTADDRREQ to none.
            addresses.push(first.to.inet().map(S::pack));
            rest = after;
        }
        kept.addresses = addresses;
        #[cfg(test)]
        (self.calls += 1);
        match transmit(socket, &slices, segment, source, kept) {
            Ok(sent) if sent == slices.len() => Ok(datagrams.len() - rest.len()),
            Ok(sent) => Ok((0..sent).fold(0, |at, _| at + self.run_len(&datagrams[at..]))),
            // The segment does not fit the MTU (EMSGSIZE, in older kernels EINVAL), or the device or an IPsec policy
            // on the way cannot do it (EIO). Or the error has to do with something else, and comes again.
            Err(errno @ (Errno::EMSGSIZE | Errno::EINVAL | Errno::EIO)) if segment > 0 => {
                let run = &datagrams[..self.run_len(datagrams)];
                let max = std::mem::take(&mut self.segment_max);
                let result = self.send_some(socket, run, bytes, kept);
                self.segment_max = match result {
                    Ok(_) if errno == Errno::EIO => 0,
                    Ok(_) => segment - 1,
                    Err(_) => max,
                };
                result
            }
            Err(errno) => Err(errno),
        }
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

    /// The room for control messages that a message may have.
    fn control_space(&self) -> Space {
        let is_coalescing = self.coalescing == Coalescing::Now;
        match self.strange {
            _ if !is_coalescing && !self.destinations => Space::Nothing,
            true => Space::Strange,
            false if self.destinations => Space::Destinations,
            false => Space::Segments,
        }
    }
}

impl Coalescing {
    /// It may be on already, in a socket that another process has opened.
    fn of(socket: BorrowedFd<'_>, shared: &Shared) -> Self {
        match getsockopt(&socket, sockopt::UdpGroSegment) {
            Ok(true) => Coalescing::Now,
            Ok(false) => Coalescing::Later,
            // A kernel before 5.13 does not tell. If others may have switched it on, expect that.
            Err(_) if shared.unless(|| switch_on(socket)).unwrap_or(true) => Coalescing::Now,
            Err(_) => Coalescing::Never,
        }
    }
}

/// Returns whether the kernel joins datagrams now.
fn switch_on(socket: BorrowedFd<'_>) -> bool {
    setsockopt(&socket, sockopt::UdpGroSegment, &true).is_ok()
}

/// How many datagrams at the front have this source, and are each for another peer than the next one. They fit one call.
fn singles(datagrams: &[Outgoing], source: Option<IpAddr>) -> usize {
    let is_single = |pair: &[Outgoing]| pair[0].source() == source && !pair[1].goes_to_peer_of(&pair[0]);
    let count = datagrams.windows(2).take(MESSAGES_MAX).take_while(|pair| is_single(pair)).count();
    match &datagrams[count..] {
        [last] if count < MESSAGES_MAX && (count == 0 || last.source() == source) => count + 1,
        _ => count,
    }
}

/// sendmmsg(2) from one source. Returns how many messages it has sent.
fn transmit<S: SocketAddress>(
    socket: BorrowedFd<'_>,
    slices: &[[IoSlice<'_>; 1]],
    segment: usize,
    source: Option<IpAddr>,
    kept: &mut Kept<S>,
) -> nix::Result<usize> {
    let segment = segment as u16; // At most PAYLOAD_MAX. 0 asks for nothing.
    let cut = ControlMessage::UdpGsoSegments(&segment);
    let mut send = |control: &[ControlMessage<'_>], space| {
        let sent = Headers::of(&mut kept.sent, MESSAGES_MAX, space);
        let (addresses, flags) = (&kept.addresses[..], MsgFlags::MSG_DONTWAIT);
        Ok(sendmmsg(socket.as_raw_fd(), &mut sent.headers, slices, addresses, control, flags)?.count())
    };
    match source {
        None if segment == 0 => send(&[], Space::Nothing),
        None => send(&[cut], Space::Segment),
        Some(IpAddr::V4(ip)) => {
            let source = in_addr { s_addr: u32::from_ne_bytes(ip.octets()) };
            let info = in_pktinfo { ipi_ifindex: 0, ipi_spec_dst: source, ipi_addr: in_addr { s_addr: 0 } };
            send(&[cut, ControlMessage::Ipv4PacketInfo(&info)], Space::SegmentFromV4)
        }
        Some(IpAddr::V6(ip)) => {
            // The interface, for a link-local address, is in the scope of the destination.
            let info = in6_pktinfo { ipi6_addr: in6_addr { s6_addr: ip.octets() }, ipi6_ifindex: 0 };
            send(&[cut, ControlMessage::Ipv6PacketInfo(&info)], Space::SegmentFromV6)
        }
    }
}

/// Switches on the options for receiving datagrams. This must be done before the socket is bound, because the kernel
/// records the destination of a datagram when it arrives, not when it is fetched.
pub(super) fn prepare(socket: BorrowedFd<'_>, ipv6: bool) {
    watch_destinations(socket, ipv6, true);
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

impl Outgoing {
    #[inline(always)]
    fn goes_to_peer_of(&self, other: &Outgoing) -> bool {
        match (&self.to, &other.to) {
            (Address::Inet(SocketAddr::V4(a)), Address::Inet(SocketAddr::V4(b))) => a == b,
            (a, b) => a == b,
        }
    }

    /// The source to ask the kernel for. It says EINVAL to an address of the other family, and to a link-local one
    /// without an interface: there the system's choice is better than no answer.
    #[inline(always)]
    fn source(&self) -> Option<IpAddr> {
        self.local.and_then(|local| self.usable(local))
    }

    #[inline(never)]
    fn usable(&self, local: IpAddr) -> Option<IpAddr> {
        let from = local.to_canonical();
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

/// The most that GRO makes of several datagrams, headers included: GRO_LEGACY_MAX_SIZE, which holds for UDP always.
const COALESCED_MAX: usize = 65_536;

/// UDP_MAX_SEGMENTS, which newer kernels have raised to 128.
const SEGMENTS_MAX: usize = 64;

#[cfg(test)]
mod tests;
