//! The descriptor of a request on a thread, and a record of its use.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::raw::RawSocket;
#[cfg(feature = "tls")]
use super::secure::Secure;
use super::stop::End;
use crate::address::Address;
use crate::error::Error;
use crate::lifecycle::{EndReason, Timeout};
use crate::limits::Limits;
#[cfg(feature = "tls")]
use crate::limits::Linger;
use crate::net::StdStream;
use crate::net::clock::Clock;
#[cfg(windows)]
use crate::net::patient::PatientStream;
use crate::timers::nanos;

/// State that `rfile`, `wfile`, the socket and the [`Stop`](super::stop::Stop) of a request share.
#[derive(Debug)]
pub(super) struct Descriptor {
    pub(super) kind: Kind,
    /// The limits of its server.
    pub(super) limits: Arc<Limits>,
    pub(super) clock: Clock,
    moves: Mutex<Moves>,
    times: Mutex<Times>,
    #[cfg(feature = "tls")]
    pub(super) secure: Option<Secure>,
}

/// The standard library reads and writes through `&TcpStream`, which must be mutable. So `{ stream }` below is a copy
/// of the reference.
#[derive(Debug)]
pub(super) enum Kind {
    #[cfg(not(windows))]
    Tcp(TcpStream),
    #[cfg(windows)]
    Tcp(PatientStream),
    #[cfg(unix)]
    Unix(std::os::unix::net::UnixStream),
    Datagram(Datagram),
}

/// Sends a datagram from the server's socket.
pub(crate) type SendTo = Box<dyn Fn(&Address, &[u8]) -> io::Result<()> + Send + Sync>;

pub(super) struct Datagram {
    pub(super) packet: Vec<u8>,
    pub(super) client: Address,
    pub(super) send: SendTo,
}

impl std::fmt::Debug for Datagram {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Datagram").field("packet", &self.packet.len()).field("client", &self.client).finish()
    }
}

/// What the socket's threads are doing with it. The reactor uses this to tell whether the client is quiet.
#[derive(Debug, Default)]
struct Moves {
    /// Threads that wait for a message to begin.
    waiting: usize,
    /// Threads that wait for the rest of a message, or that write.
    busy: usize,
    /// Since when no byte has moved and no thread has done anything but wait.
    since: u64,
    /// Whether bytes have moved since a thread last began to wait.
    moved: bool,
}

/// The longest wait of a call, and the setting that defines it.
#[derive(Clone, Copy, Debug, Default)]
struct Times {
    read: Option<(&'static str, Duration)>,
    write: Option<(&'static str, Duration)>,
}

/// The next use of the socket by a thread.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Move {
    /// To read, perhaps the first bytes of a message.
    Begin,
    /// To read the rest of a message.
    GoOn,
    Write,
}

impl Descriptor {
    pub(super) fn stream(stream: StdStream, clock: Clock, limits: Arc<Limits>) -> Self {
        match stream {
            StdStream::Tcp(stream) => Descriptor::tcp(stream, clock, limits),
            #[cfg(unix)]
            StdStream::Unix(stream) => Descriptor::new(Kind::Unix(stream), clock, limits),
        }
    }

    pub(super) fn tcp(stream: TcpStream, clock: Clock, limits: Arc<Limits>) -> Self {
        #[cfg(windows)]
        let stream = PatientStream::from(stream);
        Descriptor::new(Kind::Tcp(stream), clock, limits)
    }

    pub(super) fn new(kind: Kind, clock: Clock, limits: Arc<Limits>) -> Self {
        let moves = Mutex::new(Moves { since: clock.now(), ..Moves::default() });
        Descriptor {
            kind,
            limits,
            clock,
            moves,
            times: Mutex::default(),
            #[cfg(feature = "tls")]
            secure: None,
        }
    }

    #[cfg(feature = "tls")]
    pub(super) fn under_tls(self, tls: crate::net::Detached, plain: Vec<u8>) -> Self {
        Descriptor { secure: Some(Secure::new(tls, plain)), ..self }
    }

    /// `recv`: returns bytes that are there, or waits for the next ones. 0 is the end of the stream.
    pub(super) fn receive(&self, what: Move, buffer: &mut [u8]) -> io::Result<usize> {
        self.watch(what, || {
            #[cfg(feature = "tls")]
            if let Some(secure) = &self.secure {
                return secure.receive(self, buffer);
            }
            self.read_raw(buffer)
        })
    }

    /// `send`: sends as many of the bytes as it can without waiting. The caller keeps the rest, so it knows where to
    /// continue after an error.
    pub(super) fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        self.watch(Move::Write, || {
            #[cfg(feature = "tls")]
            if let Some(secure) = &self.secure {
                return secure.send(self, bytes);
            }
            self.write_some(bytes)
        })
    }

    /// Waits until the peer takes some of the bytes, for the write timeout at most. Returns how many it took.
    fn write_some(&self, bytes: &[u8]) -> io::Result<usize> {
        let max = self.times().write.map(|(_, max)| max);
        patiently(
            max,
            || self.clock.now(),
            || match &self.kind {
                Kind::Tcp(stream) => { stream }.write(bytes),
                #[cfg(unix)]
                Kind::Unix(stream) => { stream }.write(bytes),
                Kind::Datagram(datagram) => (datagram.send)(&datagram.client, bytes).map(|()| bytes.len()),
            },
        )
    }

    /// `sendall`: sends all of the bytes or fails.
    pub(super) fn send_all(&self, bytes: &[u8]) -> io::Result<usize> {
        self.watch(Move::Write, || {
            #[cfg(feature = "tls")]
            if let Some(secure) = &self.secure {
                return secure.send_all(self, bytes);
            }
            self.write_raw(bytes).map(|()| bytes.len())
        })
    }

    /// Sets how long a read or a write of a stream waits. `setting` is the name of the user's setting.
    pub(super) fn set_time(&self, which: Timeout, setting: &'static str, time: Option<Duration>) -> io::Result<()> {
        let is_read = which == Timeout::Read;
        // The system's time is for a whole call, which returns late that it took some of the bytes: see `patiently`.
        let part = time.map(|time| (time / WRITE_PARTS).max(PART_MIN).min(time)); // Zero stays zero, and is refused.
        match &self.kind {
            Kind::Tcp(stream) if is_read => stream.set_read_timeout(time)?,
            Kind::Tcp(stream) => stream.set_write_timeout(part)?,
            #[cfg(unix)]
            Kind::Unix(stream) if is_read => stream.set_read_timeout(time)?,
            #[cfg(unix)]
            Kind::Unix(stream) => stream.set_write_timeout(part)?,
            Kind::Datagram(_) => return Err(io::ErrorKind::Unsupported.into()),
        }
        let mut times = self.times();
        *(if is_read { &mut times.read } else { &mut times.write }) = time.map(|time| (setting, time));
        Ok(())
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        match &self.kind {
            Kind::Tcp(stream) => stream.shutdown(how),
            #[cfg(unix)]
            Kind::Unix(stream) => stream.shutdown(how),
            Kind::Datagram(_) => Ok(()),
        }
    }

    /// Returns whether TLS cannot send anything more, not even that it ends.
    #[cfg(feature = "tls")]
    pub(super) fn is_cut(&self) -> bool {
        self.secure.as_ref().is_some_and(Secure::is_cut)
    }

    /// Makes the close drop unsent output and send RST. A Unix socket has no RST.
    #[cfg(feature = "tls")]
    pub(super) fn reset_on_close(&self) {
        if let Kind::Tcp(stream) = &self.kind {
            crate::net::reset_on_close(stream);
        }
    }

    /// Reads and discards further input until the end of the peer's direction, within the limits of lingering. If the
    /// socket were closed before the peer's `close_notify` arrives, the system would answer that with a reset, which
    /// destroys output that the peer has not read.
    #[cfg(feature = "tls")]
    pub(super) fn linger(&self) {
        let Limits { linger, linger_timeout, linger_bytes_max, .. } = *self.limits;
        if linger == Linger::Never || self.secure.as_ref().is_none_or(Secure::has_ended) {
            return;
        }
        let deadline = self.clock.now().saturating_add(nanos(linger_timeout));
        let (mut left, mut wire) = (linger_bytes_max, [0; 4_096]);
        while left > 0 {
            let time = Duration::from_nanos(deadline.saturating_sub(self.clock.now()));
            if time.is_zero() || self.set_time(Timeout::Read, "linger_timeout", Some(time)).is_err() {
                return;
            }
            match self.watch(Move::Begin, || self.read_raw(&mut wire)) {
                Ok(came @ 1..) => left = left.saturating_sub(came),
                Ok(0) | Err(_) => return,
            }
        }
    }

    /// Runs an operation on the socket that may wait, and records that.
    pub(super) fn watch(&self, what: Move, run: impl FnOnce() -> io::Result<usize>) -> io::Result<usize> {
        {
            let mut moves = self.moves();
            match what {
                Move::Begin => moves.waiting += 1,
                Move::GoOn | Move::Write => moves.busy += 1,
            }
            // A wait that starts again after its time was over counts as the same wait, as long as nothing has moved.
            if std::mem::take(&mut moves.moved) {
                moves.since = self.clock.now();
            }
        }
        let result = run().map_err(|error| self.explain(what, error));
        let mut moves = self.moves();
        match what {
            Move::Begin => moves.waiting -= 1,
            Move::GoOn | Move::Write => moves.busy -= 1,
        }
        if matches!(result, Ok(1..)) {
            moves.moved = true;
            moves.since = self.clock.now();
        }
        result
    }

    /// A call whose time is over returns the limit, if it is known; it may have been set on the descriptor.
    fn explain(&self, what: Move, error: io::Error) -> io::Error {
        if !is_time_over(&error) {
            return error;
        }
        let times = *self.times();
        let (which, time) = match what {
            Move::Begin | Move::GoOn => (Timeout::Read, times.read),
            Move::Write => (Timeout::Write, times.write),
        };
        match time {
            Some((setting, max)) => Error::TimeLimit { why: EndReason::Timeout(which), setting, max }.into(),
            None => io::ErrorKind::TimedOut.into(),
        }
    }

    fn moves(&self) -> MutexGuard<'_, Moves> {
        self.moves.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn times(&self) -> MutexGuard<'_, Times> {
        self.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl RawSocket for Descriptor {
    fn read_raw(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match &self.kind {
                Kind::Tcp(stream) => { stream }.read(buffer),
                #[cfg(unix)]
                Kind::Unix(stream) => { stream }.read(buffer),
                Kind::Datagram(_) => Err(io::ErrorKind::Unsupported.into()),
            };
            match result {
                // Retries, as Python does since PEP 475. With a time limit the system does not, signal(7), and
                // SIGCHLD may arrive even without a handler.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    fn write_raw(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            match self.write_some(bytes)? {
                0 => return Err(io::ErrorKind::WriteZero.into()),
                taken => bytes = &bytes[taken..],
            }
        }
        Ok(())
    }
}

/// Repeats a write whose time is over, until the peer has taken nothing for `max`. A write of the system that has taken
/// some bytes waits for its whole time before it says so, so a single long wait would begin again after each of these.
fn patiently(
    max: Option<Duration>,
    now: impl Fn() -> u64,
    mut write: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let deadline = max.map_or(0, |max| now().saturating_add(nanos(max)));
    loop {
        match write() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if is_time_over(&error) && now() < deadline => {}
            result => return result,
        }
    }
}

/// On Unix the system returns that the call would block, and `TimedOut` means that the connection is lost.
fn is_time_over(error: &io::Error) -> bool {
    match error.kind() {
        io::ErrorKind::WouldBlock => true,
        io::ErrorKind::TimedOut => error.raw_os_error().is_none(),
        _ => false,
    }
}

/// A write waits for its time in so many parts.
const WRITE_PARTS: u32 = 8;
const PART_MIN: Duration = Duration::from_millis(1);

/// An error of a shutdown means that the connection is gone, which ends a wait as well.
impl End for Descriptor {
    /// Makes a thread that waits for the socket continue immediately. A datagram has already been read, so no thread
    /// waits for it.
    fn end(&self) {
        let _ = self.shutdown(Shutdown::Both);
    }

    /// Makes a thread that waits for input see its end, after bytes that have arrived. Its output is still sent.
    fn drain(&self) {
        #[cfg(feature = "tls")]
        self.secure.iter().for_each(|secure| secure.drain());
        let _ = self.shutdown(Shutdown::Read);
    }

    fn quiet_since(&self) -> Option<u64> {
        let moves = self.moves();
        (moves.waiting > 0 && moves.busy == 0).then_some(moves.since)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const MAX: Duration = Duration::from_secs(8);

    /// Plays the results of writes, each after a second. Returns the result and how many of them were used.
    fn play(max: Option<Duration>, results: &[Result<usize, io::ErrorKind>]) -> (Result<usize, io::ErrorKind>, usize) {
        let used = Cell::new(0);
        let result = patiently(
            max,
            || nanos(Duration::from_secs(used.get() as u64)),
            || {
                let result = results[used.get()].map_err(io::Error::from);
                used.set(used.get() + 1);
                result
            },
        );
        (result.map_err(|error| error.kind()), used.get())
    }

    #[test]
    fn a_write_ends_when_the_peer_has_taken_nothing_for_the_whole_time() {
        use io::ErrorKind::{BrokenPipe, Interrupted, WouldBlock};
        assert_eq!(play(Some(MAX), &[Err(WouldBlock); 20]), (Err(WouldBlock), 8));
        assert_eq!(play(Some(MAX), &[Err(WouldBlock), Err(Interrupted), Ok(5)]), (Ok(5), 3));
        assert_eq!(play(Some(MAX), &[Err(BrokenPipe)]), (Err(BrokenPipe), 1));
        assert_eq!(play(None, &[Err(WouldBlock)]), (Err(WouldBlock), 1), "set on the descriptor");
    }
}
