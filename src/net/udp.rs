//! Options of UDP sockets: broadcast and multicast among them.

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
/// options.allow_reuse_address = true; // every listener on this machine gets a copy
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UdpOptions {
    /// `SO_REUSEADDR`. Default: false: of two UDP sockets that share a port, one gets the datagrams of both. Wanted for
    /// multicast, where each gets a copy. Source: `allow_reuse_address`.
    pub allow_reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets, of several processes, bound to one port; the system spreads the peers among
    /// them. Default: false; an error where the system has no such option. Source: `allow_reuse_port`.
    pub allow_reuse_port: bool,
    /// Which addresses of a name may be used. Default: [`AddressFamily::Any`]. Source: `address_family`.
    pub address_family: AddressFamily,
    /// `IPV6_V6ONLY`: an IPv6 socket takes no IPv4 datagrams. Default: true, on every system.
    pub ipv6_only: bool,
    /// `SO_BROADCAST`: datagrams may be sent to broadcast addresses. Default: false.
    pub broadcast: bool,
    /// Groups that are joined when the server is bound. Default: none. Others can be joined and left later:
    /// [`Others::join_multicast`](crate::Others::join_multicast).
    pub multicast_groups: Vec<MulticastGroup>,
    /// `IP_MULTICAST_TTL`, `IPV6_MULTICAST_HOPS`: how many routers a multicast datagram passes, 255 at most.
    /// Default: 1, none.
    pub multicast_ttl: u32,
    /// `IP_MULTICAST_LOOP`, `IPV6_MULTICAST_LOOP`: what is sent to a group comes back to members on this machine. The
    /// server itself does not serve its own ([`Stats::datagrams_reflected`](crate::Stats)), but what other members say,
    /// also from the same address and port. Default: true.
    pub multicast_loop: bool,
    /// Where multicast datagrams leave. Default: [`MulticastInterface::Any`], as the routing table says.
    pub multicast_interface: MulticastInterface,
    /// `SO_RCVBUF` in bytes: what may wait while the loop is busy; at most 2,147,483,647. The system has bounds of its own.
    /// Default: `None`, the system's.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes, at most 2,147,483,647. The system has bounds of its own. Default: `None`, the system's.
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
    /// Refuses by name what the system would refuse with EINVAL, or take for another value.
    pub(super) fn check(&self) -> Result<()> {
        if self.multicast_ttl > 255 {
            return Err(Error::setting("multicast_ttl", self.multicast_ttl, "it must be 255 at most"));
        }
        if let Some(group) = self.multicast_groups.iter().find(|group| !group.address.is_multicast()) {
            return Err(Error::setting("multicast_groups", group.address, "that is no address of a group"));
        }
        super::options::check_buffers(self.receive_buffer_bytes, self.send_buffer_bytes)
    }

    /// Opens a socket for `address` with everything set that must be set before it is bound.
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

    /// Sets what can be set on a bound socket as well.
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
        // Otherwise a wildcard socket hears the groups that others on this machine have joined. What has no such option
        // does not do that.
        #[cfg(target_os = "linux")]
        let _ = if is_ipv6 { options.set_multicast_all_v6(false) } else { options.set_multicast_all_v4(false) };
        for group in self.multicast_groups.iter().filter(|group| group.address.is_ipv6() == is_ipv6) {
            group.join(options)?;
        }
        Ok(())
    }
}

/// A multicast group, and the network it is listened for on.
///
/// Source: ip(7), `IP_ADD_MEMBERSHIP`; ipv6(7), `IPV6_ADD_MEMBERSHIP`. Python's module has nothing for it; there one
/// calls `self.socket.setsockopt`.
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
    /// Where members are looked for. Default: [`MulticastInterface::Any`].
    pub interface: MulticastInterface,
}

/// A network interface as multicast options name it: IPv4 by an address it has, IPv6 by its number.
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
    /// Whichever the system takes.
    #[default]
    Any,
    /// The one that has this address. For IPv4 groups.
    Address(Ipv4Addr),
    /// The one of this number (`if_nametoindex`). For IPv6 groups.
    Index(u32),
}

impl MulticastGroup {
    /// The group of this address, on whichever interface the system takes.
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
