//! A socket with a layer on it. It keeps the incomplete record of a read for the next read, and sealed bytes that the
//! socket has not accepted.
//!
//! ```text
//!            lent buffer:  [ plaintext ......... | carried | bytes from the socket ... ]
//!                            at the start                  ^ WIRE_AT, where the socket is read to
//! ```
//!
//! Plaintext stays with the caller until its ciphertext is written, as with `SSL_write`: a write that reports less than
//! was offered is repeated with the same bytes. The first `ahead` of them are sealed already.

mod running;

use std::cell::RefCell;
use std::io::{self, IoSlice, Read, Write};

use self::running::Running;
use super::layer::{Ended, Layer, Opened, PLAIN_MAX, guarded};

/// A socket and its layer.
#[derive(Debug)]
pub(crate) struct Layered<S, L: Layer> {
    pub(crate) socket: S,
    start: L::Start,
    running: Option<Box<Running<L>>>,
    /// Bytes at the front of the output that are sent unsealed, because they were written before the layer was put on.
    bare: u32,
    /// When the handshake began, later when the carried record began, and at last when our end was sealed.
    pub(crate) since: u64,
    /// The socket has reported the end of the peer's direction.
    fin: bool,
}

/// The result of a read.
#[derive(Debug)]
pub(crate) enum Received {
    Bytes {
        /// Read from the socket.
        wire: usize,
        /// At the start of the buffer.
        plain: usize,
        records: usize,
        /// The read was short, and there is nothing else to report.
        is_drained: bool,
    },
    /// The peer has ended its direction.
    Closed,
    /// The socket has ended, but the layer has not.
    Truncated,
    /// The layer has failed. Its message to the peer about that is sealed.
    Failed(io::Error),
}

impl<S, L: Layer> Layered<S, L> {
    /// Puts the layer on another socket. Also returns the one that it was on.
    pub(crate) fn move_to<T>(self, socket: T) -> (S, Layered<T, L>) {
        let Layered { socket: before, start, running, bare, since, fin } = self;
        (before, Layered { socket, start, running, bare, since, fin })
    }

    /// Returns whether the end of the input is known, but not reported.
    pub(crate) fn has_end(&self) -> bool {
        self.running.as_ref().and_then(|running| running.kept.as_ref()).is_some_and(|kept| kept.end.is_some())
    }
}

impl<S: Read + Write, L: Layer> Layered<S, L> {
    pub(crate) fn new(socket: S, start: L::Start, bare: usize, now: u64) -> Self {
        let bare = u32::try_from(bare).expect("the caller has checked it");
        Layered { socket, start, running: None, bare, since: now, fin: false }
    }

    pub(crate) fn start(&self) -> &L::Start {
        &self.start
    }

    /// Returns the layer, if it has begun.
    pub(crate) fn layer(&self) -> Option<&L> {
        self.running.as_ref().map(|running| &running.layer)
    }

    pub(crate) fn is_handshaking(&self) -> bool {
        self.running.as_ref().is_none_or(|running| running.layer.is_handshaking())
    }

    /// Returns whether output from before the layer must be sent first.
    pub(crate) fn is_bare(&self) -> bool {
        self.bare > 0
    }

    /// Returns whether anything waits in it: a part of a record, sealed bytes, or an end.
    pub(crate) fn keeps(&self) -> bool {
        self.running.as_ref().is_some_and(|running| running.kept.is_some())
    }

    /// Returns whether a record has arrived in part.
    pub(crate) fn has_carried(&self) -> bool {
        self.running.as_ref().and_then(|running| running.kept.as_ref()).is_some_and(|kept| !kept.carried.is_empty())
    }

    /// An incomplete record counts as begun now. Returns whether there is one.
    pub(crate) fn restart_record(&mut self, now: u64) -> bool {
        let is_restarted = self.has_carried() && !self.is_handshaking();
        if is_restarted {
            self.since = now;
        }
        is_restarted
    }

    /// Returns whether sealed bytes wait for the socket.
    pub(crate) fn has_sealed(&self) -> bool {
        self.running.as_ref().is_some_and(|running| !running.sealed().is_empty())
    }

    #[cfg(test)]
    pub(crate) fn sealed_len(&self) -> usize {
        self.running.as_ref().map_or(0, |running| running.sealed().len())
    }

    /// Returns whether the socket has reported the end of the peer's direction.
    pub(crate) fn is_at_end(&self) -> bool {
        self.fin
    }

    fn begin(&mut self) -> io::Result<&mut Running<L>> {
        if self.running.is_none() {
            let layer = guarded(|| L::start(&self.start))?;
            self.running = Some(Box::new(Running::new(layer)));
        }
        Ok(self.running.as_mut().expect("it was begun"))
    }

    /// Begins the layer, if it sends the first byte.
    pub(crate) fn speak(&mut self) -> io::Result<()> {
        if self.running.is_none() && L::speaks_first(&self.start) {
            let running = self.begin()?;
            if let Some(Ended::Failed(error)) = running.open(&mut [0; 1], 1..1).end {
                return Err(error);
            }
        }
        Ok(())
    }

    /// Reads from the socket once, at most `most` bytes. The buffer has at least [`BUFFER_BYTES_MIN`].
    ///
    /// # Errors
    /// Errors of the socket.
    pub(crate) fn read(&mut self, buffer: &mut [u8], most: usize, now: u64) -> io::Result<Received> {
        match self.running.as_mut().and_then(|running| running.take_end()) {
            Some(Ended::Closed) => return Ok(Received::Closed),
            Some(Ended::Failed(error)) => return Ok(Received::Failed(error)),
            None => {}
        }
        let most = most.min(buffer.len() - WIRE_AT);
        let wire = self.socket.read(&mut buffer[WIRE_AT..WIRE_AT + most])?;
        if wire == 0 {
            self.fin = true;
            return Ok(Received::Truncated);
        }
        if let Err(error) = self.begin() {
            return Ok(Received::Failed(error));
        }
        let running = self.running.as_mut().expect("it was begun");
        let carried = running.take_carried();
        let from = WIRE_AT - carried.len();
        buffer[from..WIRE_AT].copy_from_slice(&carried);
        let Opened { used, plain, records, mut end } = running.open(buffer, from..WIRE_AT + wire);
        let rest = &buffer[from + used..WIRE_AT + wire];
        let is_handshaking = running.layer.is_handshaking();
        if end.is_none() && rest.len() > if is_handshaking { HANDSHAKE_MAX } else { RECORD_MAX } {
            end = Some(Ended::Failed(io::Error::new(io::ErrorKind::InvalidData, "a message is too long")));
        }
        running.is_over |= end.is_some();
        running.has_failed |= matches!(end, Some(Ended::Failed(_)));
        let is_drained = wire < most && end.is_none();
        if end.is_some() {
            running.kept.get_or_insert_default().end = end;
        }
        if !rest.is_empty() && !running.is_over {
            running.kept.get_or_insert_default().carried = rest.to_vec();
            if !is_handshaking && (used > 0 || carried.is_empty()) {
                self.since = now;
            }
        }
        Ok(Received::Bytes { wire, plain, records, is_drained })
    }

    /// Like `write_vectored` of a socket, for plaintext.
    pub(crate) fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.bare > 0 {
            return self.write_bare(slices);
        }
        match &mut self.running {
            Some(running) if !running.layer.is_handshaking() => {
                SCRATCH.with_borrow_mut(|scratch| running.write(&mut self.socket, slices, scratch))
            }
            _ => Err(io::ErrorKind::WouldBlock.into()),
        }
    }

    #[cold]
    fn write_bare(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let first = slices.iter().find(|slice| !slice.is_empty()).map_or(&[][..], |slice| slice);
        let sent = self.socket.write(&first[..first.len().min(self.bare as usize)])?;
        self.bare -= sent as u32;
        Ok(sent)
    }

    /// Writes sealed bytes that wait. Returns whether none is left.
    ///
    /// # Errors
    /// Errors of the socket, except `WouldBlock` and `Interrupted`.
    pub(crate) fn flush(&mut self) -> io::Result<bool> {
        let Some(running) = &mut self.running else { return Ok(true) };
        while !running.sealed().is_empty() {
            match self.socket.write(running.sealed()) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(n) => running.keep(n, &[]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    /// Ends our direction, after everything that was written. Returns whether the socket has accepted all of it.
    ///
    /// # Errors
    /// The same as for [`flush`](Self::flush).
    pub(crate) fn close(&mut self, now: u64) -> io::Result<bool> {
        if let Some(running) = &mut self.running
            && !std::mem::replace(&mut running.is_closed, true)
        {
            self.since = now;
            running.close();
        }
        self.flush()
    }
}

thread_local! {
    /// For ciphertext that is written at once.
    static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The longest record, with its header.
const RECORD_MAX: usize = 5 + PLAIN_MAX;
/// The most that is carried during the handshake, whose messages have at most 64 KiB.
const HANDSHAKE_MAX: usize = 80 * 1024;
/// The offset at which bytes of the socket are put. Before it there is room for the carried bytes, and before them for the
/// plaintext of a record.
const WIRE_AT: usize = HANDSHAKE_MAX + PLAIN_MAX;
/// The most that one read takes from the socket.
pub(crate) const WIRE_MAX: usize = 64 * 1024;
/// The minimum length of a lent buffer.
pub(crate) const BUFFER_BYTES_MIN: usize = WIRE_AT + WIRE_MAX;
