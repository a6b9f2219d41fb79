//! One server in the reactor: its value, its handlers, and how callbacks and hooks reach them.
//!
//! Handlers of accepted connections have one type and are stored next to each other in a slab. Handlers of outbound
//! connections, and replacement handlers, are boxed and stored in another. The connections are in the reactor. Because
//! these are separate, a running handler can reach every connection, without a cell or a reference count.
//!
//! ```text
//!  the loop ──▶ events ──┬──▶ accept ──▶ admit ──┬──▶ callbacks ──▶ call_handler
//!                        │    clients    hooks   │    which is due    one of them
//!                        └───────────────────────┘         └──▶ finish, successors
//! ```

mod accept;
pub(crate) mod admit;
pub(crate) mod call_handler;
mod callbacks;
mod events;
mod finish;
#[cfg(all(unix, feature = "proxy-protocol"))]
mod proxied;
#[cfg(feature = "tls")]
mod secure;
mod successors;

use slab::Slab;

use crate::address::Address;
use crate::blocking::ServeOn;
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::others::{Others, Pending};
use crate::ids::SlotId;
use crate::logging::note_fault;
use crate::net::datagram::DatagramSocket;
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

/// One server in the reactor.
pub(crate) struct Host<S, H> {
    make_handler: MakeHandler<S, H>,
    /// Serves the requests for which the hook returns `ServeOn::Reactor`.
    mixin: Option<MixIn<S>>,
    pub(crate) calls: Calls<S, H>,
    datagrams: Option<Datagrams<S, H>>,
    /// The hook `server_close` was called, and the server was not bound since.
    is_closed: bool,
}

/// The code for datagrams. A program whose servers have none does not contain it.
struct Datagrams<S, H> {
    open: fn(&mut Core, u16, DatagramSocket) -> Result<()>,
    receive: fn(&mut Host<S, H>, &mut Core, &mut Scratch, u32),
}

/// Python's `RequestHandlerClass`.
pub(crate) type MakeHandler<S, H> = Box<dyn FnMut(&mut S, &Address) -> H + Send>;

/// Python's `ThreadingMixIn` or `ForkingMixIn`.
pub(crate) type MixIn<S> = Box<dyn FnMut(&mut S, &Address) -> ServeOn<S> + Send>;

/// The data of callbacks, besides the limits.
pub(crate) struct Calls<S, H> {
    pub(crate) state: S,
    pub(crate) handlers: Slab<H>,
    boxed: Slab<Box<dyn RequestHandler<S>>>,
    /// Work for after the running callback.
    pub(crate) pending: Pending<S>,
}

/// A connection that is being served, with everything that this needs. It is here and not in its slot, so that its
/// parts can be borrowed separately.
pub(crate) struct Service<'a> {
    pub(crate) core: &'a mut Core,
    /// Its budget has been given the limits: [`Host::begin`].
    pub(crate) scratch: &'a mut Scratch,
    /// Its key is [`NO_SLOT`](crate::ids::NO_SLOT) for a single datagram, which needs none.
    pub(crate) slot: SlotId,
    pub(crate) connection: &'a mut Connection,
}

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    pub(crate) fn new(state: S, make_handler: MakeHandler<S, H>) -> Self {
        let pending = Pending { server: 0, orders: Vec::new() };
        let calls = Calls { state, handlers: Slab::new(), boxed: Slab::new(), pending };
        Host { make_handler, mixin: None, calls, datagrams: None, is_closed: false }
    }

    /// Threads or programs serve its requests.
    pub(crate) fn with_mixin(mut self, mixin: MixIn<S>) -> Self {
        self.mixin = Some(mixin);
        self
    }

    /// Some of its sockets have datagrams.
    pub(crate) fn serve_datagrams(&mut self) {
        self.datagrams = Some(Datagrams { open: Core::receive_from, receive: Host::receive_datagrams });
    }

    /// Takes a connection out of its slot, calls a closure with it, and puts it back.
    #[inline(always)]
    pub(crate) fn borrowed(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        key: u32,
        act: impl FnOnce(&mut Calls<S, H>, &mut Service<'_>),
    ) {
        let slot = core.slots.id(key).slot;
        let mut lent = core.slots.lend(key);
        self.begin(core, scratch);
        scratch.budget.renew();
        act(&mut self.calls, &mut Service { core, scratch, slot, connection: lent.connection() });
        core.slots.give_back(key, lent);
    }

    /// Prepares for serving connections of this server, with its current limits.
    #[inline]
    pub(crate) fn begin(&self, core: &Core, scratch: &mut Scratch) {
        scratch.budget.begin(&core.served[usize::from(self.calls.number())].limits, core.now);
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// The server's number in the reactor.
    pub(crate) fn number(&self) -> u16 {
        self.pending.server
    }

    /// Runs a hook of the server. A panic is logged and returns `None`.
    pub(crate) fn hook<T>(&mut self, core: &mut Core, hook: impl FnOnce(&mut S) -> T) -> Option<T> {
        match catch(|| hook(&mut self.state)) {
            Ok(value) => Some(value),
            Err(panic) => {
                note_hook_panic(core, &panic);
                None
            }
        }
    }

    /// Like `hook`, for hooks that act on the reactor.
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

/// A handler was dropped, which panicked unless this is true.
#[inline]
pub(crate) fn note_drop(core: &mut Core, dropped: bool) {
    if !dropped {
        core.stats.panics += 1;
        note_fault!(Error, "a handler panicked while it was dropped");
    }
}

/// Drops an error of the user, which may run user code.
#[cold]
fn drop_error(core: &mut Core, error: Error) {
    if !drop_caught(error) {
        core.stats.panics += 1;
        note_fault!(Error, "an error of a handler panicked while it was dropped");
    }
}
