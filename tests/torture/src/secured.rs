//! A connection under TLS: rustls' own client, over a connection of either kind.

use std::io::{self, ErrorKind, Read, Write};
use std::sync::Arc;

use rustls::ClientConnection;
use rustls::pki_types::ServerName;

use crate::authority::Authority;
use crate::stream::Stream;

pub(crate) struct Secured {
    pub(crate) socket: Stream,
    session: ClientConnection,
}

impl Secured {
    pub(crate) fn new(socket: Stream, authority: &Authority, name: ServerName<'static>) -> io::Result<Self> {
        let session = ClientConnection::new(Arc::clone(&authority.config), name).map_err(io::Error::other)?;
        Ok(Secured { socket, session })
    }

    /// Goes on with the handshake. Returns whether it is complete, and all of it sent.
    pub(crate) fn is_connected(&mut self) -> io::Result<bool> {
        loop {
            let sent = self.flush();
            if !self.session.is_handshaking() || is_blocked(&sent) {
                return sent.map(|()| true).or_else(not_yet);
            }
            sent?;
            let came = self.receive();
            if is_blocked(&came) {
                return Ok(false);
            }
            if came? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        }
    }

    /// Sends close_notify, and a FIN after it. That may have to wait: an error is `WouldBlock` then.
    pub(crate) fn half_close(&mut self) -> io::Result<()> {
        self.session.send_close_notify();
        self.flush()?;
        self.socket.half_close()
    }

    /// Returns how many bytes of ciphertext came.
    fn receive(&mut self) -> io::Result<usize> {
        let came = self.session.read_tls(&mut self.socket)?;
        if let Err(error) = self.session.process_new_packets() {
            let _ = self.flush(); // The alert: the server should know why.
            return Err(io::Error::new(ErrorKind::InvalidData, error));
        }
        Ok(came)
    }
}

/// An end without close_notify is an error, `UnexpectedEof`.
impl Read for Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let read = self.session.reader().read(buffer);
            if !is_blocked(&read) {
                return read;
            }
            self.receive()?;
        }
    }
}

/// Bytes are taken only when none are left of those before, so that a server that does not read is noticed.
impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.flush()?;
        let taken = self.session.writer().write(bytes)?;
        self.flush().or_else(|error| not_yet(error).map(drop))?;
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        while self.session.wants_write() {
            self.session.write_tls(&mut self.socket)?;
        }
        Ok(())
    }
}

fn is_blocked<T>(result: &io::Result<T>) -> bool {
    matches!(result, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

fn not_yet(error: io::Error) -> io::Result<bool> {
    if error.kind() == ErrorKind::WouldBlock { Ok(false) } else { Err(error) }
}
