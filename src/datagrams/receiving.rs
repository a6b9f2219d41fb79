//! Received datagrams: each is for the session of its peer, or a request of its own.

use std::ops::Range;
use std::sync::Arc;

use crate::address::Address;
use crate::blocking::serve_on::TakenRequest;
use crate::connection::budget::Slice;
use crate::connection::{Connection, Delivery};
use crate::dispatch::admit::Admitted;
use crate::dispatch::call_handler::Callback;
use crate::dispatch::{Calls, Host, Service};
use crate::handler::RequestHandler;
use crate::ids::NO_SLOT;
use crate::limits::Limits;
use crate::logging::note_fault;
use crate::net::fault::DatagramFault;
use crate::net::packet::{Packet, Route};
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::{BaseServer, Incoming};

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// Receives and serves waiting datagrams of a socket, within its budget.
    pub(crate) fn receive_datagrams(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        core.receiving = key;
        core.flush_datagrams(key); // Flushes what other connections have sent through it.
        self.begin(core, scratch);
        let limits = &Arc::clone(&scratch.budget.limits);
        let mut budget = limits.datagrams_per_turn;
        let slice = Slice::default();
        let mut is_over = slice.is_over(&scratch.budget.turn);
        let bound = core.local_address(Route { endpoint: key, local: None });
        loop {
            // One datagram for `handle_request`, otherwise all.
            let quota = core.served[usize::from(self.calls.number())].quota;
            if quota == 0 {
                break;
            }
            let Some(endpoint) = core.slots.endpoint(key).filter(|endpoint| endpoint.receives()) else { break };
            if budget == 0 || is_over {
                core.queue_again(key);
                break;
            }
            let at_once = endpoint.at_once;
            let mut packets = std::mem::take(&mut scratch.packets);
            packets.clear();
            let max = limits.max_packet_size;
            let result = endpoint.socket.receive(&mut scratch.input, max, quota.min(at_once), &mut packets);
            match result.as_ref().map_err(DatagramFault::of_receiving) {
                Ok(more) => endpoint.ready = *more,
                Err(DatagramFault::Blocked) => endpoint.ready = false,
                Err(DatagramFault::Skip) => {
                    core.stats.receive_errors += 1;
                    budget -= 1;
                }
                Err(DatagramFault::Pause) => core.pause(key, "receive", &result.unwrap_err()),
            }
            budget = budget.saturating_sub(packets.len());
            for packet in &packets {
                self.on_packet(core, scratch, &Arrival { limits, socket: key, bound: &bound, packet });
            }
            let count = packets.len();
            scratch.packets = packets;
            is_over = slice.is_over(&scratch.budget.turn);
            let Some(endpoint) = core.slots.endpoint(key) else { break };
            // As many at once as there is time for handling, and room for more than came.
            if count > 0 {
                endpoint.at_once = if is_over { (count / 2).max(1) } else { 2 * count };
            }
            if !endpoint.is_idle() {
                core.flush_datagrams(key);
            }
        }
        core.receiving = NO_SLOT;
    }

    /// Serves one datagram: in the session of its peer, or as a request of its own.
    fn on_packet(&mut self, core: &mut Core, scratch: &mut Scratch, arrival: &Arrival<'_>) {
        let Packet { range, from, local, truncated } = arrival.packet;
        core.stats.datagrams_in += 1;
        core.stats.bytes_in += range.len() as u64;
        let Some(endpoint) = core.slots.endpoint(arrival.socket) else { return };
        let session = endpoint.sessions.get(from).copied();
        if endpoint.socket.is_own(from, *local, &scratch.input[range.clone()]) {
            core.stats.datagrams_reflected += 1;
            return;
        }
        if *truncated {
            core.stats.datagrams_truncated += 1;
            let bytes = &scratch.input[range.clone()];
            let wanted = self.calls.hook(core, |state| state.datagram_truncated(bytes, from));
            if wanted != Some(true) {
                return;
            }
        }
        self.take_from_quota(core);
        // A session that is ending takes no new datagram.
        if let Some(key) = session.filter(|&key| !core.slots.connection(key).state.phase.is_ending()) {
            core.slots.connection(key).io.stream.set_local(*local);
            return self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
        }
        // A session that is ending gives its place to its successor.
        let others = |core: &mut Core| core.sessions(self.calls.number()) - usize::from(session.is_some());
        let admits = |max| others(core) < max && !core.stop.is_under_way();
        let limits = arrival.limits;
        if limits.sessions_max.is_none_or(admits) && !core.slots.is_full() {
            return self.admit_datagram(core, scratch, arrival);
        }
        core.stats.sessions_refused += 1;
        match limits.sessions_max {
            Some(max) if others(core) >= max => note_fault!(Debug, "{from} is refused (sessions_max = {max})"),
            _ => note_fault!(Debug, "{from} is refused: there is no room, or the server is stopping"),
        }
    }

    /// A datagram begins a request: a new session, or a request of its own.
    fn admit_datagram(&mut self, core: &mut Core, scratch: &mut Scratch, arrival: &Arrival<'_>) {
        let Arrival { limits, socket, bound, packet: Packet { range, from, local, .. } } = *arrival;
        let bytes = &scratch.input[range.clone()];
        let route = Route { endpoint: socket, local: *local };
        let own; // Of this datagram, if it is known.
        let address = match local {
            Some(_) => {
                own = core.local_address(route);
                own.as_ref()
            }
            None => bound.as_ref(),
        };
        let request = Incoming::Datagram { packet: bytes, local_address: address };
        let (handler, is_boxed) = match self.pass_hooks(core, &request, from) {
            Admitted::Here { handler, is_boxed } => (handler, is_boxed),
            Admitted::Elsewhere(work) => {
                let local = address.cloned();
                let (handle, id) = (core.handle(), core.slots.id(socket));
                let send = move |to: &Address, bytes: &[u8]| {
                    Ok(handle.send_datagram(id, route, to.clone(), bytes.to_vec())?)
                };
                let request = TakenRequest::Datagram(bytes.to_vec(), Box::new(send));
                return self.calls.send_elsewhere(core, work, request, from.clone(), local);
            }
            Admitted::No => return,
        };
        if limits.sessions_max.is_none() {
            return self.calls.serve_single(core, scratch, arrival.packet, socket, (handler, is_boxed));
        }
        let mut connection = Connection::datagram(route, from.clone(), handler, core.now);
        if is_boxed {
            connection.state.set_boxed();
        }
        connection.state.phase.owe_setup();
        let key = core.insert(self.calls.number(), connection);
        if let Some(endpoint) = core.slots.endpoint(socket) {
            endpoint.sessions.insert(from.clone(), key);
        }
        self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
    }
}

/// A datagram, and what is known about those of its socket.
struct Arrival<'a> {
    limits: &'a Arc<Limits>,
    socket: u32,
    /// The address of the socket.
    bound: &'a Option<Address>,
    packet: &'a Packet,
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// A datagram for an existing session.
    pub(crate) fn on_datagram(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.set_up(at);
        at.connection.state.activity = at.core.now;
        if at.connection.state.phase.may_call() {
            self.call_with(at, packet, Callback::Handle);
        }
        if !at.connection.timer_stands() {
            self.advance(at); // The session may end.
        }
    }

    /// Sends the output to the peer of a datagram server, if there is any, by this function. Only code for datagrams calls
    /// the sending function itself, so a program without datagrams does not contain it.
    pub(crate) fn reply(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        connection: &mut Connection,
        wanted: bool,
        send: impl FnOnce(&mut Core, Route, &Address, &[u8]) -> Delivery,
    ) {
        if connection.state.take_reply()
            && wanted
            && !connection.state.phase.is_aborting()
            && let Some(route) = connection.io.stream.route()
        {
            // A datagram that cannot be sent is counted. Nothing waits for the result.
            let _ = send(core, route, &connection.state.address, &scratch.output);
        }
        scratch.output.clear();
    }
}
