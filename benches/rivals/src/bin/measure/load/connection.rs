//! One connection to the server, and the bytes over it.

use std::os::fd::OwnedFd;
use std::time::Instant;

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use super::pattern::Stream;
use super::poller::Ready;
use super::stages::SILENCE;
use super::tally::Fault;

/// A socket that does not block, and how far its stream has come.
#[derive(Debug)]
pub(super) struct Connection {
    socket: OwnedFd,
    stream: Stream,
    /// When bytes came last, or when the first of those under way were to be sent.
    heard: Instant,
}

/// What one event has brought.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Received {
    pub(super) bytes: usize,
    /// The server has ended the connection.
    pub(super) end: bool,
}

impl Connection {
    /// `number` tells its bytes from those of others.
    pub(super) fn new(socket: OwnedFd, number: u64, now: Instant) -> Self {
        Connection { socket, stream: Stream::new(number), heard: now }
    }

    pub(super) fn socket(&self) -> &OwnedFd {
        &self.socket
    }

    pub(super) fn stream(&self) -> &Stream {
        &self.stream
    }

    /// So many bytes more are to be sent.
    pub(super) fn extend(&mut self, bytes: u64, now: Instant) {
        if self.stream.is_back() {
            self.heard = now;
        }
        self.stream.extend(bytes);
    }

    /// Sends what is due, as far as the socket takes it. If it does not take all, an event says when it does again.
    pub(super) fn send(&mut self) -> Result<(), Fault> {
        loop {
            let unsent = self.stream.unsent();
            if unsent.is_empty() {
                return Ok(());
            }
            match send(&self.socket, unsent, SendFlags::NOSIGNAL) {
                Ok(sent) => {
                    self.stream.advance(sent);
                    if sent < unsent.len() {
                        return Ok(());
                    }
                }
                Err(Errno::AGAIN) => return Ok(()),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.fault(errno)),
            }
        }
    }

    /// Reads what an event announced, if anything, until the socket is empty, and compares it. `buffer` is for that
    /// only.
    pub(super) fn receive(&mut self, ready: Ready, buffer: &mut [u8]) -> Result<Received, Fault> {
        if !ready.readable {
            return Ok(Received::default());
        }
        let mut bytes = 0;
        loop {
            match recv(&self.socket, &mut *buffer, RecvFlags::empty()) {
                Ok((0, _)) => return Ok(Received { bytes, end: true }),
                Ok((received, _)) => {
                    self.stream.accept(&buffer[..received]).map_err(Fault::WrongBytes)?;
                    bytes += received;
                    // A short read has emptied the socket. An end that was announced before came behind those bytes,
                    // so it need not be read. Only if the socket was hung up it may be an error instead.
                    if received < buffer.len() && !ready.hung_up {
                        return Ok(Received { bytes, end: ready.end });
                    }
                }
                Err(Errno::AGAIN) => return Ok(Received { bytes, end: false }),
                Err(Errno::INTR) => {}
                Err(errno) => return Err(self.fault(errno)),
            }
        }
    }

    /// Bytes have come.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
    }

    /// Whether bytes have been awaited in vain for too long.
    pub(super) fn is_silent(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.heard) >= SILENCE
    }

    /// Before anything could be sent, it is connecting that failed.
    pub(super) fn fault(&self, errno: Errno) -> Fault {
        if self.stream.sent() == 0 { Fault::Connect(errno) } else { Fault::Broken(errno) }
    }

    /// What it is if nothing comes.
    pub(super) fn silence(&self) -> Fault {
        if self.stream.sent() == 0 { Fault::Connect(Errno::TIMEDOUT) } else { Fault::Silent }
    }
}
