//! Opening TCP sockets with the options that mio and the standard library have no call for, through socket2.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive};

use super::Socket;
use crate::address::Address;

/// Options of the listening socket and of the connections it accepts.
///
/// Set the fields of [`Server::options`](crate::Server::options) before the server is bound.
///
/// ```
/// use socketserver::TcpOptions;
///
/// let mut options = TcpOptions::default();
/// options.allow_reuse_port = true;
/// options.request_queue_size = 128;
/// assert!(options.allow_reuse_address && options.nodelay && options.ipv6_only);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct TcpOptions {
    /// Connections that may wait to be accepted: the backlog of listen(2). It caps nothing else. The system has a
    /// limit of its own (`net.core.somaxconn` on Linux). Default: 4,096. Source: `request_queue_size`, 5 in Python,
    /// which makes a burst of clients wait for seconds.
    pub request_queue_size: i32,
    /// `SO_REUSEADDR`: bind although connections of an earlier server linger in TIME_WAIT. Default: true; not used
    /// on Windows, where it would let two servers share the port. Source: `allow_reuse_address`, false in Python.
    pub allow_reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets, of several processes, bound to one port. Default: false; an error where the
    /// system has no such option. Source: `allow_reuse_port`.
    pub allow_reuse_port: bool,
    /// Which addresses of a name may be used. Default: [`AddressFamily::Any`]. Source: `address_family`.
    pub address_family: AddressFamily,
    /// `IPV6_V6ONLY`: an IPv6 listener takes no IPv4 clients. Set to false for a dual-stack listener on `[::]`.
    /// Default: true, on every system.
    pub ipv6_only: bool,
    /// `TCP_NODELAY`: a small write leaves at once. Default: true. Source: `disable_nagle_algorithm`, false in
    /// Python.
    pub nodelay: bool,
    /// `SO_KEEPALIVE` and its times: notice a peer that vanished. Default: `None`, off.
    pub keepalive: Option<Keepalive>,
    /// `SO_RCVBUF` in bytes. Default: `None`, the system's.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes. Default: `None`, the system's.
    pub send_buffer_bytes: Option<usize>,
}

impl Default for TcpOptions {
    fn default() -> Self {
        TcpOptions {
            request_queue_size: 4_096,
            allow_reuse_address: true,
            allow_reuse_port: false,
            address_family: AddressFamily::Any,
            ipv6_only: true,
            nodelay: true,
            keepalive: None,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
        }
    }
}

impl TcpOptions {
    /// Opens a socket for `address` with everything set that must be set before it is bound.
    pub(super) fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::stream(Domain::for_address(address), Some(Protocol::TCP))?;
        let options = socket.options();
        if address.is_ipv6() {
            options.set_only_v6(self.ipv6_only)?;
        }
        super::set_sharing(&options, self.allow_reuse_address, self.allow_reuse_port)?;
        self.apply(&options)?;
        Ok(socket)
    }

    /// Sets what holds for a connection.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(keepalive) = &self.keepalive {
            let times = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
            socket.set_tcp_keepalive(&times)?;
        }
        super::set_buffers(socket, self.receive_buffer_bytes, self.send_buffer_bytes)
    }
}

/// Which internet addresses a server may bind.
///
/// ```
/// let mut options = socketserver::TcpOptions::default();
/// options.address_family = socketserver::AddressFamily::Inet6;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressFamily {
    /// Either; the first address of a name that can be bound is taken.
    #[default]
    Any,
    /// IPv4 only (`AF_INET`).
    Inet,
    /// IPv6 only (`AF_INET6`).
    Inet6,
}

impl AddressFamily {
    /// Whether an address may be used.
    pub(super) fn admits(self, address: &Address) -> bool {
        match self {
            AddressFamily::Any => true,
            AddressFamily::Inet => address.as_inet().is_some_and(|address| address.is_ipv4()),
            AddressFamily::Inet6 => address.as_inet().is_some_and(|address| address.is_ipv6()),
        }
    }
}

/// When the kernel probes a silent peer: tcp(7), `TCP_KEEPIDLE` and `TCP_KEEPINTVL`.
///
/// ```
/// use std::time::Duration;
/// use socketserver::{Keepalive, TcpOptions};
///
/// let mut options = TcpOptions::default();
/// options.keepalive = Some(Keepalive { idle: Duration::from_secs(60), interval: Duration::from_secs(10) });
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Silence before the first probe. Whole seconds.
    pub idle: Duration,
    /// Time between probes. Whole seconds.
    pub interval: Duration,
}
