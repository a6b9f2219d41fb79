//! Opening TCP sockets with the options that mio and the standard library have no call for, through socket2.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, TcpKeepalive, Type};

/// Options of the listening socket and of the connections it accepts.
///
/// Set the fields of [`TcpServer::options`](crate::TcpServer::options) before the server is bound.
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
    pub(crate) fn open(&self, address: SocketAddr) -> io::Result<Socket> {
        let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(self.ipv6_only)?;
        }
        if cfg!(not(windows)) {
            socket.set_reuse_address(self.allow_reuse_address)?;
        }
        if self.allow_reuse_port {
            #[cfg(all(unix, not(any(target_os = "solaris", target_os = "illumos"))))]
            socket.set_reuse_port(true)?;
            #[cfg(not(all(unix, not(any(target_os = "solaris", target_os = "illumos")))))]
            return Err(io::Error::new(io::ErrorKind::Unsupported, "this system has no SO_REUSEPORT"));
        }
        self.apply(&SockRef::from(&socket))?;
        Ok(Socket { socket })
    }

    /// Sets what holds for a connection.
    pub(crate) fn apply(&self, socket: &SockRef<'_>) -> io::Result<()> {
        if self.nodelay {
            socket.set_tcp_nodelay(true)?;
        }
        if let Some(keepalive) = &self.keepalive {
            let times = TcpKeepalive::new().with_time(keepalive.idle).with_interval(keepalive.interval);
            socket.set_tcp_keepalive(&times)?;
        }
        if let Some(bytes) = self.receive_buffer_bytes {
            socket.set_recv_buffer_size(bytes)?;
        }
        if let Some(bytes) = self.send_buffer_bytes {
            socket.set_send_buffer_size(bytes)?;
        }
        Ok(())
    }

    /// Whether addresses of this kind may be used.
    pub(crate) fn admits(&self, address: &SocketAddr) -> bool {
        match self.address_family {
            AddressFamily::Any => true,
            AddressFamily::Inet => address.is_ipv4(),
            AddressFamily::Inet6 => address.is_ipv6(),
        }
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

/// A socket that is not listening yet: what [`server_bind`](crate::BaseServer::server_bind) and
/// [`server_activate`](crate::BaseServer::server_activate) are given, to set further options on.
///
/// ```
/// use socketserver::{BaseServer, Socket};
/// use std::{io, net::SocketAddr};
///
/// struct Tuned;
/// impl BaseServer for Tuned {
///     fn server_bind(&mut self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
///         // Any option: socket2::SockRef::from(socket).set_tos_v4(0x10)?;
///         socket.bind(address)
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Socket {
    socket: socket2::Socket,
}

impl Socket {
    /// Binds the socket: bind(2).
    pub fn bind(&self, address: SocketAddr) -> io::Result<()> {
        self.socket.bind(&address.into())
    }

    /// Makes it listen, with room for `request_queue_size` connections that wait: listen(2).
    pub fn listen(&self, request_queue_size: i32) -> io::Result<()> {
        self.socket.listen(request_queue_size)
    }

    /// The address it is bound to, with the real port.
    pub(crate) fn local_address(&self) -> io::Result<SocketAddr> {
        let address = self.socket.local_addr()?;
        address.as_socket().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }

    pub(crate) fn into_listener(self) -> std::net::TcpListener {
        self.socket.into()
    }
}

#[cfg(unix)]
impl std::os::fd::AsFd for Socket {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(windows)]
impl std::os::windows::io::AsSocket for Socket {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.socket.as_socket()
    }
}
