//! Connections under TLS: faults hit the ciphertext, and the plaintext is checked. Each seed is another network. Its peers
//! send at random, in pieces, with new keys, while they read or not; they end with `close_notify` or without, at once or
//! in the middle of the handshake. Some begin in the clear and start TLS.
//!
//! `SECURE_SEED=17` runs that seed alone.

use std::io::{self, Write as _};
use std::time::Duration;

use fastrand::Rng;
use socketserver::testing::{Call, Network, Outcome, Peer, Tls, TlsPeer};
use socketserver::{Address, BaseServer, Limits, Listener, Next, Request, RequestHandler, Result, Stream};

use crate::certificates::{VERSIONS, acceptor, client_config};

#[test]
fn whatever_happens_to_ciphertext_no_plaintext_is_lost_or_changed() {
    if let Ok(seed) = std::env::var("SECURE_SEED") {
        return play(seed.parse().expect("a number"));
    }
    for seed in 0..if cfg!(debug_assertions) { 30 } else { 600 } {
        let played = std::panic::catch_unwind(|| play(seed));
        assert!(played.is_ok(), "SECURE_SEED={seed} fails");
    }
}

/// Every second client begins in the clear.
struct Site(u32);

impl BaseServer for Site {
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        let (stream, from) = listener.accept()?;
        self.0 += 1;
        let starts_later = from.port().is_some_and(|port| port % 2 == 1);
        Ok((if starts_later { stream } else { acceptor().wrap_socket(stream) }, from))
    }
}

/// Sends back what comes under TLS.
struct Echo;

impl RequestHandler<Site> for Echo {
    fn handle(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        if request.tls().is_some() {
            request.output.write_all(request.input.take_all())?;
        } else if request.input.read_line()?.is_some() {
            request.output.write_all(b"go\n")?;
            request.start_tls(&acceptor())?;
        }
        Ok(Next::Wait)
    }
}

/// A client, and what it knows.
struct Client {
    peer: Peer,
    tls: Option<TlsPeer>,
    /// What came before TLS.
    clear: Vec<u8>,
    sent: Vec<u8>,
    has_ended: bool,
    /// It has done something after which not everything comes back.
    is_spoilt: bool,
}

impl Client {
    /// Moves what can move. Returns whether the server has something new.
    fn go_on(&mut self, tls: &Tls) -> bool {
        match &self.tls {
            Some(end) => end.exchange(),
            None if self.peer.has_received() => {
                // The three bytes of the answer may come one by one. Nothing follows them before our hello.
                self.clear.extend(self.peer.take_received());
                if self.clear == b"go\n" {
                    self.tls = Some(tls.peer(&self.peer));
                }
                self.tls.as_ref().is_some_and(TlsPeer::exchange)
            }
            None => false,
        }
    }
}

fn play(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let mut network = Network::new();
    let server = network.serve(Site(0), |_, _| Echo, Limits::default()).unwrap();
    let rate = [0.0, 0.05, 0.3][rng.usize(..3)];
    let breaks = if rng.u8(..4) == 0 { 0.002 } else { 0.0 };
    let mut faults = Rng::with_seed(!seed);
    network.on_call(move |call, _| match call {
        Call::Read | Call::Write if faults.f64() < breaks => Outcome::Fail(io::ErrorKind::ConnectionReset.into()),
        Call::Read | Call::Write if faults.f64() < rate => match faults.u8(..4) {
            0 => Outcome::WouldBlock,
            1 => Outcome::Interrupted,
            _ => Outcome::AtMost(faults.usize(1..3_000)),
        },
        _ => Outcome::Proceed,
    });
    let name = "localhost";
    let piece = [20, 500, 1_448, usize::MAX][rng.usize(..4)];
    let tls = Tls::new(&acceptor(), client_config(&VERSIONS), name).unwrap().pieces(piece);
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..rng.usize(50..200) {
        let Some(client) = (!clients.is_empty()).then(|| rng.usize(..clients.len())) else {
            clients.push(connect(&mut network, server, &tls, 0));
            continue;
        };
        let number = clients.len();
        let client = &mut clients[client];
        match rng.u8(..20) {
            0 if number < 12 => {
                let next = connect(&mut network, server, &tls, number);
                clients.push(next);
            }
            1..8 if !client.has_ended => {
                if let Some(end) = &client.tls {
                    let most = [10, 300, 20_000][rng.usize(..3)];
                    let bytes: Vec<u8> = (0..rng.usize(1..most)).map(|_| rng.u8(..)).collect();
                    end.send(&bytes);
                    client.sent.extend(bytes);
                }
            }
            8 => client.tls.iter().filter(|end| end.is_established()).for_each(TlsPeer::refresh_keys),
            9 => client.peer.set_window([0, 1, 100, 20_000][rng.usize(..4)]),
            10 => client.peer.set_window(usize::MAX),
            11 => client.peer.spurious_event(),
            12 if rng.u8(..4) == 0 && !client.has_ended => {
                client.has_ended = true;
                match (&client.tls, rng.u8(..3)) {
                    (Some(end), 0 | 1) if end.is_established() => {
                        end.send_close_notify();
                        client.peer.send_eof();
                    }
                    (_, 2) => {
                        client.is_spoilt = true;
                        client.peer.send_reset();
                    }
                    _ => {
                        client.is_spoilt = true;
                        client.peer.send_eof();
                    }
                }
            }
            13 => network.advance(Duration::from_millis(rng.u64(..3_000))),
            14 => network.run(),
            _ => _ = network.turn(),
        }
        clients.iter_mut().for_each(|client| _ = client.go_on(&tls));
        check(&clients);
    }
    // All clients read and end. A client whose handshake was too late has lost its connection.
    network.on_call(|_, _| Outcome::Proceed);
    clients.iter().for_each(|client| client.peer.set_window(usize::MAX));
    settle(&mut network, &mut clients, &tls);
    for client in clients.iter_mut().filter(|client| !client.has_ended) {
        match &client.tls {
            Some(end) if end.is_established() => end.send_close_notify(),
            _ => client.is_spoilt = true,
        }
        client.peer.send_eof();
    }
    settle(&mut network, &mut clients, &tls);
    check(&clients);
    for (number, client) in
        clients.iter().enumerate().filter(|(_, client)| !client.is_spoilt && !client.peer.is_broken())
    {
        let Some(end) = client.tls.as_ref().filter(|end| end.is_established()) else { continue };
        if end.failed().is_none() && end.is_closed() {
            assert!(
                end.received() == client.sent,
                "{number} has sent {}, and gets {}",
                client.sent.len(),
                end.received().len()
            );
        }
    }
    for _ in 0..15 {
        network.advance(Duration::from_secs(60));
        settle(&mut network, &mut clients, &tls);
    }
    let stats = network.stats();
    assert_eq!((stats.panics, stats.active), (0, 0));
    let over = stats.handshakes_completed + stats.handshakes_failed + stats.handshakes_timed_out;
    assert_eq!(stats.handshakes, over + stats.handshakes_abandoned);
    network.server_close(server);
    network.check_nothing_left();
}

fn connect(network: &mut Network, server: socketserver::ServerId, tls: &Tls, number: usize) -> Client {
    let peer = network.connect_from(server, std::net::SocketAddr::from(([198, 18, 0, 1], 40_000 + number as u16)));
    let starts_later = number % 2 == 1;
    if starts_later {
        peer.send(b"STARTTLS\n");
    }
    let end = (!starts_later).then(|| tls.peer(&peer));
    Client { peer, tls: end, clear: Vec::new(), sent: Vec::new(), has_ended: false, is_spoilt: false }
}

/// Until nothing moves.
fn settle(network: &mut Network, clients: &mut [Client], tls: &Tls) {
    loop {
        network.run();
        if clients.iter_mut().filter_map(|client| client.go_on(tls).then_some(())).count() == 0 {
            return;
        }
    }
}

/// What came back is what was sent, from its beginning.
fn check(clients: &[Client]) {
    for (number, client) in clients.iter().enumerate() {
        if let Some(end) = &client.tls {
            let received = end.received();
            assert!(client.sent.starts_with(&received), "the plaintext of {number} was changed");
            assert!(
                end.failed().is_none() || client.has_ended || client.peer.is_broken(),
                "{number}: {:?}",
                end.failed()
            );
        }
    }
}
