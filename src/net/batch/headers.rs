//! What the system calls of a [batch](super) need: headers of nix, addresses, and room for control messages.

use std::cell::Cell;
use std::net::{SocketAddr, SocketAddrV6};
use std::thread::LocalKey;

use nix::cmsg_space;
use nix::libc::{c_int, in_pktinfo, in6_pktinfo};
use nix::sys::socket::{MultiHeaders, SockaddrIn, SockaddrIn6, SockaddrLike};

use crate::address::Address;

/// What a thread keeps for its next system calls. It does not belong to a socket, because nix's headers cannot move to
/// another thread as a socket can.
pub(super) struct Kept<S> {
    /// Headers that can receive without control messages.
    plain: Option<Headers<S>>,
    /// Headers with room for control messages that have received nothing.
    unused: Option<Headers<S>>,
    /// Headers that have sent. The kernel changes nothing in them.
    pub(super) sent: Option<Headers<S>>,
    /// Those of the messages of one call.
    pub(super) addresses: Vec<Option<S>>,
}

/// nix's headers for one system call.
pub(super) struct Headers<S> {
    pub(super) headers: MultiHeaders<S>,
    count: usize,
    space: Space,
}

/// The room that each header has for control messages.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Space {
    Nothing,
    /// To send, for which it must be exact: the kernel would take the rest for another message, and refuse it.
    Segment,
    SegmentFromV4,
    SegmentFromV6,
    /// To receive what is asked for here. A counter comes only if it is not zero.
    Segments,
    Destinations,
    /// To receive in addition all the time stamps, counters and header fields that someone may have asked for with
    /// options of the socket: if one does not fit, nix shows none.
    Strange,
}

impl<S: SocketAddress> Kept<S> {
    pub(super) fn take() -> Box<Self> {
        let kept = S::kept().try_with(Cell::take).ok().flatten();
        kept.unwrap_or_else(|| Box::new(Kept { plain: None, unused: None, sent: None, addresses: Vec::new() }))
    }

    pub(super) fn keep(kept: Box<Self>) {
        let _ = S::kept().try_with(|cell| cell.set(Some(kept))); // This fails at the end of the thread.
    }

    /// Headers to receive so many messages.
    pub(super) fn for_receiving(&mut self, count: usize, space: Space) -> &mut Headers<S> {
        let (kept, count) = match space {
            Space::Nothing => (&mut self.plain, MESSAGES_MAX),
            _ => (&mut self.unused, count),
        };
        Headers::of(kept, count, space)
    }

    /// Those that have received control messages are not used again: nix does not set the lengths of control messages again,
    /// which the kernel has overwritten with what it used, so that the next call would find room for less, or for nothing.
    /// All addresses have the length that is set.
    pub(super) fn has_received(&mut self, space: Space) {
        if space != Space::Nothing {
            self.unused = None;
        }
    }
}

impl<S: SocketAddress> Headers<S> {
    /// Those that are kept. They are made anew if they do not fit.
    pub(super) fn of(kept: &mut Option<Self>, count: usize, space: Space) -> &mut Self {
        if kept.as_ref().is_some_and(|kept| kept.count < count || kept.space != space) {
            *kept = None;
        }
        kept.get_or_insert_with(|| Headers { headers: MultiHeaders::preallocate(count, space.bytes()), count, space })
    }
}

impl Space {
    fn bytes(self) -> Option<Vec<u8>> {
        Some(match self {
            Space::Nothing => return None,
            Space::Segment => cmsg_space!(u16),
            Space::SegmentFromV4 => cmsg_space!(u16, in_pktinfo),
            Space::SegmentFromV6 => cmsg_space!(u16, in6_pktinfo),
            Space::Segments => cmsg_space!(c_int, c_int),
            Space::Destinations => cmsg_space!(c_int, c_int, in_pktinfo, in6_pktinfo),
            Space::Strange => cmsg_space!(c_int, in_pktinfo, in6_pktinfo, [u8; 256]),
        })
    }
}

/// Messages of one system call. Beyond some dozens the call itself is no longer what costs.
pub(super) const MESSAGES_MAX: usize = 64;

/// The kind of address that the sockets of a family have.
pub(super) trait SocketAddress: SockaddrLike + Copy + 'static {
    fn pack(address: &SocketAddr) -> Self;
    fn unpack(self) -> Address;
    fn kept() -> &'static LocalKey<Cell<Option<Box<Kept<Self>>>>>;
}

thread_local! {
    static KEPT_V4: Cell<Option<Box<Kept<SockaddrIn>>>> = const { Cell::new(None) };
    static KEPT_V6: Cell<Option<Box<Kept<SockaddrIn6>>>> = const { Cell::new(None) };
}

impl SocketAddress for SockaddrIn {
    fn pack(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => (*address).into(),
            SocketAddr::V6(_) => unreachable!("an IPv4 socket"),
        }
    }

    fn unpack(self) -> Address {
        Address::Inet(SocketAddr::V4(self.into()))
    }

    fn kept() -> &'static LocalKey<Cell<Option<Box<Kept<Self>>>>> {
        &KEPT_V4
    }
}

impl SocketAddress for SockaddrIn6 {
    fn pack(address: &SocketAddr) -> Self {
        match address {
            SocketAddr::V4(address) => SocketAddrV6::new(address.ip().to_ipv6_mapped(), address.port(), 0, 0).into(),
            SocketAddr::V6(address) => (*address).into(),
        }
    }

    fn unpack(self) -> Address {
        SocketAddr::V6(self.into()).into()
    }

    fn kept() -> &'static LocalKey<Cell<Option<Box<Kept<Self>>>>> {
        &KEPT_V6
    }
}
