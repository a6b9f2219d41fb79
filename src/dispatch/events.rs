//! Events of the loop for a server: a connection, a timer, a message, an end.

use std::any::Any;
use std::io;
use std::ops::Range;

use super::call_handler::Callback;
use super::{Calls, Datagrams, Host, Service, log_hook_panic};
use crate::address::Address;
use crate::connection::deadlines::Due;
#[cfg(feature = "tls")]
use crate::error::Passed;
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::ids::SlotId;
use crate::lifecycle::EndReason;
use crate::net::datagram::DatagramSocket;
use crate::net::{ExpectedHeader, Socket, Stream};
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::handle::Message;
use crate::reactor::hosted::{Hosted, Scratch};
use crate::server::hooks::BaseServer;

/// The number of connections that are served between two readings of the clock.
const RUN: usize = 32;

impl<S: BaseServer, H: RequestHandler<S>> Hosted for Host<S, H> {
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, batch: &[SlotId]) -> usize {
        self.begin(core, scratch);
        let calls = &mut self.calls;
        let number = calls.number();
        let run = &batch[..batch.len().min(RUN)];
        scratch.budget.turn.waiting = batch.len();
        for &slot in run {
            let Some(mut lent) = core.slots.claim(slot, number) else { break };
            let mut at = Service { core, scratch, slot, connection: lent.connection() };
            calls.serve(&mut at);
            let key = at.slot.key;
            core.slots.give_back(key, lent);
            scratch.budget.turn.waiting -= 1;
        }
        batch.len() - scratch.budget.turn.waiting
    }

    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        self.accept_waiting(core, scratch, key);
    }

    fn admit(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        stream: Stream,
        from: Address,
        header: &ExpectedHeader,
    ) -> io::Result<()> {
        self.begin(core, scratch);
        self.take_in_behind(core, scratch, header, stream, from)
    }

    #[cfg(all(unix, feature = "proxy-protocol"))]
    fn on_header(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        self.read_on(core, scratch, key, false);
    }

    #[cfg(all(unix, feature = "proxy-protocol"))]
    fn on_header_late(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        self.read_on(core, scratch, key, true);
    }

    fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32) {
        if let Some(Datagrams { receive, .. }) = self.datagrams {
            receive(self, core, scratch, key);
        }
    }

    fn receive_from(&mut self, core: &mut Core, socket: DatagramSocket) -> Result<()> {
        let Datagrams { open, .. } = self.datagrams.as_ref().expect("it was told of such sockets");
        open(core, self.calls.number(), socket)
    }

    fn on_datagram(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, packet: Range<usize>) {
        self.borrowed(core, scratch, key, |calls, at| calls.on_datagram(at, packet));
    }

    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due) {
        self.borrowed(core, scratch, key, |calls, at| match due {
            Due::Quiet => at.connection.state.phase.quiet(),
            Due::Lingered => at.connection.state.lingered(),
            Due::Connect => calls.connect_failed(at, io::ErrorKind::TimedOut.into(), EndReason::ConnectTimeout),
            #[cfg(feature = "tls")]
            Due::Handshake => {
                let max = at.scratch.budget.limits.handshake_timeout.unwrap_or_default();
                let why = format!("it has taken longer than {}", Passed::Time("handshake_timeout", max));
                let source = io::Error::new(io::ErrorKind::TimedOut, why);
                calls.handshake_failed(at, source, EndReason::HandshakeTimeout);
            }
            Due::Limit(timeout) if at.connection.state.phase.may_call() => {
                at.connection.forgive(timeout, at.core.now);
                calls.call(at, Callback::Timeout(timeout));
            }
            // It was ending normally, and the peer does not take the rest.
            Due::Limit(timeout) => {
                if at.connection.state.phase.is_finished() {
                    at.core.note_cut(calls.number(), &at.connection.state, Some(timeout));
                }
                at.connection.state.end(EndReason::Timeout(timeout), true);
            }
        });
        core.queue(key);
    }

    fn on_connect_failed(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, error: io::Error) {
        self.borrowed(core, scratch, key, |calls, at| calls.connect_failed(at, error, EndReason::Reset));
        core.queue(key);
    }

    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64) {
        self.borrowed(core, scratch, key, |calls, at| {
            if at.connection.state.phase.may_call() {
                calls.call(at, Callback::Timer(tag));
            }
        });
        core.queue(key);
    }

    fn on_message(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, message: Result<Message>) {
        self.borrowed(core, scratch, key, |calls, at| {
            calls.set_up(at);
            match message {
                Ok(message) if at.connection.state.phase.may_call() => {
                    calls.call(at, Callback::Message(&mut Some(message)));
                }
                Err(error) if at.connection.state.phase.may_call() => {
                    calls.failed(at.core, &mut at.connection.state, &error);
                }
                message => at.core.refuse(message),
            }
        });
        core.queue(key);
    }

    fn on_over(&mut self, core: &mut Core, client: &Address, ended: Option<EndReason>, result: Result<()>) {
        self.calls.over(core, client, ended, result);
    }

    fn on_server_timer(&mut self, core: &mut Core, tag: u64) {
        self.calls.acting_hook(core, |state, others| state.timer(others, tag));
    }

    fn on_server_message(&mut self, core: &mut Core, message: Message) {
        self.calls.acting_hook(core, |state, others| state.message(others, message));
    }

    fn stopping(&mut self, core: &mut Core) {
        self.calls.acting_hook(core, S::stopping);
    }

    fn reload(&mut self, core: &mut Core) {
        self.calls.acting_hook(core, S::reload);
    }

    fn service_actions(&mut self, core: &mut Core) {
        self.calls.acting_hook(core, S::service_actions);
    }

    fn handle_timeout(&mut self, core: &mut Core) {
        self.calls.hook(core, S::handle_timeout);
    }

    fn server_bind(&mut self, socket: &Socket, address: &Address) -> Result<io::Result<()>> {
        let result = catch(|| self.calls.state.server_bind(socket, address))?;
        self.is_closed &= result.is_err();
        Ok(result)
    }

    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> Result<io::Result<()>> {
        catch(|| self.calls.state.server_activate(socket, request_queue_size))
    }

    fn dissolve(self: Box<Self>) -> u64 {
        let Host { make_handler, mixin, calls, .. } = *self;
        let Calls { state, handlers, boxed, pending } = calls;
        let mut panics = 0;
        let mut count = |dropped: bool| panics += u64::from(!dropped);
        handlers.into_iter().for_each(|(_, handler)| count(drop_caught(handler)));
        boxed.into_iter().for_each(|(_, handler)| count(drop_caught(handler)));
        pending.orders.into_iter().for_each(|(_, order)| count(drop_caught(order)));
        count(drop_caught(state));
        count(drop_caught(make_handler));
        count(drop_caught(mixin));
        panics
    }

    fn server_close(&mut self) -> bool {
        let was_closed = std::mem::replace(&mut self.is_closed, true);
        !was_closed && catch(|| self.calls.state.server_close()).inspect_err(log_hook_panic).is_err()
    }

    fn set_open(&mut self) {
        self.is_closed = false;
    }

    fn is_closed(&self) -> bool {
        self.is_closed
    }

    fn set_number(&mut self, number: u16) {
        self.calls.pending.server = number;
    }

    fn state(&mut self) -> &mut dyn Any {
        &mut self.calls.state
    }

    fn host(&mut self) -> &mut dyn Any {
        self
    }
}
