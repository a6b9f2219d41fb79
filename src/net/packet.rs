//! Datagrams in a buffer.

use std::net::IpAddr;
use std::ops::Range;

use crate::address::Address;

/// A datagram that was received, and where in the buffer it lies.
#[derive(Clone, Debug)]
pub(crate) struct Packet {
    pub(crate) range: Range<usize>,
    pub(crate) from: Address,
    /// Which of our addresses it was sent to, if the system tells.
    pub(crate) local: Option<IpAddr>,
    /// It was longer than it may be; the rest is cut off.
    pub(crate) truncated: bool,
}

/// A datagram to be sent, and where among the bytes it lies.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) range: Range<usize>,
    pub(crate) to: Address,
    /// Which of our addresses it is to come from, where the system lets us choose.
    pub(crate) local: Option<IpAddr>,
}

/// The way to the peer of a datagram server.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Route {
    /// The slot of the socket.
    pub(crate) endpoint: u32,
    /// Which of our addresses the peer wrote to last, and is to be answered from, if the system tells.
    pub(crate) local: Option<IpAddr>,
}

/// The longest UDP datagram over IPv4: 65,535 bytes less 20 and 8 bytes of headers.
pub(crate) const PAYLOAD_MAX: usize = 65_507;
