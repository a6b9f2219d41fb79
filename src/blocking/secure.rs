//! TLS on a thread: the same `rfile` and `wfile` over a session in memory.
//!
//! One thread may read while another writes, so no thread holds the lock on the session while it waits for the socket.
//! Sealed bytes must be written in the order in which they were sealed, so a thread holds `writing` from sealing until the
//! socket has the bytes.

use std::io::{self, IoSlice, Read, Write};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::raw::RawSocket;
use crate::error::Error;
use crate::net::Detached;
use crate::net::layered::{BUFFER_BYTES_MIN, Layered, Received};
use crate::net::tls::{Session, TlsSession, suppresses_ragged_eofs};

/// The TLS of one descriptor.
#[derive(Debug)]
pub(super) struct Secure {
    session: Mutex<Layered<Memory, Session>>,
    input: Mutex<Input>,
    writing: Mutex<()>,
    /// A write has failed, perhaps in the middle of a record. The peer would take what follows for the rest of it.
    is_cut: AtomicBool,
    /// The server is stopping, and has ended the input.
    is_drained: AtomicBool,
}

/// Opened bytes that no read has returned.
#[derive(Debug, Default)]
struct Input {
    plain: Vec<u8>,
    taken: usize,
    has_ended: bool,
}

/// The socket of the session: two buffers.
#[derive(Debug, Default)]
struct Memory {
    arrived: Vec<u8>,
    at_end: bool,
    sent: Vec<u8>,
}

impl Read for Memory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let n = self.arrived.len().min(buffer.len());
        if n == 0 {
            return if self.at_end { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        }
        buffer[..n].copy_from_slice(&self.arrived[..n]);
        self.arrived.drain(..n);
        Ok(n)
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.sent.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Secure {
    /// Continues a session after its handshake. `plain` has arrived with the end of it.
    pub(super) fn new(tls: Detached, plain: Vec<u8>) -> Self {
        let ((), session) = tls.move_to(Memory::default());
        Secure {
            session: Mutex::new(session),
            input: Mutex::new(Input { plain, ..Input::default() }),
            writing: Mutex::default(),
            is_cut: AtomicBool::new(false),
            is_drained: AtomicBool::new(false),
        }
    }

    /// Calls a closure with the session.
    pub(super) fn ask<R>(&self, ask: impl FnOnce(TlsSession<'_>) -> R) -> Option<R> {
        lock(&self.session).layer().map(|session| ask(TlsSession::new(session)))
    }

    /// Like `recv`.
    pub(super) fn receive(&self, socket: &impl RawSocket, buffer: &mut [u8]) -> io::Result<usize> {
        let mut input = lock(&self.input);
        while input.taken == input.plain.len() && !input.has_ended {
            self.fill(socket, &mut input)?;
            self.send_answers(socket)?;
        }
        let n = (input.plain.len() - input.taken).min(buffer.len());
        buffer[..n].copy_from_slice(&input.plain[input.taken..input.taken + n]);
        input.taken += n;
        if input.taken == input.plain.len() {
            (input.plain, input.taken) = (Vec::new(), 0);
        }
        Ok(n)
    }

    /// Waits for bytes of the wire, and opens them. Does not wait if the end of the input has come with the handshake.
    fn fill(&self, socket: &impl RawSocket, input: &mut Input) -> io::Result<()> {
        let mut wire = [0; WIRE_BYTES];
        let has_end = lock(&self.session).has_end();
        let came = if has_end { 0 } else { socket.read_raw(&mut wire)? };
        let mut session = lock(&self.session);
        session.socket.arrived.extend_from_slice(&wire[..came]);
        session.socket.at_end |= came == 0;
        let mut lent = vec![0; BUFFER_BYTES_MIN];
        loop {
            match session.read(&mut lent, usize::MAX, 0) {
                Ok(Received::Bytes { plain, .. }) => input.plain.extend_from_slice(&lent[..plain]),
                Ok(Received::Closed) => {
                    input.has_ended = true;
                    return Ok(());
                }
                Ok(Received::Truncated) => {
                    input.has_ended = true;
                    let allowed = suppresses_ragged_eofs(session.start()) || self.is_drained.load(Ordering::SeqCst);
                    if allowed {
                        return Ok(());
                    }
                    let source = io::ErrorKind::UnexpectedEof.into();
                    return Err(Error::Tls { doing: "read to the end of the input", source }.into());
                }
                Ok(Received::Failed(source)) => {
                    return Err(Error::Tls { doing: "open a TLS record", source }.into());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error),
            }
        }
    }

    /// Like `sendall`.
    pub(super) fn send_all(&self, socket: &impl RawSocket, bytes: &[u8]) -> io::Result<usize> {
        let mut sent = 0;
        while sent < bytes.len() {
            sent += self.send(socket, &bytes[sent..])?;
        }
        Ok(sent)
    }

    /// Sends some of the bytes. Returns how many.
    pub(super) fn send(&self, socket: &impl RawSocket, bytes: &[u8]) -> io::Result<usize> {
        if bytes.is_empty() {
            return Ok(0);
        }
        let _writing = lock(&self.writing);
        let (sent, sealed) = {
            let mut session = lock(&self.session);
            let sent = session.write(&[IoSlice::new(&bytes[..bytes.len().min(WIRE_BYTES)])])?;
            (sent, std::mem::take(&mut session.socket.sent))
        };
        self.write(socket, &sealed)?;
        Ok(sent)
    }

    /// Writes sealed bytes. The caller holds `writing`.
    fn write(&self, socket: &impl RawSocket, sealed: &[u8]) -> io::Result<()> {
        if self.is_cut() {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        socket.write_raw(sealed).inspect_err(|_| self.is_cut.store(true, Ordering::SeqCst))
    }

    /// Returns whether a write has failed. Nothing can be sent after that.
    pub(super) fn is_cut(&self) -> bool {
        self.is_cut.load(Ordering::SeqCst)
    }

    /// Sends `close_notify`. An error means that the peer does not receive it.
    pub(super) fn close(&self, socket: &impl RawSocket) {
        let _ = lock(&self.session).close(0);
        let _ = self.send_sealed(socket);
    }

    /// Returns whether the end of the input was read.
    pub(super) fn has_ended(&self) -> bool {
        lock(&self.input).has_ended
    }

    pub(super) fn drain(&self) {
        self.is_drained.store(true, Ordering::SeqCst);
    }

    /// Sends the messages that TLS has produced itself, such as tickets and answers to key updates.
    pub(super) fn send_sealed(&self, socket: &impl RawSocket) -> io::Result<()> {
        let _writing = lock(&self.writing);
        let sealed = {
            let mut session = lock(&self.session);
            session.flush()?;
            std::mem::take(&mut session.socket.sent)
        };
        if sealed.is_empty() { Ok(()) } else { self.write(socket, &sealed) }
    }

    /// Like `send_sealed`, for a thread that reads. If another thread is writing, that one sends the messages.
    fn send_answers(&self, socket: &impl RawSocket) -> io::Result<()> {
        if !lock(&self.session).has_sealed() || self.writing.try_lock().is_err() {
            return Ok(());
        }
        self.send_sealed(socket)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much is read or sealed at once.
const WIRE_BYTES: usize = 16 * 1024;
