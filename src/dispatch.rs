//! One server in the reactor: its value and its handlers, and how a callback or hook reaches them.
//!
//! Handlers of accepted connections are of one type and live side by side in a slab; those of outbound connections
//! and replaced ones are boxed and live in another. The connections are in the reactor. Because the two are apart, a
//! running handler can reach every connection, and no cell or reference count is needed.
//!
//! ```text
//!  the loop ──▶ events ──┬──▶ accept ──▶ admit ──┬──▶ callbacks ──▶ run ──▶ the handler
//!                        │    clients    hooks   │    which is due    one of them
//!                        └───────────────────────┘         └──▶ finish, successors
//! ```

mod accept;
pub(crate) mod admit;
pub(crate) mod callbacks;
mod events;
mod finish;
mod run;
mod successors;

use std::sync::Arc;

use slab::Slab;

use crate::address::Address;
use crate::blocking::ServeOn;
use crate::connection::Connection;
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::handler::others::{Others, Pending};
use crate::ids::ConnectionId;
use crate::limits::Limits;
use crate::logging::note_fault;
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

/// One server in the reactor.
pub(crate) struct Host<S, H> {
    make_handler: MakeHandler<S, H>,
    /// Serves the requests that the hook leaves to the reactor.
    mixin: Option<MixIn<S>>,
    pub(crate) calls: Calls<S, H>,
    receive: Option<Receive<S, H>>,
    /// The hook `server_close` was called, and the server was not bound since.
    is_closed: bool,
}

/// [`Host::receive_datagrams`], so that a program whose servers have no datagrams does not contain it.
type Receive<S, H> = fn(&mut Host<S, H>, &mut Core, &mut Scratch, u32);

/// Python's `RequestHandlerClass`.
pub(crate) type MakeHandler<S, H> = Box<dyn FnMut(&mut S, &Address) -> H + Send>;

/// Python's `ThreadingMixIn` or `ForkingMixIn`.
pub(crate) type MixIn<S> = Box<dyn FnMut(&mut S, &Address) -> ServeOn<S> + Send>;

/// What callbacks need besides the limits.
pub(crate) struct Calls<S, H> {
    state: S,
    handlers: Slab<H>,
    boxed: Slab<Box<dyn RequestHandler<S>>>,
    /// What is done when the callback that is running returns.
    pending: Pending<S>,
}

/// A connection that is being served, and what is needed for that. It is in our hands, not in its slot, so that its
/// parts can be borrowed apart.
pub(crate) struct Service<'a> {
    pub(crate) limits: &'a Limits,
    pub(crate) core: &'a mut Core,
    pub(crate) scratch: &'a mut Scratch,
    /// Its slot; [`NO_SLOT`] for a single datagram, which needs none.
    pub(crate) key: u32,
    pub(crate) id: ConnectionId,
    pub(crate) connection: &'a mut Connection,
}

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    pub(crate) fn new(state: S, make_handler: MakeHandler<S, H>) -> Self {
        let pending = Pending { server: 0, orders: Vec::new() };
        let calls = Calls { state, handlers: Slab::new(), boxed: Slab::new(), pending };
        Host { make_handler, mixin: None, calls, receive: None, is_closed: false }
    }

    /// Its requests are served by threads or programs.
    pub(crate) fn with_mixin(mut self, mixin: MixIn<S>) -> Self {
        self.mixin = Some(mixin);
        self
    }

    /// Some of its sockets have datagrams.
    pub(crate) fn serve_datagrams(&mut self) {
        self.receive = Some(Host::receive_datagrams);
    }

    /// Takes a connection out of its slot, does something with it, and puts it back.
    #[inline(always)]
    pub(crate) fn borrowed(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        key: u32,
        act: impl FnOnce(&mut Calls<S, H>, &mut Service<'_>),
    ) {
        let id = core.slots.id(key);
        let mut lent = core.slots.lend(key);
        let limits = &*self.limits(core);
        scratch.budget.renew(limits);
        act(&mut self.calls, &mut Service { limits, core, scratch, key, id, connection: lent.connection() });
        core.slots.give_back(key, lent);
    }

    /// Its limits as they are now. Held for one batch, because a callback borrows the core, where they are.
    #[inline]
    pub(crate) fn limits(&self, core: &Core) -> Arc<Limits> {
        Arc::clone(&core.served[usize::from(self.calls.number())].limits)
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// The server's number in the reactor.
    pub(crate) fn number(&self) -> u16 {
        self.pending.server
    }

    /// Runs a hook of the server's. A panic is logged, and is what `None` means.
    pub(crate) fn hook<T>(&mut self, core: &mut Core, hook: impl FnOnce(&mut S) -> T) -> Option<T> {
        catch(|| hook(&mut self.state)).inspect_err(|panic| note_hook_panic(core, panic)).ok()
    }

    /// The same for hooks that act on the reactor.
    fn acting_hook(&mut self, core: &mut Core, hook: impl FnOnce(&mut S, &mut Others<'_, S>)) {
        let mut others = Others { core: &mut *core, pending: &mut self.pending, budget: None };
        let result = catch(|| hook(&mut self.state, &mut others));
        if !self.pending.orders.is_empty() {
            self.carry_out(core, None);
        }
        if let Err(panic) = result {
            note_hook_panic(core, &panic);
        }
    }
}

#[cold]
fn note_hook_panic(core: &mut Core, panic: &Error) {
    core.stats.panics += 1;
    log_hook_panic(panic);
}

fn log_hook_panic(panic: &Error) {
    note_fault!(Error, "a hook of the server {panic}");
}

/// An error of the user's goes, which runs code of the user's as well.
#[cold]
fn drop_error(core: &mut Core, error: Error) {
    if !drop_caught(error) {
        core.stats.panics += 1;
        note_fault!(Error, "an error of a handler panicked while it was dropped");
    }
}
