//! Connections that no server of the crate has accepted.

use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socketserver::family::{Tcp, UnixDatagram};
use socketserver::{
    Address, BaseServer, Error, Handle, InheritedSockets, Others, Reactor, Request, RequestHandler, Result, Server,
    ServerId, SocketName, Stream, Supervisor, Unbound,
};

use crate::chaos::Chaos;
use crate::common::{Directory, echo, probe};
use crate::ledger::Ledger;
use crate::making::{Any, foreign, limits};
use crate::methods::call;
use crate::value::{Places, Value};
use crate::watchdog::step;

/// A server without sockets comes into the reactor.
pub(crate) fn add_unbound(rng: &mut Rng, ledger: &Arc<Ledger>, reactor: &mut Reactor) -> Option<ServerId> {
    let (value, shared) = (Value::new(ledger, rng, Places::All), Arc::clone(ledger));
    let make = move |value: &mut Value, _: &_| Chaos::new(&shared, &mut value.rng);
    // Its own kind does not matter.
    let mut unbound = Server::<UnixDatagram, Value, Chaos>::unbound_with_server(value, make);
    unbound.limits = limits(rng);
    ledger.only("add_unbound", call!(Reactor::add_unbound(reactor, unbound)), |_| false)
}

pub(crate) fn admit(ledger: &Ledger, reactor: &mut Reactor, server: ServerId) {
    step("admit");
    let (client, stream, from) = connection();
    let admitted = call!(Reactor::admit(reactor, server, stream, from));
    ledger.only("Reactor::admit", admitted, |error| matches!(error, Error::Full { .. } | Error::Gone));
    drop(client);
}

pub(crate) fn hand_over(rng: &mut Rng, ledger: &Ledger, reactor: &mut Reactor, server: ServerId) {
    step("hand over");
    let Some(address) = rng.choice(reactor.server_addresses(server)) else { return };
    let duplicate = call!(Reactor::duplicate_socket(reactor, server, &address));
    ledger.only("duplicate_socket", duplicate, |_| false);
    if rng.u32(..4) == 0 {
        ledger.only("hand_over", call!(Reactor::hand_over(reactor, server, &address)), |_| false);
    }
}

/// There is no supervisor, so nothing happens.
pub(crate) fn notify(ledger: &Ledger, supervisor: Result<Supervisor>) {
    let Some(supervisor) = ledger.only("notify_supervisor", supervisor, |_| false) else { return };
    call!(Supervisor::reloading(&supervisor));
    call!(Supervisor::ready(&supervisor));
    call!(Supervisor::status(&supervisor, "well"));
}

/// A reactor whose sockets have no names cannot restart. Any other would start this program again.
pub(crate) fn restart(ledger: &Arc<Ledger>) {
    step("restart");
    struct Restarts(Arc<Ledger>);
    impl BaseServer for Restarts {
        fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
            self.0.only("Others::restart", call!(Others::restart(others)), |_| false);
            let again = others.restart();
            self.0.expect(again.is_err(), "a second request is refused");
            others.request_shutdown();
        }
    }
    let mut reactor = Reactor::new().expect("there are descriptors");
    let refused = call!(Reactor::restart(&mut reactor));
    ledger.expect(matches!(refused, Err(Error::Reactor { doing: "restart", .. })), "there is no socket to pass on");
    let make = |_: &mut Restarts, _: &Address| probe(|call, request: &mut Request<'_, Restarts>| echo(&call, request));
    let server = Server::<Tcp, _, _>::with_server("127.0.0.1:0", Restarts(Arc::clone(ledger)), make);
    let server = reactor.add(server.expect("there is room")).expect("it is empty");
    reactor.set_timer(server, 0, Duration::ZERO);
    ledger.only("serve_forever", reactor.serve_forever(), |_| false);
}

pub(crate) fn submit_connection(ledger: &Ledger, handle: &Handle, server: ServerId) {
    let (_client, stream, from) = connection();
    let admitted = call!(Handle::admit(handle, server, stream, from));
    ledger.only("Handle::admit", admitted, |error| matches!(error, Error::Full { .. } | Error::Gone));
}

/// One connection with a reactor of its own. Its handler is not a random one, which might wait forever for others.
pub(crate) fn serve_one(rng: &mut Rng, ledger: &Ledger) {
    step("serve one connection");
    let mut unbound = Server::<Tcp, (), _>::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    unbound.limits = limits(rng);
    unbound.limits.connections_max = None;
    let (client, accepted) = pair();
    drop(client);
    ledger.only("serve_connection", call!(Unbound::serve_connection(unbound, accepted)), |_| false);
}

/// A server takes the sockets that another process has opened, or binds others.
pub(crate) fn inherit<F: Any, S: BaseServer, H: RequestHandler<S>>(
    rng: &mut Rng,
    ledger: &Ledger,
    directories: &mut Vec<Directory>,
    unbound: &mut Unbound<F, S, H>,
) {
    let none = call!(InheritedSockets::from_env()).expect("no supervisor has started this");
    ledger.expect(call!(InheritedSockets::is_empty(&none)), "no supervisor has opened sockets");
    let given = [foreign::<F>(directories), foreign::<Tcp>(directories), pair().1.into()];
    let given = given.into_iter().map(|socket| (rng.choice(["a", "b"]).unwrap().to_owned(), OwnedFd::from(socket)));
    let mut sockets = call!(InheritedSockets::new(given.collect::<Vec<_>>()));
    for _ in 0..rng.u32(..3) {
        let which = match rng.u32(..3) {
            0 => SocketName::Position(rng.usize(..5)),
            n => SocketName::Name(["b", "c"][n as usize - 1]),
        };
        let ((place, directory), is_documented) = (F::place(), |error: &Error| matches!(error, Error::Inherit { .. }));
        directories.extend(directory);
        let options = F::Options::default();
        let inherited = match rng.u32(..3) {
            0 => call!(Unbound::inherit_or_bind(unbound, &mut sockets, which, place)),
            1 => call!(Unbound::inherit_or_bind_with(unbound, &mut sockets, which, place, options)),
            _ => call!(Unbound::inherit_or_bind_as::<F>(unbound, &mut sockets, which, place, options)),
        };
        ledger.only("inherit_or_bind", inherited, is_documented);
    }
    let _connection = call!(InheritedSockets::take_connection(&mut sockets));
    ledger
        .only("all_taken", call!(InheritedSockets::all_taken(sockets)), |error| matches!(error, Error::Inherit { .. }));
}

fn connection() -> (TcpStream, Stream, Address) {
    let (client, accepted) = pair();
    let (stream, from) = call!(Stream::from_socket(accepted)).expect("it is connected");
    (client, stream, from)
}

fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("there is room");
    let client = TcpStream::connect(listener.local_addr().expect("it is bound")).expect("it listens");
    (client, listener.accept().expect("a client is there").0)
}
