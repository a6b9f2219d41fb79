//! One connection's socket, of whatever family.

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};

use super::scripted::ScriptedStream;
use crate::address::Address;

/// A connected, non-blocking socket: Python's `request`.
///
/// Hooks of [`BaseServer`](crate::BaseServer) are shown it; handlers use [`Request`](crate::Request) instead.
///
/// ```
/// use socketserver::{Address, BaseServer, Stream};
///
/// struct Threads;
/// impl BaseServer for Threads {
///     // Keep the request away from the reactor and serve it with a thread of its own.
///     fn process_request(&mut self, request: Stream, _client_address: &Address) -> Option<Stream> {
///         if let Ok(socket) = request.into_tcp() {
///             std::thread::spawn(move || std::io::copy(&mut &socket, &mut &socket));
///         }
///         None
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    Scripted(ScriptedStream),
}

impl Stream {
    pub(crate) fn scripted(stream: ScriptedStream) -> Self {
        Stream { kind: Kind::Scripted(stream) }
    }

    /// Starts to connect; done when the stream becomes writable and [`connected`](Self::connected) says so.
    pub(crate) fn connect(address: std::net::SocketAddr) -> io::Result<Self> {
        TcpStream::connect(address).map(Stream::from)
    }

    /// Whether an outbound connection is established: `Ok(false)` means not yet.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        let Kind::Tcp(stream) = &self.kind else {
            return Ok(true);
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        // The order and the error kinds are those of mio's documentation of TcpStream::connect.
        match stream.peer_addr() {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            #[cfg(unix)]
            Err(error) if error.raw_os_error() == Some(EINPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Our end of the connection. `None` when the connection is broken already.
    pub fn local_address(&self) -> Option<Address> {
        match &self.kind {
            Kind::Tcp(stream) => stream.local_addr().ok().map(Address::from),
            Kind::Scripted(_) => Some(super::scripted::server_address()),
        }
    }

    /// Ends one or both directions: shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.shutdown(how),
            Kind::Scripted(stream) => {
                stream.shutdown(how);
                Ok(())
            }
        }
    }

    /// Makes the coming close drop what is unsent and send RST.
    pub(crate) fn reset_on_close(&self) {
        match &self.kind {
            // An error means that the connection is gone already, and so would be what the option is for.
            Kind::Tcp(stream) => drop(socket2::SockRef::from(stream).set_linger(Some(std::time::Duration::ZERO))),
            Kind::Scripted(stream) => stream.reset(),
        }
    }

    /// Hands the socket over as the standard library's blocking type, for code that is not on the reactor.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a stream that is not TCP; otherwise what fcntl(2) says.
    pub fn into_tcp(self) -> io::Result<std::net::TcpStream> {
        match self.kind {
            #[cfg(unix)]
            Kind::Tcp(stream) => {
                let stream = std::net::TcpStream::from(std::os::fd::OwnedFd::from(stream));
                stream.set_nonblocking(false)?;
                Ok(stream)
            }
            #[cfg(windows)]
            Kind::Tcp(stream) => {
                use std::os::windows::io::OwnedSocket;
                let stream = std::net::TcpStream::from(OwnedSocket::from(stream));
                stream.set_nonblocking(false)?;
                Ok(stream)
            }
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// The descriptor, for socket options. `None` if there is none behind it (a scripted stream in a test).
    #[cfg(unix)]
    pub fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        match &self.kind {
            Kind::Tcp(stream) => Some(stream.as_fd()),
            _ => None,
        }
    }

    pub(super) fn register(&mut self, registry: &Registry, token: Token, interest: Interest) -> io::Result<()> {
        match &mut self.kind {
            Kind::Tcp(stream) => registry.register(stream, token, interest),
            _ => Ok(()),
        }
    }

    pub(super) fn register_scripted(&mut self, token: Token) {
        if let Kind::Scripted(stream) = &mut self.kind {
            stream.register(token);
        }
    }

    pub(super) fn deregister(&mut self, registry: &Registry) {
        if let Kind::Tcp(stream) = &mut self.kind {
            let _ = registry.deregister(stream); // It is closed next, whatever is said here.
        }
    }
}

/// connect(2) is under way. The same on every BSD; Linux and its like have their own number.
#[cfg(all(unix, any(target_os = "linux", target_os = "android")))]
const EINPROGRESS: i32 = 115;
#[cfg(all(unix, not(any(target_os = "linux", target_os = "android"))))]
const EINPROGRESS: i32 = 36;

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Stream { kind: Kind::Tcp(stream) }
    }
}

impl Read for Stream {
    #[inline]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.read(buffer),
            Kind::Scripted(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write(bytes),
            Kind::Scripted(stream) => stream.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write_vectored(slices),
            Kind::Scripted(stream) => stream.write_vectored(slices),
        }
    }

    /// Does nothing: a socket has no buffer of ours.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
