//! Connections that no server of the crate has accepted.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;

use fastrand::Rng;
use socketserver::family::{Tcp, UnixDatagram};
use socketserver::{Address, Error, Handle, Reactor, Request, Server, ServerId, Stream, Unbound};

use crate::chaos::Chaos;
use crate::common::{echo, probe};
use crate::ledger::Ledger;
use crate::making::limits;
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
