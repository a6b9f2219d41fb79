//! Accepts clients.

use std::io;

use super::{Host, drop_error};
use crate::connection::budget::Slice;
use crate::handler::RequestHandler;
use crate::logging::note_fault;
use crate::net::AcceptFault;
use crate::panics::text_of;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

/// The number of clients that are accepted between two readings of the clock.
const ACCEPTS_PER_LOOK: usize = 4;

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// Accepts waiting clients of a listener, within its budget.
    pub(super) fn accept_waiting(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        let number = self.calls.number();
        let slice = Slice::default();
        self.begin(core, scratch);
        for accepted in 0..scratch.budget.limits.accepts_per_turn {
            // Each of them also has a slice of its own, for its first service.
            if accepted % ACCEPTS_PER_LOOK == ACCEPTS_PER_LOOK - 1 && slice.is_over(&scratch.budget.turn) {
                break;
            }
            if core.not_registered.is_some() || !core.may_accept(number) {
                return;
            }
            let Some(listening) = core.slots.listening(key) else { return };
            let Some(mut listener) = listening.listener.take() else { return };
            let result = self.calls.hook(core, |state| state.get_request(&mut listener));
            let mut fault = listener.take_fault();
            let listening = core.slots.listening(key).expect("listeners are closed between turns");
            listening.listener = Some(listener);
            let result = match result {
                Some(Ok((stream, from))) => {
                    (listening.invalid, fault) = (0, None);
                    listening.accepted = core.stats.accepted + 1;
                    self.take_in(core, scratch, stream, from)
                }
                Some(Err(error)) => Err(error),
                None => Err(io::Error::other("get_request panicked")),
            };
            let Err(error) = result else { continue };
            let skips = match fault.unwrap_or_else(|| AcceptFault::from(&error)) {
                AcceptFault::Empty => {
                    core.slots.listening(key).expect("still there").ready = false;
                    false
                }
                AcceptFault::Invalid if core.believes_invalid(key) => true,
                AcceptFault::Invalid | AcceptFault::Pause => {
                    core.pause(key, "accept", &error);
                    false
                }
                AcceptFault::Skip => true,
            };
            if skips {
                core.stats.accept_errors += 1;
                note_fault!(Debug, "a client is lost before it is served: {}", text_of(&error));
            }
            drop_error(core, error.into()); // The hook may have made it.
            if !skips {
                return;
            }
        }
        core.queue_again(key);
    }
}
