//! Options of UDP sockets, including broadcast and multicast.

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef};

use super::socket::Socket;
use super::tcp::AddressFamily;
use crate::error::{Error, Result};

/// Options of a UDP server's sockets.
///
/// Given to [`Unbound::server_bind_with`](crate::Unbound::server_bind_with) with the address.
///
/// ```
/// use socketserver::{MulticastGroup, UdpOptions};
///
/// let mut options = UdpOptions::default();
/// options.multicast_groups.push(MulticastGroup::new([224, 0, 0, 251])); // mDNS, RFC 6762
/// options.allow_reuse_address = true; // all listeners on this machine get a copy
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UdpOptions {
    /// `SO_REUSEADDR`. Default: false, because if two UDP sockets share a port, one gets the datagrams of both. Set it
    /// for multicast, where each gets a copy. Source: `allow_reuse_address`.
    pub allow_reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets, of several processes, bound to one port; the system spreads the peers among
    /// them. Default: false; an error where the system has no such option. Source: `allow_reuse_port`.
    pub allow_reuse_port: bool,
    /// The addresses of a name that may be used. Default: [`AddressFamily::Any`]. Source: `address_family`.
    pub address_family: AddressFamily,
    /// `IPV6_V6ONLY`: an IPv6 socket takes no IPv4 datagrams. Default: true, on every system.
    pub ipv6_only: bool,
    /// `SO_BROADCAST`: datagrams may be sent to broadcast addresses. Default: false.
    pub broadcast: bool,
    /// Groups to join when the server is bound. Default: none. To join or leave groups later:
    /// [`Others::join_multicast`](crate::Others::join_multicast).
    pub multicast_groups: Vec<MulticastGroup>,
    /// `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`: how many routers a multicast datagram passes, 255 at most.
    /// Default: 1, none.
    pub multicast_ttl: u32,
    /// `IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`: members on this machine receive what is sent to the group. The
    /// server does not serve its own datagrams ([`Stats::datagrams_reflected`](crate::Stats)), but it serves those of
    /// other members, even from the same address and port. Default: true.
    pub multicast_loop: bool,
    /// The interface by which multicast datagrams leave. Default: [`MulticastInterface::Any`], which the routing table
    /// chooses.
    pub multicast_interface: MulticastInterface,
    /// `SO_RCVBUF` in bytes: how much may wait while the loop is busy; at most 2,147,483,647. The system has its own
    /// bounds. Default: `None`, the system's value.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes, at most 2,147,483,647. The system has its own bounds. Default: `None`, the system's value.
    pub send_buffer_bytes: Option<usize>,
}

impl Default for UdpOptions {
    fn default() -> Self {
        UdpOptions {
            allow_reuse_address: false,
            allow_reuse_port: false,
            address_family: AddressFamily::Any,
            ipv6_only: true,
            broadcast: false,
            multicast_groups: Vec::new(),
            multicast_ttl: 1,
            multicast_loop: true,
            multicast_interface: MulticastInterface::Any,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
        }
    }
}

impl UdpOptions {
    /// Refuses, by name, values that the system would refuse with EINVAL or take for other values.
    pub(super) fn check(&self) -> Result<()> {
        if self.multicast_ttl > 255 {
            return Err(Error::setting("multicast_ttl", self.multicast_ttl, "it must be 255 at most"));
        }
        if let Some(group) = self.multicast_groups.iter().find(|group| !group.address.is_multicast()) {
            return Err(Error::setting("multicast_groups", group.address, "that is no address of a group"));
        }
        super::options::check_buffers(self.receive_buffer_bytes, self.send_buffer_bytes)
    }

    /// Opens a socket for `address`, and sets everything that must be set before it is bound.
    pub(super) fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::datagram(Domain::for_address(address), Some(Protocol::UDP))?;
        #[cfg(all(feature = "batch", target_os = "linux"))]
        super::batch::prepare(std::os::fd::AsFd::as_fd(&socket), address.is_ipv6());
        let options = socket.options();
        super::options::set_sharing(&options, self.allow_reuse_address, self.allow_reuse_port)?;
        if address.is_ipv6() {
            options.set_only_v6(self.ipv6_only)?;
        }
        self.apply(&options, address.is_ipv6())?;
        Ok(socket)
    }

    /// Sets the options that can also be set on a bound socket.
    pub(super) fn apply(&self, options: &SockRef<'_>, is_ipv6: bool) -> io::Result<()> {
        if self.broadcast {
            options.set_broadcast(true)?;
        }
        super::options::set_buffers(options, self.receive_buffer_bytes, self.send_buffer_bytes)?;
        if is_ipv6 {
            options.set_multicast_hops_v6(self.multicast_ttl)?;
            options.set_multicast_loop_v6(self.multicast_loop)?;
            options.set_multicast_if_v6(self.multicast_interface.index()?)?;
        } else {
            options.set_multicast_ttl_v4(self.multicast_ttl)?;
            options.set_multicast_loop_v4(self.multicast_loop)?;
            options.set_multicast_if_v4(&self.multicast_interface.address()?)?;
        }
        // Otherwise a wildcard socket receives for groups that others on this machine have joined. Systems without this
        // option do not do that.
        #[cfg(target_os = "linux")]
        let _ = if is_ipv6 { options.set_multicast_all_v6(false) } else { options.set_multicast_all_v4(false) };
        for group in self.multicast_groups.iter().filter(|group| group.address.is_ipv6() == is_ipv6) {
            match group.join(options) {
                // It is a member already: it was adopted.
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                joined => joined?,
            }
        }
        Ok(())
    }
}

/// A multicast group, and the network on which to listen for it.
///
/// Source: ip(7), `IP_ADD_MEMBERSHIP`; ipv6(7), `IPV6_ADD_MEMBERSHIP`. Python's module has nothing for it; use
/// `self.socket.setsockopt` there.
///
/// ```
/// use socketserver::{MulticastGroup, MulticastInterface};
/// use std::net::Ipv4Addr;
///
/// let mut group = MulticastGroup::new([239, 1, 2, 3]);
/// group.interface = MulticastInterface::Address(Ipv4Addr::LOCALHOST);
/// assert!(group.address.is_multicast());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct MulticastGroup {
    /// The group: 224.0.0.0/4 or ff00::/8.
    pub address: IpAddr,
    /// The interface on which to listen. Default: [`MulticastInterface::Any`].
    pub interface: MulticastInterface,
}

/// A network interface in a multicast option: for IPv4 one of its addresses, for IPv6 its number.
///
/// ```
/// use socketserver::{MulticastInterface, UdpOptions};
///
/// let mut options = UdpOptions::default();
/// options.multicast_interface = MulticastInterface::Index(1); // usually the loopback
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum MulticastInterface {
    /// The system chooses.
    #[default]
    Any,
    /// The interface with this address. For IPv4 groups.
    Address(Ipv4Addr),
    /// The interface with this number (`if_nametoindex`). For IPv6 groups.
    Index(u32),
}

impl MulticastGroup {
    /// The group of this address, on an interface that the system chooses.
    pub fn new(address: impl Into<IpAddr>) -> Self {
        MulticastGroup { address: address.into(), interface: MulticastInterface::Any }
    }

    pub(super) fn join(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match self.address {
            IpAddr::V4(group) => socket.join_multicast_v4(&group, &self.interface.address()?),
            IpAddr::V6(group) => socket.join_multicast_v6(&group, self.interface.index()?),
        }
    }

    pub(super) fn leave(&self, socket: &SockRef<'_>) -> io::Result<()> {
        match self.address {
            IpAddr::V4(group) => socket.leave_multicast_v4(&group, &self.interface.address()?),
            IpAddr::V6(group) => socket.leave_multicast_v6(&group, self.interface.index()?),
        }
    }
}

impl MulticastInterface {
    fn address(self) -> io::Result<Ipv4Addr> {
        match self {
            MulticastInterface::Any => Ok(Ipv4Addr::UNSPECIFIED),
            MulticastInterface::Address(address) => Ok(address),
            MulticastInterface::Index(_) => Err(invalid("for IPv4 an interface is named by an address it has")),
        }
    }

    fn index(self) -> io::Result<u32> {
        match self {
            MulticastInterface::Any => Ok(0),
            MulticastInterface::Index(index) => Ok(index),
            MulticastInterface::Address(_) => Err(invalid("for IPv6 an interface is named by its number")),
        }
    }
}

fn invalid(text: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, text)
}
