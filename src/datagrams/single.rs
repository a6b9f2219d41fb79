//! A datagram as a request of its own, from `setup` to `finish`. Nothing of it is left afterwards, so all of them share
//! one connection, and each needs no slot and no memory.

use std::ops::Range;

use super::sending::send;
use crate::connection::Connection;
use crate::connection::carry::Scan;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::dispatch::call_handler::{Callback, Left, invoke};
use crate::dispatch::{Calls, Service};
use crate::handler::RequestHandler;
use crate::handler::others::Others;
use crate::handler::request::Request;
use crate::lifecycle::{EndReason, Next};
use crate::net::packet::{Packet, Route};
use crate::panics::catch;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Serves a datagram with this handler, which may be boxed.
    pub(super) fn serve_single(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        packet: &Packet,
        socket: u32,
        (handler, is_boxed): (u32, bool),
    ) {
        let route = Route { endpoint: socket, local: packet.local };
        let mut connection = match scratch.single.take() {
            Some(mut connection) => {
                connection.renew(route, packet.from.clone(), handler, core.now);
                connection
            }
            None => Box::new(Connection::datagram(route, packet.from.clone(), handler, core.now)),
        };
        if is_boxed {
            connection.state.set_boxed();
        }
        let slot = core.slots.passing_id().slot;
        let mut at = Service { core, scratch, slot, connection: &mut connection };
        self.call_single(&mut at, 0..0, || Callback::Setup);
        if at.connection.state.phase.may_call() {
            self.call_single(&mut at, packet.range.clone(), || Callback::Handle);
        }
        at.connection.state.end(EndReason::Done, false); // This has no effect if it has ended already.
        let why = at.connection.state.why();
        if at.connection.state.phase.owes_finish() {
            self.call_single(&mut at, 0..0, || Callback::Finish(why));
        }
        self.finished(&mut at, why);
        self.reply(at.core, at.scratch, at.connection, true, send);
        at.core.cancel_handler_timers(&mut at.connection.state);
        scratch.single = Some(connection);
    }

    /// Like [`call_with`](Self::call_with), compiled separately for the server's own type of handlers, and without
    /// everything that only a stream needs.
    #[inline(always)]
    fn call_single(&mut self, at: &mut Service<'_>, fresh: Range<usize>, callback: impl Fn() -> Callback<'static>) {
        let is_unusual = at.connection.state.is_boxed() || at.connection.state.extra.is_some();
        if is_unusual || at.core.config.slow_callback.is_some() {
            return self.call_with(at, fresh, callback());
        }
        let Service { core, scratch, slot, connection } = &mut *at;
        let handler = &mut self.handlers[connection.state.handler as usize];
        let Scratch { input: buffer, output: gathered, budget, .. } = &mut **scratch;
        let write = budget.lift(); // No later callback could continue.
        let now = core.now;
        let mut request = Request {
            input: Input::new(&buffer[fresh.clone()], Scan::default(), budget, true, false),
            output: Output::datagram(&mut connection.io, gathered, budget),
            server: &mut self.state,
            others: Others { core, pending: &mut self.pending, budget: Some(budget) },
            state: &mut connection.state,
            slot: *slot,
        };
        let result = catch(|| invoke(handler, &mut request, callback())).and_then(|result| result);
        if request.output.has_replied() {
            request.state.replied(now);
        }
        budget.restore(write);
        let is_setup = matches!(callback(), Callback::Setup);
        let (next, error) = match result {
            Ok(Next::Wait) if self.pending.orders.is_empty() => {
                if is_setup {
                    connection.set_up();
                }
                return;
            }
            Ok(next) => (next, None),
            Err(error) => (Next::Wait, Some(error)),
        };
        let left = Left { error, consumed: 0, bytes: 0, scan: Scan::default(), held_back: false };
        self.follow(at, fresh, next, Some(left), is_setup, callback().reason());
    }
}
