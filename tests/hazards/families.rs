//! One server with sockets of several families: TCP and Unix, TCP and UDP, all four.

use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::time::Duration;

use socketserver::family::{Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, BaseServer, EndReason, Error, Incoming, Limits, MulticastGroup, Next, NoHandler, Others, Prefix, Reactor,
    Request, RequestHandler, Result, Server, Socket, TcpOptions, TcpServer, UdpOptions, UdpServer, Unbound,
    UnixOptions,
};

use crate::common::loopback::loopback;
use crate::common::{
    Directory, Mailbox, Peer, SCRIPTED, echo, is_alone, options, probe, serve, silence_scripted_panics,
};

/// What the requests of all families share.
#[derive(Default)]
struct Shared {
    lines: u32,
    bound: u32,
    closed: u32,
    /// How each request arrived, and where.
    seen: Vec<(&'static str, Option<Address>)>,
}

impl BaseServer for Shared {
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        socket.bind(address)?;
        self.bound += 1;
        Ok(())
    }
    fn verify_request(&mut self, request: &Incoming<'_>, _: &Address) -> bool {
        let kind = if let Incoming::Datagram { .. } = request { "datagram" } else { "connection" };
        self.seen.push((kind, request.local_address()));
        true
    }
    fn close_request(&mut self, _: &Address, _: EndReason) {
        self.closed += 1;
    }
}

/// Numbers the lines of all clients, and sends them to all that are connected.
struct Numbering;

impl RequestHandler<Shared> for Numbering {
    fn handle(&mut self, request: &mut Request<'_, Shared>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            assert_ne!(line, b"panic\n", "{SCRIPTED}");
            request.server.lines += 1;
            let text = format!("{} {}", request.server.lines, String::from_utf8_lossy(line));
            if request.is_datagram() {
                request.output.write_all(text.as_bytes())?;
            } else {
                let me = request.id();
                request.others.broadcast(text.clone().into_bytes(), |id| id != me);
                request.output.write_all(text.as_bytes())?;
            }
        }
        Ok(Next::Wait)
    }
}

/// Bound to one socket of each family, TCP first.
fn of_all_families(directory: &Directory) -> Unbound<Tcp, Shared, Numbering> {
    let mut server = TcpServer::unbound_with_server(Shared::default(), |_, _| Numbering);
    let here = loopback();
    server.server_bind((here, 0)).unwrap();
    server.server_bind_as::<Udp>((here, 0), UdpOptions::default()).unwrap();
    let private = options(|options: &mut UnixOptions| options.mode = Some(0o600));
    server.server_bind_as::<UnixStream>(directory.at("stream"), private.clone()).unwrap();
    server.server_bind_as::<UnixDatagram>(directory.at("datagram"), private).unwrap();
    server
}

/// Each family has its turn, and one count for all.
#[track_caller]
fn assert_served(addresses: &[Address], so_far: u32) {
    let [tcp, udp, stream, datagram] = addresses else { panic!("{addresses:?}") };
    Peer::connect(tcp.clone()).answers("one", so_far + 1);
    assert_eq!(Mailbox::to(udp.clone()).ask("two\n"), format!("{} two\n", so_far + 2));
    Peer::connect(stream.clone()).answers("three", so_far + 3);
    assert_eq!(Mailbox::to(datagram.clone()).ask("four\n"), format!("{} four\n", so_far + 4));
}

impl Peer {
    #[track_caller]
    fn answers(&mut self, line: &str, number: u32) {
        self.send(format!("{line}\n"));
        self.expect(format!("{number} {line}\n"));
    }
}

#[test]
fn sockets_of_all_families_share_a_value_and_a_handler() {
    let directory = Directory::new();
    let server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    assert_eq!(Address::from(server.server_address()), addresses[0]);
    assert_eq!(server.server_addresses_as::<Udp>().len(), 1);
    assert_eq!(server.server_addresses_as::<UnixDatagram>()[0].as_path(), Some(&*directory.at("datagram")));
    let running = serve(server);
    assert_served(&addresses, 0);
    let (_, value) = running.stop_with_state();
    assert_eq!((value.lines, value.bound, value.closed), (4, 4, 4));
    let kinds = ["connection", "datagram", "connection", "datagram"];
    let seen: Vec<_> = kinds.into_iter().zip(addresses.into_iter().map(Some)).collect();
    assert_eq!(value.seen, seen, "each request with the address that it came to");
    directory.assert_empty();
}

#[test]
fn a_room_is_one_whichever_way_its_members_come_in() {
    let directory = Directory::new();
    let server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    let running = serve(server);
    let mut local = Peer::connect(addresses[2].clone());
    local.answers("hello", 1);
    let mut far = Peer::connect(addresses[0].clone());
    far.answers("and hello", 2);
    local.expect("2 and hello\n");
    local.answers("bye", 3);
    assert_eq!(far.line(), "3 bye");
    running.stop();
}

/// Anybody can send datagrams with the address of another.
#[test]
fn a_limit_of_connections_per_client_neither_counts_nor_refuses_datagrams() {
    for sessions_max in [None, Some(10)] {
        let mut server = TcpServer::unbound_with_server(Shared::default(), |_, _| Numbering);
        server.limits.connections_per_client_max = Some(1);
        server.limits.sessions_max = sessions_max;
        server.server_bind((loopback(), 0)).unwrap();
        server.server_bind_as::<Udp>((loopback(), 0), UdpOptions::default()).unwrap();
        let server = server.server_activate().unwrap();
        let addresses = server.server_addresses();
        let running = serve(server);
        let peers = [(); 2].map(|()| Mailbox::to(addresses[1].clone()));
        assert_eq!(peers[0].ask("one\n"), "1 one\n");
        let mut client = Peer::connect(addresses[0].clone());
        client.answers("two", 2);
        assert_eq!(peers[1].ask("three\n"), "3 three\n");
        assert!(Peer::connect(addresses[0].clone()).read_to_the_end().0.is_empty(), "one more connection is refused");
        // With another limit, what is there is counted again.
        let id = running.id;
        let raise = move |reactor: &mut Reactor| {
            let mut limits = reactor.limits(id).unwrap().clone();
            limits.connections_per_client_max = Some(2);
            reactor.set_limits(id, limits).unwrap();
        };
        running.handle.run(raise).unwrap();
        running.stats();
        Peer::connect(addresses[0].clone()).answers("four", 4);
        drop(client);
        assert_eq!(running.stop().refused, 1);
    }
}

/// A name server, which answers a datagram with a datagram, and over TCP a question with its length before it.
#[test]
fn the_same_question_is_answered_over_udp_and_over_tcp() {
    #[derive(Default)]
    struct Names {
        asked: u8,
    }
    impl BaseServer for Names {}
    struct Answering;
    impl Answering {
        fn answer(names: &mut Names, question: &[u8]) -> Vec<u8> {
            names.asked += 1;
            [question, &[names.asked]].concat()
        }
    }
    impl RequestHandler<Names> for Answering {
        fn handle(&mut self, request: &mut Request<'_, Names>) -> Result<Next> {
            if request.is_datagram() {
                let answer = Answering::answer(request.server, request.input.take_all());
                request.output.write_all(&answer)?;
                return Ok(Next::Wait);
            }
            while let Some(question) = request.input.read_frame(Prefix::U16Be)? {
                let answer = Answering::answer(request.server, question);
                request.output.write_frame(Prefix::U16Be, &answer)?;
            }
            Ok(Next::Wait)
        }
    }
    let mut server = UdpServer::unbound_with_server(Names::default(), |_, _| Answering);
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_bind_as::<Tcp>("127.0.0.1:0", TcpOptions::default()).unwrap();
    let server = server.server_activate().unwrap();
    let tcp = server.server_addresses_as::<Tcp>()[0];
    let running = serve(server);
    assert_eq!(running.mailbox().ask("name?"), "name?\x01");
    let mut client = Peer::connect(tcp);
    client.send(b"\0\x05name?");
    client.expect(b"\0\x06name?\x02");
    assert_eq!(running.mailbox().ask("name?"), "name?\x03");
    drop(client);
    running.stop();
}

/// Were the value behind a lock, for a server of each family, it would be poisoned.
#[test]
fn a_handler_that_panics_ends_its_own_request_whatever_family_the_next_is_of() {
    silence_scripted_panics();
    let directory = Directory::new();
    let server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    let running = serve(server);
    for (so_far, round) in [(0, "connection"), (4, "datagram")] {
        assert_served(&addresses, so_far);
        match round {
            "connection" => {
                let mut client = Peer::connect(addresses[2].clone());
                client.send("panic\n");
                client.expect_abort::<UnixStream>();
            }
            _ => Mailbox::to(addresses[1].clone()).send("panic\n"),
        }
    }
    running.wait_for_stats("both panics", |stats| stats.panics == 2);
    assert_served(&addresses, 8);
    running.stop();
}

#[test]
fn a_stop_or_a_close_gives_up_all_sockets_and_they_come_back() {
    if !is_alone() {
        return;
    }
    let directory = Directory::new();
    let mut server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    let free = |addresses: &[Address]| {
        directory.assert_empty();
        TcpListener::bind(addresses[0].as_inet().unwrap()).unwrap();
        UdpSocket::bind(addresses[1].as_inet().unwrap()).unwrap();
    };
    for round in 0..3 {
        let stop = server.shutdown_handle();
        let thread = std::thread::spawn(move || {
            server.serve_forever().unwrap();
            server
        });
        // All are bound before the first one listens, and this one is the last that does.
        while std::os::unix::net::UnixStream::connect(directory.at("stream")).is_err() {
            std::thread::yield_now();
        }
        assert_served(&addresses, 4 * round);
        stop.shutdown();
        server = thread.join().unwrap();
        free(&addresses);
        assert_eq!(server.server_addresses(), addresses);
        if round == 1 {
            server.server_close();
        }
    }
    // And those that never served.
    let mut server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    server.server_close();
    free(&addresses);
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    assert_eq!(reactor.server_addresses(id), addresses);
}

#[test]
fn one_address_that_cannot_be_bound_leaves_nothing_bound() {
    if !is_alone() {
        return;
    }
    let directory = Directory::new();
    let mut server = of_all_families(&directory);
    let addresses = server.server_addresses();
    let nowhere = directory.at("nowhere/s");
    let error = server.server_bind_as::<UnixStream>(&nowhere, UnixOptions::default()).unwrap_err();
    assert!(matches!(error, Error::Bind { address, .. } if address.to_string() == nowhere.display().to_string()));
    assert_eq!(server.server_addresses(), addresses, "the call alone has failed");
    drop(server);
    directory.assert_empty();
    TcpListener::bind(addresses[0].as_inet().unwrap()).unwrap();

    // Bound again after a stop, the same: the last of four is taken.
    let mut server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    server.server_close();
    let taken = std::os::unix::net::UnixDatagram::bind(directory.at("datagram")).unwrap();
    let error = server.serve_forever().unwrap_err();
    assert!(matches!(error, Error::Bind { address, .. } if address == addresses[3]));
    assert!(!directory.at("stream").exists());
    TcpListener::bind(addresses[0].as_inet().unwrap()).unwrap();
    drop(taken);
    std::fs::remove_file(directory.at("datagram")).unwrap();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap();
    assert_eq!(server.server_addresses(), addresses);
    assert!(directory.at("stream").exists());
}

#[test]
fn a_server_without_a_socket_of_its_own_kind_is_not_bound() {
    let mut server = TcpServer::unbound(|_| NoHandler);
    server.server_bind_as::<Udp>("127.0.0.1:0", UdpOptions::default()).unwrap();
    assert!(matches!(server.server_activate(), Err(Error::NotBound)));
}

#[test]
fn a_server_of_several_families_moves_with_all_its_sockets() {
    let directory = Directory::new();
    let mut server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap(); // It has a reactor of its own.
    let (mut reactor, id) = (Reactor::new().unwrap(), server.id());
    reactor.add(TcpServer::new("127.0.0.1:0", |_| NoHandler).unwrap()).unwrap();
    assert_eq!(reactor.add(server).unwrap(), id);
    assert_eq!(reactor.server_addresses(id), addresses);
    let stop = reactor.shutdown_handle();
    let thread = std::thread::spawn(move || {
        reactor.serve_forever().unwrap();
        reactor
    });
    assert_served(&addresses, 0);
    stop.shutdown();
    let mut reactor = thread.join().unwrap();
    assert_eq!(reactor.server_mut::<Shared>(id).unwrap().lines, 4);
}

#[test]
fn handle_request_serves_one_request_of_whatever_family() {
    let directory = Directory::new();
    let mut server = of_all_families(&directory).server_activate().unwrap();
    let addresses = server.server_addresses();
    let thread = std::thread::spawn(move || {
        (0..4).for_each(|_| server.handle_request().unwrap());
        server.server_mut().lines
    });
    assert_served(&addresses, 0);
    assert_eq!(thread.join().unwrap(), 4);
}

#[test]
fn sockets_of_other_families_are_adopted() {
    let directory = Directory::new();
    let mut server = TcpServer::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    server.adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let listener = std::os::unix::net::UnixListener::bind(directory.at("s")).unwrap();
    server.adopt_as::<UnixStream>(listener, UnixOptions::default()).unwrap();
    server.adopt_as::<Udp>(UdpSocket::bind("127.0.0.1:0").unwrap(), UdpOptions::default()).unwrap();
    let server = server.server_activate().unwrap();
    let addresses = server.server_addresses();
    let running = serve(server);
    Peer::connect(addresses[0].clone()).echo("over TCP");
    Peer::connect(addresses[1].clone()).echo("over a path");
    Mailbox::to(addresses[2].clone()).echo("over UDP");
    running.stop();
    assert!(directory.at("s").exists(), "an adopted path stays");
}

/// A cap on connections counts no peers of a datagram socket, and a cap on these no connections.
#[test]
fn connections_and_sessions_are_counted_apart() {
    let mut server = TcpServer::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
    let here = loopback();
    server.server_bind((here, 0)).unwrap();
    server.server_bind_as::<Udp>((here, 0), UdpOptions::default()).unwrap();
    (server.limits.connections_max, server.limits.sessions_max) = (Some(2), Some(2));
    let server = server.server_activate().unwrap();
    let (tcp, udp) = (server.server_address(), server.server_addresses_as::<Udp>()[0]);
    let running = serve(server);
    let sessions = [Mailbox::to(udp), Mailbox::to(udp)];
    sessions.iter().for_each(|session| session.echo("a session"));
    let mut clients = [Peer::connect(tcp), Peer::connect(tcp)];
    clients.iter_mut().for_each(|client| client.echo("a connection"));
    let mut third = Peer::connect(tcp);
    third.send("at last");
    Mailbox::to(udp).send("no room");
    let stats = running.wait_for_stats("a session is refused", |stats| stats.sessions_refused == 1);
    assert_eq!((stats.active, stats.accepted), (4, 2));
    drop(clients);
    third.expect("at last");
    sessions.iter().for_each(|session| session.echo("still here"));
    drop(third);
    running.stop();
}

#[test]
fn a_group_is_joined_by_the_sockets_that_can() {
    #[derive(Default)]
    struct Joining(Vec<bool>);
    impl BaseServer for Joining {
        fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
            let group = MulticastGroup::new([239, 255, 7, 9]);
            self.0.push(others.join_multicast(&group).is_ok());
            self.0.push(others.join_multicast(&MulticastGroup::new([0xff02, 0, 0, 0, 0, 0, 0, 9])).is_ok());
            others.request_shutdown();
        }
    }
    let mut server = TcpServer::unbound_with_server(Joining::default(), |_, _| NoHandler);
    server.server_bind("127.0.0.1:0").unwrap();
    server.server_bind_as::<Udp>("0.0.0.0:0", UdpOptions::default()).unwrap();
    let mut server = server.server_activate().unwrap();
    server.set_timer(0, Duration::ZERO);
    server.serve_forever().unwrap();
    let joins = server.server_mut().0.clone();
    assert!(!joins[1], "there is no socket of IPv6");
    if !joins[0] {
        println!("skipped: there is no multicast here");
    }
}

#[test]
fn limits_that_are_set_are_in_force_at_once_whether_it_serves_or_not() {
    let mut server = Server::<Tcp, (), _>::new("127.0.0.1:0", |_| NoHandler).unwrap();
    server.timeout = Some(Duration::ZERO);
    for connections_max in [1, 2, 3] {
        let mut limits = Limits::default();
        limits.connections_max = Some(connections_max);
        server.set_limits(limits.clone()).unwrap();
        assert_eq!(server.limits().connections_max, Some(connections_max));
        limits.max_packet_size = 0;
        assert!(matches!(server.set_limits(limits), Err(Error::Setting { .. })));
        assert_eq!(server.limits().connections_max, Some(connections_max), "it has changed nothing");
        server.handle_request().unwrap();
    }
    assert_eq!(server.into_unbound().limits.connections_max, Some(3));
}
