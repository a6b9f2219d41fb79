//! Traps of TLS: of the protocol, of rustls' unbuffered sessions, and of peers that mean harm.

use std::io::{BufRead as _, ErrorKind, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ClientConfig, Error as TlsError, ProtocolVersion, ServerConfig};
use socketserver::testing::{Call as SystemCall, Client, Network, Outcome, Peer, Tls, TlsPeer, check_chunking};
use socketserver::{
    Address, BaseServer, BlockingRequest, EndReason, Error, Limits, Listener, Message, Next, Others, Reactor, Request,
    RequestHandler, ServerId, Stream, StreamRequestHandler, TcpOptions, TcpServer, ThreadingTcpServer, Timeout,
    TlsAcceptor, TlsConnector,
};

use crate::common::tls::{
    LOCALHOST, TLS12, TLS13, VERSIONS, acceptor, client_config, identity, known_client, long_chain, mutual_config,
    server_config, stranger,
};
use crate::common::{Call, Journal, echo, options, probe, serve, usual};
use crate::ends::{collects, logged};

fn echoing<S>() -> impl RequestHandler<S>
where
    S: BaseServer,
{
    probe(|call, request| echo(&call, request))
}

fn tls() -> Tls {
    Tls::new(&acceptor(), client_config(&VERSIONS), "localhost").unwrap()
}

fn tls_with(config: ServerConfig, client: Arc<ClientConfig>) -> Tls {
    Tls::new(&TlsAcceptor::new(Arc::new(config)), client, "localhost").unwrap()
}

/// A server that puts its connections under TLS itself, and notes what its hooks are told.
struct Wrapping {
    acceptor: TlsAcceptor,
    journal: Journal,
    /// Handlers start TLS.
    is_plain: bool,
}

impl Default for Wrapping {
    fn default() -> Self {
        Wrapping { acceptor: acceptor(), journal: Journal::new(), is_plain: true }
    }
}

impl BaseServer for Wrapping {
    fn get_request(&mut self, listener: &mut Listener) -> std::io::Result<(Stream, Address)> {
        let (stream, from) = listener.accept()?;
        if self.is_plain {
            return Ok((stream, from));
        }
        Ok((self.acceptor.wrap_socket(stream), from))
    }
    fn verify_request(&mut self, _: &socketserver::Incoming<'_>, _: &Address) -> bool {
        self.journal.note("verify_request");
        true
    }
    fn handshake_failed(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("handshake_failed {error:#}"));
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("handle_error {error:#}"));
    }
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        let bytes = message.downcast::<&'static [u8]>().expect("a message is the bytes of a broadcast, or nothing");
        if bytes.is_empty() {
            others.connections().into_iter().for_each(|id| others.close(id));
        } else {
            others.broadcast(bytes, |_| true);
        }
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.journal.note(format!("close_request {why}"));
    }
}

/// A simulated network with such a server, and a journal of it.
fn network(limits: Limits) -> (Network, ServerId, Journal) {
    network_of(acceptor(), limits)
}

fn network_of(acceptor: TlsAcceptor, limits: Limits) -> (Network, ServerId, Journal) {
    network_with(acceptor, limits, |_, _| echoing())
}

fn network_with<H: RequestHandler<Wrapping>>(
    acceptor: TlsAcceptor,
    limits: Limits,
    handler: impl FnMut(&mut Wrapping, &Address) -> H + Send + 'static,
) -> (Network, ServerId, Journal) {
    let journal = Journal::new();
    let mut network = Network::new();
    let value = Wrapping { acceptor, journal: journal.clone(), is_plain: false };
    let server = network.serve(value, handler, limits).unwrap();
    (network, server, journal)
}

/// Lets everything happen that is due.
fn settle(network: &mut Network, peers: &[&TlsPeer]) {
    loop {
        network.run();
        let moved = peers.iter().filter(|peer| peer.exchange()).count();
        if moved == 0 {
            return;
        }
    }
}

#[test]
fn the_same_handler_serves_tls_of_both_versions() {
    for version in VERSIONS {
        let tls = Tls::new(&acceptor(), client_config(&[version]), "localhost").unwrap();
        let mut client = Client::new_tls(echoing(), &tls);
        client.feed(b"hel");
        client.feed(b"lo");
        assert_eq!(client.sent(), b"hello");
        client.feed_eof();
        assert!(client.tls().unwrap().is_closed());
        assert_eq!(client.transcript(), ["setup", "handle 3", "handle 2", "eof", "finish peer closed"]);
        assert!(!client.is_reset());
        let stats = client.stats();
        assert_eq!((stats.handshakes, stats.handshakes_completed, stats.handshakes_failed), (1, 1, 0));
        assert_eq!((stats.bytes_in, stats.bytes_out), (5, 5));
    }
}

#[test]
fn the_wire_may_be_cut_anywhere() {
    let lines = |call: Call, request: &mut Request<'_>| {
        if matches!(call, Call::Handle) {
            while let Some(line) = request.input.read_line()? {
                request.output.write_all(&line.to_ascii_uppercase())?;
            }
            return Ok(Next::Wait);
        }
        usual(&call, request)
    };
    for piece in [1, 1_000] {
        let tls = tls().pieces(piece);
        check_chunking(b"one\ntwo\nthree", || Client::new_tls(probe(lines), &tls));
    }
}

#[test]
fn much_data_passes_in_both_directions() {
    let much: Vec<u8> = (0..3_000_000u32).map(|byte| ((byte * 7) >> 3) as u8).collect();
    for piece in [usize::MAX, 1_448] {
        let mut client = Client::new_tls(echoing(), &tls().pieces(piece));
        client.feed(&much);
        assert!(client.sent() == much);
        client.feed_eof();
        assert_eq!(client.finished(), Some(EndReason::PeerClosed));
    }
}

#[test]
fn a_handler_learns_what_was_agreed_on() {
    let mut server = mutual_config(&LOCALHOST, true);
    server.alpn_protocols = vec![b"echo".to_vec()];
    let person = identity("client.example", |_| {});
    for (version, number) in [(&TLS12, ProtocolVersion::TLSv1_2), (&TLS13, ProtocolVersion::TLSv1_3)] {
        let mut client = (*known_client(&[version], &person)).clone();
        client.alpn_protocols = vec![b"other".to_vec(), b"echo".to_vec()];
        let tls = tls_with(server.clone(), Arc::new(client));
        let certificate = person.chain[0].clone();
        for resumed in [false, true] {
            let certificate = certificate.clone();
            let handler = probe(move |call, request| {
                if let Call::Setup = call {
                    let session = request.tls().expect("the handshake is complete");
                    assert_eq!(session.protocol_version(), Some(number));
                    assert_eq!(session.server_name(), Some("localhost"));
                    assert_eq!(session.alpn_protocol(), Some(&b"echo"[..]));
                    assert!(session.cipher_suite().is_some());
                    assert_eq!(session.peer_certificates().unwrap()[0], certificate);
                    assert_eq!(session.is_resumed(), resumed);
                }
                echo(&call, request)
            });
            let mut client = Client::new_tls(handler, &tls);
            client.feed(b"hello");
            assert_eq!(client.sent(), b"hello");
            assert_eq!(client.stats().handshakes_resumed, u64::from(resumed));
            client.feed_eof();
        }
    }
    let mut plain = Client::new(probe(|call, request| {
        assert!(request.tls().is_none());
        echo(&call, request)
    }));
    plain.feed(b"hello");
    assert_eq!(plain.sent(), b"hello");
}

/// Connects, and returns what the client and the server say about it.
fn handshake(tls: &Tls) -> (Option<TlsError>, Client<()>) {
    let client = Client::new_tls(echoing(), tls);
    let failed = client.tls().unwrap().failed();
    (failed, client)
}

#[test]
fn certificates_of_every_kind_and_what_is_wrong_with_them() {
    let expired = identity("client.example", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let person = identity("client.example", |_| {});
    for version in VERSIONS {
        let anonymous = client_config(&[version]);
        for identity in [&*LOCALHOST, &long_chain("localhost")] {
            let (failed, mut client) = handshake(&tls_with(server_config(identity), anonymous.clone()));
            assert_eq!(failed, None);
            client.feed(b"hello");
            assert_eq!(client.sent(), b"hello");
        }
        for (client, required, expected) in [
            (known_client(&[version], &person), true, None),
            (known_client(&[version], &person), false, None),
            (anonymous.clone(), false, None),
            (anonymous.clone(), true, Some(AlertDescription::CertificateRequired)),
            (known_client(&[version], &expired), true, Some(AlertDescription::CertificateExpired)),
            (known_client(&[version], &expired), false, Some(AlertDescription::CertificateExpired)),
            (known_client(&[version], &stranger("client.example")), true, Some(AlertDescription::UnknownCA)),
        ] {
            let (failed, client) = handshake(&tls_with(mutual_config(&LOCALHOST, required), client));
            assert_eq!(failed, expected.map(TlsError::AlertReceived), "{version:?}");
            let ended = expected.map(|_| ());
            assert_eq!(client.is_closed().then_some(()), ended);
            assert_eq!(client.stats().handshakes_failed, u64::from(expected.is_some()));
            let called = client.transcript();
            assert_eq!(called, if expected.is_none() { vec!["setup"] } else { vec![] });
        }
        // The client does not accept the server's.
        for identity in [identity("example.org", |_| {}), stranger("localhost")] {
            let (failed, client) = handshake(&tls_with(server_config(&identity), anonymous.clone()));
            assert!(matches!(failed, Some(TlsError::InvalidCertificate(_))), "{failed:?}");
            assert_eq!((client.is_closed(), client.transcript()), (true, vec![]));
        }
    }
}

#[test]
fn no_common_protocol_is_an_alert() {
    let mut server = server_config(&LOCALHOST);
    server.alpn_protocols = vec![b"echo".to_vec()];
    let mut client = (*client_config(&VERSIONS)).clone();
    client.alpn_protocols = vec![b"other".to_vec()];
    let (failed, client) = handshake(&tls_with(server, Arc::new(client)));
    assert_eq!(failed, Some(TlsError::AlertReceived(AlertDescription::NoApplicationProtocol)));
    assert!(client.is_closed());
}

#[test]
fn no_common_version_is_an_alert() {
    let server = ServerConfig::builder_with_protocol_versions(&[&TLS13]).with_no_client_auth();
    let server = server.with_single_cert(LOCALHOST.chain.clone(), LOCALHOST.key()).unwrap();
    let (failed, client) = handshake(&tls_with(server, client_config(&[&TLS12])));
    assert_eq!(failed, Some(TlsError::AlertReceived(AlertDescription::ProtocolVersion)));
    assert!(client.is_closed());
}

#[test]
fn an_unknown_server_name_is_an_alert() {
    let mut names = rustls::server::ResolvesServerCertUsingSni::new();
    let key = rustls::crypto::ring::sign::any_supported_type(&LOCALHOST.key()).unwrap();
    names.add("localhost", rustls::sign::CertifiedKey::new(LOCALHOST.chain.clone(), key)).unwrap();
    let server = ServerConfig::builder().with_no_client_auth().with_cert_resolver(Arc::new(names));
    let acceptor = TlsAcceptor::new(Arc::new(server));
    for (name, known) in [("localhost", true), ("example.org", false)] {
        let tls = Tls::new(&acceptor, client_config(&VERSIONS), name).unwrap();
        let (failed, client) = handshake(&tls);
        assert_eq!(failed.is_none(), known, "{failed:?}");
        assert_eq!(client.stats().handshakes_completed, u64::from(known));
    }
}

#[test]
fn early_data_is_refused_unless_it_is_chosen() {
    let mut server = ServerConfig::builder_with_protocol_versions(&[&TLS13])
        .with_no_client_auth()
        .with_single_cert(LOCALHOST.chain.clone(), LOCALHOST.key())
        .unwrap();
    for chosen in [false, true] {
        let mut client = (*client_config(&[&TLS13])).clone();
        client.enable_early_data = true;
        // The client may believe that it is allowed.
        server.max_early_data_size = 1_000;
        let allowing = TlsAcceptor::new(Arc::new(server.clone()));
        let tls = Tls::new(&allowing, Arc::new(client), "localhost").unwrap();
        let mut first = Client::new_tls(echoing(), &tls);
        first.feed(b"first");
        assert_eq!(first.sent(), b"first");
        server.max_early_data_size = if chosen { 1_000 } else { 0 };
        let (mut network, server, _) = network_of(TlsAcceptor::new(Arc::new(server.clone())), Limits::default());
        let second = tls.peer(&network.connect(server));
        assert!(second.send_early(b"early"));
        settle(&mut network, &[&second]);
        second.send(b" and late");
        settle(&mut network, &[&second]);
        assert_eq!(second.received(), if chosen { &b"early and late"[..] } else { b" and late" });
        assert_eq!(network.stats().handshakes_resumed, 1);
    }
}

/// The records of a first flight, split.
fn in_small_records(wire: &[u8], size: usize) -> Vec<u8> {
    let length = usize::from(u16::from_be_bytes([wire[3], wire[4]]));
    let mut records = Vec::new();
    for part in wire[5..5 + length].chunks(size) {
        records.extend_from_slice(&wire[..3]);
        records.extend_from_slice(&(part.len() as u16).to_be_bytes());
        records.extend_from_slice(part);
    }
    records
}

fn hello() -> Vec<u8> {
    let name = "localhost".try_into().unwrap();
    let mut client = rustls::ClientConnection::new(client_config(&VERSIONS), name).unwrap();
    let mut wire = Vec::new();
    client.write_tls(&mut wire).unwrap();
    wire
}

#[test]
fn half_a_hello_record_and_then_an_end_from_our_side_does_not_panic() {
    let hello = in_small_records(&hello(), 64);
    for cut in [1, 5, 6, 69, 100, 138, hello.len() - 1] {
        for end in ["timeout", "stop", "reset", "eof", "evicted"] {
            let (mut network, server, journal) = network(Limits::default());
            let peer = network.connect(server);
            peer.send(&hello[..cut]);
            network.run();
            match end {
                "timeout" => network.advance(Duration::from_secs(10)),
                "stop" => {
                    network.handle().shutdown_handle().shutdown();
                    network.run();
                    network.advance(Duration::from_millis(500));
                }
                "reset" => peer.send_reset(),
                "eof" => peer.send_eof(),
                _ => network.handle().send_to_server(server, &b""[..]).unwrap(),
            }
            network.run();
            assert!(peer.is_closed(), "{end} after {cut} bytes: {:?}", journal.lines());
            let expected = match end {
                "timeout" => "close_request handshake timeout",
                "stop" => "close_request stopped",
                "evicted" => "close_request evicted",
                _ => "close_request handshake failed",
            };
            assert_eq!(journal.count(expected), 1, "{end}: {:?}", journal.lines());
            assert_eq!(network.stats().panics, 0);
        }
    }
}

#[test]
fn a_hello_may_come_in_small_records_and_single_bytes() {
    for (size, piece) in [(64, usize::MAX), (64, 1), (1, 1), (1, 6)] {
        let (mut network, server, journal) = network(Limits::default());
        let peer = network.connect(server);
        for piece in in_small_records(&hello(), size).chunks(piece) {
            peer.send(piece);
            network.run();
        }
        assert!(peer.take_received().len() > 500, "the server has not answered: {:?}", journal.lines());
    }
}

#[test]
fn plain_http_on_the_tls_port_gets_one_alert_and_fin() {
    for garbage in [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0; 300], &[0x16, 3, 1, 0, 4, 99, 0, 0, 0]] {
        let (mut network, server, journal) = network(Limits::default());
        let peer = network.connect(server);
        peer.send(garbage);
        network.run();
        peer.send(garbage);
        network.run();
        let sent = peer.take_received();
        assert_eq!((sent.len(), sent[0], sent[5]), (7, 21, 2), "{sent:?}");
        assert!(peer.is_closed());
        assert_eq!(journal.count("handshake_failed cannot complete the TLS handshake: "), 1);
        assert_eq!(journal.count("close_request handshake failed"), 1);
        assert_eq!(journal.count("verify_request"), 1);
        assert_eq!(network.stats().handshakes_failed, 1);
    }
}

#[test]
fn a_hello_in_one_byte_records_is_bounded() {
    let (mut network, server, journal) = network(Limits::default());
    let peer = network.connect(server);
    let mut hello = vec![0x16, 3, 1, 0, 4, 1, 0, 0xfd, 0xe8];
    hello.extend([0x16, 3, 1, 0, 1, 0].repeat(65_000));
    for piece in hello.chunks(10_000) {
        peer.send(piece);
        network.run();
        if peer.is_closed() {
            break;
        }
    }
    assert!(peer.is_closed());
    assert_eq!(journal.count("handshake_failed cannot complete the TLS handshake: a message is too long"), 1);
}

#[test]
fn after_close_notify_garbage_is_not_carried_and_the_answer_is_not_lost() {
    let late = || {
        probe(|call, request: &mut Request<'_, Wrapping>| match call {
            Call::Eof => {
                request.set_timer(1, Duration::from_secs(1));
                Ok(Next::Wait)
            }
            Call::Timer(_) => {
                request.output.write_all(&[b'a'; 100_000])?;
                Ok(Next::Close)
            }
            call => usual(&call, request),
        })
    };
    for garbage_first in [true, false] {
        let (mut network, server, journal) = network_with(acceptor(), Limits::default(), move |_, _| late());
        let peer = network.connect(server);
        let end = tls().peer(&peer);
        settle(&mut network, &[&end]);
        end.send(b"question");
        end.send_close_notify();
        if garbage_first {
            peer.send(&[0xff; 5_000]);
        }
        settle(&mut network, &[&end]);
        if !garbage_first {
            peer.send(&[0xff; 5_000]);
            settle(&mut network, &[&end]);
        }
        network.advance(Duration::from_secs(1));
        settle(&mut network, &[&end]);
        assert!(end.received() == [b'a'; 100_000] && end.is_closed());
        assert!(!peer.is_reset(), "the answer could be lost");
        assert_eq!(journal.count("close_request done"), 1, "{:?}", journal.lines());
        peer.send_eof();
        network.run();
        assert!(peer.is_socket_closed());
    }
}

#[test]
fn a_close_notify_that_comes_after_our_close_does_not_destroy_the_answer() {
    let closing = || {
        probe(|call, request: &mut Request<'_, Wrapping>| match call {
            Call::Handle => {
                request.input.take_all();
                request.output.write_all(&[b'a'; 100_000])?;
                Ok(Next::Close)
            }
            call => usual(&call, request),
        })
    };
    let (mut network, server, _) = network_with(acceptor(), Limits::default(), move |_, _| closing());
    let peer = network.connect(server);
    let end = tls().peer(&peer);
    settle(&mut network, &[&end]);
    end.send(b"question");
    settle(&mut network, &[&end]);
    assert!(end.is_closed() && !peer.is_socket_closed(), "the system would answer a record with a reset");
    end.send_close_notify();
    settle(&mut network, &[&end]);
    assert!(end.received() == [b'a'; 100_000] && !peer.is_reset());
    peer.send_eof();
    network.run();
    assert!(peer.is_socket_closed());
}

#[test]
fn half_a_line_and_fin_without_close_notify_is_not_a_last_line() {
    let lines = || {
        probe(|call, request: &mut Request<'_>| {
            if matches!(call, Call::Handle) {
                while let Some(line) = request.input.read_line()? {
                    request.output.write_all(line)?;
                }
                return Ok(Next::Wait);
            }
            usual(&call, request)
        })
    };
    let mut client = Client::new_tls(lines(), &tls());
    client.feed(b"whole\nhalf");
    client.feed_truncation();
    assert_eq!(client.sent(), b"whole\n");
    assert_eq!((client.finished(), client.stats().tls_truncated), (Some(EndReason::Truncated), 1));
    assert_eq!(client.transcript(), ["setup", "handle 10", "finish truncated"]);
    assert!(client.tls().unwrap().is_closed() && !client.is_reset());

    // Unless the server allows it.
    let lenient = Tls::new(&acceptor().suppress_ragged_eofs(true), client_config(&VERSIONS), "localhost").unwrap();
    let mut client = Client::new_tls(lines(), &lenient);
    client.feed(b"whole\nhalf");
    client.feed_truncation();
    assert_eq!(client.sent(), b"whole\nhalf");
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));
}

#[test]
fn key_updates_before_each_answer_keep_the_order() {
    let (mut network, server, _) = network(Limits::default());
    let peer = network.connect(server);
    let end = tls().peer(&peer);
    settle(&mut network, &[&end]);
    for round in 0..100u32 {
        end.refresh_keys();
        if round % 3 == 0 {
            settle(&mut network, &[&end]); // On its own.
        }
        end.send(&round.to_be_bytes());
        settle(&mut network, &[&end]);
        assert_eq!(end.take_received(), round.to_be_bytes());
        assert_eq!(end.failed(), None);
    }
}

#[test]
fn a_crowd_that_stops_after_its_hello_is_closed_in_time_and_delays_no_other() {
    let (mut network, server, journal) = network(Limits::default());
    let first = network.connect(server);
    let established = tls().peer(&first);
    settle(&mut network, &[&established]);
    let hello = hello();
    let crowd: Vec<_> = (0..2_000).map(|_| network.connect(server)).collect();
    network.turn();
    crowd.iter().for_each(|peer| peer.send(&hello));
    established.send(b"echo");
    for turn in 1.. {
        let before = answered(&crowd);
        network.turn();
        let had = answered(&crowd) - before;
        assert!(had <= 16, "{had} handshakes in a turn");
        established.exchange();
        if established.take_received() == b"echo" {
            assert!(turn < 70, "the echo took {turn} turns"); // The crowd is accepted 32 at a time.
            break;
        }
    }
    network.run();
    assert_eq!(answered(&crowd), 2_000);
    assert_eq!(network.stats().active, 2_001);
    network.advance(Duration::from_secs(9));
    crowd.iter().for_each(|peer| peer.send(&[22])); // Bytes do not extend it.
    network.run();
    network.advance(Duration::from_secs(1));
    network.run();
    assert!(crowd.iter().all(|peer| peer.is_closed()));
    let stats = network.stats();
    assert_eq!((stats.handshakes_timed_out, stats.handshakes_failed, stats.handshakes_completed), (2_000, 0, 1));
    assert_eq!(journal.count("close_request handshake timeout"), 2_000);
    established.send(b"still there");
    settle(&mut network, &[&established]);
    assert_eq!(established.take_received(), b"still there");
}

/// Returns how many of them have received an answer. Takes nothing.
fn answered(crowd: &[socketserver::testing::Peer]) -> usize {
    crowd.iter().filter(|peer| peer.has_received()).count()
}

#[test]
fn every_step_of_the_handshake_may_be_the_last() {
    for version in VERSIONS {
        let tls = Tls::new(&acceptor(), client_config(&[version]), "localhost").unwrap();
        for steps in 0..3 {
            for end in ["timeout", "stop", "reset", "eof", "evicted"] {
                let (mut network, server, journal) = network(Limits::default());
                let peer = network.connect(server);
                let client = tls.peer(&peer);
                network.run();
                for _ in 0..steps {
                    client.exchange();
                    network.run();
                }
                let complete = network.stats().handshakes_completed == 1;
                match end {
                    "timeout" => network.advance(Duration::from_secs(10)),
                    "stop" => {
                        network.shutdown_handle().shutdown();
                        network.run();
                        network.advance(Duration::from_millis(500));
                    }
                    "reset" => peer.send_reset(),
                    "eof" => peer.send_eof(),
                    _ => network.handle().send_to_server(server, &b""[..]).unwrap(),
                }
                network.run();
                assert_eq!(network.stats().panics, 0);
                if end != "timeout" || !complete {
                    assert!(peer.is_closed(), "{end} after {steps} steps of {version:?}: {:?}", journal.lines());
                    assert_eq!(journal.count("close_request"), 1, "{end} {steps}");
                }
                assert_eq!(network.stats().handshakes_timed_out, u64::from(end == "timeout" && !complete));
            }
        }
    }
}

#[test]
fn an_incomplete_record_has_the_read_timeout_and_key_updates_are_no_activity() {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(Duration::from_secs(600));
    let (mut network, server, journal) = network(limits.clone());
    let peer = network.connect(server);
    let end = tls().peer(&peer);
    settle(&mut network, &[&end]);
    peer.send(&[23, 3, 3]);
    network.run();
    network.advance(Duration::from_secs(59));
    peer.send(&[0]); // It is still the same record.
    network.run();
    assert!(!peer.is_closed());
    network.advance(Duration::from_secs(1));
    network.run();
    assert_eq!(journal.count("close_request read timeout"), 1, "{:?}", journal.lines());

    let (mut network, server, journal) = self::network(limits);
    let end = tls().peer(&network.connect(server));
    settle(&mut network, &[&end]);
    for _ in 0..3 {
        network.advance(Duration::from_secs(200));
        end.refresh_keys();
        settle(&mut network, &[&end]);
    }
    assert_eq!(journal.count("close_request idle timeout"), 1, "{:?}", journal.lines());
}

#[test]
fn a_client_that_never_reads_costs_its_queue_and_64_kib() {
    let mut limits = Limits::default();
    limits.output_bytes_max = 1024 * 1024;
    let (mut network, server, journal) = network(limits);
    let peer = network.connect(server);
    let end = tls().peer(&peer);
    settle(&mut network, &[&end]);
    peer.set_window(0);
    static MUCH: [u8; 100_000] = [b'.'; 100_000];
    // Plaintext is counted, and exactly so many messages fit.
    for sent in 1..=10 {
        network.handle().send_to_server(server, &MUCH[..]).unwrap();
        network.run();
        assert_eq!(journal.count("close_request"), 0, "after {sent}");
    }
    network.handle().send_to_server(server, &MUCH[..]).unwrap();
    network.run();
    assert_eq!(journal.count("close_request output limit"), 1);
}

#[test]
fn a_broadcast_reaches_plain_and_tls_clients_alike() {
    let journal = Journal::new();
    let mut network = Network::new();
    struct Every(u32, Wrapping);
    impl BaseServer for Every {
        fn get_request(&mut self, listener: &mut Listener) -> std::io::Result<(Stream, Address)> {
            self.0 += 1;
            if self.0.is_multiple_of(2) { listener.accept() } else { self.1.get_request(listener) }
        }
        fn message(&mut self, others: &mut Others<'_, Self>, _: Message) {
            assert_eq!(others.broadcast(&b"news"[..], |_| true), 4);
        }
    }
    let value = Every(0, Wrapping { acceptor: acceptor(), journal, is_plain: false });
    let server = network.serve(value, |_, _| echoing(), Limits::default()).unwrap();
    let peers: Vec<_> = (0..4).map(|_| network.connect(server)).collect();
    let secured = [tls().peer(&peers[0]), tls().peer(&peers[2])];
    settle(&mut network, &secured.iter().collect::<Vec<_>>());
    network.handle().send_to_server(server, ()).unwrap();
    settle(&mut network, &secured.iter().collect::<Vec<_>>());
    assert!(secured.iter().all(|peer| peer.received() == b"news"));
    assert!([&peers[1], &peers[3]].iter().all(|peer| peer.take_received() == b"news"));
}

#[test]
fn directions_end_one_by_one() {
    // Ours first: the client can go on.
    let mut client = Client::new_tls(
        probe(|call, request| {
            if let Call::Setup = call {
                request.output.write_all(b"all I say")?;
                request.shutdown_write();
            }
            usual(&call, request)
        }),
        &tls(),
    );
    assert!(client.tls().unwrap().is_closed());
    assert_eq!(client.sent(), b"all I say");
    client.feed(b"and more");
    client.feed_eof();
    assert_eq!(client.transcript()[..2], ["setup", "handle 8"]);
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));

    // The client's first: the handler can go on.
    let mut client = Client::new_tls(
        probe(|call, request| match call {
            Call::Eof => {
                request.output.write_all(b"the answer")?;
                Ok(Next::Close)
            }
            call => usual(&call, request),
        }),
        &tls(),
    );
    client.feed(b"the question");
    client.feed_eof();
    assert_eq!(client.sent(), b"the answer");
    assert!(client.tls().unwrap().is_closed());
}

#[test]
fn an_abort_is_a_reset_without_close_notify() {
    let mut client = Client::new_tls(
        probe(|call, request| match call {
            Call::Handle => {
                request.input.take_all();
                request.output.write_all(b"never sent")?;
                Ok(Next::Abort)
            }
            call => usual(&call, request),
        }),
        &tls(),
    );
    client.feed(b"go");
    assert!(client.is_reset() && !client.tls().unwrap().is_closed());
    assert_eq!(client.finished(), Some(EndReason::Done));
}

#[test]
fn our_end_waits_for_a_slow_client_and_the_write_timeout_limits_it() {
    let closing = |read: bool| {
        let mut client = Client::new_tls(
            probe(|call, request| match call {
                Call::Handle => {
                    request.input.take_all();
                    request.output.write_all(&[b'x'; 50_000])?;
                    Ok(Next::Close)
                }
                call => usual(&call, request),
            }),
            &tls(),
        );
        client.set_window(1_000);
        client.feed(b"go");
        assert!(!client.is_closed());
        if read {
            client.set_window(usize::MAX);
            assert_eq!(client.sent().len(), 50_000);
            assert!(client.tls().unwrap().is_closed() && client.is_closed());
            assert_eq!(client.finished(), Some(EndReason::Done));
        } else {
            client.advance(Duration::from_secs(60));
            assert!(client.is_reset());
            assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Write)));
        }
    };
    closing(true);
    closing(false);
}

#[test]
fn the_end_of_tls_alone_waits_for_a_slow_client() {
    for takes_it in [true, false] {
        let mut client = Client::new_tls(
            probe(|call, request| match call {
                Call::Handle => Ok(Next::Close),
                call => usual(&call, request),
            }),
            &tls(),
        );
        client.set_window(0);
        client.feed(b"go");
        assert!(!client.is_closed());
        match takes_it {
            true => client.set_window(usize::MAX),
            false => client.advance(Duration::from_secs(60)),
        }
        assert_eq!(client.tls().unwrap().is_closed(), takes_it);
        assert!(client.is_closed());
        assert_eq!(client.is_reset(), !takes_it);
        assert_eq!(client.finished(), Some(EndReason::Done));
    }
}

#[test]
fn a_changed_record_ends_the_connection_with_one_alert() {
    let handler = probe(|call, request| {
        if let Call::Finish(_) = call {
            let _ = request.output.write_all(b"goodbye"); // It cannot be sent, and must not prevent the alert.
        }
        echo(&call, request)
    });
    let mut client = Client::new_tls(handler, &tls());
    client.feed(b"good");
    client.feed_wire(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
    assert_eq!(client.sent(), b"good");
    assert_eq!(client.finished(), Some(EndReason::TlsFailed));
    assert_eq!(client.tls().unwrap().failed(), Some(TlsError::AlertReceived(AlertDescription::BadRecordMac)));
}

#[test]
fn a_connection_that_was_paused_and_resumed_may_start_tls() {
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call
                && request.tls().is_none()
            {
                request.input.take_all();
                request.pause_reading();
                request.resume_reading();
                request.start_tls(&acceptor())?;
                return Ok(Next::Wait);
            }
            echo(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let wire = network.connect(server);
    wire.send(b"STARTTLS");
    network.run();
    let peer = tls().peer(&wire);
    settle(&mut network, &[&peer]);
    peer.send(b"hello");
    settle(&mut network, &[&peer]);
    assert_eq!(peer.received(), b"hello");
}

#[test]
fn a_test_may_feed_a_client_whose_tls_has_failed() {
    let mut client = Client::new_tls(echoing(), &tls());
    client.feed_wire(&[1; 100]);
    client.feed(b"hello");
    assert!(client.tls().unwrap().failed().is_some() && client.is_closed());
    assert_eq!(client.sent(), b"");
}

#[test]
fn a_test_over_tls_is_shown_what_it_has_not_taken_as_without() {
    for mut client in [Client::new(echoing()), Client::new_tls(echoing(), &tls())] {
        client.feed(b"one");
        assert_eq!((client.sent(), client.take_sent()), (b"one".to_vec(), b"one".to_vec()));
        client.feed(b"two");
        assert_eq!((client.sent(), client.take_sent()), (b"two".to_vec(), b"two".to_vec()));
    }
}

#[test]
fn a_record_that_is_arriving_when_a_stop_comes_is_served() {
    let (mut network, server, journal) = network(Limits::default());
    let wire = network.connect(server);
    let peer = tls().peer(&wire);
    settle(&mut network, &[&peer]);
    network.run_for(Duration::from_secs(10));
    // The first bytes of the record come, and the rest some turns after the stop.
    let (mut reads, mut waits) = (0, 0);
    network.on_call(move |call, _| {
        reads += usize::from(call == SystemCall::Read);
        waits += usize::from(call == SystemCall::Wait);
        match (call, reads, waits) {
            (SystemCall::Read, 1, _) => Outcome::AtMost(10),
            (SystemCall::Wait, _, 2 | 3) => Outcome::WouldBlock,
            _ => Outcome::Proceed,
        }
    });
    peer.send(b"hello");
    network.turn();
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(2));
    peer.exchange();
    assert!(peer.received() == b"hello" && peer.is_closed());
    wire.send_eof();
    network.run();
    assert!(network.is_stopped());
    assert_eq!(journal.count("close_request stopped"), 1);
}

#[test]
fn tiny_records_do_not_dominate_a_turn() {
    let (mut network, server, _) = network(Limits::default());
    let (busy, calm) = (network.connect(server), network.connect(server));
    let (busy, calm) = (tls().peer(&busy), tls().peer(&calm));
    settle(&mut network, &[&busy, &calm]);
    for _ in 0..5_000 {
        busy.send(b".");
    }
    calm.send(b"hello");
    let mut turns = 0;
    while network.turn() {
        turns += 1;
        calm.exchange();
    }
    assert_eq!(calm.received(), b"hello");
    assert!(turns > 5, "5,000 records were opened in {turns} turns");
    settle(&mut network, &[&busy]);
    assert_eq!(busy.received().len(), 5_000);
}

#[test]
fn a_replaced_certificate_applies_to_new_connections() {
    let acceptor = TlsAcceptor::new(Arc::new(server_config(&identity("old.example", |_| {}))));
    let (mut network, server, _) = network_of(acceptor.clone(), Limits::default());
    let names = |name| Tls::new(&acceptor, client_config(&VERSIONS), name).unwrap();
    let old = names("old.example").peer(&network.connect(server));
    settle(&mut network, &[&old]);
    assert!(old.is_established());
    acceptor.replace(Arc::new(server_config(&identity("new.example", |_| {}))));
    let new = names("new.example").peer(&network.connect(server));
    let outdated = names("old.example").peer(&network.connect(server));
    settle(&mut network, &[&new, &outdated]);
    assert!(new.is_established() && outdated.failed().is_some());
    old.send(b"still there");
    settle(&mut network, &[&old]);
    assert_eq!(old.received(), b"still there");
}

/// SMTP in a few words.
fn starttls() -> impl RequestHandler<Wrapping> {
    probe(|call, request: &mut Request<'_, Wrapping>| match call {
        Call::Setup => {
            request.output.write_all(b"220 hello\r\n")?;
            Ok(Next::Wait)
        }
        Call::Handle => {
            while let Some(line) = request.input.read_line()? {
                if line == b"STARTTLS\r\n" {
                    request.output.write_all(b"220 go ahead\r\n")?;
                    let acceptor = request.server.acceptor.clone();
                    request.start_tls(&acceptor)?;
                    request.output.write_all(b"secret\r\n")?;
                    return Ok(Next::Wait);
                }
                let line = line.to_vec();
                request.output.write_all(&line)?;
            }
            Ok(Next::Wait)
        }
        call => usual(&call, request),
    })
}

/// A network whose connections are plain until their handler starts TLS.
fn plain_network() -> (Network, ServerId, Journal) {
    let (mut network, _, _) = network(Limits::default());
    let journal = Journal::new();
    let value = Wrapping { journal: journal.clone(), ..Wrapping::default() };
    let server = network.serve(value, |_, _| starttls(), Limits::default()).unwrap();
    (network, server, journal)
}

#[test]
fn starttls_sends_what_was_before_it_in_the_clear_and_the_rest_under_tls() {
    for window in [usize::MAX, 5] {
        let (mut network, server, journal) = plain_network();
        let peer = network.connect(server);
        network.run();
        assert_eq!(peer.take_received(), b"220 hello\r\n");
        peer.send(b"NOOP\r\n");
        network.run();
        assert_eq!(peer.take_received(), b"NOOP\r\n");
        peer.set_window(window);
        peer.send(b"STARTTLS\r\n");
        network.run();
        let mut clear = peer.take_received();
        assert_eq!(clear, &b"220 go ahead\r\n"[..window.min(14)]);
        let end = tls().peer(&peer);
        network.handle().send_to_server(server, &b"news\r\n"[..]).unwrap();
        if window == 5 {
            // A client that does not wait: its hello must not be answered before that.
            let hello = hello();
            peer.send(&hello[..100]);
            network.run();
            peer.set_window(usize::MAX);
            network.run();
            clear.extend(peer.take_received());
            assert_eq!(clear, b"220 go ahead\r\n");
            continue;
        }
        settle(&mut network, &[&end]);
        assert!(end.is_established(), "{:?}", journal.lines());
        assert_eq!(end.take_received(), b"secret\r\nnews\r\n");
        end.send(b"NOOP\r\n");
        settle(&mut network, &[&end]);
        assert_eq!(end.take_received(), b"NOOP\r\n");
    }
}

#[test]
fn a_callback_that_starts_tls_and_ends_the_connection_sends_nothing_more_in_the_clear() {
    for (in_setup, size) in [(false, 1), (false, 1 << 20), (true, 1), (true, 1 << 20)] {
        for how in ["close", "method", "error", "panic"] {
            for window in [usize::MAX, 5] {
                let (mut network, _, _) = network(Limits::default());
                let value = Wrapping { acceptor: acceptor(), journal: Journal::new(), is_plain: true };
                let handler = move |_: &mut Wrapping, _: &Address| {
                    probe(move |call, request: &mut Request<'_, Wrapping>| {
                        let is_now = if in_setup { matches!(call, Call::Setup) } else { matches!(call, Call::Handle) };
                        if !is_now {
                            return usual(&call, request);
                        }
                        request.input.take_all();
                        request.output.write_all(b"220 go ahead\r\n")?;
                        let acceptor = request.server.acceptor.clone();
                        request.start_tls(&acceptor)?;
                        request.output.write_all(&b"secret".repeat(size))?;
                        match how {
                            "close" => return Ok(Next::Close),
                            "method" => request.close(),
                            "error" => return Err("it has failed".into()),
                            _ => panic!("expected by this test"),
                        }
                        Ok(Next::Wait)
                    })
                };
                let server = network.serve(value, handler, Limits::default()).unwrap();
                let peer = network.connect(server);
                peer.set_window(window);
                peer.send(b"STARTTLS\r\n");
                network.run();
                peer.send(&hello());
                network.run();
                peer.set_window(usize::MAX);
                network.run();
                let case = format!("in setup: {in_setup}, {how}, {size}, {window}");
                let received = peer.take_received();
                // A panic is a reset, which drops the rest.
                assert!(
                    received == b"220 go ahead\r\n" || how == "panic" && b"220 go".starts_with(&received[..5]),
                    "{case}"
                );
                assert!(received.len() <= 14 && peer.is_closed(), "{case}: {received:?}");
            }
        }
    }
}

#[test]
fn much_output_from_before_tls_is_sent_first_even_while_the_server_stops() {
    const MUCH: usize = 4 << 20;
    for stops in [false, true] {
        let (mut network, _, _) = network(Limits::default());
        let value = Wrapping { acceptor: acceptor(), journal: Journal::new(), is_plain: true };
        let handler = |_: &mut Wrapping, _: &Address| {
            probe(|call, request: &mut Request<'_, Wrapping>| match call {
                Call::Handle if request.tls().is_none() => {
                    request.input.take_all();
                    request.output.write_all(&vec![b'p'; MUCH])?;
                    let acceptor = request.server.acceptor.clone();
                    request.start_tls(&acceptor)?;
                    request.output.write_all(b"secret")?;
                    Ok(Next::Wait)
                }
                call => usual(&call, request),
            })
        };
        let server = network.serve(value, handler, Limits::default()).unwrap();
        let peer = network.connect(server);
        peer.set_window(1_000);
        peer.send(b"STARTTLS\r\n");
        network.run();
        if stops {
            network.shutdown_handle().shutdown();
            network.advance(Duration::from_secs(2));
        }
        let mut clear = peer.take_received().len();
        for _ in 0..100 {
            peer.set_window(100_000);
            network.run();
            clear += peer.take_received().len();
        }
        assert_eq!(clear, MUCH, "{stops}");
        peer.set_window(usize::MAX);
        let end = tls().peer(&peer);
        settle(&mut network, &[&end]);
        assert_eq!(end.received(), b"secret", "{stops}");
    }
}

#[test]
fn input_that_was_sent_before_tls_is_refused() {
    let (mut network, server, journal) = plain_network();
    let peer = network.connect(server);
    peer.send(b"STARTTLS\r\nRCPT TO:<victim>\r\n");
    network.run();
    assert!(peer.is_closed());
    assert_eq!(journal.lines(), ["verify_request", "close_request TLS failed"], "it is no error of the handler");
    assert_eq!((network.stats().handshakes, network.stats().tls_failed), (0, 1));
}

#[test]
fn what_fails_is_logged_in_plain_words_with_both_addresses() {
    if !collects("tls::what_fails_is_logged_in_plain_words_with_both_addresses") {
        return;
    }
    /// The lines about a client that does something else than a handshake.
    fn lines_of(act: fn(&mut Network, &Peer)) -> Vec<String> {
        let (mut network, server, _) = network(Limits::default());
        let peer = network.connect(server);
        act(&mut network, &peer);
        network.run();
        lines()
    }
    fn lines() -> Vec<String> {
        let all = logged("").into_iter().filter(|line| !line.starts_with("INFO "));
        let client = |line: String| line.replace("198.18.0.0:32768", "CLIENT").replace("192.0.2.2:50000", "CLIENT");
        all.map(client).map(|line| line.strip_prefix("DEBUG ").map_or(line.clone(), str::to_owned)).collect()
    }
    let failed = |after: &str| {
        [
            format!("CLIENT at 192.0.2.1:9999: the TLS handshake failed: {after}"),
            "CLIENT is closed: handshake failed".into(),
        ]
    };

    let http = "the peer sends something else than TLS, perhaps plain HTTP";
    let words = format!("{http}: received corrupt message of type InvalidContentType");
    assert_eq!(lines_of(|_, peer| peer.send(b"GET / HTTP/1.1\r\n\r\n")), failed(&words));
    let begins_and_leaves = |_: &mut Network, peer: &Peer| {
        peer.send(&hello()[..50]);
        peer.send_eof();
    };
    assert_eq!(lines_of(begins_and_leaves), failed("the peer has closed the connection"));
    let begins_and_waits = |network: &mut Network, peer: &Peer| {
        peer.send(&hello()[..50]);
        network.run();
        network.advance(Duration::from_secs(10));
    };
    let late = "CLIENT at 192.0.2.1:9999: the TLS handshake failed: it has taken longer than handshake_timeout = 10s";
    let end = "CLIENT is closed: handshake timeout (handshake_timeout = 10s)";
    assert_eq!(lines_of(begins_and_waits), [late, end]);
    assert_eq!(lines_of(|_, peer| peer.send_eof()), ["CLIENT is closed: peer closed"]);

    let (mut server, mut client) = (server_config(&LOCALHOST), ClientConfig::clone(&client_config(&VERSIONS)));
    server.alpn_protocols = vec![b"one".to_vec()];
    client.alpn_protocols = vec![b"two".to_vec()];
    let _ = Client::new_tls(echoing(), &tls_with(server, Arc::new(client)));
    let words = "the two ends have no ALPN protocol in common: peer doesn't support any known protocol";
    assert_eq!(lines(), failed(words));

    let mut client = Client::new_tls(echoing(), &tls());
    client.feed_wire(&[23, 3, 3, 0, 20, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20]);
    let words = "a record was changed on its way, or has another key: cannot decrypt peer's message";
    let line = format!("CLIENT at 192.0.2.1:9999: TLS failed: {words}");
    assert_eq!(lines(), [&line, "CLIENT is closed: TLS failed"]);

    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.start_tls(&acceptor())?;
        }
        usual(&call, request)
    }));
    client.feed(b"STARTTLS\r\nRCPT TO:<victim>\r\n");
    let line = "CLIENT at 192.0.2.1:9999: cannot start TLS: the peer has sent more before TLS";
    assert_eq!(lines(), [line, "CLIENT is closed: TLS failed"], "nothing at level `Error`");

    let (mut network, server, _) = network(Limits::default());
    let wire = [network.connect(server), network.connect(server)];
    let peer = tls().peer(&wire[0]);
    settle(&mut network, &[&peer]);
    lines();
    network.shutdown_handle().shutdown();
    network.run();
    assert_eq!(logged("INFO "), ["stopping, connections to finish: 2, in their TLS handshake: 1"]);
}

#[test]
fn plaintext_that_comes_with_the_end_of_the_handshake_is_handled_and_counted_like_other_input() {
    for version in VERSIONS {
        let tls = Tls::new(&acceptor(), client_config(&[version]), "localhost").unwrap();
        let mut limits = Limits::default();
        (limits.input_bytes_max, limits.line_bytes_max, limits.frame_bytes_max) = (10, 10, 0);
        let (mut network, server, _) = network(limits);
        let peer = tls.peer(&network.connect(server));
        peer.send(&[b'e'; 5_000]); // It waits for the handshake, and arrives with the end of it.
        settle(&mut network, &[&peer]);
        assert_eq!(peer.received(), [b'e'; 5_000], "`handle` takes it, so it is not too much");
        assert_eq!(network.stats().bytes_in, 5_000);
    }
}

#[test]
fn a_connection_that_breaks_while_it_is_paused_owes_no_output() {
    let mut client = Client::new_tls(
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_all(&[b'a'; 50_000])?;
                request.pause_reading();
                return Ok(Next::Wait);
            }
            usual(&call, request)
        }),
        &tls(),
    );
    client.set_window(100);
    client.feed(b"question");
    client.feed_reset(); // Reading is paused, so only a write can find that out.
    assert_eq!((client.finished(), client.stats().active), (None, 1));
    client.advance(Duration::from_secs(601));
    assert_eq!(client.stats().active, 0);
}

#[test]
fn the_read_timeout_of_an_incomplete_record_stands_still_while_reading_is_paused() {
    let pausing = || {
        probe(|call, request: &mut Request<'_, Wrapping>| {
            match call {
                Call::Handle => {
                    request.input.take_all();
                    request.pause_reading();
                    request.set_timer(0, Duration::from_secs(50));
                }
                Call::Timer(_) => request.resume_reading(),
                _ => return usual(&call, request),
            }
            Ok(Next::Wait)
        })
    };
    let (mut network, server, journal) = network_with(acceptor(), Limits::default(), move |_, _| pausing());
    let peer = network.connect(server);
    let name = "localhost".try_into().unwrap();
    let mut session = rustls::ClientConnection::new(client_config(&VERSIONS), name).unwrap();
    let wire = |session: &mut rustls::ClientConnection| {
        let mut wire = Vec::new();
        while session.wants_write() {
            session.write_tls(&mut wire).unwrap();
        }
        wire
    };
    while session.is_handshaking() {
        peer.send(&wire(&mut session));
        network.run();
        let received = peer.take_received();
        session.read_tls(&mut &received[..]).unwrap();
        session.process_new_packets().unwrap();
    }
    peer.send(&wire(&mut session));
    network.run();
    session.writer().write_all(b"first").unwrap();
    let mut both = wire(&mut session);
    session.writer().write_all(b"second").unwrap();
    both.extend(&wire(&mut session)[..10]);
    peer.send(&both); // A whole record, and the beginning of another.
    network.run_for(Duration::from_secs(100));
    assert_eq!(journal.lines(), ["verify_request"], "reading was paused for 50 of 100 s, of which 60 are allowed");
    network.run_for(Duration::from_secs(11));
    assert_eq!(journal.lines(), ["verify_request", "close_request read timeout"]);
}

#[test]
fn a_client_that_leaves_before_its_first_byte_is_no_failed_handshake() {
    for resets in [false, true] {
        let (mut network, server, journal) = network(Limits::default());
        let peer = network.connect(server);
        network.run();
        if resets {
            peer.send_reset()
        } else {
            peer.send_eof()
        }
        network.run();
        let why = if resets { "reset" } else { "peer closed" };
        assert_eq!(journal.lines(), ["verify_request".to_owned(), format!("close_request {why}")]);
        let stats = network.stats();
        assert_eq!((stats.handshakes, stats.handshakes_failed, stats.handshakes_abandoned), (1, 0, 1));
        assert!(!peer.is_reset());
    }
}

#[test]
fn each_handshake_is_counted_as_what_became_of_it() {
    let (mut network, server, _) = network(Limits::default());
    let tls = tls();
    let peers: Vec<_> = (0..3).map(|_| tls.peer(&network.connect(server))).collect();
    let (done, begun) = (&peers[0], &peers[1]);
    settle(&mut network, &[done]);
    begun.exchange();
    network.run();
    let stats = network.stats();
    assert_eq!((stats.handshakes, stats.handshakes_completed, stats.handshakes_in_progress()), (3, 1, 2));
    network.shutdown_handle().shutdown();
    network.run_for(Duration::from_secs(20));
    let stats = network.stats();
    assert_eq!((stats.handshakes_abandoned, stats.handshakes_in_progress()), (2, 0));
}

#[test]
fn what_finish_writes_after_a_failed_handshake_does_not_hold_up_the_end() {
    for is_silent in [true, false] {
        let mut client = Client::new(probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => {
                    request.input.take_all();
                    request.start_tls(&acceptor())?;
                }
                Call::Finish(_) => {
                    let error = request.output.write_all(b"bye").unwrap_err();
                    assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
                }
                _ => {}
            }
            Ok(Next::Wait)
        }));
        client.feed(b"STARTTLS");
        match is_silent {
            true => client.advance(Duration::from_secs(10)),
            false => client.feed(b"no TLS at all"),
        }
        let why = if is_silent { EndReason::HandshakeTimeout } else { EndReason::HandshakeFailed };
        assert_eq!(client.finished(), Some(why));
        assert!(client.is_closed(), "it waits for output that cannot be sent");
        assert_eq!(client.stats().panics, 0);
    }
}

#[test]
fn a_failed_starttls_ends_the_connection_with_finish() {
    let (mut network, server, journal) = plain_network();
    let peer = network.connect(server);
    peer.send(b"STARTTLS\r\n");
    network.run();
    peer.send(b"EHLO me\r\n");
    network.run();
    assert_eq!(journal.count("close_request handshake failed"), 1);
    assert!(peer.is_closed());
}

#[derive(Default)]
struct Caller(Journal, Option<(TlsConnector, Address)>);

impl BaseServer for Caller {
    fn message(&mut self, others: &mut Others<'_, Self>, _: Message) {
        let (connector, address) = self.1.clone().expect("the test has set it");
        let journal = self.0.clone();
        let handler = probe(move |call, request: &mut Request<'_, Caller>| {
            match &call {
                Call::Setup => journal.note(format!("setup {:?}", request.tls().unwrap().server_name())),
                Call::Handle => journal.note(format!("handle {}", String::from_utf8_lossy(request.input.unread()))),
                Call::ConnectFailed(error) => journal.note(format!("connect_failed {error}")),
                Call::Finish(why) => journal.note(format!("finish {why}")),
                _ => {}
            }
            usual(&call, request)
        });
        let id = others.connect_tls(address, &connector, handler).unwrap();
        assert_eq!(others.send(id, b"early"), socketserver::Delivery::Queued);
    }
}

/// Has a server call an address under TLS.
fn call(
    config: Arc<ClientConfig>,
    name: &str,
    address: impl Into<Address>,
) -> (Journal, crate::common::Running<Caller>) {
    let journal = Journal::new();
    let value = Caller(journal.clone(), Some((TlsConnector::new(config, name).unwrap(), address.into())));
    let mut server = TcpServer::with_server("127.0.0.1:0", value, |_, _| echoing()).unwrap();
    crate::common::limit(&mut server, |limits| limits.handshake_timeout = Some(Duration::from_millis(300)));
    let running = serve(server);
    running.handle.send_to_server(running.id, ()).unwrap();
    (journal, running)
}

fn secure_echo() -> crate::common::Running<()> {
    let options = options(|options: &mut TcpOptions| options.tls = Some(acceptor()));
    let mut unbound = TcpServer::unbound(|_| echoing());
    unbound.server_bind_with("127.0.0.1:0", options).unwrap();
    serve(unbound.server_activate().unwrap())
}

#[test]
fn an_outbound_call_checks_the_name_and_output_waits_for_the_handshake() {
    for version in VERSIONS {
        let echo = secure_echo();
        let (journal, running) = call(client_config(&[version]), "localhost", echo.address);
        assert_eq!(journal.wait("setup"), "setup Some(\"localhost\")");
        journal.wait("handle early");
        let stats = running.stop();
        assert_eq!((stats.handshakes, stats.handshakes_completed), (1, 1));
    }
    let echo = secure_echo();
    let (journal, running) = call(client_config(&VERSIONS), "example.org", echo.address);
    let failed = journal.wait("connect_failed");
    assert!(failed.contains("not valid for name"), "{failed}");
    let stats = running.stop();
    assert_eq!((stats.handshakes_failed, stats.connects_failed), (1, 1));
    assert_eq!(journal.count("finish"), 0);
}

#[test]
fn an_outbound_call_to_a_silent_server_times_out() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (journal, running) = call(client_config(&VERSIONS), "localhost", silent.local_addr().unwrap());
    let failed = journal.wait("connect_failed");
    assert!(failed.contains("it has taken longer than handshake_timeout = 300ms"), "{failed}");
    assert_eq!(running.stop().handshakes_timed_out, 1);
}

/// Calls a mail server, and starts TLS there.
#[derive(Default)]
struct Mailer(Journal, Option<(TlsConnector, Address)>);

impl BaseServer for Mailer {
    fn message(&mut self, others: &mut Others<'_, Self>, _: Message) {
        let (connector, address) = self.1.clone().expect("the test has set it");
        let journal = self.0.clone();
        let handler = probe(move |call, request: &mut Request<'_, Mailer>| match &call {
            Call::Handle => {
                while let Some(line) = request.input.read_line()? {
                    let line = String::from_utf8_lossy(line).trim_end().to_owned();
                    let how = if request.tls().is_some() { "secret" } else { "clear" };
                    journal.note(format!("{how}: {line}"));
                    match line.as_str() {
                        "220 hello" => request.output.write_all(b"STARTTLS\r\n")?,
                        "220 go ahead" => {
                            request.start_tls_client(&connector)?;
                            request.output.write_all(b"MAIL\r\n")?; // It waits for the handshake.
                        }
                        "MAIL" => return Ok(Next::Close),
                        _ => {}
                    }
                }
                Ok(Next::Wait)
            }
            Call::Finish(why) => {
                journal.note(format!("finish {why}"));
                Ok(Next::Wait)
            }
            _ => usual(&call, request),
        });
        others.connect(address, handler).unwrap();
    }
}

#[test]
fn an_outbound_connection_starts_tls_as_the_client() {
    let clear = ["clear: 220 hello", "clear: 220 go ahead"];
    for (name, rest) in [
        ("localhost", &["secret: secret", "secret: MAIL", "finish done"][..]),
        ("example.org", &["finish handshake failed"]),
    ] {
        let mail = serve(TcpServer::with_server("127.0.0.1:0", Wrapping::default(), |_, _| starttls()).unwrap());
        let connector = TlsConnector::new(client_config(&VERSIONS), name).unwrap();
        let journal = Journal::new();
        let value = Mailer(journal.clone(), Some((connector, mail.address.into())));
        let running = serve(TcpServer::with_server("127.0.0.1:0", value, |_, _| echoing()).unwrap());
        running.handle.send_to_server(running.id, ()).unwrap();
        journal.wait("finish");
        assert_eq!(journal.lines(), [&clear, rest].concat());
    }
}

#[test]
fn both_kinds_of_sockets_serve_tls() {
    fn exchange(stream: impl std::io::Read + std::io::Write) {
        let name = "localhost".try_into().unwrap();
        let client = rustls::ClientConnection::new(client_config(&VERSIONS), name).unwrap();
        let mut stream = rustls::StreamOwned::new(client, stream);
        stream.write_all(&[b'z'; 200_000]).unwrap();
        let mut back = vec![0; 200_000];
        std::io::Read::read_exact(&mut stream, &mut back).unwrap();
        assert!(back == [b'z'; 200_000]);
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(std::io::Read::read(&mut stream, &mut back).unwrap(), 0);
    }
    let running = secure_echo();
    exchange(std::net::TcpStream::connect(running.address).unwrap());
    assert_eq!(running.stop().handshakes_completed, 1);
    #[cfg(unix)]
    {
        use socketserver::{UnixOptions, UnixStreamServer};
        let directory = crate::common::Directory::new();
        let options = options(|options: &mut UnixOptions| options.tls = Some(acceptor()));
        let mut unbound = UnixStreamServer::unbound(|_| echoing());
        unbound.server_bind_with(directory.at("s"), options).unwrap();
        let running = serve(unbound.server_activate().unwrap());
        exchange(std::os::unix::net::UnixStream::connect(directory.at("s")).unwrap());
        running.stop();
        let refused = options_of_datagrams();
        assert!(refused.is_err_and(|error| error.to_string().starts_with("cannot use tls = ")));
    }
}

#[cfg(unix)]
fn options_of_datagrams() -> socketserver::Result<()> {
    use socketserver::{UnixDatagramServer, UnixOptions};
    let directory = crate::common::Directory::new();
    let options = options(|options: &mut UnixOptions| options.tls = Some(acceptor()));
    UnixDatagramServer::unbound(|_| echoing()).server_bind_with(directory.at("s"), options)
}

/// A server whose requests are served by threads.
fn threading<S: BaseServer + Default>(
    journal: &Journal,
    value: S,
    serve_one: impl Fn(&mut BlockingRequest<S>, &Journal) -> socketserver::Result<()> + Clone + Send + 'static,
) -> crate::common::Running<S> {
    threading_with(journal, value, |limits| limits.handshake_timeout = Some(Duration::from_millis(300)), serve_one)
}

fn threading_with<S: BaseServer + Default>(
    journal: &Journal,
    value: S,
    change: impl FnOnce(&mut Limits),
    serve_one: impl Fn(&mut BlockingRequest<S>, &Journal) -> socketserver::Result<()> + Clone + Send + 'static,
) -> crate::common::Running<S> {
    let options = options(|options: &mut TcpOptions| options.tls = Some(acceptor()));
    let journal = journal.clone();
    let mixin = move |_: &mut S, _: &Address| {
        let (serve_one, journal) = (serve_one.clone(), journal.clone());
        StreamRequestHandler::new(move |request: &mut BlockingRequest<S>| serve_one(request, &journal))
    };
    let mut unbound = ThreadingTcpServer::unbound_with_server(value, mixin);
    unbound.server_bind_with("127.0.0.1:0", options).unwrap();
    let mut limits = unbound.limits.clone();
    change(&mut limits);
    unbound.limits = limits;
    serve(unbound.server_activate().unwrap())
}

#[derive(Default)]
struct Hooks(Journal);

impl BaseServer for Hooks {
    fn handshake_failed(&mut self, _: &Address, error: &Error) {
        self.0.note(format!("handshake_failed {error:#}"));
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.0.note(format!("handle_error {error:#}"));
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.0.note(format!("close_request {why}"));
    }
}

fn secure_client(
    address: std::net::SocketAddr,
    config: Arc<ClientConfig>,
) -> rustls::StreamOwned<rustls::ClientConnection, std::net::TcpStream> {
    let socket = std::net::TcpStream::connect(address).unwrap();
    socket.set_read_timeout(Some(crate::common::PATIENCE)).unwrap();
    rustls::StreamOwned::new(rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap(), socket)
}

#[test]
fn threads_serve_tls_with_the_same_files() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, journal| {
        let version = request.socket().tls(|session| session.protocol_version()).flatten();
        journal.note(format!("serves {version:?}"));
        let mut line = Vec::new();
        while request.rfile.read_until(b'\n', &mut line)? > 0 {
            request.wfile.write_all(&line)?;
            line.clear();
        }
        request.wfile.write_all(b"bye\n")?;
        Ok(())
    });
    for (round, version) in VERSIONS.into_iter().enumerate() {
        let mut client = secure_client(running.address, client_config(&[version]));
        let line = [vec![b'l'; 60_000], vec![b'\n']].concat();
        for _ in 0..20 {
            client.write_all(&line).unwrap();
            let mut back = vec![0; line.len()];
            client.read_exact(&mut back).unwrap();
            assert!(back == line);
        }
        client.write_all(b"last").unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut rest = Vec::new();
        client.read_to_end(&mut rest).unwrap(); // With close_notify, or this fails.
        assert_eq!(rest, b"lastbye\n");
        journal.wait(&format!("serves Some({:?})", client.conn.protocol_version().unwrap()));
        journal.wait_for("close_request done", round + 1);
    }
    let stats = running.stop();
    assert_eq!((stats.handshakes, stats.handshakes_completed), (2, 2));
    assert_eq!((stats.accepted, stats.closed, stats.active_max), (2, 2, 1), "the move to the thread does not count");
}

#[test]
fn a_thread_reads_and_another_writes_while_keys_change() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, _| {
        let socket = request.socket();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..200 {
                    let _ = (&mut &*socket).write_all(&[b'w'; 10_000]);
                }
            });
            let mut buffer = [0; 5_000];
            let mut came = 0;
            while came < 2_000_000 {
                came += (&mut &*socket).read(&mut buffer).unwrap();
            }
        });
        Ok(())
    });
    let client = secure_client(running.address, client_config(&[&TLS13]));
    // Sends without reading first, far more than the socket's buffers hold.
    let (mut client, mut sent, mut heard) = (client, 0, 0);
    let mut buffer = [0; 50_000];
    while sent < 2_000_000 {
        client.write_all(&[b'r'; 10_000]).unwrap();
        client.conn.refresh_traffic_keys().unwrap();
        sent += 10_000;
        heard += client.read(&mut buffer).unwrap();
    }
    while heard < 2_000_000 {
        heard += client.read(&mut buffer).unwrap();
    }
    journal.wait("close_request done");
}

#[test]
fn a_handshake_on_a_thread_fails_times_out_or_is_cut_off() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |_, journal| {
        journal.note("served");
        Ok(())
    });
    let mut http = crate::common::Peer::connect(running.address);
    http.send("GET / HTTP/1.1\r\n\r\n");
    let alert = http.rest();
    assert_eq!((alert.len(), alert[0]), (7, 21));
    journal.wait("handshake_failed cannot complete the TLS handshake: ");
    journal.wait("close_request handshake failed");

    let mut silent = crate::common::Peer::connect(running.address);
    silent.send(&hello()[..50]);
    journal
        .wait("handshake_failed cannot complete the TLS handshake: it has taken longer than handshake_timeout = 300ms");
    journal.wait("close_request handshake timeout");
    silent.expect_eof();

    let mut half = secure_client(running.address, client_config(&VERSIONS));
    half.conn.complete_io(&mut half.sock).unwrap();
    journal.wait("served");
    assert_eq!(journal.count("served"), 1);
    let stats = running.stop();
    assert_eq!((stats.handshakes_failed, stats.handshakes_timed_out), (1, 1));
}

#[test]
fn a_thread_does_not_take_a_cut_for_the_end_but_a_stop_for_one() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, journal| {
        let mut line = String::new();
        let read = request.rfile.read_line(&mut line);
        journal.note(format!("read {line:?}"));
        read?;
        Ok(())
    });
    let mut cut = secure_client(running.address, client_config(&VERSIONS));
    cut.write_all(b"half a li").unwrap();
    cut.sock.shutdown(std::net::Shutdown::Write).unwrap();
    journal.wait("close_request truncated");

    let mut patient = secure_client(running.address, client_config(&VERSIONS));
    patient.write_all(b"begun").unwrap();
    running.wait_for_stats("its handshake", |stats| stats.handshakes_completed == 2);
    running.stop();
    journal.wait("read \"begun\"");
    let mut rest = Vec::new();
    patient.read_to_end(&mut rest).unwrap();
    assert_eq!(journal.count("close_request done"), 1, "{:?}", journal.lines());
}

#[test]
fn silent_clients_do_not_occupy_the_only_thread() {
    let journal = Journal::new();
    let limits = |limits: &mut Limits| (limits.max_threads, limits.handshake_timeout) = (1, None);
    let running = threading_with(&journal, Hooks(journal.clone()), limits, |request, _| {
        let mut line = String::new();
        request.rfile.read_line(&mut line)?;
        Ok(request.wfile.write_all(line.as_bytes())?)
    });
    let _silent = crate::common::Peer::connect(running.address);
    let mut slow = crate::common::Peer::connect(running.address);
    slow.send(&hello()[..50]);
    let mut client = secure_client(running.address, client_config(&VERSIONS));
    client.write_all(b"hello\n").unwrap();
    let mut back = [0; 6];
    client.read_exact(&mut back).unwrap();
    assert_eq!(&back, b"hello\n");
    running.stop(); // It does not wait for the others.
}

#[test]
fn a_thread_does_not_lose_its_answer_to_a_close_notify_that_comes_after_its_end() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, journal| {
        let mut line = String::new();
        request.rfile.read_line(&mut line)?;
        request.wfile.write_all(&[b'a'; 400_000])?;
        journal.note("answered");
        Ok(())
    });
    for round in 1..=20 {
        let mut client = secure_client(running.address, client_config(&VERSIONS));
        client.write_all(b"question\n").unwrap();
        journal.wait_for("answered", round);
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer.len(), 400_000, "in round {round}");
    }
    journal.wait_for("close_request done", 19);
}

#[test]
fn a_write_on_a_thread_that_fails_within_a_record_is_followed_by_a_reset_only() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, journal| {
        request.socket().set_write_timeout(Some(Duration::from_millis(100)))?;
        let error = loop {
            if let Err(error) = request.wfile.write_all(&[b'a'; 100_000]) {
                break error;
            }
        };
        journal.note(format!("failed {:?}", error.kind()));
        assert_eq!(request.wfile.write_all(b"more").unwrap_err().kind(), ErrorKind::BrokenPipe);
        Err(error.into())
    });
    let mut client = secure_client(running.address, client_config(&VERSIONS));
    client.flush().unwrap();
    while client.conn.is_handshaking() {
        client.conn.complete_io(&mut client.sock).unwrap();
    }
    journal.wait_for("failed TimedOut", 1);
    journal.wait_for("close_request", 1);
    // Before the mend: the rest of a record was missing, and a `close_notify` was in its place.
    let error = client.read_to_end(&mut Vec::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ConnectionReset, "{error}");
}

#[test]
fn a_stop_tells_a_thread_that_begins_during_it() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, _| {
        request.rfile.read_to_end(&mut Vec::new())?;
        Ok(())
    });
    let patient = |reactor: &mut Reactor| {
        let mut config = reactor.config().clone();
        (config.drain_quiet, config.drain_grace) = (Duration::from_millis(500), Duration::from_secs(60));
        reactor.set_config(config);
    };
    running.handle.run(patient).unwrap();
    let mut client = secure_client(running.address, client_config(&VERSIONS));
    client.conn.write_tls(&mut client.sock).unwrap();
    client.conn.read_tls(&mut client.sock).unwrap();
    running.handle.shutdown_handle().shutdown();
    client.conn.process_new_packets().unwrap();
    let _ = client.conn.write_tls(&mut client.sock); // In time, unless this thread was held up.
    running.stop();
}

#[test]
fn what_comes_with_the_end_of_the_handshake_reaches_the_thread() {
    let journal = Journal::new();
    let running = threading(&journal, Hooks(journal.clone()), |request, journal| {
        let mut text = String::new();
        request.rfile.read_to_string(&mut text)?;
        journal.note(format!("read {text:?}"));
        Ok(request.wfile.write_all(text.as_bytes())?)
    });
    for version in VERSIONS {
        let mut client = secure_client(running.address, client_config(&[version]));
        client.conn.writer().write_all(b"last").unwrap();
        while client.conn.is_handshaking() {
            client.conn.wants_write().then(|| client.conn.write_tls(&mut client.sock).unwrap());
            if client.conn.wants_read() && !client.conn.wants_write() {
                client.conn.read_tls(&mut client.sock).unwrap();
                client.conn.process_new_packets().unwrap();
            }
        }
        client.conn.send_close_notify();
        let mut all = Vec::new();
        while client.conn.wants_write() {
            client.conn.write_tls(&mut all).unwrap();
        }
        client.sock.write_all(&all).unwrap(); // The end of the handshake, data and `close_notify` in one.
        let mut back = Vec::new();
        client.read_to_end(&mut back).unwrap();
        assert_eq!(back, b"last");
    }
    journal.wait_for("read \"last\"", 2);
}

#[cfg(all(unix, feature = "children"))]
#[test]
fn a_program_is_not_given_encrypted_bytes() {
    let journal = Journal::new();
    let options = options(|options: &mut TcpOptions| options.tls = Some(acceptor()));
    let program = |_: &mut Hooks, _: &Address| std::process::Command::new("cat");
    let mut unbound = socketserver::ForkingTcpServer::unbound_with_server(Hooks(journal.clone()), program);
    unbound.server_bind_with("127.0.0.1:0", options).unwrap();
    let running = serve(unbound.server_activate().unwrap());
    let mut client = crate::common::Peer::connect(running.address);
    assert_eq!(client.rest(), b"");
    journal.wait("close_request handler error");
    journal.wait("handle_error cannot give a connection under TLS to a program: it would see encrypted bytes");
}

#[test]
fn starttls_that_is_followed_by_an_end_or_an_error_still_sends_what_came_before() {
    for (fails, room) in [(false, 3), (true, 3), (false, 1_000), (true, 1_000)] {
        let mut client = Client::new(probe(move |call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.input.take_all();
                request.output.write_all(b"220 go ahead\r\n")?;
                request.start_tls(&acceptor())?;
                request.output.write_all(b"queued")?;
                if fails { Err("scripted".into()) } else { Ok(Next::Close) }
            }
            call => usual(&call, request),
        }));
        client.play(socketserver::testing::Script::new().short_write(room).read(b"STARTTLS\r\n"));
        assert!(client.is_closed(), "it waits for an event that does not come");
        assert_eq!(client.sent(), b"220 go ahead\r\n");
        assert_eq!(client.stats().handshakes, 0);
    }
}
