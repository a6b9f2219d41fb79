//! Opens TCP sockets with options that mio and the standard library cannot set, through socket2.

use std::io;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive};

use super::socket::Socket;
use crate::address::Address;
use crate::error::{Error, Result};

/// Options of the listening socket and of the connections it accepts.
///
/// [`Unbound::server_bind_with`](crate::Unbound::server_bind_with) takes them with the address.
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
    /// Connections that may wait to be accepted: the backlog of listen(2). It limits nothing else. The system has its
    /// own limit (`net.core.somaxconn` on Linux). Default: 4,096. Source: `request_queue_size`, 5 in Python, with which
    /// clients of a burst wait for seconds.
    pub request_queue_size: i32,
    /// `SO_REUSEADDR`: bind although connections of an earlier server are still in TIME_WAIT. Default: true; not used
    /// on Windows, where it would let two servers share the port. Source: `allow_reuse_address`, false in Python.
    pub allow_reuse_address: bool,
    /// `SO_REUSEPORT`: several sockets, of several processes, bound to one port. Default: false; an error where the
    /// system has no such option. Source: `allow_reuse_port`.
    pub allow_reuse_port: bool,
    /// The addresses of a name that may be used. Default: [`AddressFamily::Any`]. Source: `address_family`.
    pub address_family: AddressFamily,
    /// `IPV6_V6ONLY`: an IPv6 listener takes no IPv4 clients. Set to false for a dual-stack listener on `[::]`.
    /// Default: true, on every system.
    pub ipv6_only: bool,
    /// `TCP_NODELAY`: a small write is sent immediately. Default: true. Source: `disable_nagle_algorithm`, false in
    /// Python.
    pub nodelay: bool,
    /// `SO_KEEPALIVE` and its times: detect that a silent peer no longer exists. Default: `None`, off. The kernel sends
    /// no probes while our own bytes wait to be acknowledged; [`user_timeout`](Self::user_timeout) covers that.
    pub keepalive: Option<Keepalive>,
    /// `TCP_KEEPCNT`: the connection is reset after this many unanswered probes in a row; 1 to 127. Default: `None`,
    /// the system's value (9 on Linux). Needs [`keepalive`](Self::keepalive). Source: tcp(7).
    pub keepalive_probes: Option<u32>,
    /// `TCP_USER_TIMEOUT`: the connection is reset when sent bytes stay unacknowledged for this time, or when the peer
    /// keeps its window closed for this time; 1 ms to 24 days. It detects a vanished peer to which the server keeps
    /// sending: the kernel takes small messages for minutes, and they count as activity for
    /// [`Limits::idle_timeout`](crate::Limits::idle_timeout). With [`keepalive`](Self::keepalive) it also replaces the
    /// number of probes. Default: `None`, the system's value (about a quarter of an hour on Linux). Linux and Android;
    /// an error where the system has no such option. Source: tcp(7), RFC 5482.
    pub user_timeout: Option<Duration>,
    /// `SO_RCVBUF` in bytes, at most 2,147,483,647. The system has its own bounds. Default: `None`, the system's value.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes, at most 2,147,483,647. The system has its own bounds. Default: `None`, the system's value.
    pub send_buffer_bytes: Option<usize>,
    /// TLS for all accepted connections: the handshake comes after `verify_request` and before `setup`. Default: `None`,
    /// no TLS. Feature `tls`. Source: `ssl.SSLContext.wrap_socket` of the listening socket.
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::TlsAcceptor>,
    /// The client's address comes from a proxy. Default: `None`, it is the address of the peer. Feature
    /// `proxy-protocol`.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub proxy_protocol: Option<super::proxy_protocol::ProxyProtocol>,
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
            keepalive_probes: None,
            user_timeout: None,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(all(unix, feature = "proxy-protocol"))]
            proxy_protocol: None,
        }
    }
}

impl TcpOptions {
    /// Refuses, by name, values that the system would refuse with EINVAL or take for other values.
    pub(super) fn check(&self) -> Result<()> {
        super::options::check_buffers(self.receive_buffer_bytes, self.send_buffer_bytes)?;
        if let Some(Keepalive { idle, interval }) = self.keepalive {
            for (name, time) in [("keepalive.idle", idle), ("keepalive.interval", interval)] {
                if time.subsec_nanos() != 0 || !KEEPALIVE_SECONDS.contains(&time.as_secs()) {
                    return Err(Error::setting(name, time, "it must be a whole number of seconds from 1 to 32,767"));
                }
            }
        }
        if let Some(probes) = self.keepalive_probes {
            if self.keepalive.is_none() {
                return Err(Error::setting(
                    "keepalive_probes",
                    probes,
                    "no probes are sent, because keepalive is None",
                ));
            }
            if !KEEPALIVE_PROBES.contains(&probes) {
                return Err(Error::setting("keepalive_probes", probes, "it must be a number from 1 to 127"));
            }
        }
        if let Some(time) = self.user_timeout
            && !USER_TIMEOUT_MILLIS.contains(&time.as_millis())
        {
            return Err(Error::setting("user_timeout", time, "it must be a time from 1 to 2,147,483,647 ms"));
        }
        #[cfg(all(unix, feature = "proxy-protocol"))]
        self.proxy_protocol.as_ref().map_or(Ok(()), |protocol| protocol.check())?;
        Ok(())
    }

    /// Opens a socket for `address`, and sets everything that must be set before it is bound.
    pub(super) fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = Socket::stream(Domain::for_address(address), Some(Protocol::TCP))?;
        let options = socket.options();
        if address.is_ipv6() {
            options.set_only_v6(self.ipv6_only)?;
        }
        super::options::set_sharing(&options, self.allow_reuse_address, self.allow_reuse_port)?;
        self.apply(&options)?;
        Ok(socket)
    }

    /// Sets the options of a connection.
    pub(super) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(keepalive) = &self.keepalive {
            let mut times = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
            if let Some(probes) = self.keepalive_probes {
                times = times.with_retries(probes);
            }
            socket.set_tcp_keepalive(&times)?;
        }
        if let Some(time) = self.user_timeout {
            set_user_timeout(socket, time)?;
        }
        super::options::set_buffers(socket, self.receive_buffer_bytes, self.send_buffer_bytes)
    }
}

fn set_user_timeout(socket: &SockRef<'_>, time: Duration) -> io::Result<()> {
    #[cfg(any(target_os = "android", target_os = "linux"))]
    return socket.set_tcp_user_timeout(Some(time));
    #[cfg(not(any(target_os = "android", target_os = "linux")))]
    {
        let _ = (socket, time);
        Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no TCP_USER_TIMEOUT"))
    }
}

/// The limits of Linux: MAX_TCP_KEEPIDLE, MAX_TCP_KEEPINTVL, MAX_TCP_KEEPCNT of its tcp.h, and a positive int.
const KEEPALIVE_SECONDS: RangeInclusive<u64> = 1..=32_767;
const KEEPALIVE_PROBES: RangeInclusive<u32> = 1..=127;
const USER_TIMEOUT_MILLIS: RangeInclusive<u128> = 1..=i32::MAX as u128;

/// The internet addresses that a server may bind.
///
/// ```
/// let mut options = socketserver::TcpOptions::default();
/// options.address_family = socketserver::AddressFamily::Inet6;
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum AddressFamily {
    /// Both: a name is served at all of its addresses.
    #[default]
    Any,
    /// IPv4 only (`AF_INET`).
    Inet,
    /// IPv6 only (`AF_INET6`).
    Inet6,
}

impl AddressFamily {
    /// Returns whether an address may be used.
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
    /// Silence before the first probe: whole seconds, 1 to 32,767.
    pub idle: Duration,
    /// Time between probes: whole seconds, 1 to 32,767.
    pub interval: Duration,
}
