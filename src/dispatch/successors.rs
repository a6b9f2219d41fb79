//! Work for after a callback: gives handlers to outbound connections, replaces handlers, and applies operations on the
//! own connection that used its id.

use std::io;

use super::call_handler::Callback;
use super::{Calls, Service};
use crate::connection::Connection;
use crate::error::Error;
use crate::handler::RequestHandler;
use crate::handler::others::Order;
use crate::ids::NO_SLOT;
use crate::lifecycle::EndReason;
use crate::logging::note_fault;
use crate::panics::drop_caught;
use crate::reactor::core::Core;
use crate::server::hooks::BaseServer;

/// How many handlers may replace each other while a message waits for the last one.
const SUCCESSORS_MAX: usize = 1_000;

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Calls `setup` of a replacement handler before any other callback, and also of one that replaces it in its
    /// `setup`. If that does not end, the connection ends.
    pub(crate) fn set_up(&mut self, at: &mut Service<'_>) {
        for _ in 0..SUCCESSORS_MAX {
            if !at.connection.state.phase.begin_setup() {
                return;
            }
            self.call(at, Callback::Setup);
        }
        if at.connection.state.phase.is_setup_due() {
            let address = &at.connection.state.address;
            note_fault!(Error, "{address} is closed: {SUCCESSORS_MAX} handlers in a row were replaced in their setup");
            at.connection.state.end(EndReason::Error, true);
        }
    }

    /// Carries out the requests of a callback, for the connection that was served and for outbound ones. A handler is
    /// replaced only if it did not fail. A connection that ends keeps its handler for `finish`.
    #[cold]
    pub(super) fn carry_out(&mut self, core: &mut Core, mut served: Option<(u32, &mut Connection, bool)>) {
        for (key, order) in std::mem::take(&mut self.pending.orders) {
            let own = served.as_mut().filter(|(own, ..)| *own == key);
            match (order, own) {
                (Order::Serve(handler), Some((_, connection, succeeded))) => {
                    let wanted = *succeeded && !connection.state.phase.is_ending();
                    self.replace_handler(core, connection, handler, wanted && key != NO_SLOT);
                    if wanted && key == NO_SLOT {
                        let source =
                            io::Error::new(io::ErrorKind::Unsupported, "only that of a session can be replaced");
                        let error = Error::Reactor { doing: "replace the handler of a datagram", source };
                        self.failed(core, &mut connection.state, &error);
                    }
                }
                (Order::Serve(handler), None) => {
                    core.slots.connection(key).state.handler = self.boxed.insert(handler) as u32;
                }
                (Order::End { at_once }, Some((_, connection, _))) => connection.state.end(EndReason::Done, at_once),
                #[cfg(feature = "tls")]
                (Order::StartTls { start, bare }, Some((_, connection, succeeded))) => {
                    if *succeeded && connection.start_tls(start, bare, core.now) {
                        core.begin_handshake();
                    } else {
                        connection.stay_bare(bare);
                    }
                }
                #[cfg(feature = "tls")]
                #[cfg(feature = "tls")]
                (Order::HandOver(work), Some((_, connection, _))) => self.hand_over(core, key, connection, work),
                #[cfg(feature = "tls")]
                (Order::StartTls { .. }, _) => {}
                (Order::ShutdownWrite, Some((_, connection, _))) => connection.state.phase.shut_down(),
                (Order::PauseReading, Some((_, connection, _))) => connection.state.phase.pause(),
                (Order::ResumeReading, Some((_, connection, _))) => _ = connection.resume_reading(core.now),
                (Order::Hold { lowered }, Some((_, connection, _))) => {
                    connection.hold(&core.served[usize::from(self.pending.server)].limits, lowered);
                }
                (_, None) => {} // A single datagram that is over.
            }
        }
    }

    /// Replaces a handler if that is `wanted`. If not, the new one is dropped.
    fn replace_handler(
        &mut self,
        core: &mut Core,
        connection: &mut Connection,
        successor: Box<dyn RequestHandler<S>>,
        wanted: bool,
    ) {
        if wanted {
            self.drop_handler(core, &connection.state);
            connection.replaced_handler(self.boxed.insert(successor) as u32);
        } else if !drop_caught(successor) {
            core.stats.panics += 1;
        }
    }
}
