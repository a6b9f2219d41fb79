//! One connection to the server, and the bytes over it.

use super::pattern;
use super::tally::Fault;
use mio::event::Event;
use socket2::Socket;
use std::io::{self, ErrorKind, Read};
use std::time::{Duration, Instant};

/// A message on whose connection nothing has come for so long will not come. Tests have less patience.
pub(super) const SILENCE: Duration = if cfg!(test) { Duration::from_secs(2) } else { Duration::from_secs(10) };

/// A socket that does not block, and how far its stream of bytes has come.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) socket: Socket,
    /// Tells its bytes from those of other connections.
    number: u64,
    message_bytes: u64,
    /// Bytes that are to be sent, have been sent, and have come back.
    due: u64,
    sent: u64,
    received: u64,
    /// When bytes came last, or when the first of the messages under way was sent.
    heard: Instant,
}

impl Connection {
    pub(super) fn new(socket: Socket, number: u64, message_bytes: usize) -> Connection {
        let (message_bytes, heard) = (message_bytes as u64, Instant::now());
        Connection { socket, number, message_bytes, due: 0, sent: 0, received: 0, heard }
    }

    /// So many messages more are to be sent.
    pub(super) fn add(&mut self, messages: u64) {
        if self.due == self.received {
            self.heard = Instant::now();
        }
        self.due += messages * self.message_bytes;
    }

    /// Messages that are not back in full.
    pub(super) fn under_way(&self) -> u64 {
        (self.due - self.received).div_ceil(self.message_bytes)
    }

    /// Sends what is due, as far as the socket takes it. If it does not take all, an event says when it takes more.
    pub(super) fn send(&mut self) -> Result<(), Fault> {
        while self.sent < self.due {
            let unsent = pattern::slice(self.number, self.sent, self.due - self.sent);
            match self.socket.send(unsent) {
                Ok(sent) => {
                    self.sent += sent as u64;
                    if sent < unsent.len() {
                        break;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(error)),
            }
        }
        Ok(())
    }

    /// Reads what an event announced until the socket is empty, and compares it. Returns whether the server has ended the
    /// connection. `buffer` is for that only.
    pub(super) fn receive(&mut self, event: &Event, buffer: &mut [u8]) -> Result<bool, Fault> {
        let end = event.is_read_closed();
        let hung_up = event.is_error() || event.is_write_closed();
        if !event.is_readable() && !end && !hung_up {
            return Ok(false);
        }
        loop {
            match (&self.socket).read(buffer) {
                Ok(0) => return Ok(true),
                Ok(length) => {
                    self.accept(&buffer[..length])?;
                    // A short read has emptied the socket. An end that was announced before came behind those bytes, so
                    // it need not be read. Only if the connection was hung up, it may be an error instead.
                    if length < buffer.len() && !hung_up {
                        return Ok(end);
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(self.fault(error)),
            }
        }
    }

    fn accept(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        let expected = (bytes.len() as u64).min(self.sent - self.received);
        let wrong = pattern::differences(bytes, pattern::slice(self.number, self.received, expected));
        self.received += expected;
        self.heard = Instant::now();
        if wrong == 0 { Ok(()) } else { Err(Fault::WrongBytes(wrong)) }
    }

    /// Why it is given up, if nothing has come for too long.
    pub(super) fn silence(&self, now: Instant) -> Option<Fault> {
        let is_silent = now.saturating_duration_since(self.heard) >= SILENCE;
        is_silent.then(|| if self.sent == 0 { self.fault(ErrorKind::TimedOut.into()) } else { Fault::Silent })
    }

    /// Before anything could be sent, it is connecting that failed.
    fn fault(&self, error: io::Error) -> Fault {
        if self.sent == 0 { Fault::Connect(error) } else { Fault::Broken(error) }
    }
}
