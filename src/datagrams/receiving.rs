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
use crate::lifecycle::EndReason;
use crate::limits::Limits;
use crate::logging::note_fault;
use crate::net::datagram::DatagramFault;
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
        loop {
            // One datagram for `handle_request`, otherwise all.
            let quota = core.served[usize::from(self.calls.number())].quota;
            if quota == 0 {
                break;
            }
            let Some(endpoint) = core.slots.endpoint(key).filter(|endpoint| endpoint.receives()) else { break };
            if budget == 0 || slice.is_over(&scratch.budget.turn) {
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
                self.on_packet(core, scratch, limits, key, packet);
            }
            let count = packets.len();
            scratch.packets = packets;
            core.flush_datagrams(key);
            // As many at once as there is time for handling.
            let over = slice.is_over(&scratch.budget.turn);
            if let Some(endpoint) = core.slots.endpoint(key) {
                endpoint.at_once = if over { (count / 2).max(1) } else { at_once.saturating_mul(2) };
            }
        }
        core.receiving = NO_SLOT;
    }

    /// Serves one datagram: in the session of its peer, or as a request of its own.
    fn on_packet(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        limits: &Arc<Limits>,
        socket: u32,
        packet: &Packet,
    ) {
        core.stats.datagrams_in += 1;
        core.stats.bytes_in += packet.range.len() as u64;
        let Packet { range, from, local, truncated } = packet;
        let Some(endpoint) = core.slots.endpoint(socket) else { return };
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
        if limits.sessions_max.is_none_or(admits) && !core.slots.is_full() {
            return self.admit_datagram(core, scratch, limits, socket, packet);
        }
        core.stats.sessions_refused += 1;
        match limits.sessions_max {
            Some(max) if others(core) >= max => note_fault!(Debug, "{from} is refused (sessions_max = {max})"),
            _ => note_fault!(Debug, "{from} is refused: there is no room, or the server is stopping"),
        }
    }

    /// A datagram begins a request: a new session, or a request of its own.
    fn admit_datagram(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        limits: &Arc<Limits>,
        socket: u32,
        Packet { range, from, local, .. }: &Packet,
    ) {
        let bytes = &scratch.input[range.clone()];
        let route = Route { endpoint: socket, local: *local };
        let local = core.local_address(route);
        let request = Incoming::Datagram { packet: bytes, local_address: local.as_ref() };
        let (handler, is_boxed) = match self.pass_hooks(core, &request, from) {
            Admitted::Here { handler, is_boxed } => (handler, is_boxed),
            Admitted::Elsewhere(work) => {
                let (handle, id) = (core.handle(), core.slots.id(socket));
                let send = move |to: &Address, bytes: &[u8]| {
                    Ok(handle.send_datagram(id, route, to.clone(), bytes.to_vec())?)
                };
                let request = TakenRequest::Datagram(bytes.to_vec(), Box::new(send));
                return self.send_elsewhere(core, work, request, from.clone(), local);
            }
            Admitted::No => return,
        };
        let mut connection = Connection::datagram(route, from.clone(), handler, core.now);
        if is_boxed {
            connection.state.set_boxed();
        }
        if limits.sessions_max.is_some() {
            connection.state.phase.owe_setup();
            let key = core.insert(self.calls.number(), connection);
            if let Some(endpoint) = core.slots.endpoint(socket) {
                endpoint.sessions.insert(from.clone(), key);
            }
            self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
        } else {
            let slot = core.slots.passing_id().slot;
            let mut at = Service { core, scratch, slot, connection: &mut connection };
            self.calls.serve_single(&mut at, range.clone());
        }
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// A datagram for an existing session.
    fn on_datagram(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.set_up(at);
        at.connection.state.activity = at.core.now;
        if at.connection.state.phase.may_call() {
            self.call_with(at, packet, Callback::Handle);
        }
        if !at.connection.timer_stands() {
            self.serve(at); // The session may end.
        }
    }

    /// Serves a datagram as a request of its own, from `setup` to `finish`.
    fn serve_single(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.call(at, Callback::Setup);
        if at.connection.state.phase.may_call() {
            self.call_with(at, packet, Callback::Handle);
        }
        at.connection.state.end(EndReason::Done, false); // This has no effect if it has ended already.
        self.finish(at, at.connection.state.why());
        self.reply(at.core, at.scratch, at.connection, true);
        at.core.cancel_handler_timers(&mut at.connection.state);
    }

    /// Sends the output to the peer of a datagram server, if there is any.
    #[inline(never)]
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
