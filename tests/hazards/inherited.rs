//! Sockets that another process has opened: which server takes which, and what is wrong with the others.

use std::net::{TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram as StdDatagram, UnixListener};
#[cfg(feature = "inherit")]
use std::process::{Child, Command, Stdio};

use socketserver::family::{Family, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    Address, Error, InheritedSockets, NoHandler, Request, RequestHandler, Server, TcpOptions, TcpServer, UdpOptions,
    Unbound, UnixOptions,
};

use crate::common::{Directory, Peer, echo, options, probe, serve};

fn unbound<F: Family>() -> Unbound<F, (), impl RequestHandler> {
    Server::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)))
}

fn sockets<const N: usize>(given: [(&str, OwnedFd); N]) -> InheritedSockets {
    InheritedSockets::new(given.map(|(name, socket)| (name.to_owned(), socket)))
}

fn listener() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").unwrap()
}

fn datagrams() -> UdpSocket {
    UdpSocket::bind("127.0.0.1:0").unwrap()
}

/// Where nothing can be bound.
const NOWHERE: &str = "192.0.2.1:0";

#[track_caller]
fn refused(result: socketserver::Result<()>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, Error::Inherit { .. }), "{error:?}");
    format!("{error:#}")
}

#[test]
fn each_server_takes_the_sockets_of_its_name_and_kind() {
    let directory = Directory::new();
    let (first, second, other) = (listener(), listener(), listener());
    let wanted = [&first, &second].map(|listener| Address::from(listener.local_addr().unwrap()));
    let (udp, unix) = (datagrams(), UnixListener::bind(directory.at("s")).unwrap());
    let unix_datagram = StdDatagram::bind(directory.at("d")).unwrap();
    let mut inherited = sockets([
        ("dns", udp.into()),
        ("dns", first.into()),
        ("other", other.into()),
        ("dns", unix_datagram.into()),
        ("dns", second.into()),
        ("dns", unix.into()),
    ]);
    assert!(!inherited.is_empty());
    let mut server = unbound::<Tcp>();
    server.inherit_or_bind(&mut inherited, "dns", NOWHERE).unwrap();
    assert_eq!(server.server_addresses(), wanted, "all of the name and the kind, in their order");
    server.inherit_or_bind_as::<Udp>(&mut inherited, "dns", NOWHERE, Default::default()).unwrap();
    let path = directory.at("none").join("s");
    let unix = options(|options: &mut UnixOptions| options.mode = Some(0o600)); // Of a file that is not made here.
    server.inherit_or_bind_as::<UnixStream>(&mut inherited, "dns", &path, unix.clone()).unwrap();
    server.inherit_or_bind_as::<UnixDatagram>(&mut inherited, "dns", &path, unix).unwrap();
    assert_eq!(server.server_addresses().len(), 5);
    let mut by_position = unbound::<Tcp>();
    by_position.inherit_or_bind(&mut inherited, 2, NOWHERE).unwrap();
    inherited.all_taken().unwrap();
    let running = serve(server.server_activate().unwrap());
    running.connect().echo("inherited");
    Peer::connect(socketserver::UnixAddress::from_path(directory.at("s"))).echo("inherited");
    running.stop();
    assert!(directory.at("s").exists(), "the process that bound it removes it");
}

#[test]
fn an_address_is_bound_where_there_is_no_such_socket() {
    let mut inherited = sockets([("other", listener().into())]);
    for which in ["http", "Other"] {
        let mut server = TcpServer::unbound(|_| NoHandler);
        server.inherit_or_bind(&mut inherited, which, "127.0.0.1:0").unwrap();
        assert_eq!(server.server_addresses().len(), 1);
    }
    let mut server = TcpServer::unbound(|_| NoHandler);
    assert!(matches!(server.inherit_or_bind(&mut inherited, 1, NOWHERE), Err(Error::Bind { .. })));
    assert!(InheritedSockets::default().is_empty());
    InheritedSockets::default().all_taken().unwrap();
}

#[test]
fn a_socket_of_another_kind_is_an_error_and_no_reason_to_bind() {
    let (listener, udp) = (listener(), datagrams());
    let (tcp, datagrams) = (listener.local_addr().unwrap(), udp.local_addr().unwrap());
    let mut inherited = sockets([("web", listener.into()), ("web\n", udp.into())]);
    let mut server = TcpServer::unbound(|_| NoHandler);
    let by_position = refused(server.inherit_or_bind(&mut inherited, 1, "127.0.0.1:0"));
    assert_eq!(by_position, format!("cannot inherit socket 1 \"web\\n\" (UDP {datagrams}): it is no stream socket"));
    let path = Directory::new().at("s");
    let by_name = server.inherit_or_bind_as::<UnixStream>(&mut inherited, "web", &path, UnixOptions::default());
    assert_eq!(refused(by_name), format!("cannot inherit socket 0 \"web\" (TCP {tcp}): it is no Unix socket"));
    assert!(server.server_addresses().is_empty());
}

#[test]
fn a_socket_is_taken_once() {
    let mut inherited = sockets([("web", listener().into())]);
    let mut server = TcpServer::unbound(|_| NoHandler);
    server.inherit_or_bind(&mut inherited, "web", NOWHERE).unwrap();
    for again in
        [server.inherit_or_bind(&mut inherited, "web", NOWHERE), server.inherit_or_bind(&mut inherited, 0, NOWHERE)]
    {
        assert!(refused(again).ends_with(": it was taken before"));
    }
    inherited.all_taken().unwrap();
}

/// systemd-socket-activate(1) passes sockets of one kind only.
#[test]
fn an_address_is_bound_when_all_sockets_of_the_name_are_of_another_kind_and_taken() {
    let mut inherited = sockets([("web", listener().into())]);
    let mut server = TcpServer::unbound(|_| NoHandler);
    server.inherit_or_bind(&mut inherited, "web", NOWHERE).unwrap();
    let (directory, udp) = (Directory::new(), UdpOptions::default());
    let path = directory.at("s");
    server.inherit_or_bind_as::<UnixStream>(&mut inherited, "web", &path, UnixOptions::default()).unwrap();
    server.inherit_or_bind_as::<Udp>(&mut inherited, "web", "127.0.0.1:0", udp).unwrap();
    assert_eq!(server.server_addresses().len(), 3);
    inherited.all_taken().unwrap();
}

#[test]
fn options_and_the_backlog_reach_an_inherited_socket() {
    let listener = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    listener.bind(&std::net::SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    listener.listen(1).unwrap();
    let kept = listener.try_clone().unwrap();
    let mut inherited = sockets([("web", listener.into())]);
    let mut server = unbound::<Tcp>();
    let keepalive = socketserver::Keepalive {
        idle: std::time::Duration::from_secs(77),
        interval: std::time::Duration::from_secs(7),
    };
    let options = options(|options: &mut TcpOptions| options.keepalive = Some(keepalive));
    server.inherit_or_bind_with(&mut inherited, "web", NOWHERE, options).unwrap();
    let server = server.server_activate().unwrap();
    assert!(kept.keepalive().unwrap() && kept.tcp_nodelay().unwrap());
    let clients: Vec<_> = (0..20).map(|_| Peer::connect(server.server_address())).collect();
    assert_eq!(clients.len(), 20, "with a backlog of one they would wait");
}

#[test]
fn a_socket_that_no_server_takes_is_reported() {
    let (first, second) = (listener(), listener());
    let address = second.local_addr().unwrap();
    let mut inherited = sockets([("web", first.into()), ("admin", second.into())]);
    let mut server = TcpServer::unbound(|_| NoHandler);
    server.inherit_or_bind(&mut inherited, "web", NOWHERE).unwrap();
    let why = "no server takes it, so its clients would wait forever";
    assert_eq!(refused(inherited.all_taken()), format!("cannot inherit socket 1 \"admin\" (TCP {address}): {why}"));
}

#[test]
fn a_connection_is_told_from_a_listener() {
    let listener = listener();
    let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    let connected = datagrams();
    connected.connect(connected.local_addr().unwrap()).unwrap();
    let accepted = listener.accept().unwrap().0;
    let mut inherited = sockets([("a", connected.into()), ("b", listener.into()), ("connection", accepted.into())]);
    let connection = inherited.take_connection().expect("the third");
    assert!(inherited.take_connection().is_none());
    let serving = std::thread::spawn(move || unbound::<Tcp>().serve_connection(connection));
    let mut client = Peer::of(client);
    client.echo("served");
    client.half_close();
    client.expect_eof();
    serving.join().unwrap().unwrap();
    let _ = inherited.all_taken();
}

/// This test as a program with these descriptors from 3 on, as a supervisor starts it.
#[cfg(feature = "inherit")]
fn supervised(test: &str, environment: &str, sockets: [OwnedFd; 2]) -> Child {
    let mut shell = Command::new("sh");
    let exec = r#"exec "$0" --exact "$1" --nocapture"#;
    shell.args(["-c", &format!("exec 3<&0 4>&1 </dev/null >&2; {environment} {exec}")]);
    shell.arg(std::env::current_exe().unwrap()).arg(format!("inherited::{test}"));
    let [first, second] = sockets;
    shell.env("SOCKETSERVER_TEST_SUPERVISED", "").stdin(first).stdout(second).stderr(Stdio::null()).spawn().unwrap()
}

#[cfg(feature = "inherit")]
fn is_supervised() -> bool {
    std::env::var_os("SOCKETSERVER_TEST_SUPERVISED").is_some()
}

#[test]
#[cfg(feature = "inherit")]
fn sockets_come_from_the_environment_with_their_names() {
    if is_supervised() {
        let mut inherited = InheritedSockets::from_env().unwrap();
        assert!(std::env::var_os("LISTEN_FDS").is_none() && std::env::var_os("LISTEN_PID").is_none());
        assert!(InheritedSockets::from_env().unwrap().is_empty(), "they are taken once");
        let mut server = TcpServer::unbound(|_| probe(|call, request: &mut Request<'_>| echo(&call, request)));
        server.inherit_or_bind(&mut inherited, "second", NOWHERE).unwrap();
        server.inherit_or_bind(&mut inherited, "first", NOWHERE).unwrap();
        inherited.all_taken().unwrap();
        // Programs that are started from here do not get them.
        let look = "for fd in 3 4; do [ -e /proc/self/fd/$fd ] && exit 1; done; exit 0";
        let closed = Command::new("sh").args(["-c", look]).status().unwrap().success();
        assert!(closed || !cfg!(target_os = "linux"));
        let mut server = server.server_activate().unwrap();
        return server.handle_request().unwrap();
    }
    for environment in ["LISTEN_FDS=2 LISTEN_PID=$$", "LISTEN_FDS=2"] {
        let (first, second) = (listener(), listener());
        let client = Peer::connect(second.local_addr().unwrap());
        let environment = format!("LISTEN_FDNAMES=first:second {environment}");
        let test = "sockets_come_from_the_environment_with_their_names";
        let mut program = supervised(test, &environment, [first.into(), second.into()]);
        let mut client = client; // It came before the program began.
        client.echo("it has waited");
        drop(client);
        assert!(program.wait().unwrap().success());
    }
}

#[test]
#[cfg(feature = "inherit")]
fn what_the_environment_says_of_another_process_or_wrongly_is_not_believed() {
    if is_supervised() {
        let inherited = InheritedSockets::from_env();
        match std::env::var("EXPECTED").unwrap().as_str() {
            "none" => assert!(inherited.unwrap().is_empty()),
            expected => {
                assert_eq!(format!("{:#}", inherited.unwrap_err()), format!("cannot inherit sockets: {expected}"))
            }
        }
        return;
    }
    for (environment, expected) in [
        ("LISTEN_FDS=2 LISTEN_PID=1", "none"),
        ("LISTEN_FDS=two LISTEN_PID=$$", "none"),
        ("LISTEN_PID=$$", "none"),
        ("LISTEN_FDS=0 LISTEN_PID=$$ LISTEN_FDNAMES=a", "none"),
        ("LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a", "LISTEN_FDNAMES has 1 names, and LISTEN_FDS is 2"),
        ("LISTEN_FDS=2 LISTEN_PID=$$ LISTEN_FDNAMES=a:b:c", "LISTEN_FDNAMES has 3 names, and LISTEN_FDS is 2"),
    ] {
        let environment = format!("EXPECTED='{expected}' {environment}");
        let test = "what_the_environment_says_of_another_process_or_wrongly_is_not_believed";
        let mut program = supervised(test, &environment, [listener().into(), listener().into()]);
        assert!(program.wait().unwrap().success(), "{environment}");
    }
}

#[test]
#[cfg(feature = "inherit")]
fn an_inherited_descriptor_that_is_no_socket_is_reported() {
    if is_supervised() {
        let mut inherited = InheritedSockets::from_env().unwrap();
        let mut server = TcpServer::unbound(|_| NoHandler);
        let why = "cannot inherit socket 0 \"unknown\" (no socket): it is no socket that can be served";
        assert_eq!(refused(server.inherit_or_bind(&mut inherited, 0, NOWHERE)), why);
        let left = refused(inherited.all_taken());
        assert!(left.starts_with("cannot inherit socket 1 \"unknown\" (TCP "), "{left}");
        return;
    }
    let file = OwnedFd::from(std::fs::File::open("/dev/null").unwrap());
    let test = "an_inherited_descriptor_that_is_no_socket_is_reported";
    let mut program = supervised(test, "LISTEN_FDS=2 LISTEN_PID=$$", [file, listener().into()]);
    assert!(program.wait().unwrap().success());
}
