//! Where a server listens: at every address of a name, and by sockets that were made elsewhere.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, ToSocketAddrs, UdpSocket};
use std::time::Instant;

use socketserver::family::{Family, Tcp, Udp};
use socketserver::{
    Address, AddressFamily, BaseServer, Error, Request, RequestHandler, Result, Server, Socket, TcpOptions, TcpServer,
    Unbound,
};

use crate::common::loopback::loopback;
use crate::common::{Kind, Mailbox, PATIENCE, Peer, echo, is_alone, options, probe, serve};

fn unbound<F: Kind>() -> Unbound<F, (), impl RequestHandler + use<F>> {
    Server::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

// ---- names ----

/// Two addresses of this machine: what a name with two stands for.
#[cfg(target_os = "linux")]
fn two() -> [SocketAddr; 2] {
    [(); 2].map(|()| (loopback(), 0).into())
}

#[cfg(target_os = "linux")]
fn served_at_all<F: Kind + Family<Address = SocketAddr>>() {
    let mut server = unbound::<F>();
    let two = two();
    server.server_bind(&two[..]).unwrap();
    let server = server.server_activate().unwrap();
    let addresses = server.server_addresses();
    let port = addresses[0].port().unwrap();
    assert_eq!(addresses, two.map(|place| Address::from(SocketAddr::new(place.ip(), port))), "one port for both");
    let running = serve(server);
    for address in addresses {
        match F::NAME == Tcp::NAME {
            true => Peer::connect(address).echo("is it you?"),
            false => Mailbox::to(address).echo("is it you?"),
        }
    }
    running.stop();
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_is_served_at_all_of_its_addresses_on_one_port() {
    served_at_all::<Tcp>();
    served_at_all::<Udp>();
}

#[test]
fn localhost_is_served_over_ipv4_and_ipv6() {
    let mut server = unbound::<Tcp>();
    server.server_bind("localhost:0").unwrap();
    let server = server.server_activate().unwrap();
    let port = server.server_address().port();
    let running = serve(server);
    for address in ("localhost", port).to_socket_addrs().unwrap() {
        // Not every machine has all the addresses that its hosts file knows.
        if TcpListener::bind(SocketAddr::new(address.ip(), 0)).is_ok() {
            Peer::connect(address).echo("is it you?");
        }
    }
    running.stop();
}

#[test]
fn an_address_that_a_name_has_twice_is_bound_once() {
    let address: SocketAddr = ([127, 0, 0, 1], 0).into();
    let mut server = unbound::<Tcp>();
    server.server_bind(&[address, address][..]).unwrap();
    assert_eq!(server.server_addresses().len(), 1);
}

#[test]
fn an_address_that_this_machine_does_not_have_is_passed_over_if_another_can_be_bound() {
    let elsewhere: [SocketAddr; 2] = [([203, 0, 113, 77], 0).into(), ([203, 0, 113, 78], 0).into()];
    let mut server = unbound::<Tcp>();
    server.server_bind(&[elsewhere[0], ([127, 0, 0, 1], 0).into(), elsewhere[1]][..]).unwrap();
    assert_eq!(server.server_addresses().len(), 1);
    let mut server = unbound::<Tcp>();
    for candidates in [&elsewhere[..], &elsewhere[..1]] {
        match server.server_bind(candidates) {
            Err(Error::Bind { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::AddrNotAvailable),
            other => panic!("{other:?}"),
        }
        assert!(server.server_addresses().is_empty());
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_name_with_one_address_in_use_is_not_served_by_halves() {
    let mut two = two();
    let other = TcpListener::bind(two[1]).unwrap();
    two.iter_mut().for_each(|place| place.set_port(other.local_addr().unwrap().port()));
    let mut server = unbound::<Tcp>();
    match server.server_bind(&two[..]) {
        Err(Error::Bind { address, source }) => {
            assert_eq!((address, source.kind()), (two[1].into(), io::ErrorKind::AddrInUse));
        }
        other => panic!("{other:?}"),
    }
    assert!(server.server_addresses().is_empty());
    TcpListener::bind(two[0]).expect("what was bound is free again");
}

/// Finds the port that the system has chosen for the first address taken at the second, so often.
#[cfg(target_os = "linux")]
struct Crowded(u32);

#[cfg(target_os = "linux")]
impl BaseServer for Crowded {
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        if address.port() != Some(0) && self.0 > 0 {
            self.0 -= 1;
            return Err(io::ErrorKind::AddrInUse.into());
        }
        socket.bind(address)
    }
}

#[test]
#[cfg(target_os = "linux")]
fn a_port_that_is_taken_at_another_address_is_chosen_again() {
    for (taken, fails) in [(5, false), (u32::MAX, true)] {
        let handler =
            |_: &mut Crowded, _: &Address| probe(|call, request: &mut Request<'_, Crowded>| echo(&call, request));
        let mut server = TcpServer::unbound_with_server(Crowded(taken), handler);
        assert_eq!(server.server_bind(&two()[..]).is_err(), fails);
        let addresses = server.server_addresses();
        assert_eq!(addresses.len(), if fails { 0 } else { 2 });
        assert!(fails || addresses[0].port() == addresses[1].port());
    }
}

// ---- sockets that were made elsewhere ----

/// Asks an echoing server.
fn ask(address: SocketAddr) -> io::Result<()> {
    let mut client = TcpStream::connect(address)?;
    client.set_read_timeout(Some(PATIENCE))?;
    client.write_all(b"served")?;
    let mut answer = [0; 6];
    client.read_exact(&mut answer)?;
    assert_eq!(&answer, b"served");
    Ok(())
}

/// Serves one client on a thread, and gives the server back.
fn serve_once<H: RequestHandler>(mut server: TcpServer<(), H>) -> (TcpServer<(), H>, Result<()>) {
    let (stop, address) = (server.shutdown_handle(), server.server_address());
    let thread = std::thread::spawn(move || {
        let result = server.serve_forever();
        (server, result)
    });
    // It may have to be bound first. A program that another test starts has a copy of the previous listener until it runs,
    // which resets the client.
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = ask(address) {
        assert!(Instant::now() < deadline, "{error}");
        std::thread::yield_now();
    }
    stop.shutdown();
    thread.join().unwrap()
}

#[test]
fn an_adopted_listener_gets_the_options_that_can_still_be_set() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let kept = listener.try_clone().unwrap();
    let mut server = unbound::<Tcp>();
    let options = options(|options: &mut TcpOptions| {
        options.keepalive = Some(socketserver::Keepalive {
            idle: std::time::Duration::from_secs(77),
            interval: std::time::Duration::from_secs(7),
        });
    });
    server.adopt_with(listener.into(), options).unwrap();
    let server = server.server_activate().expect("it is bound");
    assert!(kept.tcp_nodelay().unwrap() && kept.keepalive().unwrap());
    // Nothing accepts yet, and a backlog of one would make them wait.
    let address = server.server_address();
    let mut clients: Vec<_> = (0..20).map(|_| Peer::connect(address)).collect();
    let running = serve(server);
    clients.iter_mut().for_each(|client| client.echo("served"));
    drop(clients);
    running.stop();
}

#[track_caller]
fn refuses<F: Family, H: RequestHandler>(server: Unbound<F, (), H>, socket: F::Adopted, why: &str) {
    refuses_with(server, socket, F::Options::default(), why);
}

#[track_caller]
fn refuses_with<F: Family, H: RequestHandler>(
    mut server: Unbound<F, (), H>,
    socket: F::Adopted,
    options: F::Options,
    why: &str,
) {
    let error = format!("{:#}", server.adopt_with(socket, options).expect_err(why));
    assert_eq!(error, format!("cannot adopt the socket: {why}"));
    assert!(server.server_addresses().is_empty());
}

#[test]
fn a_socket_that_cannot_be_served_is_not_adopted() {
    use socket2::{Domain, Type};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let connected = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    refuses(unbound::<Tcp>(), socket2::Socket::from(connected).into(), "it does not listen");
    let datagrams = UdpSocket::bind("127.0.0.1:0").unwrap();
    refuses(unbound::<Tcp>(), socket2::Socket::from(datagrams).into(), "it is no stream socket");
    refuses(unbound::<Udp>(), socket2::Socket::from(listener).into(), "it is no datagram socket");
    let fresh = |kind| socket2::Socket::new(Domain::IPV4, kind, None).unwrap();
    #[cfg(target_os = "linux")]
    {
        refuses(unbound::<Tcp>(), fresh(Type::STREAM).into(), "it does not listen");
        let bound = fresh(Type::STREAM);
        bound.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
        refuses(unbound::<Tcp>(), bound.into(), "it does not listen");
    }
    if cfg!(unix) {
        refuses(unbound::<Udp>(), fresh(Type::DGRAM).into(), "it is not bound");
    }
    let options = options(|options: &mut TcpOptions| options.address_family = AddressFamily::Inet6);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    refuses_with(unbound::<Tcp>(), listener, options, "its address is not of the wanted family");
}

#[test]
#[cfg(unix)]
fn a_socket_of_another_family_is_not_adopted() {
    use socket2::{Domain, SockAddr, Type};
    use socketserver::family::{UnixDatagram, UnixStream};

    let directory = crate::common::Directory::new();
    let unix = |kind: Type, name: &str| {
        let socket = socket2::Socket::new(Domain::UNIX, kind, None).unwrap();
        socket.bind(&SockAddr::unix(directory.at(name)).unwrap()).unwrap();
        if kind == Type::STREAM {
            socket.listen(1).unwrap();
        }
        socket
    };
    refuses(unbound::<Tcp>(), unix(Type::STREAM, "a").into(), "it is no internet socket");
    refuses(unbound::<Udp>(), unix(Type::DGRAM, "b").into(), "it is no internet socket");
    refuses(unbound::<UnixStream>(), unix(Type::DGRAM, "c").into(), "it is no stream socket");
    refuses(unbound::<UnixDatagram>(), unix(Type::STREAM, "d").into(), "it is no datagram socket");
    let inet = |socket: std::os::fd::OwnedFd| socket2::Socket::from(socket);
    let listener = inet(TcpListener::bind("127.0.0.1:0").unwrap().into());
    refuses(unbound::<UnixStream>(), listener.into(), "it is no Unix socket");
    let datagrams = inet(UdpSocket::bind("127.0.0.1:0").unwrap().into());
    refuses(unbound::<UnixDatagram>(), datagrams.into(), "it is no Unix socket");
    let unnamed = socket2::Socket::new(Domain::UNIX, Type::DGRAM, None).unwrap();
    refuses(unbound::<UnixDatagram>(), unnamed.into(), "it is not bound");
    let options = options(|options: &mut socketserver::UnixOptions| options.mode = Some(0o600));
    let socket = unix(Type::STREAM, "e").into();
    refuses_with(unbound::<UnixStream>(), socket, options, "`mode` is for files that the server makes");
}

fn adopting(listener: TcpListener) -> TcpServer<(), impl RequestHandler> {
    let mut server = unbound::<Tcp>();
    server.adopt(listener).unwrap();
    server.server_activate().unwrap()
}

#[test]
fn a_server_that_adopted_its_socket_serves_again_or_says_why_not() {
    if !is_alone() {
        return;
    }
    let mut server = adopting(TcpListener::bind((loopback(), 0)).unwrap());
    for round in ["first", "second"] {
        let result;
        (server, result) = serve_once(server);
        result.expect(round);
    }
    // The same where what it was inherited from has it still.
    let listener = TcpListener::bind((loopback(), 0)).unwrap();
    let server = adopting(listener.try_clone().unwrap());
    let address = server.server_address();
    let (mut server, result) = serve_once(server);
    result.unwrap();
    let error = format!("{:#}", server.serve_forever().unwrap_err());
    let why = "its socket was adopted and may be open elsewhere";
    assert!(error.starts_with(&format!("cannot bind {address}: ")) && error.ends_with(why), "{error}");
    let mut server = server.into_unbound();
    server.adopt(listener).unwrap();
    let (server, result) = serve_once(server.server_activate().unwrap());
    result.unwrap();
    assert_eq!(server.server_addresses(), [address.into()]);
    // Now nothing else has it.
    serve_once(server).1.unwrap();
}

#[test]
fn a_server_may_be_bound_and_adopt_as_well() {
    let mut server = unbound::<Tcp>();
    server.server_bind("127.0.0.1:0").unwrap();
    server.adopt(TcpListener::bind("127.0.0.1:0").unwrap()).unwrap();
    let server = server.server_activate().unwrap();
    let addresses = server.server_addresses();
    let running = serve(server);
    addresses.into_iter().for_each(|address| Peer::connect(address).echo("served"));
    running.stop();
}
