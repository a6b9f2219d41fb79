//! The socket of a request on a thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use super::descriptor::{Datagram, Descriptor, Kind, Move, SendTo};
use super::stop::{End, Stop};
use super::text::{read_text, read_to_end_within};
use crate::address::Address;
use crate::lifecycle::Timeout;
use crate::limits::Limits;
use crate::net::StdStream;
use crate::net::clock::Clock;

/// The socket of a request, for a blocking handler: Python's `self.request`.
///
/// For a stream, reading is `recv` and writing is `sendall`: a write returns when the system has taken all of it. Both
/// work through a shared reference, so one thread can read while another writes. Bytes that `rfile` has read ahead are
/// not seen here, and bytes that wait in `wfile` are sent later. `read_to_end` and `read_to_string` have the limits of
/// [`rfile`](crate::BlockingReader).
///
/// A datagram has its [`packet`](Self::packet). A write sends one datagram to the client. Reading is not supported.
///
/// Owned by the [`BlockingRequest`](crate::BlockingRequest) and closed with it.
///
/// ```
/// use socketserver::{BlockingRequest, Result};
/// use std::io::{Read as _, Write as _};
///
/// fn echo(request: &mut BlockingRequest) -> Result<()> {
///     let mut socket = request.socket();
///     let mut buffer = [0; 4_096];
///     loop {
///         match socket.read(&mut buffer)? {
///             0 => return Ok(()),
///             count => socket.write_all(&buffer[..count])?,
///         }
///     }
/// }
/// ```
#[derive(Debug)]
pub struct BlockingSocket {
    descriptor: Arc<Descriptor>,
}

impl BlockingSocket {
    /// A packet that was received from `client`, and a closure that sends a datagram from its socket.
    pub(crate) fn datagram(packet: Vec<u8>, client: Address, limits: Arc<Limits>, send: SendTo) -> Self {
        let kind = Kind::Datagram(Datagram { packet, client, send });
        Descriptor::new(kind, Clock::new(), limits).into()
    }

    /// A stream of a reactor, with the reactor's clock.
    pub(crate) fn stream(stream: StdStream, clock: Clock, limits: Arc<Limits>) -> Self {
        Descriptor::stream(stream, clock, limits).into()
    }

    /// The same under TLS, after its handshake. `plain` has arrived with the end of it.
    #[cfg(feature = "tls")]
    pub(crate) fn secured(
        stream: StdStream,
        tls: crate::net::Detached,
        plain: Vec<u8>,
        clock: Clock,
        limits: Arc<Limits>,
    ) -> Self {
        Descriptor::stream(stream, clock, limits).under_tls(tls, plain).into()
    }

    /// Calls a closure with what TLS has agreed on. `None` without TLS. Feature `tls`.
    ///
    /// Source: `self.request` of a Python handler, if it is an `ssl.SSLSocket`.
    #[cfg(feature = "tls")]
    pub fn tls<R>(&self, ask: impl FnOnce(crate::net::TlsSession<'_>) -> R) -> Option<R> {
        self.descriptor.secure.as_ref()?.ask(ask)
    }

    /// Sends what TLS has kept back while the socket did not block. An error means that the connection is broken, and
    /// the next read or write reports it.
    #[cfg(feature = "tls")]
    pub(super) fn begin_tls(&self) {
        if let Some(secure) = &self.descriptor.secure {
            let _ = self.descriptor.watch(Move::Write, || secure.send_sealed(&*self.descriptor).map(|()| 0));
        }
    }

    fn kind(&self) -> &Kind {
        &self.descriptor.kind
    }

    pub(super) fn descriptor(&self) -> &Descriptor {
        &self.descriptor
    }

    /// Returns the same descriptor for `rfile` and `wfile`. The descriptor is closed when the last of them is dropped.
    pub(super) fn share(&self) -> Self {
        BlockingSocket { descriptor: Arc::clone(&self.descriptor) }
    }

    /// Ends a request, as long as it has only this socket.
    pub(crate) fn stop(&self) -> Stop {
        Stop::new(&(Arc::clone(&self.descriptor) as Arc<dyn End>))
    }

    pub(super) fn is_datagram(&self) -> bool {
        matches!(self.kind(), Kind::Datagram(_))
    }

    /// Returns the received datagram. It is empty for a stream.
    ///
    /// Source: the first part of `self.request` of a `DatagramRequestHandler`.
    pub fn packet(&self) -> &[u8] {
        match self.kind() {
            Kind::Datagram(datagram) => &datagram.packet,
            _ => &[],
        }
    }

    /// Sends a datagram from the server's socket immediately, not at the end of the request.
    ///
    /// # Errors
    /// The error from sendto(2); [`io::ErrorKind::Unsupported`] for a stream.
    ///
    /// Source: `socket.sendto`.
    pub fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<()> {
        match self.kind() {
            Kind::Datagram(datagram) => (datagram.send)(to, bytes),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ends one or both directions of a stream: shutdown(2). Under TLS, the peer is told first (`close_notify`).
    ///
    /// # Errors
    /// Errors of the call, for example that the connection is broken already. [`io::ErrorKind::Unsupported`] for a
    /// datagram.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if self.is_datagram() {
            return Err(io::ErrorKind::Unsupported.into());
        }
        #[cfg(feature = "tls")]
        if let Some(secure) = self.descriptor.secure.as_ref().filter(|_| how != Shutdown::Read) {
            secure.close(&*self.descriptor);
        }
        self.descriptor.shutdown(how)
    }

    /// Sets how long a read and a write of a stream wait at most. `None`: no limit.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a time of zero, [`io::ErrorKind::Unsupported`] for a datagram; otherwise
    /// errors of setsockopt(2).
    ///
    /// Source: `socket.settimeout`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        let set = |which| self.descriptor.set_time(which, "set_timeout", timeout);
        set(Timeout::Read).and_then(|()| set(Timeout::Write))
    }

    /// Sets how long a read of a stream waits at most for a byte. `None`: no limit. The initial value is
    /// [`BlockingHandler::read_timeout`](crate::BlockingHandler::read_timeout).
    ///
    /// # Errors
    /// The same as for [`set_timeout`](Self::set_timeout).
    ///
    /// Source: `std::net::TcpStream`; Python has one time for both.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.descriptor.set_time(Timeout::Read, "set_read_timeout", timeout)
    }

    /// Sets how long a write of a stream waits at most until the client takes another byte. `None`: no limit. The
    /// initial value is [`BlockingHandler::write_timeout`](crate::BlockingHandler::write_timeout).
    ///
    /// # Errors
    /// The same as for [`set_timeout`](Self::set_timeout).
    ///
    /// Source: `std::net::TcpStream`; Python has one time for both.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.descriptor.set_time(Timeout::Write, "set_write_timeout", timeout)
    }

    /// Makes the socket block. The reactor's sockets do not block, and on a thread they do.
    pub(super) fn set_blocking(&self) -> io::Result<()> {
        match self.kind() {
            Kind::Tcp(stream) => stream.set_nonblocking(false),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.set_nonblocking(false),
            Kind::Datagram(_) => Ok(()),
        }
    }

    pub(super) fn set_nodelay(&self) -> io::Result<()> {
        match self.kind() {
            Kind::Tcp(stream) => stream.set_nodelay(true),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Returns the descriptor, for socket options. `None` for a datagram, whose socket belongs to the server. Leave it
    /// in blocking mode.
    #[cfg(unix)]
    pub fn as_fd(&self) -> Option<std::os::fd::BorrowedFd<'_>> {
        use std::os::fd::AsFd as _;
        match self.kind() {
            Kind::Tcp(stream) => Some(stream.as_fd()),
            Kind::Unix(stream) => Some(stream.as_fd()),
            Kind::Datagram(_) => None,
        }
    }
}

impl From<Descriptor> for BlockingSocket {
    fn from(descriptor: Descriptor) -> Self {
        BlockingSocket { descriptor: Arc::new(descriptor) }
    }
}

/// With the default [`Limits`].
impl From<TcpStream> for BlockingSocket {
    fn from(stream: TcpStream) -> Self {
        Descriptor::tcp(stream, Clock::new(), Arc::default()).into()
    }
}

/// With the default [`Limits`].
#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for BlockingSocket {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        Descriptor::new(Kind::Unix(stream), Clock::new(), Arc::default()).into()
    }
}

/// `recv`: waits until bytes arrive. 0 is the end of the stream.
impl Read for &BlockingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.descriptor.receive(Move::Begin, buffer)
    }

    /// Fails if more than [`Limits::input_bytes_max`] bytes come.
    fn read_to_end(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        read_to_end_within(self, self.descriptor.limits.input_bytes_max, bytes)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        read_text(text, |bytes| self.read_to_end(bytes))
    }
}

/// `sendall`: sends all of the bytes or fails. After an error it is unknown how many were sent.
impl Write for &BlockingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.descriptor.send_all(bytes)
    }

    /// Does nothing: a socket has no buffer of ours.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Read for BlockingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        (&*self).read(buffer)
    }

    fn read_to_end(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        (&*self).read_to_end(bytes)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        (&*self).read_to_string(text)
    }
}

impl Write for BlockingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        (&*self).write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
