//! Options of Unix sockets, and connecting to one.

use std::io;
use std::os::unix::net::SocketAddr;

use socket2::Domain;

use super::socket::Socket;
use crate::address::UnixAddress;
use crate::error::{Error, Result};

/// Options of a Unix server's sockets, of either kind.
///
/// [`Unbound::server_bind_with`](crate::Unbound::server_bind_with) takes them with the address.
///
/// ```
/// use socketserver::UnixOptions;
///
/// let mut options = UnixOptions::default();
/// options.mode = Some(0o600); // this user only
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct UnixOptions {
    /// Connections that may wait to be accepted: the backlog of listen(2). Default: 4,096. Another value is an error
    /// for datagrams, which are not accepted. Source: `request_queue_size`, 5 in Python.
    pub request_queue_size: i32,
    /// Permission bits of the socket's file, regardless of the umask. A process that may write to the file can connect.
    /// The file never has more permissions. It is an error for an abstract name, which has no permissions. It is also
    /// an error if bits that the umask removes cannot be restored safely: if other users may rename the file, on musl
    /// or without `/proc`. Default: `None`, 0777 without the bits of the umask.
    pub mode: Option<u32>,
    /// With a socket that was bound elsewhere ([`adopt_with`](crate::Unbound::adopt_with)): the server also takes over the
    /// socket's file, and removes it when it closes. For the successor of a process that has
    /// [handed the socket over](crate::Reactor::hand_over). It is an error if the socket has no file. The server takes
    /// the file that is at the path. It cannot know whether another process has replaced this file since the socket was
    /// bound, so it would then remove the file of the other one. After a [restart](crate::Reactor::restart) it knows. This
    /// has no effect on a path that the server binds, whose file it always removes. Default: false, the file stays.
    pub adopt_path: bool,
    /// `SO_RCVBUF` in bytes, at most 2,147,483,647. The system has its own bounds. Default: `None`, the system's value.
    pub receive_buffer_bytes: Option<usize>,
    /// `SO_SNDBUF` in bytes, at most 2,147,483,647. The system has its own bounds. It also limits the length of a
    /// datagram, and the unread datagrams of a datagram server to all its peers together. One peer that has connected
    /// its socket to the server and does not read can fill it alone; the others then wait until it reads or closes.
    /// Default: `None`, the system's value.
    pub send_buffer_bytes: Option<usize>,
    /// As [`TcpOptions::tls`](crate::TcpOptions::tls). An error for datagrams.
    #[cfg(feature = "tls")]
    pub tls: Option<super::tls::TlsAcceptor>,
    /// As [`TcpOptions::proxy_protocol`](crate::TcpOptions::proxy_protocol). An error for datagrams.
    #[cfg(feature = "proxy-protocol")]
    pub proxy_protocol: Option<super::proxy_protocol::ProxyProtocol>,
}

const REQUEST_QUEUE_SIZE: i32 = 4_096;

impl Default for UnixOptions {
    fn default() -> Self {
        UnixOptions {
            request_queue_size: REQUEST_QUEUE_SIZE,
            mode: None,
            adopt_path: false,
            receive_buffer_bytes: None,
            send_buffer_bytes: None,
            #[cfg(feature = "tls")]
            tls: None,
            #[cfg(feature = "proxy-protocol")]
            proxy_protocol: None,
        }
    }
}

impl UnixOptions {
    pub(super) fn check(&self) -> Result<()> {
        #[cfg(feature = "proxy-protocol")]
        self.proxy_protocol.as_ref().map_or(Ok(()), |protocol| protocol.check())?;
        super::options::check_buffers(self.receive_buffer_bytes, self.send_buffer_bytes)
    }

    pub(super) fn check_datagram(&self) -> Result<()> {
        if self.request_queue_size != REQUEST_QUEUE_SIZE {
            return Err(Error::setting("request_queue_size", self.request_queue_size, "datagrams are not accepted"));
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = &self.tls {
            return Err(Error::setting("tls", tls, "datagrams are not a stream"));
        }
        #[cfg(feature = "proxy-protocol")]
        if let Some(protocol) = &self.proxy_protocol {
            return Err(Error::setting("proxy_protocol", protocol, "datagrams are not a stream"));
        }
        self.check()
    }

    pub(super) fn open_stream(&self) -> io::Result<Socket> {
        self.prepare(Socket::stream(Domain::UNIX, None)?)
    }

    pub(super) fn open_datagram(&self) -> io::Result<Socket> {
        self.prepare(Socket::datagram(Domain::UNIX, None)?)
    }

    pub(super) fn adopt(&self, socket: Socket) -> io::Result<Socket> {
        let why = match socket.local_address()?.as_unix() {
            None => "it is no Unix socket",
            Some(_) if self.mode.is_some() => "`mode` is for files that the server makes",
            Some(_) => {
                let socket = self.prepare(socket)?;
                if self.adopt_path {
                    socket.adopt_path()?;
                }
                return Ok(socket);
            }
        };
        Err(io::Error::new(io::ErrorKind::InvalidInput, why))
    }

    fn prepare(&self, socket: Socket) -> io::Result<Socket> {
        super::options::set_buffers(&socket.options(), self.receive_buffer_bytes, self.send_buffer_bytes)?;
        Ok(socket.with_mode(self.mode))
    }
}

/// Connects a stream immediately or not at all. A full backlog is [`io::ErrorKind::WouldBlock`], and no event reports
/// that there is room in it again.
pub(super) fn connect(address: &UnixAddress) -> io::Result<mio::net::UnixStream> {
    mio::net::UnixStream::connect_addr(&std_address(address)?)
}

fn std_address(address: &UnixAddress) -> io::Result<SocketAddr> {
    if let Some(path) = address.as_path() {
        return SocketAddr::from_pathname(path);
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    if let Some(name) = address.as_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    Err(io::Error::new(io::ErrorKind::InvalidInput, "the address is no name of a socket"))
}
