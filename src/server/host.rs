//! One server in the reactor: its value, its handlers, and the dispatch of callbacks.
//!
//! Handlers of accepted connections are of one type and live side by side in a slab; those of outbound connections
//! and replaced ones are boxed and live in another. The connections are in the reactor. Because the two are apart, a
//! running handler can reach every connection, and no cell or reference count is needed.

use std::any::Any;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use slab::Slab;

use super::BaseServer;
use crate::address::Address;
use crate::buffer::Scan;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::lifecycle::{Finish, Next, Timeout};
use crate::limits::Limits;
use crate::logging::note_fault;
use crate::machine::{Allowance, Connection, Due, Input, Output, State, Step};
use crate::net::{AcceptFault, Socket, Stream};
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::handle::Message;
use crate::reactor::{Hosted, Scratch};
use crate::request::{Control, Request};

pub(crate) struct Host<S, H> {
    limits: Arc<Limits>,
    make_handler: MakeHandler<S, H>,
    calls: Calls<S, H>,
}

/// What callbacks need besides the limits.
struct Calls<S, H> {
    /// Our number in the reactor.
    number: u16,
    state: S,
    handlers: Slab<H>,
    boxed: Slab<Box<dyn RequestHandler<S>>>,
    /// Handlers of outbound connections begun by the callback that is running.
    begun: Vec<(u32, Box<dyn RequestHandler<S>>)>,
}

/// A connection that is being served, and what is needed for that. It is in our hands, not in its slot, so that its
/// parts can be borrowed apart.
struct Service<'a> {
    limits: &'a Limits,
    core: &'a mut Core,
    scratch: &'a mut Scratch,
    key: u32,
    connection: &'a mut Connection,
}

/// Python's `RequestHandlerClass`.
pub(crate) type MakeHandler<S, H> = Box<dyn FnMut(&mut S, &Address) -> H + Send>;

/// What is to be called, and with what.
enum Callback<'a> {
    Setup,
    Handle,
    Writable,
    Eof,
    Timeout(Timeout),
    Timer(u64),
    Message(Message),
    Drain,
    Finish(Finish),
    ConnectFailed(&'a Error),
}

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    pub(crate) fn new(state: S, make_handler: MakeHandler<S, H>) -> Self {
        let calls = Calls { number: 0, state, handlers: Slab::new(), boxed: Slab::new(), begun: Vec::new() };
        Host { limits: Arc::default(), make_handler, calls }
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
        let mut connection = core.slots.lend(key);
        let mut service = Service { limits: &self.limits, core, scratch, key, connection: &mut connection };
        act(&mut self.calls, &mut service);
        core.slots.give_back(key, connection);
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Lets a connection do what is due, within its budget.
    fn serve(&mut self, at: &mut Service<'_>) {
        let limits = at.limits;
        let mut allowance =
            Allowance { read: limits.read_bytes_per_turn.max(1), write: limits.write_bytes_per_turn.max(1) };
        for _ in 0..limits.callbacks_per_turn.max(1) {
            match at.connection.advance(&mut at.scratch.input, limits, at.core.now, &mut allowance, &mut at.core.stats)
            {
                Step::Handle(fresh) => self.call_inline(at, fresh, Callback::Handle),
                Step::Rest => {
                    if !at.connection.timer_stands() {
                        at.core.watch(at.key, at.connection, limits);
                    }
                    return;
                }
                Step::Again => break,
                Step::Setup => self.call(at, Callback::Setup),
                Step::Writable => self.call(at, Callback::Writable),
                Step::Eof => self.call(at, Callback::Eof),
                Step::Drain => self.call(at, Callback::Drain),
                Step::Finish(why) => self.finish(at, why),
                Step::ConnectFailed(source) => {
                    self.connect_failed(at, source, Finish::Reset);
                }
                Step::Shutdown => {
                    at.connection.state.set_shut();
                    let Connection { io, state, .. } = &*at.connection;
                    // An error means that the connection is gone, and the next read says so too.
                    self.hook(at.core, |server| drop(server.shutdown_request(&io.stream, &state.address)));
                }
                Step::Dead => return at.core.dead.push(at.key),
            }
        }
        at.core.queue(at.key);
    }

    /// A handler that has just taken over is set up before anything else is called.
    fn set_up(&mut self, at: &mut Service<'_>) {
        if at.connection.state.is_setup_due() {
            self.serve(at);
        }
    }

    /// Runs a callback other than `handle`.
    #[inline(never)]
    fn call(&mut self, at: &mut Service<'_>, callback: Callback<'_>) {
        self.call_inline(at, 0, callback);
    }

    /// Runs one callback of one connection and deals with what it returns. `fresh` bytes at the start of the read
    /// buffer are new; if the connection carried input over, they have been appended to that, and `fresh` is 0.
    ///
    /// Inlined where `handle` is called, for every message, so that the rest folds away there.
    #[inline(always)]
    fn call_inline(&mut self, at: &mut Service<'_>, fresh: usize, callback: Callback<'_>) {
        let Service { limits, core, scratch, key, connection } = at;
        let (limits, key): (&Limits, u32) = (limits, *key);
        let begun_at = core.config.slow_callback.map(|_| core.selector.now());
        let name = callback.name();
        let (reason, is_setup) = (callback.reason(), matches!(callback, Callback::Setup));
        let now = core.now;
        let handler = connection.state.handler as usize;
        let (output_state, ended) = (connection.output_state(), connection.input_ended());
        let mut successor = None;

        // The callback borrows the parts of its connection, and through the core all other connections.
        let (bytes, scan) = match &connection.carry {
            Some(carry) => (&carry.bytes[..], carry.scan),
            None => (&scratch.input[..fresh], Scan::default()),
        };
        let is_boxed = connection.state.is_boxed();
        let mut request = Request {
            input: Input::new(bytes, scan, ended, limits),
            output: Output::new(&mut connection.io, &mut scratch.output, limits, now, output_state),
            server: &mut self.state,
            state: &mut connection.state,
            id: core.slots.id(key),
            control: Control { core, server: self.number, begun: &mut self.begun },
            successor: &mut successor,
        };
        let outcome = catch(|| match is_boxed {
            false => invoke(&mut self.handlers[handler], &mut request, callback),
            true => invoke(&mut self.boxed[handler], &mut request, callback),
        });
        let (next, error) = match outcome {
            Ok(Ok(next)) => (next, None),
            Ok(Err(error)) => (Next::Wait, Some(error)),
            Err(panic) => {
                request.output.discard();
                (Next::Wait, Some(panic))
            }
        };
        let output_state = request.output.settle();
        let (consumed, left, scan) = (request.input.consumed(), request.input.len(), request.input.scan);

        connection.after_output(output_state, limits, now, &mut core.stats);
        if left > 0 || connection.carry.is_some() {
            connection.keep(&scratch.input[..fresh], consumed, scan, now);
            if next == Next::Wait && error.is_none() && connection.input_overflows(limits) {
                connection.state.end(Finish::InputLimit, false);
            }
        }
        if is_setup && error.is_none() {
            connection.set_open();
        }
        match next {
            Next::Wait => {}
            Next::Close => connection.state.end(reason, false),
            Next::Abort => connection.state.end(reason, true),
        }
        // What few callbacks bring about.
        if !self.begun.is_empty() {
            self.move_in(core);
        }
        if let Some(successor) = successor {
            self.replace_handler(core, connection, successor, error.is_none());
        }
        if let Some(begun_at) = begun_at {
            note_time(core, &connection.state.address, name, begun_at);
        }
        if let Some(error) = error {
            self.failed(core, &mut connection.state, &error);
        }
    }

    /// A callback returned an error or panicked: the end of its connection, and of nothing else.
    #[cold]
    fn failed(&mut self, core: &mut Core, connection: &mut State, error: &Error) {
        match error {
            Error::Panicked { .. } => {
                connection.end(Finish::Panicked, true);
                core.stats.panics += 1;
            }
            // The connection was lost under the callback, and this error only repeats it.
            Error::Gone | Error::OutputLimit { .. } if connection.end_if_lost() => return,
            Error::Io(source) if source.kind() == io::ErrorKind::BrokenPipe && connection.end_if_lost() => return,
            Error::InputLimit { .. } => {
                note_fault!(Debug, "{} is closed: {error}", connection.address);
                return connection.end(Finish::InputLimit, false);
            }
            _ => {
                connection.end(Finish::Error, false);
                core.stats.handler_errors += 1;
            }
        }
        self.hook(core, |state| state.handle_error(&connection.address, error));
    }

    /// Handlers of outbound connections take their place.
    #[cold]
    fn move_in(&mut self, core: &mut Core) {
        for (key, handler) in self.begun.drain(..) {
            core.slots.connection(key).state.handler = self.boxed.insert(handler) as u32;
        }
    }

    /// A connection that ends keeps the handler it has, for its `finish`.
    #[cold]
    fn replace_handler(
        &mut self,
        core: &mut Core,
        connection: &mut Connection,
        successor: Box<dyn RequestHandler<S>>,
        wanted: bool,
    ) {
        if wanted && !connection.state.is_closing() {
            self.drop_handler(core, &connection.state);
            connection.replaced_handler(self.boxed.insert(successor) as u32);
        } else if !drop_caught(successor) {
            core.stats.panics += 1;
        }
    }

    fn drop_handler(&mut self, core: &mut Core, connection: &State) {
        self.remove_handler(core, connection.handler as usize, connection.is_boxed());
    }

    fn remove_handler(&mut self, core: &mut Core, handler: usize, is_boxed: bool) {
        // Dropping runs code of the user's as well.
        let dropped = match is_boxed {
            false => drop_caught(self.handlers.remove(handler)),
            true => drop_caught(self.boxed.remove(handler)),
        };
        if !dropped {
            core.stats.panics += 1;
            note_fault!(Error, "a handler panicked while it was dropped");
        }
    }

    /// The last callback, once; then the handler goes.
    fn finish(&mut self, at: &mut Service<'_>, why: Finish) {
        if at.connection.state.owes_finish() {
            self.call(at, Callback::Finish(why));
            at.core.count(why);
        }
        self.drop_handler(at.core, &at.connection.state);
        at.connection.set_finished();
        self.hook(at.core, |state| state.close_request(&at.connection.state.address, why));
    }

    #[cold]
    fn connect_failed(&mut self, at: &mut Service<'_>, source: io::Error, why: Finish) {
        let error = Error::Connect { address: at.connection.state.address.clone(), source };
        at.core.stats.connects_failed += 1;
        note_fault!(Warn, "{error}");
        at.connection.state.end(why, true);
        self.call(at, Callback::ConnectFailed(&error));
    }

    /// Runs a hook of the server's. A panic is logged, and is what `None` means.
    fn hook<T>(&mut self, core: &mut Core, hook: impl FnOnce(&mut S) -> T) -> Option<T> {
        catch(|| hook(&mut self.state)).inspect_err(|panic| note_hook_panic(core, panic)).ok()
    }

    /// The same for hooks that act on the reactor.
    fn control_hook(&mut self, core: &mut Core, hook: impl FnOnce(&mut S, &mut Control<'_, S>)) {
        let mut control = Control { core: &mut *core, server: self.number, begun: &mut self.begun };
        let result = catch(|| hook(&mut self.state, &mut control));
        if !self.begun.is_empty() {
            self.move_in(core);
        }
        if let Err(panic) = result {
            note_hook_panic(core, &panic);
        }
    }
}

#[cold]
fn note_hook_panic(core: &mut Core, panic: &Error) {
    core.stats.panics += 1;
    note_fault!(Error, "a hook of the server {panic}");
}

#[cold]
fn note_time(core: &mut Core, address: &Address, name: &str, begun_at: u64) {
    let took = Duration::from_nanos(core.selector.now() - begun_at);
    let stats = &mut core.stats;
    stats.longest_callback = stats.longest_callback.max(took);
    if core.config.slow_callback.is_some_and(|limit| took > limit) {
        stats.slow_callbacks += 1;
        note_fault!(Warn, "slow callback: {name} for {address} took {took:.1?}");
    }
}

/// The one place where handlers are called.
#[inline]
fn invoke<S, T: RequestHandler<S>>(
    handler: &mut T,
    request: &mut Request<'_, S>,
    callback: Callback<'_>,
) -> Result<Next> {
    match callback {
        Callback::Handle => handler.handle(request),
        Callback::Setup => handler.setup(request),
        Callback::Writable => handler.writable(request),
        Callback::Eof => handler.eof(request),
        Callback::Timeout(timeout) => handler.timeout(request, timeout),
        Callback::Timer(tag) => handler.timer(request, tag),
        Callback::Message(message) => handler.message(request, message),
        Callback::Drain => handler.drain(request),
        Callback::Finish(why) => {
            handler.finish(request, why);
            Ok(Next::Wait)
        }
        Callback::ConnectFailed(error) => {
            handler.connect_failed(request, error);
            Ok(Next::Wait)
        }
    }
}

impl Callback<'_> {
    fn name(&self) -> &'static str {
        match self {
            Callback::Setup => "setup",
            Callback::Handle => "handle",
            Callback::Writable => "writable",
            Callback::Eof => "eof",
            Callback::Timeout(_) => "timeout",
            Callback::Timer(_) => "timer",
            Callback::Message(_) => "message",
            Callback::Drain => "drain",
            Callback::Finish(_) => "finish",
            Callback::ConnectFailed(_) => "connect_failed",
        }
    }

    /// Why the connection ended if this callback asks for it.
    fn reason(&self) -> Finish {
        match self {
            Callback::Eof => Finish::PeerClosed,
            Callback::Timeout(timeout) => Finish::Timeout(*timeout),
            Callback::Drain => Finish::Draining,
            _ => Finish::Done,
        }
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Hosted for Host<S, H> {
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        self.borrowed(core, scratch, key, |calls, at| calls.serve(at));
    }

    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        let number = self.calls.number;
        for _ in 0..self.limits.accepts_per_turn.max(1) {
            if !core.may_accept(number) {
                return;
            }
            let Some(listening) = core.slots.listening(key) else { return };
            let Some(mut listener) = listening.listener.take() else { return };
            let result = self.calls.hook(core, |state| state.get_request(&mut listener));
            core.slots.listening(key).expect("listeners are closed between turns").listener = Some(listener);
            let result = match result {
                Some(Ok((stream, from))) => self.admit(core, scratch, stream, from),
                Some(Err(error)) => Err(error),
                None => Err(io::Error::other("get_request panicked")),
            };
            if let Err(error) = result {
                match AcceptFault::from(&error) {
                    AcceptFault::Empty => {
                        core.slots.listening(key).expect("still there").ready = false;
                        return;
                    }
                    AcceptFault::Skip => core.stats.accept_errors += 1,
                    AcceptFault::Pause => return core.pause_accepting(key, &error),
                }
            }
        }
        core.queue(key);
    }

    fn admit(&mut self, core: &mut Core, scratch: &mut Scratch, stream: Stream, from: Address) -> io::Result<()> {
        core.stats.accepted += 1;
        let Host { make_handler, calls, .. } = self;
        let served = &mut core.served[usize::from(calls.number)];
        served.quota = served.quota.saturating_sub(1);
        let in_cap = core.admits_client(calls.number, &from);
        let state = &mut calls.state;
        // Python's path of a request, in its order.
        let taken = catch(|| {
            if !in_cap || !state.verify_request(&stream, &from) {
                return Taken::Refused;
            }
            let Some(stream) = state.process_request(stream, &from) else { return Taken::Elsewhere };
            match state.finish_request(&from) {
                Some(handler) => Taken::Boxed(stream, handler),
                None => Taken::Own(stream, make_handler(state, &from)),
            }
        });
        let (connection, handler, is_boxed) = match taken {
            Ok(Taken::Own(stream, handler)) => {
                let handler = calls.handlers.insert(handler);
                (Connection::accepted(stream, from, handler as u32, core.now), handler, false)
            }
            Ok(Taken::Boxed(stream, handler)) => {
                let handler = calls.boxed.insert(handler);
                let mut connection = Connection::accepted(stream, from, 0, core.now);
                connection.replaced_handler(handler as u32);
                (connection, handler, true)
            }
            Ok(Taken::Elsewhere) => return Ok(()),
            Ok(Taken::Refused) => {
                core.stats.refused += 1;
                calls.hook(core, |state| state.close_request(&from, Finish::Refused));
                return Ok(());
            }
            Err(panic) => {
                core.stats.panics += 1;
                calls.hook(core, |state| state.handle_error(&from, &panic));
                calls.hook(core, |state| state.close_request(&from, Finish::Panicked));
                return Ok(());
            }
        };
        match core.insert(calls.number, connection) {
            Ok(key) => {
                self.service(core, scratch, key);
                Ok(())
            }
            Err(error) => {
                if is_boxed {
                    drop(calls.boxed.remove(handler))
                } else {
                    drop(calls.handlers.remove(handler))
                }
                Err(error)
            }
        }
    }

    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due) {
        self.borrowed(core, scratch, key, |calls, at| {
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
                Due::Limit(timeout) => at.connection.state.end(Finish::Timeout(timeout), true),
            }
        });
        core.queue(key);
    }

    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64) {
        self.borrowed(core, scratch, key, |calls, at| {
            calls.set_up(at);
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

    fn server_bind(&mut self, socket: &Socket, address: SocketAddr) -> io::Result<()> {
        self.calls.state.server_bind(socket, address)
    }

    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
        self.calls.state.server_activate(socket, request_queue_size)
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

/// What became of a client on its way through the hooks.
enum Taken<S, H> {
    Own(Stream, H),
    Boxed(Stream, Box<dyn RequestHandler<S>>),
    Elsewhere,
    Refused,
}
