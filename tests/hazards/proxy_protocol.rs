//! The PROXY protocol: whose header is believed, and what a hostile one can do.

use std::io::Write as _;
use std::time::Duration;

use socketserver::family::{Tcp, UnixStream};
use socketserver::{
    Address, BaseServer, EndReason, Error, Incoming, Next, Others, ProxyHeader, ProxyProtocol, Reactor, Request,
    RequestHandler, Result, Server, TcpOptions, UnixDatagramServer, UnixOptions,
};

use crate::common::{Call, Directory, Journal, Kind, PATIENCE, Running, echo, options, probe, serve};

over_streams! {
    a_header_gives_its_client_s_address_to_everything,
    a_header_may_come_byte_by_byte,
    a_header_of_a_peer_that_is_not_trusted_is_not_believed,
    what_is_no_valid_header_closes_the_connection,
    a_header_of_datagrams_closes_a_connection,
    a_header_that_never_ends_closes_the_connection,
    a_health_check_is_no_failure,
    where_a_header_is_optional_clients_may_come_without,
    a_connection_without_its_header_keeps_neither_a_stop_nor_a_close_waiting,
    connections_without_their_headers_count_for_the_limit,
}

trait Proxied: Kind {
    fn behind(protocol: ProxyProtocol) -> Self::Options;
}

impl Proxied for Tcp {
    fn behind(protocol: ProxyProtocol) -> TcpOptions {
        options(|options: &mut TcpOptions| options.proxy_protocol = Some(protocol))
    }
}

impl Proxied for UnixStream {
    fn behind(protocol: ProxyProtocol) -> UnixOptions {
        options(|options: &mut UnixOptions| options.proxy_protocol = Some(protocol))
    }
}

/// Notes the addresses that hooks are given.
#[derive(Default)]
struct Noting(Option<Journal>);

impl Noting {
    fn note(&self, line: String) {
        self.0.iter().for_each(|journal| journal.note(&line));
    }
}

impl BaseServer for Noting {
    fn verify_request(&mut self, request: &Incoming<'_>, client: &Address) -> bool {
        let Incoming::Stream(stream) = request else { return false };
        let id = stream.proxy_header().and_then(|header| header.unique_id()).unwrap_or_default();
        self.note(format!("verify {client} {}", String::from_utf8_lossy(id)));
        true
    }

    fn close_request(&mut self, client: &Address, why: EndReason) {
        self.note(format!("close {client} {why:?}"));
    }
}

type Server_<F> = Running<Noting, F>;

fn behind<F: Proxied>(protocol: ProxyProtocol, limit: impl FnOnce(&mut socketserver::Limits)) -> (Server_<F>, Journal) {
    let ((place, directory), journal) = (F::place(), Journal::new());
    let handler = move |_: &mut Noting, _: &Address| {
        let _kept = &directory;
        probe(|call, request: &mut Request<'_, Noting>| match call {
            Call::Handle if request.input.unread() == b"who\n" => {
                request.input.take_all();
                let proxy = request.proxy_header().map(|header| header.proxy_address().is_some());
                let line = format!("{} {proxy:?}\n", request.client_address());
                request.output.write_all(line.as_bytes())?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let mut server = Server::<F, Noting, _>::unbound_with_server(Noting(Some(journal.clone())), handler);
    limit(&mut server.limits);
    server.server_bind_with(place, F::behind(protocol)).unwrap();
    (serve(server.server_activate().unwrap()), journal)
}

fn trusting() -> ProxyProtocol {
    ProxyProtocol::new(|_| true)
}

fn header() -> ProxyHeader {
    let address = |text: &str| Address::from(text.parse::<std::net::SocketAddr>().unwrap());
    ProxyHeader::new(address("203.0.113.7:50000"), address("192.0.2.1:80"))
}

fn a_header_gives_its_client_s_address_to_everything<F: Proxied>() {
    let (running, journal) = behind::<F>(trusting(), |limits| limits.connections_per_client_max = Some(1));
    let with_id = header().with_tlv(0x05, b"id 7").to_v2().unwrap();
    let mut client = running.connect();
    client.send([&with_id[..], b"who\n"].concat());
    client.expect("203.0.113.7:50000 Some(true)\n");
    // The limit counts clients, not the proxy.
    let mut same = running.connect();
    same.send(header().to_v1().unwrap());
    same.expect_eof();
    let mut other = running.connect();
    other.send("PROXY TCP6 2001:db8::7 2001:db8::1 50000 80\r\nwho\n");
    other.expect("[2001:db8::7]:50000 Some(true)\n");
    // The proxy speaks for itself.
    let mut local = running.connect();
    local.send([ProxyHeader::local().to_v2().unwrap(), b"who\n".to_vec()].concat());
    assert!(local.line().trim_end().ends_with(" Some(true)"));
    for mut client in [client, other, local] {
        client.half_close();
        client.expect_eof();
    }
    let lines = journal.lines();
    assert_eq!(lines[0], "verify 203.0.113.7:50000 id 7");
    assert!(lines.contains(&"close 203.0.113.7:50000 Refused".to_owned()), "{lines:?}");
    assert!(lines.contains(&"close [2001:db8::7]:50000 PeerClosed".to_owned()), "{lines:?}");
    let stats = running.stop();
    assert_eq!((stats.accepted, stats.refused, stats.proxy_headers_failed), (4, 1, 0));
}

fn a_header_may_come_byte_by_byte<F: Proxied>() {
    let mut patient = trusting();
    patient.timeout = PATIENCE;
    let (running, _) = behind::<F>(patient, |_| {});
    for header in [header().to_v1().unwrap(), header().with_tlv(0xE0, [b'x'; 30]).to_v2().unwrap()] {
        let mut client = running.connect();
        for byte in header {
            client.send([byte]);
            running.stats(); // A turn in between.
        }
        client.send("who\n");
        client.expect("203.0.113.7:50000 Some(true)\n");
    }
    running.stop();
}

fn a_header_of_a_peer_that_is_not_trusted_is_not_believed<F: Proxied>() {
    let (running, journal) = behind::<F>(ProxyProtocol::new(|_| false), |_| {});
    let mut client = running.connect();
    let _ = client.socket.write_all(header().to_v1().unwrap().as_ref()); // It may be refused already.
    assert!(client.read_to_the_end().0.is_empty());
    let stats = running.wait_for_stats("it is refused", |stats| stats.refused == 1);
    assert_eq!((stats.accepted, stats.proxy_headers_failed), (1, 1));
    assert_eq!(journal.count("verify"), 0);
    running.stop();

    let mut optional = ProxyProtocol::new(|_| false);
    optional.required = false;
    let (running, _) = behind::<F>(optional, |_| {});
    let mut client = running.connect();
    client.echo(header().to_v1().unwrap());
    client.send("who\n");
    assert!(client.line().trim_end().ends_with(" None"), "its bytes are data");
    running.stop();
    crate::common::silence_scripted_panics();
    let (running, _) = behind::<F>(ProxyProtocol::new(|_| panic!("{}", crate::common::SCRIPTED)), |_| {});
    running.connect().expect_eof();
    assert_eq!(running.stop().panics, 1);
}

fn what_is_no_valid_header_closes_the_connection<F: Proxied>() {
    let (running, journal) = behind::<F>(trusting(), |_| {});
    let too_long = [b"\r\n\r\n\0\r\nQUIT\n\x21\x11\xff\xff".to_vec(), vec![0; 100]].concat();
    let line = format!("PROXY TCP4 {}", "1".repeat(200)).into_bytes();
    let hostile: [&[u8]; 5] =
        [b"GET / HTTP/1.1\r\n\r\n", b"PROXY TCP4 a b c d\r\n", &too_long, &line, b"\r\n\r\n\0\r\nquit\n"];
    for bytes in hostile {
        let mut client = running.connect();
        client.send(bytes);
        assert!(client.read_to_the_end().0.is_empty(), "{bytes:?}");
    }
    let stats = running.wait_for_stats("all are closed", |stats| stats.active == 0 && stats.refused == 5);
    assert_eq!((stats.accepted, stats.proxy_headers_failed), (5, 5));
    assert_eq!(journal.count("verify"), 0);
    running.stop();
}

/// A header of version 2 with this command and this protocol, and what may stand in it for addresses.
fn v2(command: u8, protocol: u8) -> Vec<u8> {
    let addresses: u8 = match protocol >> 4 {
        0 => 0,
        1 => 12,
        2 => 36,
        _ => 216,
    };
    let head = [command, protocol, 0, addresses];
    [b"\r\n\r\n\0\r\nQUIT\n", &head[..], &vec![b'1'; addresses.into()]].concat()
}

fn a_header_of_datagrams_closes_a_connection<F: Proxied>() {
    let (running, journal) = behind::<F>(trusting(), |_| {});
    for protocol in [0x12, 0x22, 0x32] {
        let mut client = running.connect();
        client.send([v2(0x21, protocol), b"who\n".to_vec()].concat());
        assert!(client.read_to_the_end().0.is_empty(), "{protocol:#x}");
    }
    let stats = running.wait_for_stats("all are closed", |stats| stats.active == 0 && stats.refused == 3);
    assert_eq!((stats.proxy_headers_failed, journal.count("verify")), (3, 0));
    // `LOCAL`, whose protocol is ignored, and `UNSPEC`.
    let mut with_addresses = v2(0x21, 0x11);
    with_addresses[13] = 0;
    let local = [0, 0x12, 0x22, 0x32].map(|protocol| v2(0x20, protocol));
    for header in local.into_iter().chain([v2(0x21, 0), with_addresses, v2(0x21, 0x31)]) {
        let mut client = running.connect();
        client.send([&header[..], b"who\n"].concat());
        assert!(client.line().trim_end().ends_with(" Some(true)"), "{header:?}");
    }
    assert_eq!(running.stop().proxy_headers_failed, 3);
}

fn a_header_that_never_ends_closes_the_connection<F: Proxied>() {
    let mut hasty = trusting();
    hasty.timeout = Duration::from_millis(50);
    let (running, _) = behind::<F>(hasty, |_| {});
    let mut late = running.connect();
    late.send("PROXY TCP4 203.0.");
    let mut silent = running.connect();
    assert!(late.read_to_the_end().0.is_empty() && silent.read_to_the_end().0.is_empty());
    assert_eq!(running.stop().proxy_headers_failed, 2);

    let (running, _) = behind::<F>(trusting(), |_| {});
    let mut cut_off = running.connect();
    cut_off.send(&header().to_v2().unwrap()[..20]);
    cut_off.half_close();
    assert!(cut_off.read_to_the_end().0.is_empty());
    assert_eq!(running.stop().proxy_headers_failed, 1);
}

fn a_health_check_is_no_failure<F: Proxied>() {
    let (running, _) = behind::<F>(trusting(), |_| {});
    drop(running.connect());
    let stats = running.wait_for_stats("it is gone", |stats| stats.refused == 1 && stats.active == 0);
    assert_eq!((stats.accepted, stats.proxy_headers_failed), (1, 0));
    running.stop();
}

fn where_a_header_is_optional_clients_may_come_without<F: Proxied>() {
    let mut optional = trusting();
    (optional.required, optional.timeout) = (false, Duration::from_millis(50));
    let (running, _) = behind::<F>(optional, |_| {});
    let mut direct = running.connect();
    direct.echo("P is no header yet");
    let mut proxied = running.connect();
    proxied.send([header().to_v1().unwrap(), b"who\n".to_vec()].concat());
    proxied.expect("203.0.113.7:50000 Some(true)\n");
    // It would have waited for the server to speak.
    let patient = running.connect();
    running.wait_for_stats("it is served", |stats| stats.accepted == 3 && stats.active == 3);
    drop((direct, proxied, patient));
    // What could become a header, but does not in time.
    let v2 = header().to_v2().unwrap();
    for beginning in [&b"P"[..], b"PROXY", b"\r\n", &v2[..11]] {
        running.connect().echo(beginning);
        let mut brief = running.connect();
        brief.send(beginning);
        brief.half_close();
        assert_eq!(brief.rest(), beginning);
    }
    assert_eq!(running.stats().proxy_headers_failed, 0);
    for begun in [&b"PROXY "[..], b"PROXY TCP4 ", &v2[..12], &v2[..20]] {
        let mut late = running.connect();
        late.send(begun);
        assert!(late.read_to_the_end().0.is_empty(), "{begun:?}");
    }
    assert_eq!(running.stop().proxy_headers_failed, 4);
}

fn a_connection_without_its_header_keeps_neither_a_stop_nor_a_close_waiting<F: Proxied>() {
    let mut patient = trusting();
    patient.timeout = PATIENCE * 100;
    let (running, _) = behind::<F>(patient.clone(), |_| {});
    let mut client = running.connect();
    running.wait_for_stats("it waits", |stats| stats.active == 1);
    running.stop.shutdown_now();
    running.join();
    assert!(client.read_to_the_end().0.is_empty());

    let (running, _) = behind::<F>(patient, |_| {});
    let mut client = running.connect();
    running.wait_for_stats("it waits", |stats| stats.active == 1);
    let id = running.id;
    running.handle.run(move |reactor: &mut Reactor| reactor.server_close(id)).unwrap();
    assert!(client.read_to_the_end().0.is_empty());
    running.wait_for_stats("it is gone", |stats| stats.active == 0);
    let stats = running.stop();
    assert_eq!((stats.accepted, stats.refused), (1, 1));
}

fn connections_without_their_headers_count_for_the_limit<F: Proxied>() {
    let (running, _) = behind::<F>(trusting(), |limits| limits.connections_max = Some(2));
    let mut first = running.connect();
    let mut second = running.connect();
    running.wait_for_stats("they wait", |stats| stats.active == 2);
    let mut third = running.connect();
    third.send([header().to_v1().unwrap(), b"who\n".to_vec()].concat());
    assert_eq!(running.stats().active, 2);
    first.send([header().to_v1().unwrap(), b"who\n".to_vec()].concat());
    first.expect("203.0.113.7:50000 Some(true)\n");
    assert!(running.stats().active <= 2);
    second.half_close();
    second.expect_eof();
    first.half_close();
    first.expect_eof();
    third.expect("203.0.113.7:50000 Some(true)\n");
    running.stop();
}

#[test]
fn settings_that_cannot_be_used_are_refused() {
    let mut never = trusting();
    never.timeout = Duration::ZERO;
    let mut server = Server::<Tcp, (), _>::unbound(|_| socketserver::NoHandler);
    let error = server.server_bind_with("127.0.0.1:0", Tcp::behind(never)).unwrap_err();
    assert!(matches!(error, Error::Setting { .. }) && error.to_string().contains("proxy_protocol.timeout"), "{error}");
    let directory = Directory::new();
    let mut server = UnixDatagramServer::unbound(|_| socketserver::NoHandler);
    let error = server.server_bind_with(directory.at("s"), UnixStream::behind(trusting())).unwrap_err();
    assert!(error.to_string().ends_with("datagrams are not a stream"), "{error}");
}

/// One server passes its client on to another.
#[test]
fn an_outbound_connection_sends_a_header() {
    struct Passing(Option<Address>);
    impl BaseServer for Passing {
        fn service_actions(&mut self, others: &mut Others<'_, Self>) {
            if let Some(address) = self.0.take() {
                others.connect(address, Sending(Vec::new())).unwrap();
            }
        }
    }
    struct Sending(Vec<u8>);
    impl RequestHandler<Passing> for Sending {
        fn setup(&mut self, request: &mut Request<'_, Passing>) -> Result<Next> {
            request.output.write_all(&header().to_v2()?)?;
            request.output.write_all(b"who\n")?;
            Ok(Next::Wait)
        }

        fn handle(&mut self, request: &mut Request<'_, Passing>) -> Result<Next> {
            self.0.extend(request.input.take_all());
            if self.0.ends_with(b"\n") { Ok(Next::Close) } else { Ok(Next::Wait) }
        }

        fn finish(&mut self, request: &mut Request<'_, Passing>, _: EndReason) {
            request.others.request_shutdown();
            assert_eq!(self.0, b"203.0.113.7:50000 Some(true)\n");
        }
    }
    let (running, _) = behind::<Tcp>(trusting(), |_| {});
    let passing = Passing(Some(running.address.into()));
    let mut server = Server::<Tcp, _, _>::with_server("127.0.0.1:0", passing, |_, _| Sending(Vec::new())).unwrap();
    server.handle().run(|_| {}).unwrap(); // The first turn.
    server.serve_forever().unwrap();
    assert_eq!(server.stats().panics, 0);
    running.stop();
}

#[cfg(feature = "tls")]
fn over_tls(mut socket: std::net::TcpStream) -> String {
    use std::io::Read as _;

    use crate::common::tls::{VERSIONS, client_config};

    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket.write_all(&header().to_v2().unwrap()).unwrap();
    let client = rustls::ClientConnection::new(client_config(&VERSIONS), "localhost".try_into().unwrap()).unwrap();
    let mut stream = rustls::StreamOwned::new(client, socket);
    stream.write_all(b"who\n").unwrap();
    let mut answer = [0; 100];
    let n = stream.read(&mut answer).unwrap();
    String::from_utf8_lossy(&answer[..n]).into_owned()
}

#[test]
#[cfg(feature = "tls")]
fn the_header_comes_before_the_handshake() {
    let mut options = Tcp::behind(trusting());
    options.tls = Some(crate::common::tls::acceptor());
    let handler = |_: &mut Noting, _: &Address| {
        probe(|call, request: &mut Request<'_, Noting>| match call {
            Call::Handle => {
                request.input.take_all();
                let proxy = request.proxy_header().map(|header| header.proxy_address().is_some());
                write!(request.output, "{} {proxy:?}", request.client_address())?;
                Ok(Next::Wait)
            }
            call => echo(&call, request),
        })
    };
    let mut server = Server::<Tcp, Noting, _>::unbound_with_server(Noting::default(), handler);
    server.server_bind_with("127.0.0.1:0", options.clone()).unwrap();
    let running = serve(server.server_activate().unwrap());
    let client = std::net::TcpStream::connect(running.address).unwrap();
    assert_eq!(over_tls(client), "203.0.113.7:50000 Some(true)");
    running.stop();

    let mut threads = socketserver::ThreadingTcpServer::unbound(|_| {
        socketserver::StreamRequestHandler::new(|request| {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut request.rfile, &mut line)?;
            let proxy = request.proxy_header().map(|header| header.proxy_address().is_some());
            write!(request.wfile, "{} {proxy:?}", request.client_address())?;
            Ok(())
        })
    });
    threads.server_bind_with("127.0.0.1:0", options).unwrap();
    let running = serve(threads.server_activate().unwrap());
    let client = std::net::TcpStream::connect(running.address).unwrap();
    assert_eq!(over_tls(client), "203.0.113.7:50000 Some(true)");
    running.stop();
}

#[test]
fn a_handler_on_a_thread_sees_the_header() {
    for (header, wanted) in [(Some(header().with_tlv(0x05, b"id 7")), "Some(\"id 7\")"), (None, "None")] {
        let mut protocol = trusting();
        protocol.required = false;
        let mut server = socketserver::ThreadingTcpServer::unbound(|_| {
            socketserver::StreamRequestHandler::new(|request| {
                let id = request.proxy_header().map(|header| header.unique_id().unwrap_or_default().to_vec());
                write!(request.wfile, "{:?}", id.map(|id| String::from_utf8(id).unwrap()))?;
                Ok(())
            })
        });
        server.server_bind_with("127.0.0.1:0", Tcp::behind(protocol)).unwrap();
        let running = serve(server.server_activate().unwrap());
        let mut client = running.connect();
        client.send(header.map_or_else(|| b"none".to_vec(), |header| header.to_v2().unwrap()));
        assert_eq!(client.rest(), wanted.as_bytes());
        running.stop();
    }
}
