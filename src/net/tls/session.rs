//! TLS as a [`Layer`]. Only this file uses rustls' unbuffered connections.
//!
//! Four of their habits matter here:
//! - `process_tls_records` panics without the bytes that it has left over, so every call gets them.
//! - The alert for an error comes with the call after that error, and each further call would make another alert.
//! - Messages that rustls has sealed itself must be sent before later data, or the peer can open neither.
//! - After our `close_notify`, rustls makes an alert for what the peer does wrong, or panics in a debug build. The panic is
//!   caught, and the alert is not sent.

use std::io;
use std::ops::Range;
use std::sync::Arc;

use rustls::client::{ClientConnectionData, UnbufferedClientConnection};
use rustls::pki_types::ServerName;
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, ReadEarlyData, UnbufferedStatus, WriteTraffic,
};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};

use super::server_name::{self, Name};
use crate::net::layer::{Ended, Layer, Opened, Sealed};

/// The configuration of sessions. All sessions of an acceptor or a connector share it.
pub(crate) type Start = Arc<Side<ServerStart, ClientStart>>;

/// The end of a session, with something for either.
#[derive(Debug)]
pub(crate) enum Side<S, C> {
    Server(S),
    Client(C),
}

#[derive(Debug)]
pub(crate) struct ServerStart {
    pub(crate) config: Arc<ServerConfig>,
    /// The end of the socket counts as the end of the input.
    pub(crate) suppress_ragged_eofs: bool,
}

#[derive(Debug)]
pub(crate) struct ClientStart {
    pub(crate) config: Arc<ClientConfig>,
    pub(crate) name: ServerName<'static>,
}

/// Returns whether the end of the socket counts as the end of the input.
pub(crate) fn suppresses_ragged_eofs(start: &Start) -> bool {
    matches!(&**start, Side::Server(ServerStart { suppress_ragged_eofs: true, .. }))
}

/// One TLS session.
pub(crate) struct Session {
    side: Side<UnbufferedServerConnection, UnbufferedClientConnection>,
    /// The name that the client has asked for.
    name: Option<Name>,
}

impl Session {
    pub(super) fn state(&self) -> &CommonState {
        match &self.side {
            Side::Server(connection) => connection,
            Side::Client(connection) => connection,
        }
    }

    pub(super) fn server_name(&self) -> Option<&str> {
        self.name.as_deref().map(|name| &**name)
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let state = self.state();
        f.debug_struct("Session").field("version", &state.protocol_version()).field("name", &self.name).finish()
    }
}

impl Layer for Session {
    type Start = Start;

    fn speaks_first(start: &Start) -> bool {
        matches!(**start, Side::Client(_))
    }

    fn start(start: &Start) -> io::Result<Self> {
        let (side, name) = match &**start {
            Side::Server(ServerStart { config, .. }) => {
                let connection = UnbufferedServerConnection::new(config.clone()).map_err(failure)?;
                (Side::Server(connection), None)
            }
            Side::Client(ClientStart { config, name }) => {
                let connection = UnbufferedClientConnection::new(config.clone(), name.clone()).map_err(failure)?;
                (Side::Client(connection), Some(server_name::shared(&name.to_str())))
            }
        };
        Ok(Session { side, name })
    }

    fn open(&mut self, buffer: &mut [u8], wire: Range<usize>, sealed: &mut Sealed<'_>) -> Opened {
        match &mut self.side {
            Side::Server(connection) if connection.is_handshaking() => {
                let (opened, noted) = server_name::noted(|| open(connection, buffer, wire, sealed));
                self.name = noted.or(self.name.take());
                opened
            }
            Side::Server(connection) => open(connection, buffer, wire, sealed),
            Side::Client(connection) => open(connection, buffer, wire, sealed),
        }
    }

    fn seal(&mut self, plain: &[u8], carried: &mut [u8], sealed: &mut Sealed<'_>) -> io::Result<()> {
        match &mut self.side {
            Side::Server(connection) => seal(connection, plain, carried, sealed),
            Side::Client(connection) => seal(connection, plain, carried, sealed),
        }
    }

    fn close(&mut self, carried: &mut [u8], sealed: &mut Sealed<'_>) -> io::Result<()> {
        match &mut self.side {
            Side::Server(connection) => close(connection, carried, sealed),
            Side::Client(connection) => close(connection, carried, sealed),
        }
    }

    fn is_handshaking(&self) -> bool {
        self.state().is_handshaking()
    }
}

/// The methods that rustls' two sides have in common.
trait Unbuffered {
    type Data;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
    /// Puts early data at the front of the buffer. Returns the number of bytes.
    fn take_early(state: ReadEarlyData<'_, '_, Self::Data>, front: &mut [u8]) -> usize;
}

impl Unbuffered for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ServerConnectionData> {
        self.process_tls_records(wire)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn take_early(mut state: ReadEarlyData<'_, '_, ServerConnectionData>, front: &mut [u8]) -> usize {
        let mut taken = 0;
        while let Some(Ok(record)) = state.next_record() {
            front[taken..][..record.payload.len()].copy_from_slice(record.payload);
            taken += record.payload.len();
        }
        taken
    }
}

impl Unbuffered for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, wire: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, ClientConnectionData> {
        self.process_tls_records(wire)
    }

    fn common(&self) -> &CommonState {
        self
    }

    fn take_early(_: ReadEarlyData<'_, '_, ClientConnectionData>, _: &mut [u8]) -> usize {
        0 // Only servers get some.
    }
}

fn open<C: Unbuffered>(connection: &mut C, buffer: &mut [u8], wire: Range<usize>, sealed: &mut Sealed<'_>) -> Opened {
    let mut opened = Opened::default();
    loop {
        let (front, rest) = buffer.split_at_mut(wire.start + opened.used);
        let rest = &mut rest[..wire.len() - opened.used];
        let UnbufferedStatus { discard, state } = connection.process(rest);
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    front[opened.plain..][..record.payload.len()].copy_from_slice(record.payload);
                    opened.plain += record.payload.len();
                    opened.records += 1;
                }
                opened.used += discard;
                // Usually there is no more, and another call would only confirm that.
                if opened.used == wire.len() && !connection.common().wants_write() {
                    return opened;
                }
                continue;
            }
            Ok(ConnectionState::ReadEarlyData(state)) => {
                opened.plain += C::take_early(state, &mut front[opened.plain..]);
                opened.records += 1;
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(sealed, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed | ConnectionState::Closed) => {
                opened.used = wire.len(); // What follows must be ignored: RFC 8446, section 6.1.
                opened.end = Some(Ended::Closed);
                return opened;
            }
            Ok(_) => {
                opened.used += discard;
                return opened;
            }
            Err(error) => {
                opened.used += discard;
                let rest = &mut buffer[wire.start + opened.used..wire.end];
                say(connection, rest, sealed);
                opened.end = Some(Ended::Failed(failure(error)));
                return opened;
            }
        }
        opened.used += discard;
    }
}

/// Takes the messages that rustls has sealed itself.
fn say<C: Unbuffered>(connection: &mut C, carried: &mut [u8], sealed: &mut Sealed<'_>) {
    while connection.common().wants_write() {
        match connection.process(carried).state {
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(sealed, |room| data.encode(room)),
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            _ => return,
        }
    }
}

fn encode(sealed: &mut Sealed<'_>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, EncodeError>) {
    let mut wanted = 0;
    loop {
        match encode(sealed.room(wanted)) {
            Ok(filled) => return sealed.add(filled),
            Err(EncodeError::InsufficientSize(InsufficientSizeError { required_size })) => wanted = required_size,
            Err(EncodeError::AlreadyEncoded) => return,
        }
    }
}

fn seal<C: Unbuffered>(
    connection: &mut C,
    plain: &[u8],
    carried: &mut [u8],
    sealed: &mut Sealed<'_>,
) -> io::Result<()> {
    let wanted = plain.len() + (plain.len() / RECORD_PLAIN + 1) * OVERHEAD;
    write(connection, carried, sealed, wanted, |traffic, room| traffic.encrypt(plain, room))
}

fn close<C: Unbuffered>(connection: &mut C, carried: &mut [u8], sealed: &mut Sealed<'_>) -> io::Result<()> {
    write(connection, carried, sealed, OVERHEAD, |traffic, room| traffic.queue_close_notify(room))
}

/// Lets rustls write into room of `wanted` bytes, after the messages that it has sealed itself.
fn write<C: Unbuffered>(
    connection: &mut C,
    carried: &mut [u8],
    sealed: &mut Sealed<'_>,
    mut wanted: usize,
    mut write: impl FnMut(&mut WriteTraffic<'_, C::Data>, &mut [u8]) -> Result<usize, EncryptError>,
) -> io::Result<()> {
    loop {
        match connection.process(carried).state {
            Ok(ConnectionState::WriteTraffic(mut traffic)) => match write(&mut traffic, sealed.room(wanted)) {
                Ok(filled) => {
                    sealed.add(filled);
                    return Ok(());
                }
                Err(EncryptError::InsufficientSize(InsufficientSizeError { required_size })) => wanted = required_size,
                Err(error @ EncryptError::EncryptExhausted) => return Err(io::Error::other(error)),
            },
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(sealed, |room| data.encode(room)),
            Ok(ConnectionState::PeerClosed) => {}
            Ok(_) => return Err(io::ErrorKind::BrokenPipe.into()),
            Err(error) => return Err(failure(error)),
        }
    }
}

fn failure(error: Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

/// The plaintext of a full record, and what its ciphertext has in addition.
const RECORD_PLAIN: usize = 16 * 1024;
const OVERHEAD: usize = 64;

#[cfg(test)]
mod tests;
