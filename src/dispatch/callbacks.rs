//! The dispatch of callbacks: which one is due, with what, and what its answer means.
//!
//! Handlers of accepted connections are of one type and live side by side in a slab; those of outbound connections
//! and replaced ones are boxed and live in another. The connections are in the reactor. Because the two are apart, a
//! running handler can reach every connection, and no cell or reference count is needed.

use std::cell::Cell;
use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::time::Duration;

use slab::Slab;

use crate::address::Address;
use crate::connection::carry::Scan;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::connection::state::State;
use crate::connection::{Connection, Step, Turn};
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::request::{Control, Newcomers, Request};
use crate::ids::{ConnectionId, NO_SLOT};
use crate::lifecycle::{Finish, Next, Timeout};
use crate::limits::Limits;
use crate::logging::{note_fault, shows};
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::handle::Message;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

/// What callbacks need besides the limits.
pub(super) struct Calls<S, H> {
    /// Our number in the reactor.
    pub(super) number: u16,
    pub(super) state: S,
    pub(super) handlers: Slab<H>,
    pub(super) boxed: Slab<Box<dyn RequestHandler<S>>>,
    /// Handlers that move in when the callback that is running returns; see [`Control`].
    pub(super) newcomers: Newcomers<S>,
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

impl Service<'_> {
    /// The connection, and what it needs to move on.
    #[inline(always)]
    fn lend(&mut self) -> (&mut Connection, Turn<'_>) {
        let Scratch { input, budget, .. } = &mut *self.scratch;
        let Core { now, stats, .. } = &mut *self.core;
        (self.connection, Turn { buffer: input, limits: self.limits, now: *now, budget, stats })
    }
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
    ///
    /// Most of the time that is one thing: input is read, handled, and the answer leaves. That is tried here; all else,
    /// and what is left after it, takes the general way.
    pub(super) fn serve(&mut self, at: &mut Service<'_>) {
        at.scratch.budget.renew(at.limits);
        if at.connection.only_reads() {
            let (connection, mut turn) = at.lend();
            if let Some(Step::Handle(fresh)) = connection.read(&mut turn) {
                turn.budget.callbacks -= 1;
                self.handle(at, 0..fresh);
            }
            if at.connection.rests() {
                return;
            }
        }
        self.advance(at);
    }

    #[inline(never)]
    fn advance(&mut self, at: &mut Service<'_>) {
        let limits = at.limits;
        while at.scratch.budget.callbacks > 0 && !at.scratch.budget.has_run_out() {
            let (connection, mut turn) = at.lend();
            turn.budget.callbacks -= 1;
            match connection.advance(&mut turn) {
                Step::Handle(fresh) => self.call_with(at, 0..fresh, Callback::Handle),
                Step::Rest => {
                    if at.connection.state.must_register() && !self.register(at) {
                        continue; // To its end.
                    }
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
                    self.shutdown_request(at);
                    // An error means that the connection is gone, and the next read says so too.
                    let _ = at.connection.io.stream.shutdown(Shutdown::Write);
                }
                Step::Close => {
                    self.shutdown_request(at);
                    return at.core.dead.push(at.key);
                }
                Step::Dead => {
                    if at.connection.state.has_lingered() {
                        at.core.note_cut(self.number, &at.connection.state, None);
                    }
                    return at.core.dead.push(at.key);
                }
            }
        }
        // How it ends depends on what arrives meanwhile, which only the selector tells.
        if at.connection.state.must_register() {
            self.register(at);
        }
        at.core.queue_again(at.key);
    }

    /// Makes the selector know a connection. If it cannot, that one ends, and since the system has no room for more,
    /// accepting pauses. Returns whether it succeeded.
    fn register(&mut self, at: &mut Service<'_>) -> bool {
        let Err(source) = at.core.register(at.key, at.connection) else { return true };
        let state = &mut at.connection.state;
        state.end(Finish::Error, true);
        let error = Error::Reactor { doing: "watch the connection", source };
        if !state.is_finished() {
            self.hook(at.core, |server| server.handle_error(&state.address, &error));
        }
        if let Error::Reactor { source, .. } = error {
            at.core.not_registered = Some(source);
        }
        false
    }

    /// A handler that has just taken over is set up before anything else is called, and so is the one that takes over from
    /// it in its `setup`. If that goes on and on, the connection ends.
    pub(super) fn set_up(&mut self, at: &mut Service<'_>) {
        for _ in 0..SUCCESSORS_MAX {
            if !at.connection.state.take_setup_due() {
                return;
            }
            self.call(at, Callback::Setup);
        }
        if at.connection.state.is_setup_due() {
            let address = &at.connection.state.address;
            note_fault!(Error, "{address} is closed: {SUCCESSORS_MAX} handlers in a row were replaced in their setup");
            at.connection.state.end(Finish::Error, true);
        }
    }

    /// Runs a callback that is handed no new input.
    pub(super) fn call(&mut self, at: &mut Service<'_>, callback: Callback<'_>) {
        self.call_with(at, 0..0, callback);
    }

    /// What every message goes through: `handle` of a stream. The same as any other callback, but compiled by itself, so
    /// that whatever `handle` does not need folds away, and left as soon as nothing unusual came of it.
    #[inline(always)]
    fn handle(&mut self, at: &mut Service<'_>, fresh: Range<usize>) {
        if at.connection.state.is_boxed() || self.may_take_long(at, &fresh) {
            return self.call_with(at, fresh, Callback::Handle);
        }
        let handler = &mut self.handlers[at.connection.state.handler as usize];
        let context = (&mut self.state, &mut self.newcomers, self.number);
        let unusual = run(at, fresh.clone(), context, |request| handler.handle(request));
        if unusual.is_some() || !self.newcomers.is_empty() {
            self.follow(at, fresh, unusual, false, Finish::Done);
        }
    }

    /// Runs one callback of one connection. The `fresh` part of the read buffer is new; if the connection carried input
    /// over, it has been appended to that, and `fresh` is empty.
    #[inline(never)]
    fn call_with(&mut self, at: &mut Service<'_>, fresh: Range<usize>, callback: Callback<'_>) {
        let (name, reason) = (callback.name(), callback.reason());
        let (is_setup, is_handle) = (matches!(callback, Callback::Setup), matches!(callback, Callback::Handle));
        let timed = at.core.config.slow_callback.is_some()
            || match callback {
                Callback::Handle => !at.connection.state.is_datagram() && self.may_take_long(at, &fresh),
                Callback::Writable => true,
                _ => false,
            };
        let begun_at = timed.then(|| at.scratch.budget.look());
        let lifted = (!callback.is_followed() || at.connection.state.is_datagram()).then(|| at.scratch.budget.lift());
        let handler = at.connection.state.handler as usize;
        let handler: &mut dyn RequestHandler<S> = match at.connection.state.is_boxed() {
            false => &mut self.handlers[handler],
            true => &mut *self.boxed[handler],
        };
        let context = (&mut self.state, &mut self.newcomers, self.number);
        let unusual = run(at, fresh.clone(), context, |request| invoke(handler, request, callback));
        if let Some(write) = lifted {
            at.scratch.budget.restore(write);
        }
        if let Some(begun_at) = begun_at {
            let took = at.scratch.budget.look() - begun_at;
            if is_handle {
                learn(at, fresh.len(), unusual.as_ref(), took);
            }
            note_time(at.core, &at.connection.state.address, name, took);
        }
        self.follow(at, fresh, unusual, is_setup, reason);
    }

    /// Whether the time of `handle` is to be known, because it may well use up its slice. A little input that arrives in
    /// one read, as most does, is not worth a look at the clock.
    #[inline]
    fn may_take_long(&self, at: &Service<'_>, fresh: &Range<usize>) -> bool {
        let much = at.scratch.budget.turn.timed_from.min(at.connection.state.bite());
        fresh.is_empty() || fresh.len() >= much
    }

    /// What follows from what a callback did, returned and left.
    fn follow(
        &mut self,
        at: &mut Service<'_>,
        fresh: Range<usize>,
        left: Option<Left>,
        is_setup: bool,
        reason: Finish,
    ) {
        let Service { limits, core, scratch, key, connection, .. } = at;
        let mut error = None;
        if let Some(left) = left {
            // What is left of a datagram is forgotten: the next one is another message.
            if (left.bytes > 0 || connection.carry.is_some()) && !connection.state.is_datagram() {
                connection.keep(&scratch.input[fresh], left.consumed, left.scan, core.now);
                if left.held_back && left.bytes > 0 {
                    connection.state.set_handle_due();
                } else if left.next == Next::Wait && left.error.is_none() && connection.input_overflows(limits) {
                    connection.state.end(Finish::InputLimit, false);
                }
            }
            match left.next {
                Next::Wait => {}
                Next::Close => connection.state.end(reason, false),
                Next::Abort => connection.state.end(reason, true),
            }
            error = left.error;
        }
        if is_setup && error.is_none() {
            connection.set_open();
        }
        if !self.newcomers.is_empty() {
            self.move_in(core, Some((*key, connection, error.is_none())));
        }
        // A session's answer leaves now; that of a single datagram when `finish` had its say.
        if connection.state.is_datagram() && (*key != NO_SLOT || error.is_some()) {
            self.reply(core, scratch, connection, error.is_none());
        }
        if let Some(error) = error {
            self.failed(core, &mut connection.state, &error);
            drop_error(core, error);
        }
    }

    /// A callback returned an error or panicked: the end of its connection, and of nothing else.
    #[cold]
    pub(super) fn failed(&mut self, core: &mut Core, connection: &mut State, error: &Error) {
        if let Some(limit) = error.limit().filter(|_| shows(log::Level::Debug)) {
            connection.extra.get_or_insert_default().passed = Some(limit);
        }
        match error {
            Error::Panicked { .. } => {
                connection.end(Finish::Panicked, true);
                core.stats.panics += 1;
            }
            // The connection was lost under the callback, and this error only repeats it.
            Error::Gone | Error::OutputLimit { .. } if connection.end_if_lost() => return,
            Error::Io(source) if source.kind() == io::ErrorKind::BrokenPipe && connection.end_if_lost() => return,
            Error::InputLimit { .. } => return connection.end(Finish::InputLimit, false),
            _ => {
                connection.end(Finish::Error, false);
                core.stats.handler_errors += 1;
            }
        }
        self.hook(core, |state| state.handle_error(&connection.address, error));
    }

    fn shutdown_request(&mut self, at: &mut Service<'_>) {
        let Connection { io, state, .. } = &*at.connection;
        self.hook(at.core, |server| drop(server.shutdown_request(&io.stream, &state.address)));
    }

    /// A request is over that no handler on the reactor has served. `named`: the limit of an error that ended it.
    pub(super) fn closed(
        &mut self,
        core: &mut Core,
        client: &Address,
        why: Finish,
        named: Option<(&'static str, usize)>,
    ) {
        core.note_end(self.number, client, why, None, named);
        self.hook(core, |state| state.close_request(client, why));
    }

    /// Nothing serves a request, perhaps because of a limit.
    #[cold]
    pub(super) fn refuse(&mut self, core: &mut Core, client: &Address, limit: Option<(&'static str, usize)>) {
        core.stats.refused += 1;
        self.closed(core, client, Finish::Refused, limit);
    }

    /// Handlers take their place: those of outbound connections, and those that replace the handler of the connection
    /// that was served, if its callback did not fail.
    #[cold]
    fn move_in(&mut self, core: &mut Core, mut served: Option<(u32, &mut Connection, bool)>) {
        for (key, handler) in std::mem::take(&mut self.newcomers) {
            match &mut served {
                Some((own, connection, wanted)) if *own == key => {
                    self.replace_handler(core, connection, handler, *wanted && key != NO_SLOT);
                }
                _ => core.slots.connection(key).state.handler = self.boxed.insert(handler) as u32,
            }
        }
    }

    /// A connection that ends keeps the handler it has, for its `finish`.
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
        let handler = connection.handler as usize;
        // Dropping runs code of the user's as well.
        let dropped = match connection.is_boxed() {
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
            self.call_with(at, packet, Callback::Handle);
        }
        self.serve(at); // It may be over.
    }

    /// A datagram that is a request of its own, from `setup` to `finish`.
    pub(super) fn serve_single(&mut self, at: &mut Service<'_>, packet: Range<usize>) {
        self.call(at, Callback::Setup);
        if at.connection.state.is_open() {
            self.call_with(at, packet, Callback::Handle);
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
        let state = &at.connection.state;
        let named = state.extra.as_ref().and_then(|extra| extra.passed);
        at.core.note_end(self.number, &state.address, why, Some(state), named);
        self.hook(at.core, |server| server.close_request(&state.address, why));
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
        let mut control = Control { core: &mut *core, server: self.number, newcomers: &mut self.newcomers };
        let result = catch(|| hook(&mut self.state, &mut control));
        if !self.newcomers.is_empty() {
            self.move_in(core, None);
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
fn note_time(core: &mut Core, address: &Address, name: &str, took: u64) {
    if core.config.slow_callback.is_none() {
        return;
    }
    let took = Duration::from_nanos(took);
    let stats = &mut core.stats;
    stats.longest_callback = stats.longest_callback.max(took);
    if core.config.slow_callback.is_some_and(|limit| took > limit) {
        stats.slow_callbacks += 1;
        note_fault!(Warn, "slow callback: {name} for {address} took {took:.1?}");
    }
}

/// Handlers that may replace each other while a message waits for the one that stays.
const SUCCESSORS_MAX: usize = 1_000;

/// How much the next read of a connection brings follows from what the last one has led to.
#[cold]
fn learn(at: &mut Service<'_>, fresh: usize, left: Option<&Left>, took: u64) {
    let budget = &mut at.scratch.budget;
    let came = fresh + std::mem::take(&mut budget.appended);
    let (consumed, held_back) = left.map_or((came, false), |left| (left.consumed, left.held_back));
    let stopped = held_back && budget.has_run_out();
    at.connection.state.learn(came, consumed, stopped, took, budget.slice.length());
}

/// What a callback leaves to be dealt with.
struct Left {
    next: Next,
    error: Option<Error>,
    /// Of the input: bytes it consumed, and bytes it did not.
    consumed: usize,
    bytes: usize,
    scan: Scan,
    /// Those were to be left, because the output is full, or the time over.
    held_back: bool,
}

/// Runs a callback, and sends what it wrote. It borrows the parts of its own connection, and through the core all others.
/// `None`: it waits for more and has consumed everything.
#[inline(always)]
fn run<S>(
    at: &mut Service<'_>,
    fresh: Range<usize>,
    (server, newcomers, number): (&mut S, &mut Newcomers<S>, u16),
    callback: impl FnOnce(&mut Request<'_, S>) -> Result<Next>,
) -> Option<Left> {
    let Service { limits, core, scratch, id, connection, .. } = at;
    let (limits, now): (&Limits, u64) = (limits, core.now);
    let (output_state, ended) = (connection.output_state(), connection.input_ended());
    let carries = connection.carry.is_some();
    let (bytes, scan) = match &connection.carry {
        Some(carry) => (carry.unread(), carry.scan),
        None => (&scratch.input[fresh], Scan::default()),
    };
    let full = Cell::new(false);
    let held_by = (!connection.state.is_full_duplex()).then_some(&full);
    let mut request = Request {
        input: Input::new(bytes, scan, ended, limits).held_by(held_by).timed_by(&scratch.budget),
        output: Output::new(&mut connection.io, &mut scratch.output, limits, now, &full, &scratch.budget, output_state),
        server,
        state: &mut connection.state,
        id: *id,
        control: Control { core, server: number, newcomers },
    };
    let mut error = None;
    let returned = catch(|| {
        callback(&mut request).unwrap_or_else(|failed| {
            error = Some(failed);
            Next::Wait
        })
    });
    let next = returned.unwrap_or_else(|panic| {
        request.output.discard();
        error = Some(panic);
        Next::Wait
    });
    let output = request.output.settle();
    let left = if next == Next::Wait && error.is_none() && request.input.is_empty() && !carries {
        None
    } else {
        let input = &request.input;
        let (consumed, bytes) = (input.consumed(), input.len());
        Some(Left { next, error, consumed, bytes, scan: input.scan, held_back: input.was_held_back() })
    };
    scratch.budget.write = scratch.budget.write.saturating_sub(output.0);
    connection.after_output(output, limits, now, &mut core.stats);
    left
}

/// The one place where handlers are called.
#[inline]
fn invoke<S, T: RequestHandler<S> + ?Sized>(
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

    /// Whether a later callback can go on with what this one leaves. The others are for an end, and nothing stops them.
    fn is_followed(&self) -> bool {
        matches!(
            self,
            Callback::Setup | Callback::Handle | Callback::Writable | Callback::Timer(_) | Callback::Message(_)
        )
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
