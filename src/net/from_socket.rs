//! A connection that was accepted elsewhere.

use std::io;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use socket2::Type;

use super::socket::address;
use super::stream::Stream;
use crate::address::Address;

impl Stream {
    /// Makes a stream of a connected socket that came from elsewhere: one that another thread has accepted, that another
    /// process has passed, or that is the standard input of this program. Returns it with the address of its peer, for
    /// [`Reactor::admit`](crate::Reactor::admit). With the feature `tls`, `TlsAcceptor::wrap_socket` puts it under TLS.
    ///
    /// The socket becomes non-blocking, also for its duplicates, and close-on-exec. Its other options stay as they are.
    ///
    /// # Errors
    /// [`InvalidInput`](io::ErrorKind::InvalidInput) if it is no stream socket of TCP or Unix;
    /// [`NotConnected`](io::ErrorKind::NotConnected) if it is not connected, or not any more; otherwise errors of the
    /// system. The socket is closed then.
    ///
    /// ```
    /// use socketserver::Stream;
    /// use std::net::{TcpListener, TcpStream};
    ///
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let (_stream, client_address) = Stream::from_socket(listener.accept()?.0)?;
    /// assert_eq!(client_address, client.local_addr()?.into());
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn from_socket(socket: impl Into<socket2::Socket>) -> io::Result<(Stream, Address)> {
        let socket = socket.into();
        let refused = |why| io::Error::new(io::ErrorKind::InvalidInput, why);
        if socket.r#type()? != Type::STREAM {
            return Err(refused("it is no stream socket"));
        }
        let local = socket.local_addr()?;
        // A peer that has gone leaves no address on some systems.
        let from = address(&socket.peer_addr()?)?;
        socket.set_nonblocking(true)?;
        #[cfg(unix)]
        socket.set_cloexec(true)?;
        #[cfg(unix)]
        if local.is_unix() {
            return Ok((UnixStream::from_std(socket.into()).into(), from));
        }
        if local.as_socket().is_none() {
            return Err(refused("it is neither an internet socket nor a Unix socket"));
        }
        Ok((TcpStream::from_std(socket.into()).into(), from))
    }
}
