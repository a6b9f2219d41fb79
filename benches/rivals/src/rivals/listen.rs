//! The sockets that rivals start from, with the same options for all that can be given one.

use socket2::{Domain, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::thread;
use std::time::Duration;

/// Clients that may wait to be accepted.
const BACKLOG: i32 = 4_096;

/// The wait after an accept that failed, most likely because no descriptor was left. Without it the next attempt would
/// fail as well, and keep a CPU busy.
pub(crate) const PAUSE: Duration = Duration::from_millis(10);

/// It does not block. On Linux an accepted socket inherits `TCP_NODELAY` from its listener.
pub(crate) fn streams(at: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(at), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_tcp_nodelay(true)?;
    socket.bind(&at.into())?;
    socket.listen(BACKLOG)?;
    socket.set_nonblocking(true)?;
    Ok(socket.into())
}

/// It does not block, and has no `SO_REUSEADDR`: for UDP that would let another process take the datagrams.
pub(crate) fn datagrams(at: SocketAddr) -> io::Result<UdpSocket> {
    let socket = UdpSocket::bind(at)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Called after accept(2) has failed. A client that has gone meanwhile is no reason to wait; anything else is.
pub(crate) fn wait_after(error: &io::Error) {
    if !matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::Interrupted) {
        thread::sleep(PAUSE);
    }
}
