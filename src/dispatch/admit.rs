//! The path of a new request: Python's hooks in their order, then a handler, a thread or a program.

use std::io;

use slab::Slab;

use super::{Calls, Host, Service};
use crate::address::Address;
use crate::blocking::serve_on::{Sender, Taken, TakenRequest, Work};
use crate::connection::Connection;
use crate::error::{Error, Passed};
use crate::handler::RequestHandler;
use crate::lifecycle::EndReason;
use crate::logging::note_fault;
use crate::net::{Header, Stream};
use crate::panics::catch;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::reactor::slots::Lent;
use crate::server::hooks::{BaseServer, Incoming};

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// Admits a connection: see [`Hosted::admit`](crate::reactor::hosted::Hosted::admit).
    pub(super) fn take_in(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        mut stream: Stream,
        from: Address,
    ) -> io::Result<()> {
        let place = |handlers: &mut Slab<H>, handler| (handlers.insert(handler) as u32, false);
        let in_cap = core.admits_client(self.calls.number(), &from);
        match self.pass_hooks(core, (&Incoming::Stream(&stream), &from, in_cap), place, |number| (number, true)) {
            Admitted::Elsewhere((Work::HandOver(pass), _)) => pass(core, self.calls.number(), stream, from),
            #[cfg(feature = "tls")]
            Admitted::Elsewhere(work) if stream.secured().is_some() => {
                self.begin_for_thread(core, scratch, stream, from, work);
            }
            Admitted::Here((handler, is_boxed)) => {
                // Before the connection exists: then it is made in the box.
                let spare = core.spare();
                let mut connection = Connection::accepted(stream, from, handler, core.now);
                if is_boxed {
                    connection.state.set_boxed();
                }
                self.begin_here(core, scratch, spare.holding(connection));
            }
            Admitted::Elsewhere(work) => {
                let (local, header) = (stream.local_address(), stream.take_header());
                let Some(stream) = stream.into_std() else { return Err(io::ErrorKind::Unsupported.into()) };
                self.calls.send_elsewhere(core, work, TakenRequest::Stream(stream), from, (local, header));
            }
            Admitted::No => {}
        }
        Ok(())
    }

    /// Serves a connection on the reactor.
    #[inline(always)]
    pub(super) fn begin_here(&mut self, core: &mut Core, scratch: &mut Scratch, mut lent: Lent) {
        let connection = lent.connection();
        let slot = core.insert_lent(self.calls.number(), connection);
        let mut at = Service { core, scratch, slot, connection };
        #[cfg(feature = "tls")]
        let is_secured = at.begin_securely();
        #[cfg(not(feature = "tls"))]
        let is_secured = false;
        if is_secured {
            at.scratch.budget.renew();
            self.calls.advance(&mut at);
        } else {
            self.calls.begin(&mut at);
        }
        core.slots.give_back(slot.key, lent);
        if core.tally.is_some() {
            core.recount(&[slot]);
        }
    }

    pub(crate) fn take_from_quota(&self, core: &mut Core, requests: usize) {
        let served = &mut core.served[usize::from(self.calls.number())];
        served.quota = served.quota.saturating_sub(requests);
    }

    /// Calls Python's hooks in their order, up to the choice of the handler. A handler of the server's own type goes where
    /// `own` puts it, and another among the boxed ones. `in_cap`: this client may have one more connection.
    #[inline(always)]
    pub(crate) fn pass_hooks<T>(
        &mut self,
        core: &mut Core,
        (request, from, in_cap): (&Incoming<'_>, &Address, bool),
        own: impl FnOnce(&mut Slab<H>, H) -> T,
        boxed: impl FnOnce(u32) -> T,
    ) -> Admitted<S, T> {
        let admitted = catch(|| {
            let Host { make_handler, mixin, calls: Calls { state, handlers, boxed: others, .. }, .. } = &mut *self;
            if !in_cap || !state.verify_request(request, from) {
                return Admitted::No;
            }
            let mut work = state.process_request(request, from).into_work();
            if let (None, Some(mixin)) = (&work, mixin) {
                work = mixin(state, from).into_work();
            }
            if let Some(work) = work {
                return Admitted::Elsewhere(work);
            }
            Admitted::Here(match state.finish_request(from) {
                Some(handler) => boxed(others.insert(handler) as u32),
                None => own(handlers, make_handler(state, from)),
            })
        });
        let calls = &mut self.calls;
        match admitted {
            Ok(Admitted::No) => {
                let limits = &core.served[usize::from(calls.number())].limits;
                let cap = limits.connections_per_client_max.filter(|_| !in_cap);
                calls.refuse(core, from, cap.map(|max| Passed::Count("connections_per_client_max", max)));
                Admitted::No
            }
            Ok(admitted) => admitted,
            Err(panic) => {
                core.stats.panics += 1;
                calls.hook(core, |state| state.handle_error(from, &panic));
                calls.closed(core, from, EndReason::Panicked, None);
                Admitted::No
            }
        }
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Lets a thread or a program serve a request. It is refused if too many wait.
    pub(crate) fn send_elsewhere(
        &mut self,
        core: &mut Core,
        (work, send): (Work<S>, Sender<S>),
        request: TakenRequest,
        client_address: Address,
        (local_address, header): (Option<Address>, Header),
    ) {
        let (server, client) = (self.number(), client_address.clone());
        match send(work, core, Taken { server, request, client_address, local_address, header }) {
            Ok(()) => {}
            Err(error @ Error::Full { .. }) => {
                note_fault!(Warn, "{client} is refused: {error:#}");
                self.refuse(core, &client, error.limit());
            }
            Err(error) => self.over(core, &client, None, Err(error)),
        }
    }
}

/// The result of the hooks for a request.
pub(crate) enum Admitted<S, T> {
    /// The reactor serves it with this handler.
    Here(T),
    Elsewhere((Work<S>, Sender<S>)),
    No,
}
