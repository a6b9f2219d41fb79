//! On a wildcard address an answer has to leave from the address that was asked: a client that has connected its socket
//! hears nothing from any other.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, UdpSocket};

use socketserver::{
    Address, BaseServer, DatagramRequestHandler, Incoming, Limits, NoHandler, Request, ServeOn, TcpServer, UdpOptions,
    UdpServer,
};

use crate::common::{Call, PATIENCE, options, probe, serve, usual};

/// A client that receives only from the server that it has asked.
fn client(of: SocketAddr) -> UdpSocket {
    let here = if of.is_ipv4() { "127.0.0.1:0" } else { "[::1]:0" };
    let client = UdpSocket::bind(here).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.connect(of).unwrap();
    client
}

#[track_caller]
fn ask(client: &UdpSocket, packet: &[u8]) -> String {
    client.send(packet).unwrap();
    let mut reply = [0; 100];
    let n = client.recv(&mut reply).expect("an answer from the address that was asked");
    String::from_utf8_lossy(&reply[..n]).into_owned()
}

/// Answers with its own address, and with a datagram besides.
fn naming(
    address: &str,
    options: UdpOptions,
    limits: fn(&mut Limits),
) -> UdpServer<(), impl socketserver::RequestHandler + use<>> {
    let mut server = UdpServer::unbound(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let me = request.local_address().expect("a socket").to_string();
                let client = request.client_address();
                assert_eq!(request.send_to(&client, b"besides"), socketserver::Delivery::Queued);
                write!(request.output, "{me}")?;
            }
            usual(&call, request)
        })
    });
    limits(&mut server.limits);
    server.server_bind_with(address, options).unwrap();
    server.server_activate().unwrap()
}

/// Asks a wildcard server at several of this machine's addresses.
#[track_caller]
fn check(address: &str, asked: &[&str], limits: fn(&mut Limits)) {
    let server = naming(address, UdpOptions::default(), limits);
    let port = server.server_address().port();
    let running = serve(server);
    for ip in asked {
        let at = SocketAddr::new(ip.parse().unwrap(), port);
        let client = client(at);
        for _ in 0..3 {
            assert_eq!(ask(&client, b"?"), "besides");
            let mut reply = [0; 100];
            let n = client.recv(&mut reply).unwrap();
            assert_eq!(String::from_utf8_lossy(&reply[..n]), at.to_string());
        }
    }
    running.stop();
}

#[test]
fn an_answer_leaves_from_the_address_that_was_asked() {
    check("0.0.0.0:0", &["127.0.0.1", "127.0.0.2", "127.9.9.9"], |_| ());
}

#[test]
fn a_session_s_answers_leave_from_the_address_that_was_asked() {
    check("0.0.0.0:0", &["127.0.0.1", "127.0.0.2"], |limits| limits.sessions_max = Some(10));
}

#[test]
fn an_answer_over_ipv6_leaves_from_the_address_that_was_asked() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return println!("skipped: there is no IPv6");
    }
    check("[::]:0", &["::1"], |_| ());
}

#[test]
fn a_dual_stack_server_answers_ipv4_clients_from_the_address_they_wrote_to() {
    if UdpSocket::bind("[::1]:0").is_err() {
        return println!("skipped: there is no IPv6");
    }
    let server = naming("[::]:0", options(|options: &mut UdpOptions| options.ipv6_only = false), |_| ());
    let port = server.server_address().port();
    let running = serve(server);
    for ip in ["127.0.0.2", "::1"] {
        let at = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
        assert_eq!(ask(&client(at), b"?"), "besides");
    }
    running.stop();
}

#[derive(Default)]
struct Threads;

impl BaseServer for Threads {
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        ServeOn::thread(DatagramRequestHandler::new(|request| {
            let me = request.local_address().expect("a socket");
            Ok(write!(request.wfile, "{me}")?)
        }))
    }
}

#[test]
fn an_answer_from_a_thread_leaves_from_the_address_that_was_asked() {
    let server = UdpServer::with_server("0.0.0.0:0", Threads, |_: &mut Threads, _: &Address| NoHandler).unwrap();
    let port = server.server_address().port();
    let running = serve(server);
    for ip in ["127.0.0.1", "127.0.0.2"] {
        let at = SocketAddr::new(ip.parse::<IpAddr>().unwrap(), port);
        assert_eq!(ask(&client(at), b"?"), at.to_string());
    }
    running.stop();
}

#[test]
fn an_address_without_a_host_or_a_port_is_refused_with_the_missing_part() {
    let no_port = "no port was given, as in localhost:80; with 0 the system chooses one";
    let no_number = "its port is not a number from 0 to 65535";
    let no_host = "no host was given; 0.0.0.0 is every IPv4 address of this machine, [::] every one there is";
    let no_brackets = "an IPv6 address is written in brackets before its port, as in [::1]:80";
    for (address, reason) in [
        ("localhost", no_port),
        ("localhost:", no_port),
        ("127.0.0.1", no_port),
        ("[::1]", no_port),
        ("localhost:65536", no_number),
        ("127.0.0.1:99999", no_number),
        ("[::1]:65536", no_number),
        ("127.0.0.1:-1", no_number),
        ("localhost:http", no_number),
        ("", no_host),
        (":80", no_host),
        ("::", no_brackets),
        ("::1", no_brackets),
        ("::1:80", no_brackets),
        ("2001:db8::1", no_brackets),
    ] {
        let expected = format!("cannot resolve {address}: {reason}");
        let tcp = TcpServer::new(address, |_| NoHandler).expect_err(address);
        assert_eq!(format!("{tcp:#}"), expected);
        let udp = UdpServer::new(address.to_owned(), |_| NoHandler).expect_err(address);
        assert_eq!(format!("{udp:#}"), expected);
    }
    let error = TcpServer::new(("", 0), |_| NoHandler).err().unwrap();
    assert_eq!(format!("{error:#}"), format!("cannot resolve (\"\", 0): {no_host}"));
    for address in ["127.0.0.1:0", "localhost:0"] {
        TcpServer::new(address, |_| NoHandler).unwrap();
    }
    TcpServer::new(("localhost", 0), |_| NoHandler).unwrap();
}
