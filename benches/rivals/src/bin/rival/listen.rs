//! The sockets that rivals start from, with the same options for all that can be handed one.

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// After an accept that failed, most likely for want of descriptors. Trying again at once would keep a CPU busy.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// Blocking. On Linux an accepted socket inherits `TCP_NODELAY` from its listener.
pub(crate) fn tcp(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Blocking.
pub(crate) fn unix(at: &Path) -> io::Result<UnixListener> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(at)?)?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// Blocking. Without `SO_REUSEADDR`, which for UDP would let another process take the datagrams.
pub(crate) fn udp(at: SocketAddr) -> io::Result<UdpSocket> {
    UdpSocket::bind(at)
}

/// A listener of either kind, for rivals that are written once for both.
pub(crate) trait Accept: AsFd + Send + Sync + 'static {
    type Stream: Read + Write + AsFd + Send + 'static;

    fn accept(&self) -> io::Result<Self::Stream>;
}

impl Accept for TcpListener {
    type Stream = TcpStream;

    fn accept(&self) -> io::Result<TcpStream> {
        TcpListener::accept(self).map(|(stream, _)| stream)
    }
}

impl Accept for UnixListener {
    type Stream = UnixStream;

    fn accept(&self) -> io::Result<UnixStream> {
        UnixListener::accept(self).map(|(stream, _)| stream)
    }
}

/// What to do about an error of accept: nothing if the client went away meanwhile, otherwise wait a little. A server
/// that gave up would be no server.
pub(crate) fn wait_after(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        thread::sleep(PAUSE);
    }
}
