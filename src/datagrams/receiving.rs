//! Received datagrams: each is for the session of its peer, or a request of its own.

use std::ops::Range;
use std::sync::Arc;

use crate::address::Address;
use crate::blocking::serve_on::TakenRequest;
use crate::connection::Connection;
use crate::connection::budget::Slice;
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
use crate::reactor::served::Asked;
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
        let mut single = scratch.single.take();
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
            let is_plain =
                limits.sessions_max.is_none() && endpoint.sessions.is_empty() && endpoint.socket.gets_no_own();
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
            let count = packets.len();
            core.stats.datagrams_in += count as u64;
            core.stats.bytes_in += packets.iter().map(|packet| packet.range.len() as u64).sum::<u64>();
            let source = Source { limits, socket: key, bound: bound.as_ref(), is_plain };
            let mut served = 0;
            for packet in &packets {
                served += usize::from(self.on_packet(core, scratch, &source, &mut single, packet));
            }
            self.take_from_quota(core, served);
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
        scratch.single = single;
        core.receiving = NO_SLOT;
    }

    /// Serves one datagram: in the session of its peer, or as a request of its own. Returns whether it counts as a request.
    #[inline(always)]
    fn on_packet(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        source: &Source<'_>,
        single: &mut Option<Box<Connection>>,
        packet: &Packet,
    ) -> bool {
        let arrival = if source.is_plain && !packet.truncated && !core.slots.is_full() {
            Arrival::Begins
        } else {
            self.arrived(core, scratch, source, packet)
        };
        match arrival {
            Arrival::Begins => self.admit_datagram(core, scratch, source, single, packet),
            Arrival::Served => {}
            Arrival::Dropped => return false,
        }
        true
    }

    /// Finds out for whom a datagram is, and serves it if it is for a session.
    #[inline(never)]
    fn arrived(&mut self, core: &mut Core, scratch: &mut Scratch, source: &Source<'_>, packet: &Packet) -> Arrival {
        let Packet { range, from, local, truncated } = packet;
        let Some(endpoint) = core.slots.endpoint(source.socket) else { return Arrival::Dropped };
        let session = endpoint.sessions.get(from).copied();
        if endpoint.socket.is_own(from, *local, || &scratch.input[range.clone()]) {
            core.stats.datagrams_reflected += 1;
            return Arrival::Dropped;
        }
        if *truncated {
            core.stats.datagrams_truncated += 1;
            let bytes = &scratch.input[range.clone()];
            let wanted = self.calls.hook(core, |state| state.datagram_truncated(bytes, from));
            if wanted != Some(true) {
                return Arrival::Dropped;
            }
        }
        // A session that is ending takes no new datagram.
        if let Some(key) = session.filter(|&key| !core.slots.connection(key).state.phase.is_ending()) {
            core.slots.connection(key).io.stream.set_local(*local);
            self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
            return Arrival::Served;
        }
        // A session that is ending gives its place to its successor.
        let others = |core: &mut Core| core.sessions(self.calls.number()) - usize::from(session.is_some());
        let serves = core.served[usize::from(self.calls.number())].asked == Asked::Nothing;
        let admits = |max| others(core) < max && serves;
        let limits = source.limits;
        if limits.sessions_max.is_none_or(admits) && !core.slots.is_full() {
            return Arrival::Begins;
        }
        core.stats.sessions_refused += 1;
        match limits.sessions_max {
            Some(max) if others(core) >= max => {
                core.served[usize::from(self.calls.number())].sessions_full.get_or_insert(core.now);
                note_fault!(Debug, "{from} is refused (sessions_max = {max})");
            }
            _ => note_fault!(Debug, "{from} is refused: there is no room, or the server is stopping"),
        }
        Arrival::Served
    }

    /// A datagram begins a request: a new session, or a request of its own.
    #[inline(always)]
    fn admit_datagram(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        source: &Source<'_>,
        single: &mut Option<Box<Connection>>,
        packet: &Packet,
    ) {
        let Source { limits, socket, bound, .. } = *source;
        let Packet { range, from, local, .. } = packet;
        // Without a panic, so that nothing is left of it for hooks that do not look at it.
        let bytes = scratch.input.get(range.clone()).unwrap_or_default();
        let route = || Route { endpoint: socket, local: *local };
        let own; // Of this datagram, if it is known.
        let address = match local {
            Some(ip) => {
                own = bound.map(|bound| bound.with_ip(*ip));
                own.as_ref()
            }
            None => bound,
        };
        let request = Incoming::Datagram { packet: bytes, local_address: address };
        let in_cap = true; // The address may be forged, so no limit of connections applies to it.
        let handler = match self.pass_hooks(core, (&request, from, in_cap), |_, own| Ok(own), Err) {
            Admitted::Here(handler) => handler,
            Admitted::Elsewhere(work) => {
                let local = address.cloned();
                let (handle, id, route) = (core.handle(), core.slots.id(socket), route());
                let send = move |to: &Address, bytes: &[u8]| {
                    Ok(handle.send_datagram(id, route, to.clone(), bytes.to_vec())?)
                };
                let bytes = scratch.input[range.clone()].to_vec();
                let request = TakenRequest::Datagram(bytes, Box::new(send));
                return self.calls.send_elsewhere(core, work, request, from.clone(), (local, None));
            }
            Admitted::No => return,
        };
        let Some(max) = limits.sessions_max else {
            let connection = match single {
                Some(connection) => {
                    connection.renew(route(), from, core.now);
                    connection
                }
                None => single.insert(Box::new(Connection::datagram(route(), from.clone(), u32::MAX, core.now))),
            };
            return self.calls.serve_single(core, scratch, connection, (socket, packet), handler);
        };
        let is_boxed = handler.is_err();
        let handler = handler.map_or_else(|boxed| boxed, |own| self.calls.handlers.insert(own) as u32);
        let served = &mut core.served[usize::from(self.calls.number())];
        if served.sessions <= max.saturating_mul(9) / 10 {
            served.sessions_full = None;
        }
        let mut connection = Connection::datagram(route(), from.clone(), handler, core.now);
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

/// What is known about the datagrams of a socket.
struct Source<'a> {
    limits: &'a Arc<Limits>,
    socket: u32,
    /// The address of the socket.
    bound: Option<&'a Address>,
    /// There are no sessions, and no datagram is one that the socket itself has sent.
    is_plain: bool,
}

/// What has become of a datagram.
enum Arrival {
    /// It begins a request.
    Begins,
    /// It was for a session, or is refused.
    Served,
    Dropped,
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

    /// Sends the output to the peer of a datagram server, if there is any.
    pub(crate) fn reply(&mut self, core: &mut Core, scratch: &mut Scratch, connection: &mut Connection, wanted: bool) {
        if connection.state.take_reply()
            && wanted
            && !connection.state.phase.is_aborting()
            && let Some(route) = connection.io.stream.route()
        {
            // A datagram that cannot be sent is counted. Nothing waits for the result.
            let _ = core.send_datagram(route, &connection.state.address, &scratch.output);
        }
        scratch.output.clear();
    }
}
