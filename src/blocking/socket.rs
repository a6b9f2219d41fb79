//! The socket of a request that is served on a thread.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::stop::{End, Stop};
use super::text::{read_text, read_to_end_within};
use crate::address::Address;
use crate::limits::Limits;
use crate::net::StdStream;
use crate::net::clock::Clock;
#[cfg(windows)]
use crate::net::patient::PatientStream;

/// The socket of a request as a blocking handler sees it: Python's `self.request`.
///
/// Of a stream, reading is `recv` and writing is `sendall`: a write returns when all of it was handed to the system.
/// Both work through a shared reference, so that one thread can read while another writes. Bytes that `rfile` has read
/// ahead are not seen here, and bytes that wait in `wfile` are sent later. `read_to_end` and `read_to_string` are limited
/// as those of [`rfile`](crate::BlockingReader) are.
///
/// A datagram has its [`packet`](Self::packet); a write sends one datagram to the client, and reading is not
/// supported.
///
/// Owned by the [`BlockingRequest`](crate::BlockingRequest) and closed with it.
///
/// ```
/// use socketserver::StreamRequestHandler;
/// use std::io::{Read as _, Write as _};
///
/// let echo = StreamRequestHandler::new(|request| {
///     let mut socket = request.request();
///     let mut buffer = [0; 4_096];
///     loop {
///         match socket.read(&mut buffer)? {
///             0 => return Ok(()),
///             count => socket.write_all(&buffer[..count])?,
///         }
///     }
/// });
/// ```
#[derive(Debug)]
pub struct BlockingSocket {
    shared: Arc<Shared>,
}

/// The one descriptor, and what is known of its use.
#[derive(Debug)]
struct Shared {
    kind: Kind,
    limits: Arc<Limits>,
    clock: Clock,
    moves: Mutex<Moves>,
}

/// What the threads that have the socket do with it: from that the reactor knows whether its client is quiet.
#[derive(Debug, Default)]
struct Moves {
    /// Threads that wait for a message to begin.
    waiting: usize,
    /// Threads that wait for the rest of a message, or that write.
    busy: usize,
    /// Since when no byte has moved and no thread has done anything but wait.
    since: u64,
    /// Bytes have moved since a thread last began to wait.
    moved: bool,
}

/// What a thread is about to do with the socket.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To read, perhaps the first bytes of a message.
    Begin,
    /// To read the rest of a message, or to write.
    GoOn,
}

/// The standard library reads and writes through `&TcpStream`, which has to be mutable: hence `{ stream }`, a copy of
/// the reference, below.
#[derive(Debug)]
enum Kind {
    #[cfg(not(windows))]
    Tcp(TcpStream),
    #[cfg(windows)]
    Tcp(PatientStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
    Datagram(Datagram),
}

/// Sends a datagram from the server's socket.
type SendTo = Box<dyn Fn(&Address, &[u8]) -> io::Result<()> + Send + Sync>;

struct Datagram {
    packet: Vec<u8>,
    client: Address,
    send: SendTo,
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datagram").field("packet", &self.packet.len()).field("client", &self.client).finish()
    }
}

impl BlockingSocket {
    /// A packet that was received from `client`, and what sends a datagram from the socket it came to.
    pub(crate) fn datagram(
        packet: Vec<u8>,
        client: Address,
        limits: Arc<Limits>,
        send: impl Fn(&Address, &[u8]) -> io::Result<()> + Send + Sync + 'static,
    ) -> Self {
        let kind = Kind::Datagram(Datagram { packet, client, send: Box::new(send) });
        BlockingSocket::new(kind, Clock::new(), limits)
    }

    /// A stream of a reactor, with the clock of that.
    pub(crate) fn stream(stream: StdStream, clock: Clock, limits: Arc<Limits>) -> Self {
        let kind = match stream {
            StdStream::Tcp(stream) => Kind::tcp(stream),
            #[cfg(unix)]
            StdStream::Unix(stream) => Kind::Unix(stream),
        };
        BlockingSocket::new(kind, clock, limits)
    }

    fn new(kind: Kind, clock: Clock, limits: Arc<Limits>) -> Self {
        let moves = Mutex::new(Moves { since: clock.now(), ..Moves::default() });
        BlockingSocket { shared: Arc::new(Shared { kind, limits, clock, moves }) }
    }

    fn kind(&self) -> &Kind {
        &self.shared.kind
    }

    /// Those of the server it belongs to.
    pub(super) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    /// The same descriptor once more, for `rfile`, `wfile` and the [`Stop`](super::stop::Stop); it is closed with the
    /// last of them.
    pub(super) fn share(&self) -> Self {
        BlockingSocket { shared: Arc::clone(&self.shared) }
    }

    /// What ends a request, as long as it has nothing but this socket.
    pub(crate) fn stop(&self) -> Stop {
        Stop::new(&(Arc::clone(&self.shared) as Arc<dyn End>))
    }

    pub(super) fn is_datagram(&self) -> bool {
        matches!(self.kind(), Kind::Datagram(_))
    }

    /// The datagram that was received; empty for a stream.
    ///
    /// Source: the first part of `self.request` of a `DatagramRequestHandler`.
    pub fn packet(&self) -> &[u8] {
        match self.kind() {
            Kind::Datagram(datagram) => &datagram.packet,
            _ => &[],
        }
    }

    /// Sends a datagram from the server's socket, now and not when the request is over.
    ///
    /// # Errors
    /// What sendto(2) says; [`io::ErrorKind::Unsupported`] for a stream.
    ///
    /// Source: `socket.sendto`.
    pub fn send_to(&self, bytes: &[u8], to: &Address) -> io::Result<()> {
        match self.kind() {
            Kind::Datagram(datagram) => (datagram.send)(to, bytes),
            _ => Err(io::ErrorKind::Unsupported.into()),
        }
    }

    /// Ends one or both directions of a stream: shutdown(2). Does nothing to a datagram.
    ///
    /// # Errors
    /// What the call says; that the connection is broken already, for example.
    pub fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        self.shared.shutdown(how)
    }

    /// Sets how long a read and a write of a stream wait at most, both; `None`: without limit. Does nothing to a datagram.
    ///
    /// # Errors
    /// [`io::ErrorKind::InvalidInput`] for a time of zero; otherwise what setsockopt(2) says.
    ///
    /// Source: `socket.settimeout`.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.set_read_timeout(timeout).and_then(|()| self.set_write_timeout(timeout))
    }

    /// Sets how long a read of a stream waits at most for a byte; `None`: without limit. It begins as
    /// [`BlockingHandler::read_timeout`](crate::BlockingHandler::read_timeout) says. Does nothing to a datagram.
    ///
    /// # Errors
    /// As for [`set_timeout`](Self::set_timeout).
    ///
    /// Source: `std::net::TcpStream`; Python has one time for both.
    pub fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self.kind() {
            Kind::Tcp(stream) => stream.set_read_timeout(timeout),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.set_read_timeout(timeout),
            Kind::Datagram(_) => Ok(()),
        }
    }

    /// Sets how long a write of a stream waits at most until the client takes another byte; `None`: without limit. It
    /// begins as [`BlockingHandler::write_timeout`](crate::BlockingHandler::write_timeout) says. Does nothing to a
    /// datagram.
    ///
    /// # Errors
    /// As for [`set_timeout`](Self::set_timeout).
    ///
    /// Source: `std::net::TcpStream`; Python has one time for both.
    pub fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        match self.kind() {
            Kind::Tcp(stream) => stream.set_write_timeout(timeout),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.set_write_timeout(timeout),
            Kind::Datagram(_) => Ok(()),
        }
    }

    /// As many of the bytes as go out at once: `send`. A caller that keeps the rest knows where to go on after
    /// an error.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.watch(Move::GoOn, || match self.kind() {
            Kind::Tcp(stream) => { stream }.write(bytes),
            #[cfg(unix)]
            Kind::Unix(stream) => { stream }.write(bytes),
            Kind::Datagram(datagram) => (datagram.send)(&datagram.client, bytes).map(|()| bytes.len()),
        })
    }

    /// What is there, or the next that comes: `recv`. 0 is the end of the stream.
    pub(super) fn receive(&self, what: Move, buffer: &mut [u8]) -> io::Result<usize> {
        self.shared.watch(what, || {
            loop {
                let result = match self.kind() {
                    Kind::Tcp(stream) => { stream }.read(buffer),
                    #[cfg(unix)]
                    Kind::Unix(stream) => { stream }.read(buffer),
                    Kind::Datagram(_) => Err(io::ErrorKind::Unsupported.into()),
                };
                match result {
                    // As Python does since PEP 475. With a time limit the system does not do it, signal(7), and SIGCHLD
                    // may arrive whether or not anybody handles it.
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    result => return result,
                }
            }
        })
    }

    /// The reactor's sockets do not block; on a thread they do.
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
            _ => Ok(()),
        }
    }

    /// The descriptor, for socket options. `None` for a datagram, whose socket is the server's. Left in blocking mode,
    /// please.
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

/// With the default [`Limits`].
impl From<TcpStream> for BlockingSocket {
    fn from(stream: TcpStream) -> Self {
        BlockingSocket::new(Kind::tcp(stream), Clock::new(), Arc::default())
    }
}

/// With the default [`Limits`].
#[cfg(unix)]
impl From<std::os::unix::net::UnixStream> for BlockingSocket {
    fn from(stream: std::os::unix::net::UnixStream) -> Self {
        BlockingSocket::new(Kind::Unix(stream), Clock::new(), Arc::default())
    }
}

impl Kind {
    fn tcp(stream: TcpStream) -> Self {
        #[cfg(windows)]
        let stream = PatientStream::from(stream);
        Kind::Tcp(stream)
    }
}

impl Shared {
    /// Does something with the socket that may wait, and notes that.
    fn watch(&self, what: Move, run: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        {
            let mut moves = self.moves();
            match what {
                Move::Begin => moves.waiting += 1,
                Move::GoOn => moves.busy += 1,
            }
            // A wait that begins anew because its time was over goes on for as long as nothing has moved.
            if std::mem::take(&mut moves.moved) {
                moves.since = self.clock.now();
            }
        }
        let result = run().map_err(timed_out);
        let mut moves = self.moves();
        match what {
            Move::Begin => moves.waiting -= 1,
            Move::GoOn => moves.busy -= 1,
        }
        if matches!(result, Ok(1..)) {
            moves.moved = true;
            moves.since = self.clock.now();
        }
        result
    }

    fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.shutdown(how),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.shutdown(how),
            Kind::Datagram(_) => Ok(()),
        }
    }
}

/// An error of a shutdown says that the connection is gone, which ends a wait as well.
impl End for Shared {
    /// A thread that waits for the socket goes on at once. A datagram is read already and waits for nothing.
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }

    /// A thread that waits for input finds its end, after what has arrived already. What it writes is still sent.
    fn drain(&self) {
        let _ = self.shutdown(Shutdown::Read);
    }

    fn quiet_since(&self) -> Option<u64> {
        let moves = self.moves();
        (moves.waiting > 0 && moves.busy == 0).then_some(moves.since)
    }
}

/// `recv`: waits until there are bytes. 0 is the end of the stream.
impl Read for &BlockingSocket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.receive(Move::Begin, buffer)
    }

    /// Fails if more than [`Limits::input_bytes_max`] bytes come.
    fn read_to_end(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        read_to_end_within(self, self.limits().input_bytes_max, bytes)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        read_text(text, |bytes| self.read_to_end(bytes))
    }
}

/// `sendall`: all of the bytes or an error, and then it is not known how many went out.
impl Write for &BlockingSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.shared.watch(Move::GoOn, || {
            match self.kind() {
                Kind::Tcp(stream) => { stream }.write_all(bytes),
                #[cfg(unix)]
                Kind::Unix(stream) => { stream }.write_all(bytes),
                Kind::Datagram(datagram) => (datagram.send)(&datagram.client, bytes),
            }
            .map(|()| bytes.len())
        })
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

/// On Unix a blocking socket says that it would block when its time is over.
fn timed_out(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
        _ => error,
    }
}

#[cfg(test)]
mod tests;
