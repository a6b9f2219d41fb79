//! One server in the reactor: what it takes in, past Python's hooks, and to whom it hands that.

use std::any::Any;
use std::io;
use std::sync::Arc;

use slab::Slab;

use super::callbacks::{Callback, Calls, Service, drop_error};
use crate::address::Address;
use crate::blocking::BlockingSocket;
use crate::blocking::job::{self, Origin, Work};
use crate::connection::Connection;
use crate::connection::budget::Slice;
use crate::connection::deadlines::Due;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::{NO_SLOT, SlotId};
use crate::lifecycle::{Finish, Timeout};
use crate::limits::Limits;
use crate::logging::note_fault;
use crate::net::datagram::DatagramFault;
use crate::net::packet::Packet;
use crate::net::packet::Route;
use crate::net::{AcceptFault, Socket, Stream};
use crate::panics::{catch, drop_caught, text_of};
use crate::reactor::core::Core;
use crate::reactor::elsewhere::Place;
use crate::reactor::handle::Message;
use crate::reactor::hosted::{Hosted, Scratch};
use crate::server::hooks::{BaseServer, Incoming};

pub(crate) struct Host<S, H> {
    limits: Arc<Limits>,
    make_handler: MakeHandler<S, H>,
    calls: Calls<S, H>,
    receive: Option<Receive<S, H>>,
}

/// [`Host::receive_datagrams`], so that a program whose servers have no datagrams does not contain it.
type Receive<S, H> = fn(&mut Host<S, H>, &mut Core, &mut Scratch, u32);

/// Python's `RequestHandlerClass`.
pub(crate) type MakeHandler<S, H> = Box<dyn FnMut(&mut S, &Address) -> H + Send>;

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    pub(crate) fn new(state: S, make_handler: MakeHandler<S, H>) -> Self {
        let calls = Calls { number: 0, state, handlers: Slab::new(), boxed: Slab::new(), newcomers: Vec::new() };
        Host { limits: Arc::default(), make_handler, calls, receive: None }
    }

    /// Its requests are datagrams.
    pub(crate) fn with_datagrams(mut self) -> Self {
        self.receive = Some(Host::receive_datagrams);
        self
    }

    /// Takes a connection out of its slot, does something with it, and puts it back.
    #[inline(always)]
    fn borrowed(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        key: u32,
        act: impl FnOnce(&mut Calls<S, H>, &mut Service<'_>),
    ) {
        let id = core.slots.id(key);
        let mut lent = core.slots.lend(key);
        scratch.budget.renew(&self.limits);
        act(
            &mut self.calls,
            &mut Service { limits: &self.limits, core, scratch, key, id, connection: lent.connection() },
        );
        core.slots.give_back(key, lent);
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Hosted for Host<S, H> {
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, batch: &[SlotId]) -> usize {
        let Host { limits, calls, .. } = self;
        for (served, &entry) in batch.iter().enumerate() {
            let Some(id) = core.slots.claim(entry, calls.number) else { return served };
            let mut lent = core.slots.lend(id.slot.key);
            scratch.budget.turn.waiting = batch.len() - served;
            calls.serve(&mut Service { limits, core, scratch, key: id.slot.key, id, connection: lent.connection() });
            core.slots.give_back(id.slot.key, lent);
        }
        batch.len()
    }

    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        let number = self.calls.number;
        let slice = Slice::default();
        for accepted in 0..self.limits.accepts_per_turn {
            // Each of them has a slice of its own besides, for its first service.
            if accepted % ACCEPTS_PER_LOOK == ACCEPTS_PER_LOOK - 1 && slice.is_over(&scratch.budget.turn) {
                break;
            }
            if core.not_registered.is_some() || !core.may_accept(number) {
                return;
            }
            let Some(listening) = core.slots.listening(key) else { return };
            let Some(mut listener) = listening.listener.take() else { return };
            let result = self.calls.hook(core, |state| state.get_request(&mut listener));
            let mut fault = listener.take_fault();
            let listening = core.slots.listening(key).expect("listeners are closed between turns");
            listening.listener = Some(listener);
            let result = match result {
                Some(Ok((stream, from))) => {
                    (listening.invalid, fault) = (0, None);
                    listening.accepted = core.stats.accepted + 1;
                    self.admit(core, scratch, stream, from)
                }
                Some(Err(error)) => Err(error),
                None => Err(io::Error::other("get_request panicked")),
            };
            let Err(error) = result else { continue };
            let skips = match fault.unwrap_or_else(|| AcceptFault::from(&error)) {
                AcceptFault::Empty => {
                    core.slots.listening(key).expect("still there").ready = false;
                    false
                }
                AcceptFault::Invalid if core.believes_invalid(key) => true,
                AcceptFault::Invalid | AcceptFault::Pause => {
                    core.pause(key, "accept", &error);
                    false
                }
                AcceptFault::Skip => true,
            };
            if skips {
                core.stats.accept_errors += 1;
                note_fault!(Debug, "a client is lost before it is served: {}", text_of(&error));
            }
            drop_error(core, error.into()); // It may be of the hook's making.
            if !skips {
                return;
            }
        }
        core.queue_again(key);
    }

    fn admit(&mut self, core: &mut Core, scratch: &mut Scratch, stream: Stream, from: Address) -> io::Result<()> {
        core.stats.accepted += 1;
        self.take_from_quota(core);
        match self.pass_hooks(core, &Incoming::Stream(&stream), &from) {
            Admitted::Here { handler, is_boxed } => {
                let mut connection = Connection::accepted(stream, from, handler, core.now);
                if is_boxed {
                    connection.state.set_boxed();
                }
                let key = core.insert(self.calls.number, connection);
                self.borrowed(core, scratch, key, |calls, at| calls.serve(at));
            }
            Admitted::Elsewhere(work) => {
                let local = stream.local_address();
                let Some(stream) = stream.into_std() else { return Err(io::ErrorKind::Unsupported.into()) };
                let socket = BlockingSocket::stream(stream, core.selector.clock(), Arc::clone(&self.limits));
                self.send_elsewhere(core, work, socket, from, local);
            }
            Admitted::No => {}
        }
        Ok(())
    }

    fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        if let Some(receive) = self.receive {
            receive(self, core, scratch, key);
        }
    }

    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due) {
        self.borrowed(core, scratch, key, |calls, at| {
            let was_closing = at.connection.state.is_closing();
            calls.set_up(at);
            match due {
                Due::Quiet => at.connection.state.on_quiet(),
                Due::Lingered => at.connection.state.lingered(),
                Due::Limit(Timeout::Connect) => {
                    calls.connect_failed(at, io::ErrorKind::TimedOut.into(), Finish::Timeout(Timeout::Connect));
                }
                Due::Limit(timeout) if at.connection.state.is_open() => {
                    at.connection.forgive(timeout, at.core.now);
                    calls.call(at, Callback::Timeout(timeout));
                }
                // It was ending quietly, and the peer does not take the rest.
                Due::Limit(timeout) if was_closing => {
                    if at.connection.state.is_finished() {
                        at.core.note_cut(calls.number, &at.connection.state, Some(timeout));
                    }
                    at.connection.state.end(Finish::Timeout(timeout), true);
                }
                Due::Limit(_) => {} // It ends since a moment ago.
            }
        });
        core.queue(key);
    }

    fn on_connect_failed(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, error: io::Error) {
        self.borrowed(core, scratch, key, |calls, at| calls.connect_failed(at, error, Finish::Reset));
        core.queue(key);
    }

    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64) {
        self.borrowed(core, scratch, key, |calls, at| {
            if at.connection.state.is_open() {
                calls.call(at, Callback::Timer(tag));
            }
        });
        core.queue(key);
    }

    fn on_message(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, message: Result<Message>) {
        self.borrowed(core, scratch, key, |calls, at| {
            calls.set_up(at);
            match message {
                Ok(message) if at.connection.state.is_open() => calls.call(at, Callback::Message(message)),
                Err(error) if at.connection.state.is_open() => {
                    calls.failed(at.core, &mut at.connection.state, &error);
                }
                message => at.core.refuse(message),
            }
        });
        core.queue(key);
    }

    fn on_over(&mut self, core: &mut Core, client: &Address, ended: Option<Finish>, result: Result<()>) {
        let why = match (&result, ended) {
            (_, Some(ended)) => ended,
            (Ok(()), None) => Finish::Done,
            (Err(Error::Panicked { .. }), None) => Finish::Panicked,
            (Err(Error::Io(error)), None) if is_lost(error) => Finish::Reset,
            (Err(Error::InputLimit { .. }), None) => Finish::InputLimit,
            (Err(_), None) => Finish::Error,
        };
        match why {
            Finish::Panicked => core.stats.panics += 1,
            Finish::Error => core.stats.handler_errors += 1,
            _ => core.count(why),
        }
        let named = result.as_ref().err().and_then(Error::limit);
        if let Err(error) = result {
            // Otherwise an error on the way there only repeats it.
            if matches!(why, Finish::Panicked | Finish::Error | Finish::Timeout(_)) {
                self.calls.hook(core, |state| state.handle_error(client, &error));
            }
            drop_error(core, error);
        }
        self.calls.closed(core, client, why, named);
    }

    fn on_server_timer(&mut self, core: &mut Core, tag: u64) {
        self.calls.control_hook(core, |state, control| state.timer(control, tag));
    }

    fn on_server_message(&mut self, core: &mut Core, message: Message) {
        self.calls.control_hook(core, |state, control| state.message(control, message));
    }

    fn service_actions(&mut self, core: &mut Core) {
        self.calls.control_hook(core, S::service_actions);
    }

    fn handle_timeout(&mut self, core: &mut Core) {
        self.calls.hook(core, S::handle_timeout);
    }

    fn server_bind(&mut self, socket: &Socket, address: &Address) -> Result<io::Result<()>> {
        catch(|| self.calls.state.server_bind(socket, address))
    }

    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> Result<io::Result<()>> {
        catch(|| self.calls.state.server_activate(socket, request_queue_size))
    }

    fn dissolve(self: Box<Self>) -> u64 {
        let Host { make_handler, calls, .. } = *self;
        let Calls { state, handlers, boxed, newcomers, .. } = calls;
        let mut panics = 0;
        let mut count = |dropped: bool| panics += u64::from(!dropped);
        handlers.into_iter().for_each(|(_, handler)| count(drop_caught(handler)));
        boxed.into_iter().for_each(|(_, handler)| count(drop_caught(handler)));
        newcomers.into_iter().for_each(|(_, handler)| count(drop_caught(handler)));
        count(drop_caught(state));
        count(drop_caught(make_handler));
        panics
    }

    fn server_close(&mut self, core: &mut Core) {
        self.calls.hook(core, S::server_close);
    }

    fn set_number(&mut self, number: u16) {
        self.calls.number = number;
    }

    fn set_limits(&mut self, limits: Arc<Limits>) {
        self.limits = limits;
    }

    fn state(&mut self) -> &mut dyn Any {
        &mut self.calls.state
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    fn take_from_quota(&self, core: &mut Core) {
        let served = &mut core.served[usize::from(self.calls.number)];
        served.quota = served.quota.saturating_sub(1);
    }

    /// Receives and serves what waits at a datagram socket, within its budget.
    fn receive_datagrams(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        core.receiving = key;
        core.flush_datagrams(key); // What others have sent through it.
        let mut budget = self.limits.datagrams_per_turn;
        let slice = Slice::default();
        loop {
            // One for `handle_request`, otherwise what comes.
            let quota = core.served[usize::from(self.calls.number)].quota;
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
            let max = self.limits.max_packet_size;
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
                self.on_packet(core, scratch, key, packet);
            }
            let count = packets.len();
            scratch.packets = packets;
            core.flush_datagrams(key);
            // As many at once as there is time for.
            let over = slice.is_over(&scratch.budget.turn);
            if let Some(endpoint) = core.slots.endpoint(key) {
                endpoint.at_once = if over { (count / 2).max(1) } else { at_once.saturating_mul(2) };
            }
        }
        core.receiving = NO_SLOT;
    }

    /// One datagram: for the session of its peer, or a request of its own.
    fn on_packet(&mut self, core: &mut Core, scratch: &mut Scratch, socket: u32, packet: &Packet) {
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
        // One that is on its way out is no session for a new datagram.
        if let Some(key) = session.filter(|&key| !core.slots.connection(key).state.is_closing()) {
            core.slots.connection(key).io.stream.set_local(*local);
            return self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
        }
        // The one that is on its way out gives its place to its successor.
        let others = |core: &mut Core| core.sessions(self.calls.number) - usize::from(session.is_some());
        let admits = |max| others(core) < max && !core.draining;
        if !self.limits.sessions_max.is_none_or(admits) || core.slots.is_full() {
            core.stats.sessions_refused += 1;
            match self.limits.sessions_max {
                Some(max) if others(core) >= max => note_fault!(Debug, "{from} is refused (sessions_max = {max})"),
                _ => note_fault!(Debug, "{from} is refused: there is no room, or the server is stopping"),
            }
            return;
        }
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
                let socket = BlockingSocket::datagram(bytes.to_vec(), from.clone(), Arc::clone(&self.limits), send);
                return self.send_elsewhere(core, work, socket, from.clone(), local);
            }
            Admitted::No => return,
        };
        let mut connection = Connection::datagram(route, from.clone(), handler, core.now);
        if is_boxed {
            connection.state.set_boxed();
        }
        if self.limits.sessions_max.is_some() {
            connection.state.set_setup_due();
            let key = core.insert(self.calls.number, connection);
            if let Some(endpoint) = core.slots.endpoint(socket) {
                endpoint.sessions.insert(from.clone(), key);
            }
            self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, range.clone()));
        } else {
            let id = core.slots.passing_id();
            let limits = &self.limits;
            let mut at = Service { limits, core, scratch, key: NO_SLOT, id, connection: &mut connection };
            self.calls.serve_single(&mut at, range.clone());
        }
    }

    /// Python's path of a request, in its order, up to the handler that is to serve it.
    fn pass_hooks(&mut self, core: &mut Core, request: &Incoming<'_>, from: &Address) -> Admitted {
        let Host { make_handler, calls, .. } = self;
        let in_cap = core.admits_client(calls.number, from);
        let cap = core.served[usize::from(calls.number)].limits.connections_per_client_max.filter(|_| !in_cap);
        let Calls { state, handlers, boxed, .. } = &mut *calls;
        let admitted = catch(|| {
            if !in_cap || !state.verify_request(request, from) {
                return Admitted::No;
            }
            if let Some(work) = state.process_request(request, from).into_work() {
                return Admitted::Elsewhere(work);
            }
            match state.finish_request(from) {
                Some(handler) => Admitted::Here { handler: boxed.insert(handler) as u32, is_boxed: true },
                None => {
                    let handler = make_handler(state, from);
                    Admitted::Here { handler: handlers.insert(handler) as u32, is_boxed: false }
                }
            }
        });
        match &admitted {
            Ok(Admitted::No) => calls.refuse(core, from, cap.map(|max| ("connections_per_client_max", max))),
            Ok(_) => {}
            Err(panic) => {
                core.stats.panics += 1;
                calls.hook(core, |state| state.handle_error(from, panic));
                calls.closed(core, from, Finish::Panicked, None);
            }
        }
        admitted.unwrap_or(Admitted::No)
    }

    /// A thread or a program serves a request. It is refused if too many wait for that.
    fn send_elsewhere(
        &mut self,
        core: &mut Core,
        work: Work,
        socket: BlockingSocket,
        client_address: Address,
        local_address: Option<Address>,
    ) {
        let number = self.calls.number;
        let place = match work {
            Work::Handler(_) => Place::Threads,
            #[cfg(all(unix, feature = "children"))]
            Work::Child(_) => Place::Programs,
        };
        let stop = socket.stop();
        let stopper = Box::new(stop.clone());
        let (handle, server, client) = (core.handle(), core.served[usize::from(number)].id, client_address.clone());
        let serve = move |id| {
            let origin = Origin { id, socket, client_address: client, local_address, handle, server };
            job::run(work, origin, &stop)
        };
        match core.serve_elsewhere(number, place, client_address.clone(), stopper, serve) {
            Ok(()) => {}
            Err(error @ Error::Full { .. }) => {
                note_fault!(Warn, "{client_address} is refused: {error}");
                self.calls.refuse(core, &client_address, error.limit());
            }
            Err(error) => self.on_over(core, &client_address, None, Err(error)),
        }
    }
}

/// Clients accepted from one look at the clock to the next.
const ACCEPTS_PER_LOOK: usize = 4;

/// The client of a handler that blocks has gone: no fault of the handler's, as it is none on the reactor.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe)
}

/// What becomes of a request after the hooks.
enum Admitted {
    /// The reactor serves it, with this handler of the server's own type, or of another.
    Here {
        handler: u32,
        is_boxed: bool,
    },
    Elsewhere(Work),
    No,
}
