//! Connections that were accepted elsewhere: on another thread, by another process, by inetd.

use std::io::{ErrorKind, Read as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use socketserver::family::Tcp;
use socketserver::{
    Address, BaseServer, EndReason, Error, Incoming, Next, Reactor, Request, RequestHandler, Result, Server, Stream,
    StreamRequestHandler, TcpServer, ThreadingTcpServer, Unbound,
};

use crate::common::{Journal, Kind, PATIENCE, Peer, echo, probe, serve, server};

over_streams! {
    a_connection_that_came_from_elsewhere_is_like_any_other,
    a_connection_above_the_cap_is_refused_and_closed,
    a_connection_is_passed_by_a_thread,
}

/// A client, and the other end of its connection as a server would accept it.
fn pair<F: Kind>() -> (Peer, socket2::Socket) {
    let (place, _directory) = F::place();
    let place = crate::common::sock_addr(&place.into());
    let listener = socket2::Socket::new(place.domain(), socket2::Type::STREAM, None).unwrap();
    listener.bind(&place).unwrap();
    listener.listen(1).unwrap();
    let client = socket2::Socket::new(place.domain(), socket2::Type::STREAM, None).unwrap();
    client.connect(&listener.local_addr().unwrap()).unwrap();
    (Peer::of(client), listener.accept().unwrap().0)
}

fn echoing<F: Kind>() -> Unbound<F, (), impl RequestHandler> {
    Server::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

/// Polls until nothing is open.
#[track_caller]
fn finish(reactor: &mut Reactor) {
    let deadline = Instant::now() + PATIENCE;
    while reactor.stats().active > 0 {
        assert!(Instant::now() < deadline, "{:?}", reactor.stats());
        reactor.poll(Some(Duration::from_millis(20))).unwrap();
    }
}

struct Noting(Journal);

impl BaseServer for Noting {
    fn verify_request(&mut self, request: &Incoming<'_>, client: &Address) -> bool {
        self.0.note(format!("verify {}", client.port().is_some()));
        matches!(request, Incoming::Stream(_))
    }

    fn close_request(&mut self, client: &Address, why: EndReason) {
        self.0.note(format!("close {} {why:?}", client.port().is_some()));
    }
}

fn a_connection_that_came_from_elsewhere_is_like_any_other<F: Kind>() {
    let journal = Journal::new();
    let mut reactor = Reactor::new().unwrap();
    let handler = |_: &mut Noting, _: &Address| probe(|call, request: &mut Request<'_, Noting>| echo(&call, request));
    let unbound = Server::<F, _, _>::unbound_with_server(Noting(journal.clone()), handler);
    let id = reactor.add_unbound(unbound).unwrap();
    assert!(reactor.server_addresses(id).is_empty());
    let (mut client, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    let inet = from.port().is_some();
    client.send("hello");
    reactor.admit(id, stream, from).unwrap();
    reactor.poll(Some(PATIENCE)).unwrap();
    client.expect("hello");
    assert_eq!((reactor.stats().accepted, reactor.stats().active), (1, 1));
    client.half_close();
    finish(&mut reactor);
    client.expect_eof();
    assert_eq!(journal.lines(), [format!("verify {inet}"), format!("close {inet} PeerClosed")]);
}

fn a_connection_above_the_cap_is_refused_and_closed<F: Kind>() {
    let mut reactor = Reactor::new().unwrap();
    let mut unbound = echoing::<F>();
    unbound.limits.connections_max = Some(1);
    let id = reactor.add_unbound(unbound).unwrap();
    let (mut first, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    reactor.admit(id, stream, from).unwrap();
    let (mut second, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    let error = reactor.admit(id, stream, from).unwrap_err();
    assert!(matches!(error, Error::Full { queue: "connection", max: 1 }), "{error}");
    second.expect_eof();
    first.half_close();
    finish(&mut reactor);
    let (mut third, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    reactor.admit(id, stream, from).expect("there is room again");
    third.half_close();
    finish(&mut reactor);
}

fn a_connection_is_passed_by_a_thread<F: Kind>() {
    let running = serve(server::<F, _>(|_| probe(|call, request: &mut Request<'_>| echo(&call, request))));
    let (mut client, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    running.handle.admit(running.id, stream, from).unwrap();
    client.echo("passed");
    drop(client);
    // One that comes too late is closed, and that is counted.
    let (handle, id) = (running.handle.clone(), running.id);
    let (tell, hear) = channel();
    handle.run(move |reactor| reactor.server_close(id)).unwrap();
    let (mut late, socket) = pair::<F>();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    handle.admit(id, stream, from).unwrap();
    late.expect_eof();
    handle.run(move |reactor| tell.send(reactor.stats().accept_errors).unwrap()).unwrap();
    assert_eq!(hear.recv_timeout(PATIENCE), Ok(1));
    running.stop();
}

#[test]
fn a_server_that_is_closed_or_stopped_admits_nothing() {
    let mut reactor = Reactor::new().unwrap();
    let closed = reactor.add_unbound(echoing::<Tcp>()).unwrap();
    reactor.server_close(closed);
    let stopped = reactor.add_unbound(echoing::<Tcp>()).unwrap();
    reactor.shutdown_handle().shutdown();
    reactor.serve_forever().unwrap();
    for id in [closed, stopped] {
        let (mut client, socket) = pair::<Tcp>();
        let (stream, from) = Stream::from_socket(socket).unwrap();
        assert!(matches!(reactor.admit(id, stream, from), Err(Error::Gone)));
        client.expect_eof();
    }
}

/// The reactor's clock was read in its last turn, and there was none for a while.
#[test]
fn a_connection_that_is_admitted_after_a_rest_is_not_idle_since_then() {
    const REST: Duration = Duration::from_millis(300);
    let mut reactor = Reactor::new().unwrap();
    let mut unbound = echoing::<Tcp>();
    unbound.limits.idle_timeout = Some(REST);
    let id = reactor.add_unbound(unbound).unwrap();
    reactor.poll(Some(Duration::ZERO)).unwrap();
    let (client, socket) = pair::<Tcp>();
    client.socket.set_read_timeout(Some(REST * 2)).unwrap();
    (&client.socket).read(&mut [0]).expect_err("nothing is sent");
    let begun = Instant::now();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    reactor.admit(id, stream, from).unwrap();
    for _ in 0..3 {
        reactor.poll(Some(Duration::ZERO)).unwrap();
    }
    assert!(reactor.stats().active == 1 || begun.elapsed() >= REST);
}

/// Only a turn frees connections, and the next one would have waited for an event first.
#[test]
fn a_connection_that_ends_while_it_is_admitted_does_not_keep_the_loop_waiting() {
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add_unbound(echoing::<Tcp>()).unwrap();
    let (mut client, socket) = pair::<Tcp>();
    client.half_close();
    let (stream, from) = Stream::from_socket(socket).unwrap();
    reactor.admit(id, stream, from).unwrap();
    assert_eq!((reactor.stats().active, reactor.next_timeout()), (0, None));
    client.expect_eof();
}

#[test]
fn what_is_no_connection_is_no_stream() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let kind = |socket: socket2::Socket| Stream::from_socket(socket).unwrap_err().kind();
    assert_eq!(kind(listener.try_clone().unwrap().into()), ErrorKind::NotConnected);
    let datagrams = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    datagrams.connect(address).unwrap();
    assert_eq!(kind(datagrams.into()), ErrorKind::InvalidInput);
    let client = TcpStream::connect(address).unwrap();
    assert_eq!(Stream::from_socket(client).unwrap().1, address.into());
}

/// A thread that has nothing to read is told to end when its server closes; this one has a client that thinks.
#[test]
fn a_connection_that_a_thread_serves_is_waited_for() {
    let (mut client, socket) = pair::<Tcp>();
    let (done, wait) = channel::<()>();
    let serving = std::thread::spawn(move || {
        let unbound = ThreadingTcpServer::unbound(|_| {
            StreamRequestHandler::new(|request| {
                let mut bytes = Vec::new();
                request.rfile.read_to_end(&mut bytes)?;
                std::io::Write::write_all(&mut request.wfile, &bytes)?;
                Ok(())
            })
        });
        let result = unbound.serve_connection(socket);
        drop(done);
        result
    });
    client.send("a");
    // Longer than a client counts as busy.
    wait.recv_timeout(Duration::from_millis(600)).expect_err("it is served for as long as it stays");
    client.send("b");
    client.half_close();
    client.expect("ab");
    client.expect_eof();
    serving.join().unwrap().unwrap();
}

#[test]
fn a_handler_stops_the_reactor_of_its_one_connection() {
    struct Stopping;
    impl RequestHandler for Stopping {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.others.request_shutdown();
            Ok(Next::Wait)
        }
    }
    let (mut client, socket) = pair::<Tcp>();
    client.send("stop");
    TcpServer::unbound(|_| Stopping).serve_connection(socket).unwrap();
    assert!(client.rest().is_empty());
}

/// As inetd(8) starts a program: its standard input is the client.
#[test]
#[cfg(unix)]
fn a_program_serves_the_client_that_is_its_standard_input() {
    use std::os::fd::{AsFd as _, OwnedFd};
    use std::process::{Command, Stdio};

    const ROLE: &str = "SOCKETSERVER_TEST_INETD";
    let test = "admit::a_program_serves_the_client_that_is_its_standard_input";
    if std::env::var_os(ROLE).is_some() {
        let client = std::io::stdin().as_fd().try_clone_to_owned().unwrap();
        return echoing::<Tcp>().serve_connection(client).unwrap();
    }
    let (mut client, socket) = pair::<Tcp>();
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", test]).env(ROLE, "").stdout(Stdio::null()).stderr(Stdio::null());
    let mut program = command.stdin(OwnedFd::from(socket)).spawn().unwrap();
    drop(command); // It has the socket too.
    client.echo("by a program");
    client.half_close();
    client.expect_eof();
    assert!(program.wait().unwrap().success());
}
