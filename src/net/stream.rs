//! The socket of one connection, of any family.

mod files;

use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;

use mio::net::TcpStream;
#[cfg(unix)]
use mio::net::UnixStream;
use mio::{Interest, Registry, Token};

#[cfg(feature = "tls")]
use super::layered::Layered;
use super::packet::Route;
use super::scripted::ScriptedStream;
#[cfg(feature = "tls")]
use super::tls::{Session, Start};
use super::watched::Watched;
use crate::address::Address;

/// A connected, non-blocking socket: Python's `request` of a stream server.
///
/// Hooks of [`BaseServer`](crate::BaseServer) get it as an argument. Handlers use [`Request`](crate::Request) instead.
///
/// ```
/// use socketserver::{Address, BaseServer, Listener, Stream};
/// use std::io;
///
/// struct Tuned;
/// impl BaseServer for Tuned {
///     fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
///         let (stream, client_address) = listener.accept()?;
///         // An option for this connection: socket2::SockRef::from(&stream.as_fd().unwrap()).set_tos_v4(0x10)?;
///         Ok((stream, client_address))
///     }
/// }
/// ```
#[derive(Debug)]
pub struct Stream {
    kind: Kind,
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub(super) header: Header,
}

#[derive(Debug)]
enum Kind {
    Tcp(TcpStream),
    #[cfg(unix)]
    Unix(UnixStream),
    /// A session of a datagram server, whose one socket is elsewhere. Boxed, because it would make every stream half as
    /// large again.
    Datagram(Box<Route>),
    /// An outbound connection that must be tried again. There is no socket yet.
    Pending,
    Scripted(Box<dyn ScriptedStream>),
    /// A socket under TLS. It has ways of its own to read.
    #[cfg(feature = "tls")]
    Secured(Box<Secured>),
}

/// A socket under TLS.
#[cfg(feature = "tls")]
pub(crate) type Secured = Layered<Stream, Session>;
/// TLS without its socket.
#[cfg(feature = "tls")]
pub(crate) type Detached = Layered<(), Session>;

impl Stream {
    /// Puts a layer on the socket, after `bare` bytes of output that leave without it.
    #[cfg(feature = "tls")]
    pub(crate) fn secure(&mut self, start: Start, bare: usize, now: u64) {
        let socket = std::mem::replace(&mut self.kind, Kind::Pending).into();
        self.kind = Kind::Secured(Box::new(Layered::new(socket, start, bare, now)));
    }

    #[cfg(feature = "tls")]
    pub(crate) fn secured(&self) -> Option<&Secured> {
        match &self.kind {
            Kind::Secured(secured) => Some(secured),
            _ => None,
        }
    }

    #[cfg(feature = "tls")]
    pub(crate) fn secured_mut(&mut self) -> Option<&mut Secured> {
        match &mut self.kind {
            Kind::Secured(secured) => Some(secured),
            _ => None,
        }
    }

    /// Takes the layer off.
    #[cfg(feature = "tls")]
    pub(crate) fn bare(mut self) -> Self {
        self.kind = match self.kind {
            Kind::Secured(secured) => secured.socket.kind,
            kind => kind,
        };
        self
    }

    /// Takes the layer off, to put it on another socket.
    #[cfg(feature = "tls")]
    pub(crate) fn strip(self) -> (Self, Option<Detached>) {
        match self.kind {
            Kind::Secured(secured) => {
                let (socket, detached) = secured.move_to(());
                (socket, Some(detached))
            }
            kind => (kind.into(), None),
        }
    }

    /// The socket, under the layer if there is one.
    fn socket(&self) -> &Kind {
        match &self.kind {
            #[cfg(feature = "tls")]
            Kind::Secured(secured) => secured.socket.socket(),
            kind => kind,
        }
    }

    fn socket_mut(&mut self) -> &mut Kind {
        match &mut self.kind {
            #[cfg(feature = "tls")]
            Kind::Secured(secured) => secured.socket.socket_mut(),
            kind => kind,
        }
    }

    /// Puts the socket of an outbound connection in the place of another, below a layer.
    pub(crate) fn replace_socket(&mut self, stream: Stream) {
        *self.socket_mut() = stream.kind;
    }

    pub(crate) fn datagram(route: Route) -> Self {
        Kind::Datagram(Box::new(route)).into()
    }

    /// A placeholder for an outbound connection.
    pub(crate) fn pending() -> Self {
        Kind::Pending.into()
    }

    /// The route to the peer, if this is a session of a datagram server.
    pub(crate) fn route(&self) -> Option<Route> {
        match &self.kind {
            Kind::Datagram(route) => Some(**route),
            _ => None,
        }
    }

    #[inline]
    pub(crate) fn is_datagram(&self) -> bool {
        matches!(self.kind, Kind::Datagram(_))
    }

    /// The peer of a session has written to this address of ours, if the system reports it, and is answered from it.
    pub(crate) fn set_local(&mut self, local: Option<std::net::IpAddr>) {
        if let (Kind::Datagram(route), Some(_)) = (&mut self.kind, local) {
            route.local = local;
        }
    }

    /// The route of another single datagram.
    pub(crate) fn set_route(&mut self, new: Route) {
        if let Kind::Datagram(route) = &mut self.kind {
            **route = new;
        }
    }

    /// Starts to connect. This is done when the stream becomes writable and [`connected`](Self::connected) returns
    /// true.
    pub(crate) fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Inet(address) => TcpStream::connect(*address).map(Stream::from),
            // A Unix socket connects immediately or not at all. EAGAIN means that the backlog is full. No event reports
            // that there is room in it again, so a timer retries.
            #[cfg(unix)]
            Address::Unix(address) => super::unix::connect(address).map(Stream::from),
        }
    }

    /// Returns whether an outbound connection is established. `Ok(false)` means not yet.
    pub(crate) fn connected(&self) -> io::Result<bool> {
        let stream = match self.socket() {
            Kind::Tcp(stream) => stream,
            Kind::Scripted(stream) => return stream.connected(),
            Kind::Pending => return Ok(false),
            _ => return Ok(true),
        };
        if let Some(error) = stream.take_error()? {
            return Err(error);
        }
        // The order and the error kinds are those of mio's documentation of TcpStream::connect.
        match stream.peer_addr() {
            // If nothing listens on the target port, the system may have chosen that port for this socket. Then it is
            // connected to itself.
            Ok(peer) if stream.local_addr().is_ok_and(|local| local == peer) => {
                Err(io::ErrorKind::ConnectionRefused.into())
            }
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotConnected => Ok(false),
            #[cfg(unix)]
            Err(error) if error.raw_os_error() == Some(libc::EINPROGRESS) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns whether a read may return less than there is room for although more waits. Then only `WouldBlock` means
    /// that the socket is drained. Unix ends a read of a Unix stream at a message that carries descriptors or
    /// credentials. Other systems guarantee nothing for any stream.
    pub(crate) fn cuts_reads_short(&self) -> bool {
        match self.socket() {
            #[cfg(unix)]
            Kind::Unix(_) => true,
            Kind::Scripted(stream) => stream.cuts_reads_short(),
            Kind::Pending => true, // This is not known yet.
            _ => cfg!(not(unix)),
        }
    }

    /// Returns the address of our end. `None` if the connection is broken already.
    pub fn local_address(&self) -> Option<Address> {
        match self.socket() {
            Kind::Tcp(stream) => stream.local_addr().ok().map(Address::from),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.local_addr().ok().map(Address::from),
            Kind::Datagram(_) | Kind::Pending => None,
            Kind::Scripted(stream) => Some(stream.local_address()),
            #[cfg(feature = "tls")]
            Kind::Secured(_) => None,
        }
    }

    /// Returns the process at the other end of a Unix socket. Feature `credentials`.
    ///
    /// # Errors
    /// [`io::ErrorKind::Unsupported`] for a stream that is not a Unix socket, and if the system does not report it;
    /// otherwise errors of getsockopt(2).
    #[cfg(all(feature = "credentials", unix))]
    pub fn peer_credentials(&self) -> io::Result<super::Credentials> {
        use std::os::fd::AsFd as _;
        match self.socket() {
            Kind::Unix(stream) => super::credentials::peer_credentials(stream.as_fd()),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ends one or both directions: shutdown(2).
    ///
    /// # Errors
    /// Errors of shutdown(2).
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match self.socket() {
            Kind::Tcp(stream) => stream.shutdown(how),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.shutdown(how),
            Kind::Scripted(stream) => {
                stream.shutdown(how);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// Makes the next close drop unsent output and send RST. A Unix socket has no RST: its peer reads what was sent,
    /// and then the end, or ECONNRESET if some of its own bytes were not read.
    pub(crate) fn reset_on_close(&self) {
        match self.socket() {
            Kind::Tcp(stream) => super::options::reset_on_close(stream),
            Kind::Scripted(stream) => stream.reset_on_close(),
            _ => {}
        }
    }

    /// Takes the header of a proxy, for a request that leaves the reactor.
    pub(crate) fn take_header(&mut self) -> Header {
        #[cfg(all(unix, feature = "proxy-protocol"))]
        let header = self.header.take();
        #[cfg(not(all(unix, feature = "proxy-protocol")))]
        let header = None;
        header
    }

    /// Returns the socket for code that is not on the reactor. It is still in non-blocking mode. `None` if there is no
    /// socket behind it.
    pub(crate) fn into_std(self) -> Option<StdStream> {
        match self.kind {
            #[cfg(unix)]
            Kind::Tcp(stream) => Some(StdStream::Tcp(std::os::fd::OwnedFd::from(stream).into())),
            #[cfg(windows)]
            Kind::Tcp(stream) => Some(StdStream::Tcp(std::os::windows::io::OwnedSocket::from(stream).into())),
            #[cfg(unix)]
            Kind::Unix(stream) => Some(StdStream::Unix(std::os::fd::OwnedFd::from(stream).into())),
            _ => None,
        }
    }

    /// Returns the descriptor, for socket options. `None` if there is none behind it (a scripted stream in a test).
    #[cfg(unix)]
    pub fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        match self.socket() {
            Kind::Tcp(stream) => Some(stream.as_fd()),
            Kind::Unix(stream) => Some(stream.as_fd()),
            _ => None,
        }
    }
}

impl Watched for Stream {
    /// For both directions.
    fn register(&mut self, registry: Option<&Registry>, token: Token) -> io::Result<()> {
        match (self.socket_mut(), registry) {
            (Kind::Scripted(stream), _) => stream.register(token),
            (Kind::Tcp(stream), Some(registry)) => registry.register(stream, token, INTEREST),
            #[cfg(unix)]
            (Kind::Unix(stream), Some(registry)) => registry.register(stream, token, INTEREST),
            _ => Ok(()),
        }
    }

    fn deregister(&mut self, registry: &Registry) {
        let _ = match self.socket_mut() {
            Kind::Tcp(stream) => registry.deregister(stream),
            #[cfg(unix)]
            Kind::Unix(stream) => registry.deregister(stream),
            _ => Ok(()),
        };
    }
}

/// Includes out-of-band bytes if the platform reports them, because they cut a read short.
#[cfg(any(target_os = "linux", target_os = "android"))]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE).add(Interest::PRIORITY);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const INTEREST: Interest = Interest::READABLE.add(Interest::WRITABLE);

/// The header with which a proxy has begun a connection.
#[cfg(all(unix, feature = "proxy-protocol"))]
pub(crate) type Header = Option<Box<super::proxy_protocol::ProxyHeader>>;
#[cfg(not(all(unix, feature = "proxy-protocol")))]
pub(crate) type Header = Option<std::convert::Infallible>;

/// The socket of a request that leaves the reactor.
#[derive(Debug)]
pub(crate) enum StdStream {
    Tcp(std::net::TcpStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
}

impl From<Kind> for Stream {
    fn from(kind: Kind) -> Self {
        Stream {
            kind,
            #[cfg(all(unix, feature = "proxy-protocol"))]
            header: None,
        }
    }
}

impl From<Box<dyn ScriptedStream>> for Stream {
    fn from(stream: Box<dyn ScriptedStream>) -> Self {
        Kind::Scripted(stream).into()
    }
}

impl From<TcpStream> for Stream {
    fn from(stream: TcpStream) -> Self {
        Kind::Tcp(stream).into()
    }
}

#[cfg(unix)]
impl From<UnixStream> for Stream {
    fn from(stream: UnixStream) -> Self {
        Kind::Unix(stream).into()
    }
}

impl Kind {
    #[inline(never)]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Kind::Tcp(stream) => stream.read(buffer),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.read(buffer),
            Kind::Datagram(_) | Kind::Pending => Err(io::ErrorKind::WouldBlock.into()),
            Kind::Scripted(stream) => stream.read(buffer),
            // A read of plaintext needs the whole buffer.
            #[cfg(feature = "tls")]
            Kind::Secured(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    #[inline(never)]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Kind::Tcp(stream) => stream.write(bytes),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.write(bytes),
            Kind::Datagram(_) | Kind::Pending => Err(io::ErrorKind::Unsupported.into()),
            Kind::Scripted(stream) => stream.write(&[IoSlice::new(bytes)]),
            #[cfg(feature = "tls")]
            Kind::Secured(secured) => secured.write(&[IoSlice::new(bytes)]),
        }
    }
}

/// Of the kinds one is served without a call in between: the others have the general way.
impl Read for Stream {
    #[inline(always)]
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.read(buffer),
            other => other.read(buffer),
        }
    }
}

impl Write for Stream {
    #[inline(always)]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write(bytes),
            other => other.write(bytes),
        }
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match &mut self.kind {
            Kind::Tcp(stream) => stream.write_vectored(slices),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.write_vectored(slices),
            Kind::Datagram(_) | Kind::Pending => Err(io::ErrorKind::Unsupported.into()),
            Kind::Scripted(stream) => stream.write(slices),
            #[cfg(feature = "tls")]
            Kind::Secured(secured) => secured.write(slices),
        }
    }

    /// Does nothing: a socket has no buffer of ours.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_to_itself_is_refused() {
        let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        // Where this is no simultaneous open it fails, and there is nothing to tell apart.
        if socket.connect(&socket.local_addr().unwrap()).is_ok() {
            socket.set_nonblocking(true).unwrap();
            let stream = Stream::from(TcpStream::from_std(socket.into()));
            assert_eq!(stream.connected().unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
        }
    }
}
