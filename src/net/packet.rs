//! Datagrams in a buffer.

use std::net::IpAddr;
use std::ops::Range;

use crate::address::Address;

/// A received datagram, and its place in the buffer.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) range: Range<usize>,
    pub(crate) from: Address,
    /// The address of ours to which it was sent, if the system reports it.
    pub(crate) local: Option<IpAddr>,
    /// It was longer than the maximum, and the rest is cut off.
    pub(crate) truncated: bool,
}

/// A datagram to send, and its place among the bytes.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) range: Range<usize>,
    pub(crate) to: Address,
    /// The address of ours from which to send it, if the system lets us choose.
    pub(crate) local: Option<IpAddr>,
}

/// The route to the peer of a datagram server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The slot of the socket.
    pub(crate) endpoint: u32,
    /// The address of ours to which the peer wrote last, and from which it is answered, if the system reports it.
    pub(crate) local: Option<IpAddr>,
}

/// The longest UDP datagram over IPv4: 65,535 bytes less 20 and 8 bytes of headers.
pub(crate) const PAYLOAD_MAX: usize = 65_507;

/// Appends a datagram. It is made in its place if there is room: Vec::push alone would make it elsewhere and move it, because
/// it drops the value if there is no memory.
#[inline(always)]
pub(crate) fn append<T>(datagrams: &mut Vec<T>, make: impl FnOnce() -> T) {
    if datagrams.len() < datagrams.capacity() {
        datagrams.push(make())
    } else {
        append_with_more_room(datagrams, make())
    }
}

#[cold]
#[inline(never)]
fn append_with_more_room<T>(datagrams: &mut Vec<T>, datagram: T) {
    datagrams.push(datagram);
}
