//! TLS of a server: the handshake before `setup`, its failure, and connections that go to a thread after it.

use std::io;

use super::call_handler::Callback;
use super::{Calls, Host, Service, drop_error};
use crate::address::Address;
use crate::blocking::serve_on::{Sender, TakenRequest, Work};
use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::others::Order;
use crate::handler::request::Request;
use crate::lifecycle::{EndReason, Next};
use crate::logging::note_fault;
use crate::net::Stream;
use crate::net::tls::words::{Ends, Explained};
use crate::reactor::core::Core;
use crate::reactor::handle::Message;
use crate::reactor::hosted::Scratch;
use crate::server::hooks::BaseServer;

impl Service<'_> {
    /// An accepted connection under TLS begins with its handshake. Returns whether it is under TLS.
    #[inline]
    pub(super) fn begin_securely(&mut self) -> bool {
        let is_secured = self.connection.io.stream.secured().is_some();
        if is_secured {
            self.core.begin_handshake();
            self.connection.await_handshake(self.core.now);
        }
        is_secured
    }
}

/// The handler of a connection whose handshake the reactor completes for a thread.
struct HandOver<S>(Option<(Work<S>, Sender<S>)>);

impl<S: 'static> RequestHandler<S> for HandOver<S> {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        if let Some(work) = self.0.take() {
            request.others.pending.orders.push((request.slot.key, Order::HandOver(Message::new(work))));
        }
        Ok(Next::Wait)
    }

    fn handle(&mut self, _: &mut Request<'_, S>) -> Result<Next> {
        unreachable!("the connection has left in `setup`")
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Host<S, H> {
    /// A thread will serve a connection under TLS. The reactor completes the handshake first, so a silent client
    /// occupies no thread.
    #[cold]
    pub(super) fn begin_for_thread(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        stream: Stream,
        from: Address,
        (work, send): (Work<S>, Sender<S>),
    ) {
        if !matches!(work, Work::Handler(_)) {
            let source = io::Error::new(io::ErrorKind::Unsupported, "it would see encrypted bytes");
            let error = Error::Tls { doing: "give a connection under TLS to a program", source };
            return self.calls.over(core, &from, None, Err(error));
        }
        let handler = self.calls.boxed.insert(Box::new(HandOver(Some((work, send))))) as u32;
        let mut connection = Connection::accepted(stream, from, handler, core.now);
        connection.state.set_boxed();
        connection.state.phase.shut_down(); // Only the thread sends.
        let lent = core.spare().holding(connection);
        self.begin_here(core, scratch, lent);
    }
}

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// A connection leaves the reactor after its handshake, and a thread serves it.
    #[cold]
    pub(super) fn hand_over(&mut self, core: &mut Core, key: u32, connection: &mut Connection, work: Message) {
        let (mut stream, plain) = connection.leave();
        core.selector.deregister(&mut stream);
        let address = connection.state.address.clone();
        self.drop_handler(core, &connection.state);
        let (local, header) = (stream.local_address(), stream.take_header());
        let (stream, tls) = stream.strip();
        let work = work.downcast().expect("`HandOver` has made it");
        core.hand_over(key, |core| match stream.into_std().zip(tls) {
            Some((stream, tls)) => {
                let request = TakenRequest::Secured(stream, Box::new(tls), plain);
                self.send_elsewhere(core, work, request, address, (local, header));
                core.stop.look_again(core.now, &mut core.timers);
            }
            None => self.over(core, &address, None, Err(Error::Io(io::ErrorKind::Unsupported.into()))),
        });
    }

    /// A handshake has failed, or has taken too long. After an alert to the peer, the connection ends.
    #[cold]
    pub(super) fn handshake_failed(&mut self, at: &mut Service<'_>, source: io::Error, why: EndReason) {
        let state = &at.connection.state;
        let is_connect = state.is_outbound() && !state.phase.may_call();
        let stats = &mut at.core.stats;
        match why {
            EndReason::HandshakeTimeout => stats.handshakes_timed_out += 1,
            _ => stats.handshakes_failed += 1,
        }
        at.connection.handshake_failed(why);
        let address = &at.connection.state.address;
        if is_connect {
            note_fault!(Warn, "cannot connect to {address}: the TLS handshake failed: {}", Explained(&source));
            let error = Error::Connect { address: address.clone(), source };
            at.core.stats.connects_failed += 1;
            self.call(at, Callback::ConnectFailed(&error));
            return;
        }
        note_fault!(Debug, "{}: the TLS handshake failed: {}", ends(at.connection), Explained(&source));
        let error = Error::Tls { doing: "complete the TLS handshake", source };
        self.hook(at.core, |server| server.handshake_failed(address, &error));
        drop_error(at.core, error);
    }

    /// The peer has violated TLS, which is no error of a handler. After an alert to the peer, the connection ends.
    #[cold]
    pub(super) fn tls_failed(&mut self, at: &mut Service<'_>, source: io::Error) {
        note_fault!(Debug, "{}: TLS failed: {}", ends(at.connection), Explained(&source));
        at.connection.state.end(EndReason::TlsFailed, false);
        drop_error(at.core, source.into());
    }
}

fn ends(connection: &Connection) -> Ends<'_> {
    Ends(&connection.state.address, connection.io.stream.local_address())
}
