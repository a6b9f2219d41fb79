//! Sockets that are passed to a successor, while clients wait in them.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::mpsc::channel;

use socketserver::family::{Family, Tcp, UnixDatagram, UnixStream};
use socketserver::{Address, Error, Reactor, Request, ServerId, UnixAddress, UnixOptions, UnixStreamServer};

use crate::common::{
    Directory, Kind, Mailbox, PATIENCE, Peer, Running, address_of, echo, echoing, limit, options, probe, serve,
};

over_streams! {
    clients_of_a_full_server_are_served_by_its_successor,
    clients_of_a_successor_do_not_wake_the_loop,
}

macro_rules! over_unix {
    ($($test:ident,)*) => {
        mod stream { $(#[test] fn $test() { super::$test::<super::UnixStream>(); })* }
        mod datagram { $(#[test] fn $test() { super::$test::<super::UnixDatagram>(); })* }
    };
}

over_unix! {
    a_path_stays_if_it_was_handed_over_and_goes_with_the_successor,
    a_path_goes_with_the_process_that_bound_it_if_the_successor_fails,
}

trait Local: Kind + Family<Options = UnixOptions, Address = UnixAddress, Adopted: From<OwnedFd>> {}
impl Local for UnixStream {}
impl Local for UnixDatagram {}

/// What the owner of a running server does.
fn in_loop<S, F: Kind, T: Send + 'static>(
    running: &Running<S, F>,
    act: impl FnOnce(&mut Reactor, ServerId) -> T + Send + 'static,
) -> T {
    let ((tell, hear), id) = (channel(), running.id);
    running.handle.run(move |reactor| drop(tell.send(act(reactor, id)))).unwrap();
    hear.recv_timeout(PATIENCE).expect("the reactor runs a closure")
}

fn duplicate<S, F: Kind>(running: &Running<S, F>) -> OwnedFd {
    let address: Address = running.address.clone().into();
    in_loop(running, move |reactor, id| reactor.duplicate_socket(id, &address)).unwrap()
}

fn hand_over<S, F: Kind>(running: &Running<S, F>) {
    let address: Address = running.address.clone().into();
    in_loop(running, move |reactor, id| reactor.hand_over(id, &address)).unwrap();
}

fn successor<F: Kind<Adopted: From<OwnedFd>>>(socket: OwnedFd, options: F::Options) -> Running<(), F> {
    let handler = |_: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let mut server = socketserver::Server::<F, (), _>::unbound(handler);
    server.adopt_with(socket.into(), options).unwrap();
    serve(server.server_activate().unwrap())
}

/// epoll(7): a socket that is closed is forgotten only with its last duplicate.
fn clients_of_a_successor_do_not_wake_the_loop<F: Kind<Adopted: From<OwnedFd>>>() {
    let running = serve(echoing::<F>());
    let duplicate = duplicate(&running);
    hand_over(&running);
    in_loop(&running, |reactor, id| {
        reactor.add(echoing::<F>()).unwrap(); // The loop goes on.
        reactor.drain_server(id);
    });
    let waiting: Vec<_> = (0..10).map(|_| Peer::connect(running.address.clone())).collect();
    // After the events of the turn.
    assert_eq!(in_loop(&running, |reactor, _| reactor.stats().stale_events), 0);
    drop((waiting, duplicate));
    running.stop();
}

fn clients_of_a_full_server_are_served_by_its_successor<F: Kind<Adopted: From<OwnedFd>>>() {
    let mut server = echoing::<F>();
    limit(&mut server, |limits| limits.connections_max = Some(1));
    let address = address_of(&server);
    let running = serve(server);
    let mut served = running.connect();
    served.echo("it is full");
    let mut waiting: Vec<_> = (0..50).map(|_| Peer::connect(address.clone())).collect();
    waiting.iter_mut().for_each(|client| client.send("patience"));
    let next = successor::<F>(duplicate(&running), F::Options::default());
    served.half_close();
    served.expect_eof();
    running.stop();
    for mut client in waiting {
        client.half_close();
        client.expect("patience");
        client.expect_eof();
    }
    next.stop();
}

#[track_caller]
fn assert_served<F: Local>(path: &Path) {
    match F::DATAGRAMS {
        true => Mailbox::to(UnixAddress::from_path(path)).echo("served"),
        false => Peer::connect(UnixAddress::from_path(path)).echo("served"),
    }
}

fn adopting() -> UnixOptions {
    options(|options: &mut UnixOptions| options.adopt_path = true)
}

fn a_path_stays_if_it_was_handed_over_and_goes_with_the_successor<F: Local>() {
    let running = serve(echoing::<F>());
    let path = running.address.as_path().unwrap().to_owned();
    let next = successor::<F>(duplicate(&running), adopting());
    assert_served::<F>(&path);
    hand_over(&running);
    // A third one is handed the same socket in turn.
    let last = successor::<F>(duplicate(&next), adopting());
    hand_over(&next);
    next.stop();
    assert!(path.exists());
    assert_served::<F>(&path);
    last.stop();
    assert!(!path.exists(), "the last one removes it");
    running.stop(); // Its directory goes with it.
}

fn a_path_goes_with_the_process_that_bound_it_if_the_successor_fails<F: Local>() {
    let directory = Directory::new();
    let path = directory.at("s");
    let handler = |_: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = socketserver::Server::<F, (), _>::new(UnixAddress::from_path(&path), handler).unwrap();
    let running = serve(server);
    drop(duplicate(&running));
    assert_served::<F>(&path);
    running.stop();
    directory.assert_empty();
}

#[test]
fn the_file_of_a_socket_without_one_cannot_be_adopted() {
    let adopt = |socket: std::os::unix::net::UnixListener| {
        let mut server = UnixStreamServer::unbound(|_| socketserver::NoHandler);
        let error = server.adopt_with(socket, adopting()).unwrap_err();
        assert!(matches!(error, Error::Reactor { .. }));
        format!("{error:#}")
    };
    let directory = Directory::new();
    let removed = std::os::unix::net::UnixListener::bind(directory.at("s")).unwrap();
    std::fs::remove_file(directory.at("s")).unwrap();
    assert!(adopt(removed).starts_with("cannot adopt the socket: no such file"));
    #[cfg(target_os = "linux")]
    {
        use std::os::linux::net::SocketAddrExt as _;
        let name = format!("socketserver-handed-over-{}", std::process::id());
        let name = std::os::unix::net::SocketAddr::from_abstract_name(name).unwrap();
        let listener = std::os::unix::net::UnixListener::bind_addr(&name).unwrap();
        assert_eq!(adopt(listener), "cannot adopt the socket: `adopt_path` is for a socket with a path");
    }
}

#[test]
fn only_a_socket_of_the_server_is_duplicated() {
    let mut reactor = Reactor::new().unwrap();
    let server = echoing::<Tcp>();
    let address: Address = server.server_address().into();
    let id = reactor.add(server).unwrap();
    let other = reactor.add(echoing::<Tcp>()).unwrap();
    reactor.duplicate_socket(id, &address).unwrap();
    assert!(matches!(reactor.duplicate_socket(other, &address), Err(Error::Gone)));
    assert!(matches!(reactor.hand_over(other, &address), Err(Error::Gone)));
    reactor.server_close(id);
    assert!(matches!(reactor.duplicate_socket(id, &address), Err(Error::Gone)));
}

/// A scripted one has no descriptor, and says so.
#[test]
fn a_simulated_socket_is_not_duplicated() {
    let mut network = socketserver::testing::Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let id = network.serve((), handler, socketserver::Limits::default()).unwrap();
    let (tell, hear) = channel();
    let job = move |reactor: &mut Reactor| {
        let address = reactor.server_addresses(id)[0].clone();
        let _ = tell.send(reactor.duplicate_socket(id, &address).map_err(|error| error.to_string()));
    };
    network.handle().run(job).unwrap();
    network.run();
    let error = hear.try_recv().unwrap().unwrap_err();
    assert_eq!(error, "cannot duplicate the socket");
}
