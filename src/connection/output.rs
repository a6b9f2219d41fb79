//! The bytes to send to the peer. Like Python's `wfile`, but non-blocking.

use std::cell::Cell;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::sync::Arc;

use super::bounds::{Bounds, ConnectionLimits, DIRECT_BYTES, GATHER_BYTES};
use super::budget::Budget;
use super::io::{Io, OutputState};
use super::queue::Queue;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::limits::{Limits, Overflow};
use crate::net::file::read_exact_at;
use crate::net::packet::PAYLOAD_MAX;
use crate::net::packet::Route;
use crate::shared_bytes::SharedBytes;

/// The output to the peer: `request.output`.
///
/// Writing never blocks. Small writes are gathered in a buffer that all connections share, and are sent in one system
/// call when the callback returns. A large write (16 KiB and more) is passed to the kernel immediately. Bytes that the
/// kernel does not accept within the callback's share of the turn are queued in order, up to
/// [`Limits::output_bytes_max`] bytes, and are sent as the peer reads.
///
/// For a datagram server, everything that is written forms one datagram, and an empty write forms an empty datagram.
/// The datagram is sent after `finish` or, in a session, after each callback. To send several datagrams, or to send to
/// another address, use [`Request::send_to`](crate::Request::send_to).
///
/// Above [`Limits::output_high_water`] the connection is not read until the peer has caught up. Therefore a handler
/// that only answers its input needs no flow control of its own.
///
/// Source: `StreamRequestHandler.wfile`, which blocks instead.
///
/// ```
/// use socketserver::{testing::Client, Next, Request, RequestHandler, Result};
/// use std::io::Write;
///
/// struct Greeter;
/// impl RequestHandler for Greeter {
///     fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         writeln!(request.output, "hello {}", request.client_address())?;
///         Ok(Next::Close)
///     }
///     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// }
/// assert_eq!(Client::new(Greeter).sent(), b"hello 192.0.2.2:50000\n");
/// ```
#[derive(Debug)]
pub struct Output<'a> {
    pub(super) io: &'a mut Io,
    pub(super) gathered: &'a mut Vec<u8>,
    /// The limits, the amount that may be sent, and a flag that the input reads: whether the output is above the
    /// high-water mark or has used up its bytes for this turn.
    pub(super) budget: &'a Budget,
    /// The number of bytes that can be gathered without further checks: few enough to stay below every limit, and 0 if
    /// the socket takes none now, if the output is shut down, if bytes are already queued, or if this is a session.
    pub(super) room: usize,
    /// The number of bytes that the socket accepted during this callback.
    pub(crate) taken: usize,
    pub(super) state: Cell<OutputState>,
}

impl<'a> Output<'a> {
    #[inline(always)]
    pub(crate) fn new(io: &'a mut Io, gathered: &'a mut Vec<u8>, budget: &'a Budget, state: OutputState) -> Self {
        let is_plain = state.0 == OutputState::WRITABLE && io.queue.is_none() && !io.stream.is_datagram();
        let room = if is_plain { budget.gathers() } else { 0 };
        budget.full.set(io.queue.as_ref().is_some_and(|queue| queue.len() > budget.bounds().output_high_water));
        Output { io, gathered, budget, room, taken: 0, state: Cell::new(state) }
    }

    /// Like [`new`](Self::new), for an open and writable stream with no queued output.
    #[inline(always)]
    pub(crate) fn plain(io: &'a mut Io, gathered: &'a mut Vec<u8>, budget: &'a Budget) -> Self {
        budget.full.set(false);
        let state = Cell::new(OutputState(OutputState::WRITABLE));
        Output { io, gathered, budget, room: budget.gathers(), taken: 0, state }
    }

    /// Like [`new`](Self::new), for a single datagram.
    #[inline(always)]
    pub(crate) fn datagram(io: &'a mut Io, gathered: &'a mut Vec<u8>, budget: &'a Budget) -> Self {
        budget.full.set(false);
        let room = datagram_max(&budget.limits);
        Output { io, gathered, budget, room, taken: 0, state: Cell::new(OutputState(0)) }
    }

    /// Returns whether an answer was written that must be sent as one datagram, even if it is empty. One that is only
    /// gathered is not empty, and not marked.
    #[inline]
    pub(crate) fn is_marked(&self) -> bool {
        self.state.get().has(OutputState::REPLIED)
    }

    /// Returns the number of written bytes that the kernel has not accepted yet.
    pub fn len(&self) -> usize {
        self.gathered.len() + self.io.queue.as_ref().map_or(0, |queue| queue.len())
    }

    /// How many of these bytes are in memory.
    fn held(&self) -> usize {
        self.gathered.len() + self.io.queue.as_ref().map_or(0, |queue| queue.held())
    }

    /// Returns whether the kernel has accepted everything written so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Returns whether the handler should stop writing for now. A handler that generates output on its own should then
    /// return and continue in [`writable`](crate::RequestHandler::writable), which is called when there is room or in
    /// the next turn. Returns true if the output is above [`Limits::output_high_water`], if the socket has accepted
    /// [`Limits::write_bytes_per_turn`] in this turn, or if the callback has used its share of the turn
    /// ([`ReactorConfig::turn_length`](crate::ReactorConfig::turn_length)).
    pub fn is_full(&self) -> bool {
        let full = self.holds() || self.has_had_its_time();
        if full && !self.is_datagram() {
            self.mark(OutputState::WAS_FULL);
        }
        full
    }

    /// Returns whether the callback's share of the turn is over.
    pub(crate) fn has_had_its_time(&self) -> bool {
        self.budget.is_over()
    }

    /// Like [`is_full`](Self::is_full), but ignores the time.
    fn holds(&self) -> bool {
        self.len() > self.bounds().output_high_water || self.taken >= self.budget.write_left()
    }

    pub(super) fn bounds(&self) -> Bounds {
        self.budget.bounds()
    }

    pub(crate) fn server_limits(&self) -> &'a Limits {
        &self.budget.limits
    }

    /// Gives the connection its own limits, or restores those of its server.
    ///
    /// # Errors
    /// For limits that contradict each other.
    pub(crate) fn set_limits(&mut self, limits: &ConnectionLimits) -> Result<Option<Bounds>> {
        let own = limits.resolved(self.server_limits())?;
        let own = (*limits != ConnectionLimits::default()).then_some(own);
        self.budget.bind(own);
        self.room = 0; // `room` must be computed again.
        self.budget.full.set(self.holds());
        Ok(own)
    }

    pub(super) fn mark(&self, flags: u8) {
        self.state.set(OutputState(self.state.get().0 | flags));
    }

    /// Writes a payload without copying it, so several connections can share one. Otherwise it behaves like
    /// [`write`](Self::write): a large payload is passed to the kernel immediately, and bytes that are not accepted are
    /// queued.
    ///
    /// # Errors
    /// The same as for [`write`](Self::write).
    pub fn write_shared(&mut self, bytes: impl Into<SharedBytes>) -> Result<()> {
        let bytes = bytes.into();
        // A small payload is sent together with other small writes, unless bytes are already queued before it.
        if self.is_datagram() || bytes.len() < DIRECT_BYTES && self.io.queue.is_none() {
            return self.put(&bytes);
        }
        self.admit(bytes.len())?;
        let sent = self.send(&bytes);
        self.queue_after(sent, &bytes, |queue| queue.push_shared(bytes.slice(sent..bytes.len())));
        self.judge()
    }

    /// Writes a part of a file, without reading it into memory: after everything that was written before, and before what
    /// is written next. On Linux with the feature `sendfile`, sendfile(2) sends it from the page cache. Otherwise, and
    /// under TLS, the reactor reads 16 KiB at a time. Reading blocks the loop if the file is not in the page cache. A part
    /// of up to 16 KiB is read now.
    ///
    /// The bytes count as unsent output for [`len`](Self::len), [`Limits::output_high_water`], the write timeout and the
    /// budget of a turn, but not for [`Limits::output_bytes_max`], because they need no memory. The file stays open until
    /// they are sent. An `Arc<File>` can be sent to several connections.
    ///
    /// If the file has become shorter, or cannot be read, the connection is reset with
    /// [`EndReason::Error`](crate::EndReason::Error), so that the peer does not take what it has got for the whole, and
    /// [`handle_error`](crate::BaseServer::handle_error) is called with an [`Error::Io`].
    ///
    /// # Errors
    /// [`Error::Gone`] after `shutdown_write`, or if the connection is known to be broken. [`Error::Io`] if a short part
    /// cannot be read, and for a datagram.
    ///
    /// Source: `socket.sendfile` of Python.
    ///
    /// ```
    /// use socketserver::{testing::Client, Next, Request, RequestHandler, Result};
    /// use std::{fs::File, io::Write, sync::Arc};
    ///
    /// struct Page(Arc<File>);
    /// impl RequestHandler for Page {
    ///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
    ///         request.input.take_all();
    ///         let length = self.0.metadata()?.len();
    ///         write!(request.output, "HTTP/1.0 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
    ///         request.output.write_file(Arc::clone(&self.0), 0..length)?;
    ///         Ok(Next::Close)
    ///     }
    /// }
    /// let file = File::open("Cargo.toml")?;
    /// let length = file.metadata()?.len();
    /// let mut client = Client::new(Page(file.into()));
    /// client.feed(b"GET / HTTP/1.0\r\n\r\n");
    /// assert!(client.sent().len() as u64 > length);
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn write_file(&mut self, file: impl Into<Arc<File>>, part: Range<u64>) -> Result<()> {
        let (file, length) = (file.into(), part.end.saturating_sub(part.start));
        if self.is_datagram() {
            return Err(io::Error::new(io::ErrorKind::Unsupported, "a datagram has no file").into());
        }
        self.admit(0)?;
        if length < DIRECT_BYTES as u64 {
            let mut bytes = vec![0; length as usize];
            read_exact_at(&file, &mut bytes, part.start)?;
            return self.put(&bytes);
        }
        self.send_before_more();
        if !self.is_lost() {
            Queue::of(&mut self.io.queue, self.budget.now).push_file(file, part);
            self.room = 0;
        }
        self.judge()
    }

    /// Refuses bytes that cannot be sent or that, according to the policy, must not be queued.
    #[inline]
    fn admit(&self, n: usize) -> Result<()> {
        if self.is_shut() {
            return Err(Error::Gone);
        }
        let max = self.bounds().output_bytes_max;
        if self.budget.limits.output_overflow == Overflow::Refuse && self.held() + n > max {
            return Err(Error::OutputLimit { max });
        }
        Ok(())
    }

    fn put(&mut self, bytes: &[u8]) -> Result<()> {
        if self.gathers(bytes) { Ok(()) } else { self.put_slowly(bytes) }
    }

    /// Gathers these bytes if that needs no further checks. Returns whether it did. No bytes need further checks, because
    /// they may form a datagram.
    #[inline]
    fn gathers(&mut self, bytes: &[u8]) -> bool {
        let gathers = (self.gathered.len() + bytes.len()).wrapping_sub(1) < self.room;
        if gathers {
            self.gathered.extend_from_slice(bytes);
        }
        gathers
    }

    /// The slow path of [`put`](Self::put), for cases that need further checks.
    #[cold]
    fn put_slowly(&mut self, bytes: &[u8]) -> Result<()> {
        if self.is_datagram() {
            return self.put_datagram(bytes);
        }
        self.admit(bytes.len())?;
        if bytes.len() < DIRECT_BYTES && self.gathered.len() + bytes.len() <= GATHER_BYTES {
            self.gathered.extend_from_slice(bytes);
        } else {
            let sent = self.send(bytes);
            self.queue_after(sent, bytes, |queue| queue.push(&bytes[sent..]));
        }
        self.judge()
    }

    /// Determines the result of a write.
    fn judge(&mut self) -> Result<()> {
        if self.held() > self.bounds().output_bytes_max {
            self.send(&[]);
            if self.held() > self.bounds().output_bytes_max {
                return Err(self.overflow());
            }
        }
        if self.is_lost() {
            return Err(Error::Gone); // This write found that the connection is broken.
        }
        self.budget.full.set(self.holds());
        Ok(())
    }

    /// Writes several pieces as one. None of them is queued if there is not enough room for all.
    pub(crate) fn put_all(&mut self, slices: &[IoSlice<'_>]) -> Result<()> {
        let total = slices.iter().map(|slice| slice.len()).sum();
        if self.is_datagram() {
            self.admit_datagram(total)?;
            self.mark(OutputState::REPLIED); // Even if there are no slices.
        } else {
            self.admit(total)?;
        }
        slices.iter().try_for_each(|slice| self.put(slice))
    }

    /// Like `put_slowly`, for a [`Write`]. Compiled in the user's crate, where the conversion of the [`Error`] is.
    #[cold]
    #[inline]
    fn write_slowly(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self.is_datagram() {
            true => Ok(self.put_datagram(bytes)?),
            false => Ok(self.put_slowly(bytes)?),
        }
    }

    /// On a datagram server, all writes of a handler to the peer form one datagram.
    #[inline]
    fn put_datagram(&mut self, bytes: &[u8]) -> Result<()> {
        self.admit_datagram(bytes.len())?;
        self.gathered.extend_from_slice(bytes);
        self.mark(OutputState::REPLIED);
        Ok(())
    }

    fn admit_datagram(&self, n: usize) -> Result<()> {
        let max = datagram_max(&self.budget.limits);
        if self.gathered.len() + n > max { Err(Error::OutputLimit { max }) } else { Ok(()) }
    }

    pub(super) fn is_datagram(&self) -> bool {
        self.io.stream.is_datagram()
    }

    fn overflow(&mut self) -> Error {
        self.mark(OutputState::OVERFLOWN);
        self.refuse();
        // The connection is lost, but may not end until the next turn. Do not keep this much output until then.
        self.gathered.clear();
        self.io.queue = None;
        Error::OutputLimit { max: self.bounds().output_bytes_max }
    }

    pub(crate) fn is_lost(&self) -> bool {
        self.state.get().has(OutputState::BROKEN | OutputState::OVERFLOWN)
    }

    pub(crate) fn local_address(&self) -> Option<Address> {
        self.io.stream.local_address()
    }

    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub(crate) fn proxy_header(&self) -> Option<&crate::net::ProxyHeader> {
        self.io.stream.proxy_header()
    }

    pub(crate) fn is_shut(&self) -> bool {
        self.state.get().has(OutputState::SHUT)
    }

    /// Refuses every further write.
    pub(crate) fn shut(&mut self) {
        if !self.is_datagram() {
            self.refuse();
        }
    }

    pub(super) fn refuse(&mut self) {
        self.mark(OutputState::SHUT);
        self.room = 0;
    }

    /// Returns the route to the peer of a datagram server.
    pub(crate) fn route(&self) -> Option<Route> {
        self.io.stream.route()
    }

    /// Drops the gathered bytes of this callback.
    pub(crate) fn discard(&mut self) {
        self.gathered.clear();
    }
}

/// The most bytes that an answer may have. Unix datagrams may be longer than those of UDP.
#[inline]
fn datagram_max(limits: &Limits) -> usize {
    limits.max_packet_size.max(PAYLOAD_MAX)
}

impl Write for Output<'_> {
    /// Queues all of `bytes`; never writes a part of them.
    ///
    /// # Errors
    /// [`io::ErrorKind::BrokenPipe`] after `shutdown_write`, or if the connection is known to be broken. Small writes
    /// are gathered and sent after the callback returns; `finish` reports if that fails. An [`Error::OutputLimit`]
    /// inside an [`io::Error`] if the write would exceed [`Limits::output_bytes_max`]. Depending on
    /// [`Limits::output_overflow`], the connection is then lost or nothing is queued. If the callback propagates either
    /// error with `?`, the connection ends with the corresponding reason.
    #[inline]
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_all(bytes)?;
        Ok(bytes.len())
    }

    #[inline]
    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.put_all(slices)?;
        Ok(slices.iter().map(|slice| slice.len()).sum())
    }

    #[inline]
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.gathers(bytes) { Ok(()) } else { self.write_slowly(bytes) }
    }

    /// Does nothing. Output is sent when the callback returns.
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
