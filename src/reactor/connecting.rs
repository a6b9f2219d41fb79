//! Outbound connections.

use std::io::ErrorKind;
use std::sync::Arc;

use super::Reactor;
use super::core::{Core, DatagramCode};
use super::entries::Alarm;
use super::served::Life;
use super::slots::Contents;
use crate::address::Address;
use crate::backoff::Backoff;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::ids::ConnectionId;
use crate::lifecycle::EndReason;
use crate::net::Stream;
use crate::net::packet::Packet;
use crate::timers::nanos;

impl Reactor {
    /// Receives and serves waiting datagrams of an outbound socket.
    pub(super) fn receive_outbound(&mut self, server: usize, key: u32) {
        let Some(DatagramCode { receive, .. }) = self.core.datagrams else { return };
        let mut packets = std::mem::take(&mut self.scratch.packets);
        packets.clear();
        if let Some((session, is_gone)) = receive(&mut self.core, &mut self.scratch.input, &mut packets, key) {
            for Packet { range, .. } in &packets {
                if !self.core.slots.connection(session).state.phase.is_ending() {
                    self.servers[server].on_datagram(&mut self.core, &mut self.scratch, session, range.clone());
                }
            }
            if is_gone {
                self.core.slots.connection(session).state.end(EndReason::Reset, false);
            }
        }
        self.scratch.packets = packets;
    }
}

impl Core {
    pub(crate) fn connect(&mut self, server: u16, address: Address) -> Result<ConnectionId> {
        let failed = |source| Error::Connect { address: address.clone(), source };
        self.may_connect(server).map_err(failed)?;
        let (stream, is_pending) = match self.selector.connect(&address) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => (Stream::pending(), true),
            connected => (connected.map_err(failed)?, false),
        };
        let connection = Connection::connecting(stream, address.clone(), u32::MAX, self.selector.now());
        // Only an event reports the result.
        let key = self.slots.insert(server, Contents::Connection(connection));
        let token = self.slots.token(key);
        if let Err(error) = self.selector.register(&mut self.slots.connection(key).io.stream, token) {
            self.slots.remove(key);
            return Err(failed(error));
        }
        self.stats.connects += 1;
        if is_pending {
            self.redial = Some(redial);
            self.arm_redial(key, Backoff::default());
        }
        let limits = Arc::clone(&self.served[usize::from(server)].limits);
        let mut lent = self.slots.lend(key);
        self.inserted(server, lent.connection());
        self.watch(key, lent.connection(), &limits);
        self.slots.give_back(key, lent);
        Ok(self.slots.id(key))
    }

    /// Returns why a server may start no outbound connection.
    pub(crate) fn may_connect(&self, server: u16) -> std::io::Result<()> {
        if self.stop.is_aborting() || self.stop.is_given_up() {
            return Err(std::io::Error::other("the reactor has stopped"));
        }
        if matches!(self.served[usize::from(server)].life, Life::Closing { .. } | Life::Closed) {
            return Err(std::io::Error::other("the server is closed"));
        }
        if self.slots.is_full() {
            return Err(std::io::Error::other("too many connections"));
        }
        Ok(())
    }

    /// A handshake of TLS begins. The read buffer must be long enough for it.
    #[cfg(feature = "tls")]
    #[cold]
    pub(crate) fn begin_handshake(&mut self) {
        self.stats.handshakes += 1;
        self.read_buffer_bytes_min = self.read_buffer_bytes_min.max(crate::net::layered::BUFFER_BYTES_MIN);
    }

    pub(super) fn arm_redial(&mut self, key: u32, mut backoff: Backoff) {
        let next = self.selector.now().saturating_add(nanos(backoff.pause()));
        let timer = self.timers.arm(next, Alarm::Redial { key, backoff });
        self.slots.connection(key).state.extra.get_or_insert_default().redial = Some(timer);
    }
}

/// Connects again, for a connection that still exists.
///
/// # Errors
/// Errors of connect(2), except a full backlog, after which it is tried again later.
fn redial(core: &mut Core, key: u32, backoff: Backoff) -> std::io::Result<()> {
    let token = core.slots.token(key);
    let connection = core.slots.connection(key);
    if !connection.state.phase.is_connecting() {
        return Ok(());
    }
    match core.selector.connect(&connection.state.address) {
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            core.arm_redial(key, backoff);
            Ok(())
        }
        connected => {
            connection.io.stream.replace_socket(connected?);
            core.selector.register(&mut connection.io.stream, token)
        }
    }
}
