//! Opens datagram sockets: those of servers, and outbound ones. An outbound socket is connected to its one peer, and has
//! one session.

use super::endpoint::Endpoint;
use super::sending::{flush, forget, send};
use crate::address::Address;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::ids::ConnectionId;
use crate::net::datagram::DatagramSocket;
use crate::net::fault::DatagramFault;
use crate::net::packet::{Packet, Route};
use crate::reactor::core::{Core, DatagramCode};
use crate::reactor::slots::Contents;

/// A program without datagrams does not contain it.
const DATAGRAMS: DatagramCode = DatagramCode { send, flush, forget, receive };

impl Core {
    /// Starts receiving for a server.
    pub(crate) fn receive_from(&mut self, server: u16, socket: DatagramSocket) -> Result<()> {
        let address = socket.address().clone();
        let key = self.slots.insert(server, Contents::Endpoint(Box::new(Endpoint::new(socket))));
        let token = self.slots.token(key);
        let endpoint = self.slots.endpoint(key).expect("just inserted");
        if let Err(source) = self.selector.register(&mut endpoint.socket, token) {
            self.slots.remove(key);
            return Err(Error::Bind { address, source });
        }
        self.served[usize::from(server)].listeners.push(key);
        self.datagrams = Some(DATAGRAMS);
        self.fit_read_buffer(server);
        Ok(())
    }

    /// Opens a socket and its session, whose `setup` is due.
    pub(crate) fn connect_datagram(&mut self, server: u16, address: Address) -> Result<ConnectionId> {
        let failed = |source| Error::Connect { address: address.clone(), source };
        self.may_connect(server).map_err(failed)?;
        let socket = self.selector.connect_datagrams(&address).map_err(failed)?;
        self.datagrams = Some(DATAGRAMS);
        let max = self.served[usize::from(server)].limits.max_packet_size;
        self.read_buffer_bytes_min = self.read_buffer_bytes_min.max(socket.buffer_bytes(max));
        let mut endpoint = Box::new(Endpoint::new(socket));
        endpoint.at_once = usize::MAX;
        let socket = self.slots.insert(server, Contents::Endpoint(endpoint));
        let route = Route { endpoint: socket, local: None };
        let session = self.insert(server, Connection::outbound_session(route, address.clone(), self.selector.now()));
        let token = self.slots.token(socket);
        let endpoint = self.slots.endpoint(socket).expect("just inserted");
        endpoint.outbound = Some(session);
        if let Err(error) = self.selector.register(&mut endpoint.socket, token) {
            self.reap(session);
            return Err(failed(error));
        }
        self.stats.connects += 1;
        self.queue(session);
        Ok(self.slots.id(session))
    }

    /// The session of an outbound socket is over.
    pub(super) fn disconnect(&mut self, key: u32) {
        if let Some(Contents::Endpoint(endpoint)) = self.slots.remove(key).contents.map(|contents| *contents) {
            self.stats.datagrams_dropped += endpoint.outbox.waiting.len() as u64;
            self.forget_endpoint(*endpoint);
        }
    }
}

/// Receives datagrams once by an outbound socket. Returns the slot of its session, which they are for, and whether the
/// socket has reported that the peer is gone.
fn receive(core: &mut Core, buffer: &mut [u8], packets: &mut Vec<Packet>, key: u32) -> Option<(u32, bool)> {
    core.flush_datagrams(key);
    let slot = core.slots.get(key)?;
    let max = core.served[usize::from(slot.server)].limits.max_packet_size;
    let Some(Contents::Endpoint(endpoint)) = slot.contents.as_deref_mut() else { return None };
    let session = endpoint.outbound?;
    if !endpoint.ready {
        return None;
    }
    let result = endpoint.socket.receive(buffer, max, usize::MAX, packets);
    let fault = result.as_ref().err().map(DatagramFault::of_receiving);
    endpoint.ready = result.is_ok_and(|more| more);
    if endpoint.ready {
        core.queue_again(key);
    }
    let stats = &mut core.stats;
    stats.datagrams_in += packets.len() as u64;
    stats.bytes_in += packets.iter().map(|packet| packet.range.len() as u64).sum::<u64>();
    stats.datagrams_truncated += packets.iter().filter(|packet| packet.truncated).count() as u64;
    let peer = &core.slots.connection(session).state.address;
    // Before the socket was connected, it may have received from anyone.
    packets.retain(|packet| packet.from == *peer && !packet.truncated);
    core.queue(session); // It may have to end, or to set its timer.
    let is_gone = fault.is_some_and(|fault| fault != DatagramFault::Blocked);
    core.stats.receive_errors += u64::from(is_gone);
    Some((session, is_gone))
}
