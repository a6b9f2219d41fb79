//! Accepts clients.

use std::io;

use super::{Host, drop_error};
use crate::address::Address;
use crate::connection::budget::Slice;
use crate::handler::RequestHandler;
use crate::logging::note_fault;
use crate::net::{AcceptFault, ExpectedHeader, Listener, Stream};
use crate::panics::text_of;
use crate::reactor::core::Core;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

/// The number of clients that are accepted between two readings of the clock.
const ACCEPTS_PER_LOOK: usize = 4;

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// Accepts waiting clients of a listener, within its budget.
    pub(super) fn accept_waiting(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        let Some(mut listener) = core.listening(key).listener.take() else { return };
        self.begin(core, scratch);
        let before = core.stats.accepted;
        let failed = self.accept_from(core, scratch, key, &mut listener);
        let accepted = core.stats.accepted;
        let listening = core.listening(key);
        listening.listener = Some(listener);
        if accepted > before {
            listening.accepted = accepted;
        }
        if let Some(error) = failed {
            core.pause(key, "accept", &error);
            core.descriptors.note_pause();
            drop_error(core, error.into()); // The hook may have made it.
        }
    }

    /// Returns why accepting is to pause, if it is.
    fn accept_from(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        key: u32,
        listener: &mut Listener,
    ) -> Option<io::Error> {
        let number = self.calls.number();
        let slice = Slice::default();
        for accepted in 0..scratch.budget.limits.accepts_per_turn {
            // Each of them also has a slice of its own, for its first service.
            if accepted % ACCEPTS_PER_LOOK == ACCEPTS_PER_LOOK - 1 && slice.is_over(&scratch.budget.turn) {
                break;
            }
            if core.not_registered.is_some() || !core.may_accept(number) {
                return None;
            }
            let result = self.calls.hook(core, |state| state.get_request(listener));
            let mut fault = listener.take_fault();
            let result = match result {
                Some(Ok((stream, from))) => {
                    (listener.invalid, fault) = (0, None);
                    self.take_in_behind(core, scratch, listener.header(), stream, from)
                }
                Some(Err(error)) => Err(error),
                None => Err(io::Error::other("get_request panicked")),
            };
            let Err(error) = result else { continue };
            match fault.unwrap_or_else(|| AcceptFault::from(&error)) {
                AcceptFault::Empty => {
                    core.listening(key).ready = false;
                    drop_error(core, error.into());
                    return None;
                }
                AcceptFault::Skip => {}
                AcceptFault::Invalid if listener.believes_invalid() => {}
                AcceptFault::Invalid | AcceptFault::Pause => return Some(error),
            }
            core.stats.accept_errors += 1;
            note_fault!(Debug, "a client is lost before it is served: {}", text_of(&error));
            drop_error(core, error.into());
        }
        core.queue_again(key);
        None
    }

    /// Takes in a connection that begins with this header.
    #[inline(always)]
    pub(super) fn take_in_behind(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        header: &ExpectedHeader,
        stream: Stream,
        from: Address,
    ) -> io::Result<()> {
        core.stats.accepted += 1;
        self.take_from_quota(core, 1);
        #[cfg(all(unix, feature = "proxy-protocol"))]
        if let Some(protocol) = &header.protocol {
            return self.take_in_from_proxy(core, scratch, protocol, stream, from);
        }
        #[cfg(not(all(unix, feature = "proxy-protocol")))]
        let _ = header;
        self.take_in(core, scratch, stream, from)
    }
}
