//! Chooses the callback that is due and its argument, and applies its result.

use std::io;
use std::net::Shutdown;
use std::ops::Range;
use std::time::Duration;

use super::call_handler::{Callback, Left, invoke, run};
use super::{Calls, Service, drop_error};
use crate::address::Address;
use crate::connection::phase::Phase;
use crate::connection::{Connection, Step, Turn};
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::handler::request::Request;
use crate::ids::NO_SLOT;
use crate::lifecycle::{EndReason, Next};
use crate::logging::note_fault;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

impl Service<'_> {
    /// The connection, with everything that its next step needs.
    #[inline(always)]
    fn lend(&mut self) -> (&mut Connection, Turn<'_>) {
        let Scratch { input, budget, .. } = &mut *self.scratch;
        (self.connection, Turn { buffer: input, budget, stats: &mut self.core.stats })
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Lets a connection do its due steps, within its budget. It is called in one place, and `handle` is compiled into that.
    #[inline(always)]
    pub(super) fn serve(&mut self, at: &mut Service<'_>) {
        at.scratch.budget.renew();
        self.go_on::<false>(at);
    }

    /// Like `serve`, for a connection that has just been accepted: `setup` is due.
    #[inline(always)]
    pub(super) fn begin(&mut self, at: &mut Service<'_>) {
        at.scratch.budget.renew();
        at.scratch.budget.callbacks += 1;
        at.connection.state.phase.begin_setup();
        if at.connection.state.is_boxed() {
            self.call(at, Callback::Setup);
        } else {
            self.call_own(at, 0..0, || Callback::Setup);
        }
        if at.scratch.budget.admits_callback() {
            self.go_on::<true>(at);
        } else {
            self.advance(at);
        }
    }

    /// Usually one step is due: input is read and handled, and the answer is sent. That is tried here, for a connection
    /// that has never rested if it is `FRESH`, and for one that has otherwise. `handle` is compiled into both. Everything
    /// else, and the rest after it, takes the general path.
    #[inline(always)]
    fn go_on<const FRESH: bool>(&mut self, at: &mut Service<'_>) {
        let phase = if FRESH { Phase::FRESH } else { Phase::PLAIN };
        if at.connection.only_reads(phase) {
            let (connection, mut turn) = at.lend();
            let fresh = connection.receive(&mut turn);
            let holds_nothing = fresh == 0 || {
                turn.budget.callbacks += 1;
                self.call_own(at, 0..fresh, || Callback::Handle)
            };
            if holds_nothing && at.connection.rests(phase) && (phase.is_settled() || self.begin_rest(at)) {
                return;
            }
        }
        self.advance(at);
    }

    /// The general path: one step after another, until nothing is due or the budget is used up.
    #[inline(never)]
    pub(crate) fn advance(&mut self, at: &mut Service<'_>) {
        while at.scratch.budget.admits_callback() {
            let (connection, mut turn) = at.lend();
            turn.budget.callbacks += 1;
            match connection.advance(&mut turn) {
                #[cfg(feature = "tls")]
                Step::Handle(fresh) if at.connection.state.phase.is_secured() => {
                    self.call_with(at, 0..fresh, Callback::Handle);
                    if at.connection.rests_under_tls() {
                        return;
                    }
                }
                Step::Handle(fresh) => self.call_with(at, 0..fresh, Callback::Handle),
                Step::Rest if at.connection.timer_stands() || self.begin_rest(at) => return,
                Step::Rest => {} // It continues to its end.
                Step::Again => break,
                Step::Setup => self.call(at, Callback::Setup),
                Step::Writable => self.call(at, Callback::Writable),
                Step::FileFailed(kind) => self.file_failed(at, kind),
                Step::Eof => self.call_apart(at, || Callback::Eof),
                Step::Drain => self.call(at, Callback::Drain),
                Step::Finish(why) => self.finish(at, why),
                Step::ConnectFailed(source) => {
                    self.connect_failed(at, source, EndReason::Reset);
                }
                #[cfg(feature = "tls")]
                Step::HandshakeFailed(source) => self.handshake_failed(at, source, EndReason::HandshakeFailed),
                #[cfg(feature = "tls")]
                Step::TlsFailed(source) => self.tls_failed(at, source),
                Step::Shutdown => {
                    at.connection.state.phase.shut();
                    self.shutdown_request(at);
                    // An error means that the connection is gone, and the next read reports that too.
                    let _ = at.connection.io.stream.shutdown(Shutdown::Write);
                }
                Step::Close => {
                    self.shutdown_request(at);
                    return at.core.dead.push(at.slot.key);
                }
                Step::Dead => return at.core.dead.push(at.slot.key),
                Step::Cut => {
                    at.core.note_cut(self.number(), &at.connection.state, None);
                    return at.core.dead.push(at.slot.key);
                }
            }
        }
        // How it ends depends on input that only the selector reports.
        if at.connection.state.phase.must_register() {
            self.register(at);
        }
        at.core.queue_again(at.slot.key);
    }

    /// Registers a connection that has nothing to do, if that is not done, and sets its timer. Returns whether it rests
    /// now, and need not be ended.
    #[inline(never)]
    fn begin_rest(&mut self, at: &mut Service<'_>) -> bool {
        if at.connection.state.phase.must_register() && !self.register(at) {
            return false;
        }
        at.core.watch(at.slot.key, at.connection, &at.scratch.budget.limits);
        true
    }

    /// Registers a connection with the selector. Returns whether it succeeded.
    fn register(&mut self, at: &mut Service<'_>) -> bool {
        let result = at.core.register(at.slot.key, at.connection);
        result.map_err(|source| self.not_registered(at, source)).is_ok()
    }

    /// A connection could not be registered. It ends, and accepting pauses, because the system has no room for more.
    #[cold]
    fn not_registered(&mut self, at: &mut Service<'_>, source: io::Error) {
        let state = &mut at.connection.state;
        state.end(EndReason::Error, true);
        let error = Error::Reactor { doing: "watch the connection", source };
        if !state.phase.is_finished() {
            self.hook(at.core, |server| server.handle_error(&state.address, &error));
        }
        if let Error::Reactor { source, .. } = error {
            at.core.not_registered = Some(source);
        }
    }

    /// Runs a callback without new input.
    pub(crate) fn call(&mut self, at: &mut Service<'_>, callback: Callback<'_>) {
        self.call_with(at, 0..0, callback);
    }

    /// Runs a callback that is compiled separately for the server's own type of handlers, of a connection that [is
    /// clear](Connection::is_clear). Therefore the compiler removes everything that the handler does not need: of a default
    /// body, nearly everything. The callback is a function argument, because each of these has a type of its own. Returns
    /// whether nothing is unread or unsent.
    #[inline(always)]
    fn call_own(
        &mut self,
        at: &mut Service<'_>,
        fresh: Range<usize>,
        callback: impl Fn() -> Callback<'static>,
    ) -> bool {
        let takes_long = match callback() {
            Callback::Handle => fresh.len() >= much(at),
            _ => at.core.config.slow_callback.is_some(),
        };
        if takes_long {
            self.call_with(at, fresh, callback());
            return at.connection.holds_nothing();
        }
        let (is_setup, reason) = (matches!(callback(), Callback::Setup), callback().reason());
        let ended = !callback().is_followed() && at.connection.input_ended();
        let handler = &mut self.handlers[at.connection.state.handler as usize];
        let lifted = (!callback().is_followed()).then(|| at.scratch.budget.lift());
        at.scratch.output.clear(); // It is empty, but the compiler does not know that.
        let context = (&mut self.state, &mut self.pending);
        let mut left = None;
        let call = |request: &mut Request<'_, S>| invoke(handler, request, callback());
        let next = run::<true, _>(at, fresh.clone(), ended, context, &mut left, call);
        if let Some(write) = lifted {
            at.scratch.budget.restore(write);
        }
        if left.is_some() || !self.pending.orders.is_empty() {
            self.follow(at, fresh, next, left, is_setup, reason);
            return at.connection.holds_nothing();
        }
        at.connection.state.go_on(next, reason);
        if is_setup {
            at.connection.set_up();
        }
        true
    }

    /// Runs one of the last callbacks, which usually have a default body. It is a separate function, because within a loop
    /// the compiler would not see that nothing is left to do.
    #[inline(never)]
    pub(super) fn call_apart(&mut self, at: &mut Service<'_>, callback: impl Fn() -> Callback<'static>) {
        if at.connection.is_clear() {
            self.call_own(at, 0..0, callback);
        } else {
            self.call(at, callback());
        }
    }

    /// Runs one callback of one connection. The `fresh` part of the read buffer is new. If the connection has a carry,
    /// new input was appended to that, and `fresh` is empty.
    #[inline(never)]
    pub(crate) fn call_with(&mut self, at: &mut Service<'_>, fresh: Range<usize>, callback: Callback<'_>) {
        let (name, reason) = (callback.name(), callback.reason());
        let (is_setup, is_handle) = (matches!(callback, Callback::Setup), matches!(callback, Callback::Handle));
        let timed = at.core.config.slow_callback.is_some()
            || match callback {
                // Without fresh input it continues with the rest of much input.
                Callback::Handle => !at.connection.state.is_datagram() && (fresh.is_empty() || fresh.len() >= much(at)),
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
        if let Some(own) = at.connection.state.own_bounds() {
            at.scratch.budget.bind(Some(own));
        }
        let ended = at.connection.input_ended();
        let context = (&mut self.state, &mut self.pending);
        let mut left = None;
        let call = |request: &mut Request<'_, S>| invoke(handler, request, callback);
        let next = run::<false, _>(at, fresh.clone(), ended, context, &mut left, call);
        if let Some(write) = lifted {
            at.scratch.budget.restore(write);
        }
        if let Some(begun_at) = begun_at {
            let took = at.scratch.budget.look() - begun_at;
            if is_handle {
                learn(at, fresh.len(), left.as_ref(), took);
            }
            note_time(at.core, &at.connection.state.address, name, took);
        }
        self.follow(at, fresh, next, left, is_setup, reason);
    }

    /// Applies the effects of a callback: its actions, its result, and its unread input.
    #[inline(never)]
    pub(crate) fn follow(
        &mut self,
        at: &mut Service<'_>,
        fresh: Range<usize>,
        next: Next,
        left: Option<Left>,
        is_setup: bool,
        reason: EndReason,
    ) {
        let Service { core, scratch, slot, connection } = at;
        if scratch.budget.is_bound() {
            scratch.budget.bind(None);
        }
        let mut error = None;
        if let Some(left) = left {
            // Unread input of a datagram is dropped, because the next one is another message.
            if (left.bytes > 0 || connection.carry.is_some()) && !connection.state.is_datagram() {
                connection.keep(&scratch.input[fresh], left.consumed, left.scan, core.now);
                if left.held_back && left.bytes > 0 {
                    connection.state.phase.owe_handle();
                } else if next == Next::Wait
                    && left.error.is_none()
                    && connection.input_overflows(&scratch.budget.limits)
                {
                    connection.state.end(EndReason::InputLimit, false);
                }
            }
            error = left.error;
        }
        connection.state.go_on(next, reason);
        if is_setup && error.is_none() {
            connection.set_up();
        }
        if !self.pending.orders.is_empty() {
            self.carry_out(core, Some((slot.key, connection, error.is_none())));
        }
        // A session's answer is sent now, and that of a single datagram after `finish`.
        if connection.state.is_datagram() && (slot.key != NO_SLOT || error.is_some()) {
            self.reply(core, scratch, connection, error.is_none());
        }
        if let Some(error) = error {
            self.failed(core, &mut connection.state, &error);
            drop_error(core, error);
        }
    }
}

/// With this many bytes of fresh input `handle` may use up its slice, and its time is measured. Little input that arrives
/// in one read, as is usual, is not worth reading the clock.
#[inline]
fn much(at: &Service<'_>) -> usize {
    at.scratch.budget.turn.timed_from.min(at.connection.state.bite())
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

/// Adapts the size of the connection's next read to the effect of the last one.
#[cold]
fn learn(at: &mut Service<'_>, fresh: usize, left: Option<&Left>, took: u64) {
    let budget = &mut at.scratch.budget;
    let came = fresh + std::mem::take(&mut budget.appended);
    let (consumed, held_back) = left.map_or((came, false), |left| (left.consumed, left.held_back));
    let stopped = held_back && budget.has_run_out();
    at.connection.state.learn(came, consumed, stopped, took, budget.slice.length());
}
