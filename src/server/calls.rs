//! The dispatch of callbacks: which one is due, with what, and what its answer means.
//!
//! Handlers of accepted connections are of one type and live side by side in a slab; those of outbound connections
//! and replaced ones are boxed and live in another. The connections are in the reactor. Because the two are apart, a
//! running handler can reach every connection, and no cell or reference count is needed.

use std::cell::Cell;
use std::io;
use std::ops::Range;
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
use crate::machine::{Allowance, Connection, Input, Output, State, Step};
use crate::panics::{catch, drop_caught};
use crate::reactor::Scratch;
use crate::reactor::core::Core;
use crate::reactor::handle::Message;
use crate::reactor::slots::{ConnectionId, NO_SLOT};
use crate::request::{Control, Request};

/// What callbacks need besides the limits.
pub(super) struct Calls<S, H> {
    /// Our number in the reactor.
    pub(super) number: u16,
    pub(super) state: S,
    pub(super) handlers: Slab<H>,
    pub(super) boxed: Slab<Box<dyn RequestHandler<S>>>,
    /// Handlers of outbound connections begun by the callback that is running.
    pub(super) begun: Vec<(u32, Box<dyn RequestHandler<S>>)>,
}

/// A connection that is being served, and what is needed for that. It is in our hands, not in its slot, so that its
/// parts can be borrowed apart.
pub(super) struct Service<'a> {
    pub(super) limits: &'a Limits,
    pub(super) core: &'a mut Core,
    pub(super) scratch: &'a mut Scratch,
    /// Its slot; [`NO_SLOT`] for a single datagram, which needs none.
    pub(super) key: u32,
    pub(super) id: ConnectionId,
    pub(super) connection: &'a mut Connection,
}

/// What is to be called, and with what.
pub(super) enum Callback<'a> {
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

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Lets a connection do what is due, within its budget.
    pub(super) fn serve(&mut self, at: &mut Service<'_>) {
        let limits = at.limits;
        let mut allowance =
            Allowance { read: limits.read_bytes_per_turn.max(1), write: limits.write_bytes_per_turn.max(1) };
        for _ in 0..limits.callbacks_per_turn.max(1) {
            match at.connection.advance(&mut at.scratch.input, limits, at.core.now, &mut allowance, &mut at.core.stats)
            {
                Step::Handle(fresh) => self.call_inline(at, 0..fresh, Callback::Handle),
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
    pub(super) fn set_up(&mut self, at: &mut Service<'_>) {
        if at.connection.state.is_setup_due() {
            self.serve(at);
        }
    }

    /// Runs a callback that is handed no new input.
    pub(super) fn call(&mut self, at: &mut Service<'_>, callback: Callback<'_>) {
        self.call_apart(at, 0..0, callback);
    }

    /// The one copy of [`call_inline`](Self::call_inline) for everything but `handle` of a stream.
    #[inline(never)]
    fn call_apart(&mut self, at: &mut Service<'_>, fresh: Range<usize>, callback: Callback<'_>) {
        self.call_inline(at, fresh, callback);
    }

    /// Runs one callback of one connection and deals with what it returns. The `fresh` part of the read buffer is new;
    /// if the connection carried input over, it has been appended to that, and `fresh` is empty.
    ///
    /// Inlined where `handle` is called, for every message, so that the rest folds away there.
    #[inline(always)]
    fn call_inline(&mut self, at: &mut Service<'_>, fresh: Range<usize>, callback: Callback<'_>) {
        let Service { limits, core, scratch, key, id, connection } = at;
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
            None => (&scratch.input[fresh.clone()], Scan::default()),
        };
        let is_boxed = connection.state.is_boxed();
        let full = Cell::new(false);
        let held_by = (!connection.state.is_full_duplex()).then_some(&full);
        let mut request = Request {
            input: Input::new(bytes, scan, ended, limits).held_by(held_by),
            output: Output::new(&mut connection.io, &mut scratch.output, limits, now, &full, output_state),
            server: &mut self.state,
            state: &mut connection.state,
            id: *id,
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
        let held_back = request.input.was_held_back();

        connection.after_output(output_state, limits, now, &mut core.stats);
        // What is left of a datagram is forgotten: the next one is another message.
        if (left > 0 || connection.carry.is_some()) && !connection.state.is_datagram() {
            connection.keep(&scratch.input[fresh], consumed, scan, now);
            if held_back && left > 0 {
                connection.state.set_handle_due();
            } else if next == Next::Wait && error.is_none() && connection.input_overflows(limits) {
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
            self.begin(core);
        }
        if let Some(successor) = successor {
            self.replace_handler(core, connection, successor, error.is_none() && key != NO_SLOT);
        }
        // A session's answer leaves now; that of a single datagram when `finish` had its say.
        if connection.state.is_datagram() && (key != NO_SLOT || error.is_some()) {
            self.reply(core, scratch, connection, error.is_none());
        }
        if let Some(begun_at) = begun_at {
            note_time(core, &connection.state.address, name, begun_at);
        }
        if let Some(error) = error {
            self.failed(core, &mut connection.state, &error);
            drop_error(core, error);
        }
    }

    /// A callback returned an error or panicked: the end of its connection, and of nothing else.
    #[cold]
    pub(super) fn failed(&mut self, core: &mut Core, connection: &mut State, error: &Error) {
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

    pub(super) fn closed(&mut self, core: &mut Core, client: &Address, why: Finish) {
        self.hook(core, |state| state.close_request(client, why));
    }

    /// Nobody serves a request.
    #[cold]
    pub(super) fn refuse(&mut self, core: &mut Core, client: &Address) {
        core.stats.refused += 1;
        self.closed(core, client, Finish::Refused);
    }

    /// Handlers of outbound connections take their place.
    #[cold]
    fn begin(&mut self, core: &mut Core) {
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

    pub(super) fn remove_handler(&mut self, core: &mut Core, handler: usize, is_boxed: bool) {
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

    /// Sends what was written to the peer of a datagram server, if anything was.
    #[inline(never)]
    fn reply(&mut self, core: &mut Core, scratch: &mut Scratch, connection: &mut Connection, wanted: bool) {
        if connection.state.take_reply()
            && wanted
            && !connection.state.is_aborting()
            && let Some(route) = connection.io.stream.route()
        {
            // It is counted if it cannot be sent, and there is nobody to tell.
            let _ = core.send_datagram(route, &connection.state.address, &scratch.output);
        }
        scratch.output.clear();
    }

    /// A datagram for a session there is.
    pub(super) fn on_datagram(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.set_up(at);
        at.connection.state.activity = at.core.now;
        if at.connection.state.is_open() {
            self.call_apart(at, packet, Callback::Handle);
        }
        self.serve(at); // It may be over.
    }

    /// A datagram that is a request of its own, from `setup` to `finish`.
    pub(super) fn serve_single(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.call(at, Callback::Setup);
        if at.connection.state.is_open() {
            self.call_apart(at, packet, Callback::Handle);
        }
        at.connection.state.end(Finish::Done, false); // Unless it has ended otherwise.
        self.finish(at, at.connection.state.why());
        self.reply(at.core, at.scratch, at.connection, true);
        at.core.cancel_handler_timers(&mut at.connection.state);
    }

    /// The last callback, once; then the handler goes.
    fn finish(&mut self, at: &mut Service<'_>, why: Finish) {
        if at.connection.state.owes_finish() {
            self.call(at, Callback::Finish(why));
            at.core.count(why);
        }
        self.drop_handler(at.core, &at.connection.state);
        at.connection.set_finished();
        self.closed(at.core, &at.connection.state.address, why);
    }

    #[cold]
    pub(super) fn connect_failed(&mut self, at: &mut Service<'_>, source: io::Error, why: Finish) {
        let error = Error::Connect { address: at.connection.state.address.clone(), source };
        at.core.stats.connects_failed += 1;
        note_fault!(Warn, "{error}");
        at.connection.state.end(why, true);
        self.call(at, Callback::ConnectFailed(&error));
    }

    /// Runs a hook of the server's. A panic is logged, and is what `None` means.
    pub(super) fn hook<T>(&mut self, core: &mut Core, hook: impl FnOnce(&mut S) -> T) -> Option<T> {
        catch(|| hook(&mut self.state)).inspect_err(|panic| note_hook_panic(core, panic)).ok()
    }

    /// The same for hooks that act on the reactor.
    pub(super) fn control_hook(&mut self, core: &mut Core, hook: impl FnOnce(&mut S, &mut Control<'_, S>)) {
        let mut control = Control { core: &mut *core, server: self.number, begun: &mut self.begun };
        let result = catch(|| hook(&mut self.state, &mut control));
        if !self.begun.is_empty() {
            self.begin(core);
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

/// An error of the user's goes, which runs code of the user's as well.
#[cold]
pub(super) fn drop_error(core: &mut Core, error: Error) {
    if !drop_caught(error) {
        core.stats.panics += 1;
        note_fault!(Error, "an error of a handler panicked while it was dropped");
    }
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
