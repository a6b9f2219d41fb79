//! A datagram as a request of its own, from `setup` to `finish`. Nothing of it is left afterwards, so all of them share
//! one connection, and each needs no slot and no memory.

use std::ops::Range;

use super::sending::answer;
use crate::connection::Connection;
use crate::connection::carry::Scan;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::dispatch::call_handler::{Callback, Left, invoke};
use crate::dispatch::{Calls, Service, note_drop};
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::handler::others::Others;
use crate::handler::request::Request;
use crate::lifecycle::{EndReason, Next};
use crate::net::packet::Packet;
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Serves a datagram of a socket, with a handler of the server's own type or a boxed one, of which this is the key. The
    /// former stays here until something unusual needs it among the other handlers.
    #[inline(always)]
    pub(super) fn serve_single(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        connection: &mut Connection,
        (socket, packet): (u32, &Packet),
        handler: Result<H, u32>,
    ) {
        let slot = core.slots.passing_id().slot;
        let range = packet.range.clone();
        let write = scratch.budget.lift(); // No later callback could continue.
        match handler {
            Ok(mut handler) if core.config.slow_callback.is_none() => {
                let mut at = Service { core, scratch, slot, connection };
                match self.call_usual(&mut at, &mut handler, range.clone()) {
                    Ok(()) => {
                        note_drop(at.core, drop_caught(handler));
                        self.dropped(&mut at, EndReason::Done);
                    }
                    Err(returned) => self.call_kept(at, Some(handler), range, Some(returned)),
                }
            }
            Ok(own) => self.call_kept(Service { core, scratch, slot, connection }, Some(own), range, None),
            Err(boxed) => {
                connection.state.handler = boxed;
                connection.state.set_boxed();
                self.call_kept(Service { core, scratch, slot, connection }, None, range, None);
            }
        }
        scratch.budget.restore(write);
        let has_replied = connection.state.has_replied() || !scratch.output.is_empty();
        if has_replied && !connection.state.phase.is_aborting() {
            answer(core, socket, packet, &scratch.output);
        }
        scratch.output.clear();
        if connection.state.extra.is_some() {
            core.cancel_handler_timers(&mut connection.state);
        }
    }

    /// Runs all callbacks of a single datagram, as long as nothing unusual happens. Otherwise it returns what has returned
    /// last.
    #[inline(always)]
    fn call_usual(&mut self, at: &mut Service<'_>, handler: &mut H, packet: Range<usize>) -> Result<(), Returned> {
        self.call_single(at, handler, 0..0, || Callback::Setup)?;
        at.connection.set_up();
        self.call_single(at, handler, packet, || Callback::Handle)?;
        if !at.connection.state.phase.end_single() {
            return Err(Returned { callback: Callback::Handle, next: Next::Wait, error: None });
        }
        self.call_single(at, handler, 0..0, || Callback::Finish(EndReason::Done))
    }

    /// Runs a callback of a single datagram. It is compiled separately for the server's own type of handlers, without
    /// everything that only a stream needs.
    #[inline(always)]
    fn call_single(
        &mut self,
        at: &mut Service<'_>,
        handler: &mut H,
        fresh: Range<usize>,
        callback: impl Fn() -> Callback<'static>,
    ) -> Result<(), Returned> {
        let Service { core, scratch, slot, connection } = &mut *at;
        let Scratch { input: buffer, output: gathered, budget, .. } = &mut **scratch;
        let mut request = Request {
            input: Input::new(&buffer[fresh], Scan::default(), budget, true, false),
            output: Output::datagram(&mut connection.io, gathered, budget),
            server: &mut self.state,
            others: Others { core, pending: &mut self.pending, budget: Some(budget) },
            state: &mut connection.state,
            slot: *slot,
        };
        let mut error = None;
        let returned = catch(|| {
            invoke(handler, &mut request, callback()).unwrap_or_else(|failed| {
                error = Some(failed);
                Next::Wait
            })
        });
        let next = returned.unwrap_or_else(|panic| {
            error = Some(panic);
            Next::Wait
        });
        if request.output.is_marked() {
            request.state.replied(request.others.core.now); // Perhaps with an empty answer.
        }
        let is_usual = next == Next::Wait && error.is_none() && self.pending.orders.is_empty();
        if is_usual { Ok(()) } else { Err(Returned { callback: callback(), next, error }) }
    }

    /// The general path: the handler is among the others. Runs the callbacks of a single datagram that come after the one
    /// that has returned.
    #[cold]
    #[inline(never)]
    fn call_kept(&mut self, mut at: Service<'_>, own: Option<H>, packet: Range<usize>, returned: Option<Returned>) {
        let at = &mut at;
        if let Some(handler) = own {
            at.connection.state.handler = self.handlers.insert(handler) as u32;
        }
        let last = returned.map(|Returned { callback, next, error }| {
            let left = Left { error, consumed: 0, bytes: 0, scan: Scan::default(), held_back: false };
            let is_setup = matches!(callback, Callback::Setup);
            self.follow(at, 0..0, next, Some(left), is_setup, callback.reason());
            callback
        });
        if last.is_none() {
            self.call(at, Callback::Setup);
        }
        if matches!(last, None | Some(Callback::Setup)) && at.connection.state.phase.may_call() {
            self.call_with(at, packet, Callback::Handle);
        }
        let mut why = EndReason::Done;
        if !matches!(last, Some(Callback::Finish(_))) {
            let is_usual = at.connection.state.end_single();
            why = at.connection.state.why();
            if is_usual || at.connection.state.phase.owes_finish() {
                self.call(at, Callback::Finish(why));
            }
        }
        self.finished(at, why);
    }
}

/// The result of a callback of a single datagram.
struct Returned {
    callback: Callback<'static>,
    next: Next,
    error: Option<Error>,
}
