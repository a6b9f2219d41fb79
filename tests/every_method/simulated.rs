//! One round on a simulated network, whose invariants are checked after every turn, and the testing kit's own methods.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use fastrand::Rng;
use socketserver::testing::{Call, Client, Clock, Network, Outcome, Peer, Script, TlsPeer, check_chunking};
use socketserver::{
    Address, Limits, Next, ReactorConfig, Request, RequestHandler, Result, ServerId, Stats, UnixAddress,
};

use crate::chaos::Chaos;
use crate::clients::words;
use crate::ledger::Ledger;
use crate::making::{config, limits};
use crate::meddling::submit;
use crate::methods::{call, note};
use crate::secure::{Secure, tls};
use crate::value::{Places, Value};
use crate::watchdog::step;

pub(crate) struct Simulated {
    rng: Rng,
    ledger: Arc<Ledger>,
    network: Network,
    clock: Clock,
    servers: Vec<ServerId>,
    datagrams: Vec<ServerId>,
    peers: Vec<Peer>,
    polite: Vec<Polite>,
    polite_server: ServerId,
    /// Those over TLS, and their server.
    secure: Vec<Secure>,
    secure_server: ServerId,
    /// A stop was asked for that waits for nothing.
    abrupt: bool,
    /// Calls fail to find what is there, so a stop may take a busy peer for a quiet one.
    faulty: bool,
}

/// A peer of a server that echoes.
struct Polite {
    peer: Peer,
    sent: Vec<u8>,
    received: Vec<u8>,
}

struct Echo;

impl RequestHandler<Value> for Echo {
    fn setup(&mut self, request: &mut Request<'_, Value>) -> Result<Next> {
        request.server.ledger.protect(request.id());
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_, Value>) -> Result<Next> {
        std::io::Write::write_all(&mut request.output, request.input.take_all())?;
        Ok(Next::Wait)
    }
}

impl Simulated {
    pub(crate) fn new(seed: u64, ledger: Arc<Ledger>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let mut network = match rng.u32(..10) {
            0 => call!(Network::new()),
            1 => call!(Network::without_checks(Network::new())),
            _ => call!(Network::with_config(settings(&mut rng))),
        };
        let clock = call!(Network::clock(&network));
        let polite_server = network.serve(Value::calm(&ledger, &mut rng), |_, _| Echo, Limits::default());
        let polite_server = polite_server.expect("there is room");
        let secure_server = network.serve(Value::secure(&ledger, &mut rng), |_, _| Echo, Limits::default());
        let secure_server = secure_server.expect("there is room");
        let mut this = Simulated {
            polite: Vec::new(),
            servers: Vec::new(),
            datagrams: Vec::new(),
            peers: Vec::new(),
            polite_server,
            secure: Vec::new(),
            secure_server,
            abrupt: false,
            faulty: false,
            clock,
            network,
            ledger,
            rng,
        };
        this.faults();
        (0..3).for_each(|_| this.serve());
        for _ in 0..3 {
            let peer = this.network.connect(polite_server);
            this.polite.push(Polite { peer, sent: Vec::new(), received: Vec::new() });
            let wire = this.network.connect(secure_server);
            this.secure.push(Secure::new(&mut this.rng, wire));
        }
        this
    }

    /// Calls are cut short and interrupted.
    fn faults(&mut self) {
        let mut rng = self.rng.fork();
        let clock = self.clock.clone();
        let rate = [0, 4, 20][rng.usize(..3)];
        self.faulty = rate > 0;
        call!(Network::on_call(&mut self.network, move |called, _| {
            if rate == 0 || rng.u32(..rate) > 0 {
                return Outcome::Proceed;
            }
            match (rng.u32(..5), called) {
                (0, _) => Outcome::Interrupted,
                (1, Call::Read | Call::Write) => Outcome::AtMost(rng.usize(1..10)),
                (2, Call::Read | Call::Write | Call::Accept) => Outcome::WouldBlock,
                (3, _) => {
                    call!(Clock::advance(&clock, Duration::from_micros(300)));
                    Outcome::Proceed
                }
                _ => Outcome::Proceed,
            }
        }));
    }

    fn serve(&mut self) {
        step("serve");
        let value = Value::new(&self.ledger, &mut self.rng, Places::Reactor);
        let make = |value: &mut Value, _: &_| Chaos::new(&value.ledger, &mut value.rng);
        let limits = limits(&mut self.rng);
        let network = &mut self.network;
        let (is_stream, is_datagram, served) = match self.rng.u32(..3) {
            0 => (true, false, call!(Network::serve(network, value, make, limits))),
            1 => (false, true, call!(Network::serve_datagrams(network, value, make, limits))),
            _ => (true, true, call!(Network::serve_mixed(network, value, make, limits))),
        };
        let served = served.expect("there is room");
        self.ledger.add_server(served);
        self.servers.extend(is_stream.then_some(served));
        self.datagrams.extend(is_datagram.then_some(served));
    }

    pub(crate) fn step(&mut self) {
        if call!(Network::is_stopped(&self.network)) {
            return;
        }
        match self.rng.u32(..24) {
            0..3 => self.come(),
            3..8 => self.act_on_a_peer(),
            8..10 => self.datagrams(),
            10..12 => {
                let time = Duration::from_micros(self.rng.u64(..30_000));
                match self.rng.bool() {
                    true => call!(Network::advance(&mut self.network, time)),
                    false => call!(Network::run_for(&mut self.network, time)),
                }
            }
            12 | 13 => submit(&mut self.rng, &self.ledger, &call!(Network::handle(&self.network))),
            14 => self.act_on_a_server(),
            15 => self.answer_calls(),
            16..20 => self.talk(),
            20 | 21 => _ = call!(Network::turn(&mut self.network)),
            _ => call!(Network::run(&mut self.network)),
        }
    }

    fn come(&mut self) {
        let Some(server) = self.rng.choice(self.servers.iter().copied()) else { return };
        let peer = match self.rng.bool() {
            true => call!(Network::connect(&mut self.network, server)),
            false => call!(Network::connect_from(&mut self.network, server, UnixAddress::unnamed())),
        };
        self.peers.push(peer);
    }

    fn act_on_a_peer(&mut self) {
        let Some(peer) = self.rng.choice(self.peers.iter().cloned()) else { return };
        match self.rng.u32(..12) {
            0..5 => call!(Peer::send(&peer, &words(&mut self.rng))),
            5 => call!(Peer::send_eof(&peer)),
            6 => call!(Peer::send_reset(&peer)),
            7 => call!(Peer::spurious_event(&peer)),
            8 | 9 => call!(Peer::set_window(&peer, self.rng.usize(..5_000))),
            10 => _ = call!(Peer::take_received(&peer)),
            _ => {
                let (closed, open) = (call!(Peer::is_closed(&peer)), !call!(Peer::is_socket_closed(&peer)));
                self.ledger.expect(closed || open, "a closed socket has ended its direction");
                let _ = (call!(Peer::is_reset(&peer)), call!(Peer::is_broken(&peer)), call!(Peer::unread(&peer)));
                let _ = format!("{peer:?}{}", call!(Peer::address(&peer)));
            }
        }
    }

    fn datagrams(&mut self) {
        let Some(server) = self.rng.choice(self.datagrams.iter().copied()) else { return };
        let from = Address::from(std::net::SocketAddr::from(([198, 51, 100, self.rng.u8(..9)], 9)));
        call!(Network::send_datagram(&mut self.network, server, &from, &words(&mut self.rng)));
        let _ = call!(Network::received_datagrams(&mut self.network, server));
    }

    /// Outbound connections are established, refused, or left alone.
    fn answer_calls(&mut self) {
        for peer in call!(Network::called(&mut self.network)) {
            match self.rng.u32(..3) {
                0 => call!(Peer::establish(&peer)),
                1 => call!(Peer::refuse(&peer)),
                _ => _ = call!(Peer::is_connecting(&peer)),
            }
            self.peers.push(peer);
        }
    }

    fn act_on_a_server(&mut self) {
        let Some(server) = self.ledger.server(&mut self.rng) else { return };
        let network = &mut self.network;
        match self.rng.u32(..6) {
            0 => {
                let set = call!(Network::set_limits(network, server, limits(&mut self.rng)));
                self.ledger.only("Network::set_limits", set, |error| matches!(error, socketserver::Error::Gone));
            }
            1 => _ = call!(Network::limits(network, server)),
            2 if self.rng.u32(..4) == 0 => call!(Network::server_close(network, server)),
            3 => _ = call!(Network::server_mut::<Value>(network, server)),
            4 if self.rng.u32(..6) == 0 => {
                let shutdown = call!(Network::shutdown_handle(network));
                match self.rng.bool() {
                    true => shutdown.shutdown(),
                    false => {
                        self.abrupt = true;
                        shutdown.shutdown_now();
                    }
                }
            }
            _ => {
                let now = call!(Network::now(network));
                self.ledger.expect(call!(Clock::now(&self.clock)) == now, "there is one clock");
                let _ = call!(Network::next_timeout(network));
            }
        }
    }

    fn talk(&mut self) {
        if self.network.shutdown_handle().is_requested() {
            return; // From now on a quiet client is closed at any time.
        }
        for polite in &mut self.polite {
            let bytes = words(&mut self.rng);
            polite.peer.send(&bytes);
            polite.sent.extend(bytes);
        }
        for secure in &mut self.secure {
            secure.exchange();
            let bytes = words(&mut self.rng);
            secure.talk(&mut self.rng, bytes);
        }
    }

    /// Ends it all: every peer goes, every server is closed.
    pub(crate) fn end(mut self) -> Stats {
        step("the end of a simulated round");
        self.network.on_call(|_, _| Outcome::Proceed);
        if !self.network.is_stopped() {
            self.network.run();
            while self.secure.iter_mut().any(Secure::exchange) {
                self.network.run();
            }
        }
        let stops = self.network.is_stopped() || self.network.shutdown_handle().is_requested();
        let all = !stops || !(self.abrupt || self.faulty);
        self.secure.iter_mut().for_each(|secure| secure.check(&self.ledger, all));
        for Polite { peer, sent, received } in &mut self.polite {
            received.extend(peer.take_received());
            if !sent.starts_with(received) || (received.len() < sent.len() && all) {
                let (got, all) = (received.len(), sent.len());
                self.ledger.violation(format!("a polite peer gets back {got} of {all} bytes"));
            }
        }
        self.answer_calls();
        self.peers.iter().for_each(Peer::send_reset);
        self.polite.iter().for_each(|polite| polite.peer.send_eof());
        self.secure.iter().for_each(Secure::end);
        self.network.run_for(Duration::from_secs(2));
        for server in self.servers.iter().chain(&self.datagrams).chain([&self.polite_server, &self.secure_server]) {
            self.network.server_close(*server);
        }
        // Peers that have not been accepted are turned away, and outbound connections are forgotten.
        let _ = self.network.called();
        self.network.run();
        let stats = call!(Network::stats(&self.network));
        let (ledger, expect) = (&self.ledger, |holds, promise| self.ledger.expect(holds, promise));
        expect(stats.active == 0, "nothing is active in the end");
        expect(call!(Stats::handshakes_in_progress(&stats)) == 0, "no handshake is in progress");
        expect(stats.connects_failed <= stats.connects, "no more connects fail than were started");
        let jobs = ledger.panics.load(Ordering::SeqCst);
        expect(stats.panics <= jobs, "no panic but the scripted ones");
        call!(Network::check_nothing_left(&mut self.network));
        stats
    }
}

/// The methods of a test of one handler.
pub(crate) fn one_client(seed: u64, ledger: &Arc<Ledger>) {
    step("one client");
    let mut rng = Rng::with_seed(seed);
    let handler = Chaos::new(ledger, &mut rng);
    let mut client = match rng.u32(..3) {
        0 => {
            let (value, limits, tls) = (Value::new(ledger, &mut rng, Places::Reactor), limits(&mut rng), tls(&mut rng));
            call!(Client::with_tls(value, handler, limits, &tls))
        }
        1 => call!(Client::with_limits(Value::new(ledger, &mut rng, Places::Reactor), handler, limits(&mut rng))),
        _ => call!(Client::with_server(Value::new(ledger, &mut rng, Places::Reactor), handler)),
    };
    for _ in 0..rng.u32(..20) {
        let bytes = words(&mut rng);
        match rng.u32(..15) {
            0..3 => call!(Client::feed(&mut client, &bytes)),
            3 => call!(Client::feed_after(&mut client, Duration::from_millis(5), &bytes)),
            4 => call!(Client::feed_eof(&mut client)),
            5 => call!(Client::feed_reset(&mut client)),
            6 => {
                let script = call!(Script::would_block(call!(Script::read(call!(Script::new()), &bytes))));
                let script = call!(Script::short_write(script, rng.usize(..9)));
                let script = match rng.u32(..6) {
                    0 => call!(Script::eof(script)),
                    1 => call!(Script::reset(script)),
                    _ => script,
                };
                call!(Client::play(&mut client, script));
            }
            7 => call!(Client::set_window(&mut client, rng.usize(..500))),
            8 => call!(Client::advance(&mut client, Duration::from_millis(rng.u64(..50)))),
            9 => {
                let sent = call!(Client::message(&mut client, 7_u8));
                ledger.only("Client::message", sent, |error| matches!(error, socketserver::Error::Gone));
            }
            10 if rng.u32(..5) == 0 => call!(Client::shutdown(&mut client)),
            11 => call!(Client::run(&mut client)),
            12 if rng.u32(..4) == 0 => call!(Client::feed_wire(&mut client, &bytes)),
            12 if rng.u32(..4) == 0 => call!(Client::feed_truncation(&mut client)),
            12 => {
                if let Some(tls) = call!(Client::tls(&client)) {
                    let _ = (call!(TlsPeer::send_early(tls, &bytes)), tls.failed());
                }
            }
            13 => call!(Client::run_jobs(&mut client, Duration::from_secs(10))),
            _ => {
                let all = call!(Client::sent(&client));
                ledger.expect(call!(Client::take_sent(&mut client)) == all, "take_sent takes what sent shows");
                let (closed, reset) = (call!(Client::is_closed(&client)), call!(Client::is_reset(&client)));
                ledger.expect(closed || !reset, "a reset connection is closed");
                let _ = (call!(Client::finished(&client)), call!(Client::transcript(&client)));
                let _ = (call!(Client::id(&client)), call!(Client::server_id(&client)));
                let _: &mut Value = call!(Client::server_mut(&mut client));
                let _ = call!(Client::handle(&client));
                ledger.expect(call!(Client::stats(&client)).accepted <= 1, "one client is accepted");
            }
        }
    }
}

/// The shortest test of a handler: the same answers wherever the input is cut.
pub(crate) fn chunking() {
    struct Upper;
    impl RequestHandler for Upper {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            while let Some(line) = request.input.read_line()? {
                request.output.write_shared(line.to_ascii_uppercase())?;
            }
            Ok(Next::Wait)
        }
    }
    note("testing::check_chunking");
    check_chunking(b"one\ntwo\n\nthree", || call!(Client::new(Upper)));
    let tls = tls(&mut Rng::with_seed(1));
    check_chunking(b"one\ntwo\n\nthree", || call!(Client::new_tls(Upper, &tls)));
}

fn settings(rng: &mut Rng) -> ReactorConfig {
    let mut settings = config(rng);
    settings.drain_grace = Duration::from_secs(1);
    settings
}
