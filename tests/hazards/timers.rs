//! Time: never early, never twice, nothing left behind. On the testing kit's clock wherever no socket is needed.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socketserver::testing::{self, Client, Network, Outcome};
use socketserver::{
    BaseServer, EndReason, Limits, Next, NoHandler, Others, Reactor, Request, RequestHandler, Result, TcpServer,
    Timeout,
};

use crate::common::{Call, echo, probe, serve, usual};

const SECOND: Duration = Duration::from_secs(1);

/// Does something at setup and with each timer.
fn timed(mut act: impl FnMut(Option<u64>, &mut Request<'_>) + Send + 'static) -> impl RequestHandler {
    probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Setup => act(None, request),
            Call::Timer(tag) => act(Some(tag), request),
            _ => {}
        }
        usual(&call, request)
    })
}

#[test]
fn a_timer_is_never_early_and_fires_once() {
    let mut client = Client::new(timed(|fired, request| {
        if fired.is_none() {
            request.set_timer(7, SECOND);
        }
    }));
    client.advance(SECOND - Duration::from_nanos(1));
    assert_eq!(client.transcript(), ["setup"]);
    client.advance(Duration::from_nanos(1));
    client.advance(10 * SECOND);
    assert_eq!(client.transcript(), ["setup", "timer 7"]);
}

#[test]
fn a_timer_cancelled_in_its_own_callback_is_not_set_any_more() {
    let mut client = Client::new(timed(|fired, request| match fired {
        None => request.set_timer(1, SECOND),
        Some(tag) => assert!(!request.cancel_timer(tag), "it has fired, so it is not set"),
    }));
    client.advance(3 * SECOND);
    assert_eq!(client.transcript(), ["setup", "timer 1"]);
    assert_eq!(client.stats().panics, 0);
}

#[test]
fn a_timer_set_again_in_its_own_callback_waits_its_time() {
    let mut client = Client::new(timed(|_, request| request.set_timer(1, SECOND)));
    for fired in 1..=3 {
        client.advance(SECOND);
        assert_eq!(client.transcript().len(), 1 + fired);
    }
}

#[test]
fn a_timer_of_no_time_does_not_hold_the_turn() {
    let mut left = 100;
    let mut client = Client::new(timed(move |_, request| {
        if left > 0 {
            left -= 1;
            request.set_timer(1, Duration::ZERO);
        }
    }));
    client.run();
    assert_eq!(client.transcript().len(), 101);
}

#[test]
fn a_timer_set_twice_counts_from_the_second_time() {
    let mut client = Client::new(timed(|fired, request| {
        if fired.is_none() {
            request.set_timer(1, SECOND);
            request.set_timer(2, 2 * SECOND);
            request.set_timer(1, 3 * SECOND);
            request.set_timer(3, SECOND);
            assert!(request.cancel_timer(3));
            assert!(!request.cancel_timer(3));
        }
    }));
    client.advance(2 * SECOND);
    client.advance(SECOND);
    assert_eq!(client.transcript(), ["setup", "timer 2", "timer 1"]);
}

#[test]
fn a_hundred_thousand_timers_of_one_connection() {
    const MANY: u64 = 100_000;
    let mut client = Client::new(timed(|fired, request| {
        if fired.is_none() {
            for round in 0..3 {
                (0..MANY).for_each(|tag| request.set_timer(tag, SECOND * (1 + round)));
            }
            (0..MANY).filter(|tag| tag % 1_000 != 0).for_each(|tag| assert!(request.cancel_timer(tag)));
        }
    }));
    client.advance(2 * SECOND);
    assert_eq!(client.transcript().len(), 1, "all were set again for later");
    client.advance(SECOND);
    assert_eq!(client.transcript().len(), 101);
}

#[test]
fn timers_of_a_closed_connection_never_fire() {
    let mut client = Client::new(timed(|_, request| {
        (0..1_000).for_each(|tag| request.set_timer(tag, SECOND));
    }));
    client.feed_eof();
    client.advance(10 * SECOND);
    assert_eq!(client.transcript(), ["setup", "eof", "finish peer closed"]);
}

#[test]
fn an_idle_connection_ends_and_a_busy_one_does_not() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| echo(&call, request)));
    for _ in 0..5 {
        client.advance(500 * SECOND);
        client.feed(b"busy");
    }
    client.advance(600 * SECOND - Duration::from_nanos(1));
    assert_eq!(client.finished(), None);
    client.advance(Duration::from_nanos(1));
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Idle)));
    assert_eq!(client.stats().timeouts_idle, 1);
}

#[test]
fn a_slow_trickle_ends_with_the_read_timeout() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            while request.input.read_line()?.is_some() {}
            return Ok(Next::Wait);
        }
        usual(&call, request)
    }));
    client.feed(b"a whole line\n");
    client.advance(100 * SECOND); // Nothing is begun, so nothing is late.
    for _ in 0..59 {
        client.feed(b"x");
        client.advance(SECOND);
    }
    assert_eq!(client.finished(), None);
    client.feed(b"x");
    client.advance(SECOND);
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Read)));
}

#[test]
fn a_client_that_takes_nothing_ends_with_the_write_timeout() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| echo(&call, request)));
    client.set_window(10);
    client.feed(&[1; 100]);
    for _ in 0..5 {
        client.advance(50 * SECOND);
        client.set_window(1); // One byte is progress.
    }
    assert_eq!(client.finished(), None);
    client.advance(60 * SECOND);
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Write)));
    assert!(client.is_reset());
}

#[test]
fn a_forgiven_timeout_starts_again() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| match call {
        Call::Timeout(_) => Ok(Next::Wait),
        _ => usual(&call, request),
    }));
    for asked in 1..=3 {
        client.advance(600 * SECOND);
        assert_eq!(client.transcript().len(), 1 + asked);
    }
    assert_eq!(client.finished(), None);
}

#[test]
fn a_limit_of_one_connection_replaces_the_server_s() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.set_timeout(Timeout::Idle, Some(5 * SECOND));
        }
        usual(&call, request)
    }));
    client.advance(100 * SECOND);
    client.feed(b"now");
    client.advance(5 * SECOND);
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Idle)));
}

#[test]
fn bytes_that_wait_are_handled_before_timers_that_are_due() {
    // Time jumps as it does over a SIGSTOP: the bytes came meanwhile, and the limit has passed.
    let mut limits = Limits::default();
    limits.idle_timeout = Some(SECOND);
    let handler = probe(|call, request: &mut Request<'_>| echo(&call, request));
    let mut client = Client::with_limits((), handler, limits);
    client.feed_after(2 * SECOND, b"while stopped");
    assert_eq!(client.sent(), b"while stopped");
    assert_eq!(client.finished(), None);
}

#[derive(Default)]
struct Ticking {
    ticks: u64,
}

impl BaseServer for Ticking {
    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        self.ticks += 1;
        assert_eq!(others.broadcast(&b"tick\n"[..], |_| true), others.connections().len());
        if self.ticks < tag {
            others.set_server_timer(tag, Duration::ZERO);
        } else {
            others.request_shutdown();
        }
    }
    fn message(&mut self, others: &mut Others<'_, Self>, _: socketserver::Message) {
        others.set_server_timer(9, Duration::from_secs(3_600));
        assert!(others.cancel_server_timer(9));
        assert!(!others.cancel_server_timer(9));
        others.set_server_timer(3, Duration::ZERO);
    }
}

#[test]
fn a_server_has_timers_of_its_own() {
    let handler = |_: &mut Ticking, _: &socketserver::Address| {
        probe(|call, request: &mut Request<'_, Ticking>| echo(&call, request))
    };
    let server = TcpServer::with_server("127.0.0.1:0", Ticking::default(), handler).unwrap();
    let id = server.id();
    let running = serve(server);
    let mut client = running.connect();
    client.echo("here");
    running.handle.send_to_server(id, ()).unwrap();
    assert_eq!(client.rest(), b"tick\ntick\ntick\n");
    let (_, state) = running.join();
    assert_eq!(state.ticks, 3);
}

#[test]
fn a_server_s_timer_outlives_the_connection_that_set_it() {
    let handler = |_: &mut Ticking, _: &socketserver::Address| {
        probe(|call, request: &mut Request<'_, Ticking>| {
            if let Call::Finish(_) = call {
                request.others.set_server_timer(9, Duration::from_secs(3_600));
                assert!(request.others.cancel_server_timer(9));
                request.others.set_server_timer(1, Duration::ZERO);
            }
            echo(&call, request)
        })
    };
    let running = serve(TcpServer::with_server("127.0.0.1:0", Ticking::default(), handler).unwrap());
    running.connect().echo("set it and go");
    assert_eq!(running.join().1.ticks, 1);
}

#[test]
fn short_connections_leave_no_timers_behind() {
    let running = serve(
        TcpServer::new("127.0.0.1:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request))).unwrap(),
    );
    for _ in 0..500 {
        let mut client = running.connect();
        client.echo("x");
    }
    running.wait_for_stats("all are gone", |stats| stats.active == 0);
    let (tell, hear) = std::sync::mpsc::channel();
    running.handle.run(move |reactor| tell.send(reactor.next_timeout()).unwrap()).unwrap();
    // The closure itself may be followed by more work at once, but nothing is left to wait for.
    assert!(hear.recv_timeout(crate::common::PATIENCE).unwrap().is_none_or(|next| next.is_zero()));
    running.stop();
}

#[test]
fn an_outbound_connection_is_idle_by_its_own_limit_and_not_by_that_for_connecting() {
    struct Caller;
    impl RequestHandler<Finished> for Caller {
        fn setup(&mut self, request: &mut Request<'_, Finished>) -> Result<Next> {
            request.others.connect(SocketAddr::from(([192, 0, 2, 9], 80)), Called)?;
            Ok(Next::Wait)
        }
        fn handle(&mut self, _: &mut Request<'_, Finished>) -> Result<Next> {
            Ok(Next::Wait)
        }
    }
    struct Called;
    impl RequestHandler<Finished> for Called {
        fn handle(&mut self, _: &mut Request<'_, Finished>) -> Result<Next> {
            Ok(Next::Wait)
        }
        fn finish(&mut self, request: &mut Request<'_, Finished>, why: EndReason) {
            request.server.0.push(why);
        }
    }
    #[derive(Default)]
    struct Finished(Vec<EndReason>);
    impl BaseServer for Finished {}

    let mut limits = Limits::default();
    (limits.connect_timeout, limits.idle_timeout) = (Some(Duration::from_secs(60)), Some(Duration::from_secs(1)));
    let mut network = Network::new();
    let server = network.serve(Finished::default(), |_, _| Caller, limits).unwrap();
    let _client = network.connect(server);
    network.run();
    network.called()[0].establish();
    network.run();
    network.advance(Duration::from_millis(1_001));
    network.run();
    assert_eq!(network.server_mut::<Finished>(server).unwrap().0, [EndReason::Timeout(Timeout::Idle)]);
}

#[test]
fn a_successor_can_cancel_and_set_again_a_due_timer_of_its_predecessor() {
    #[derive(Default)]
    struct Journal(Vec<String>);
    impl BaseServer for Journal {}

    struct First;
    impl RequestHandler<Journal> for First {
        fn setup(&mut self, request: &mut Request<'_, Journal>) -> Result<Next> {
            (1..=3).for_each(|tag| request.set_timer(tag, SECOND));
            Ok(Next::Wait)
        }
        fn handle(&mut self, _: &mut Request<'_, Journal>) -> Result<Next> {
            Ok(Next::Wait)
        }
        fn timer(&mut self, request: &mut Request<'_, Journal>, _: u64) -> Result<Next> {
            request.replace_handler(Second);
            Ok(Next::Wait)
        }
    }
    struct Second;
    impl RequestHandler<Journal> for Second {
        fn setup(&mut self, request: &mut Request<'_, Journal>) -> Result<Next> {
            // One of the three has fired; the others are due, and have not.
            let left = (1..=3).filter(|&tag| request.cancel_timer(tag)).count();
            request.server.0.push(format!("{left} left"));
            request.set_timer(1, SECOND);
            Ok(Next::Wait)
        }
        fn handle(&mut self, _: &mut Request<'_, Journal>) -> Result<Next> {
            Ok(Next::Wait)
        }
        fn timer(&mut self, request: &mut Request<'_, Journal>, tag: u64) -> Result<Next> {
            request.server.0.push(format!("timer {tag}"));
            Ok(Next::Wait)
        }
    }
    let mut client = Client::with_server(Journal::default(), First);
    client.advance(SECOND);
    client.advance(SECOND - Duration::from_nanos(1));
    assert_eq!(client.server_mut().0, ["2 left"]);
    client.advance(Duration::from_nanos(1));
    assert_eq!(client.server_mut().0, ["2 left", "timer 1"]);
}

#[test]
fn bytes_that_came_while_the_wait_was_late_count_before_a_limit_that_has_passed() {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(SECOND);
    let mut network = Network::new();
    let server = network.serve((), |_, _| Discard, limits).unwrap();
    let peer = network.connect(server);
    network.run();
    // The process is stopped in the wait, which then returns with nothing; meanwhile the peer has sent something.
    let (clock, sender, mut stopped) = (network.clock(), peer.clone(), true);
    network.on_call(move |call, _| {
        if call == testing::Call::Wait && std::mem::take(&mut stopped) {
            clock.advance(2 * SECOND);
            sender.send(b"x");
            return Outcome::Interrupted;
        }
        Outcome::Proceed
    });
    network.run();
    assert_eq!((peer.unread(), network.stats().timeouts_idle), (0, 0));
}

#[test]
fn a_limit_counts_from_the_bytes_also_in_a_turn_that_took_long() {
    #[derive(Default)]
    struct Idle(usize);
    impl BaseServer for Idle {
        fn close_request(&mut self, _: &socketserver::Address, why: EndReason) {
            self.0 += usize::from(why == EndReason::Timeout(Timeout::Idle));
        }
    }
    let mut limits = Limits::default();
    limits.idle_timeout = Some(SECOND);
    let mut network = Network::new();
    network.run_for(3_600 * SECOND);
    let server = network.serve(Idle::default(), |_, _| Discard, limits).unwrap();
    let peers = [network.connect(server), network.connect(server)];
    network.run();
    // Both are read in one turn, and the first read takes half a second.
    let (clock, mut slow) = (network.clock(), true);
    network.on_call(move |call, _| {
        if call == testing::Call::Read && std::mem::take(&mut slow) {
            clock.advance(SECOND / 2);
        }
        Outcome::Proceed
    });
    peers.iter().for_each(|peer| peer.send(b"x"));
    network.run();
    network.run_for(SECOND - Duration::from_nanos(1));
    assert_eq!(network.server_mut::<Idle>(server).unwrap().0, 0, "the second was read half a second later");
    network.run_for(Duration::from_nanos(1));
    assert_eq!(network.server_mut::<Idle>(server).unwrap().0, 2);
    assert_eq!(network.stats().longest_turn, SECOND / 2);
    assert_eq!(network.stats().turns_took, SECOND / 2, "waits do not count");
}

#[test]
fn a_callback_that_neither_reads_nor_writes_is_not_activity() {
    let mut limits = Limits::default();
    limits.idle_timeout = Some(4 * SECOND);
    let handler = timed(|_, request| request.set_timer(1, SECOND));
    let mut client = Client::with_limits((), handler, limits);
    client.advance(4 * SECOND - Duration::from_nanos(1));
    assert_eq!(client.finished(), None);
    client.advance(Duration::from_nanos(1));
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Idle)));
}

struct Discard;

impl<S: 'static> RequestHandler<S> for Discard {
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        request.input.take_all();
        Ok(Next::Wait)
    }
}

#[test]
fn an_event_that_brings_no_room_does_not_prolong_the_write_timeout() {
    let mut limits = Limits::default();
    limits.write_timeout = Some(4 * SECOND);
    let mut network = Network::new();
    let handler = |_: &mut (), _: &socketserver::Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.output.write_shared(&b"nobody takes it"[..])?;
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, limits).unwrap();
    let peer = network.connect(server);
    peer.set_window(0);
    peer.send(b"go");
    network.run();
    for _ in 0..3 {
        network.run_for(SECOND);
        peer.spurious_event();
        network.run();
    }
    assert_eq!(network.stats().timeouts_write, 0);
    network.run_for(SECOND);
    assert_eq!(network.stats().timeouts_write, 1);
}

/// Notes when a periodic timer of one second ticks, counted from the moment it was set.
fn ticking() -> (Client, Arc<Mutex<Vec<Duration>>>) {
    let ticks: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let (notes, mut set_at) = (Arc::clone(&ticks), Duration::ZERO);
    let client = Client::new(timed(move |fired, request| match fired {
        None => {
            set_at = request.others.now();
            request.set_interval(7, SECOND);
        }
        Some(_) => notes.lock().unwrap().push(request.others.now() - set_at),
    }));
    (client, ticks)
}

#[test]
fn a_periodic_timer_does_not_drift() {
    let (mut client, ticks) = ticking();
    let late = Duration::from_millis(300);
    for second in 1..=5 {
        client.feed_after(SECOND, b"."); // Looked at a little later each time.
        client.feed_after(late / 5, b".");
        assert_eq!(ticks.lock().unwrap().len(), second);
    }
    client.advance(SECOND - late); // At 6 s, and not a second after the last tick.
    assert_eq!(ticks.lock().unwrap().last(), Some(&(6 * SECOND)));
}

#[test]
fn ticks_that_were_missed_are_not_made_up_for() {
    let (mut client, ticks) = ticking();
    client.feed_after(10 * SECOND + SECOND / 2, b"back from SIGSTOP");
    assert_eq!(*ticks.lock().unwrap(), [10 * SECOND + SECOND / 2]);
    client.advance(SECOND / 2);
    assert_eq!(ticks.lock().unwrap()[1..], [11 * SECOND]);
}

#[test]
fn a_periodic_timer_is_cancelled_like_any_other() {
    let mut ticks = 0;
    let mut client = Client::new(timed(move |fired, request| match fired {
        None => request.set_interval(7, SECOND),
        Some(_) => {
            ticks += 1;
            match ticks {
                3 => assert!(request.cancel_timer(7)),
                2 => request.set_interval(7, Duration::ZERO), // As good as a millisecond.
                _ => {}
            }
        }
    }));
    client.advance(2 * SECOND);
    client.advance(Duration::from_millis(1));
    client.advance(10 * SECOND);
    assert_eq!(client.transcript(), ["setup", "timer 7", "timer 7", "timer 7"]);
}

#[test]
fn a_periodic_timer_of_a_server_moves_with_it() {
    struct Metronome(u32);
    impl BaseServer for Metronome {
        fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
            self.0 += 1;
            if self.0 == 3 {
                assert!(others.cancel_server_timer(tag));
                others.request_shutdown();
            }
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Metronome(0), |_, _| NoHandler).unwrap();
    server.set_interval(1, Duration::from_millis(2));
    let mut reactor = Reactor::new().unwrap();
    let id = reactor.add(server).unwrap();
    reactor.serve_forever().unwrap();
    assert_eq!(reactor.server_mut::<Metronome>(id).unwrap().0, 3);
}

/// A message begins with `(` and ends with `)`, and has ten seconds. What comes is consumed at once.
fn bracketed(forgives: bool) -> impl RequestHandler {
    probe(move |call, request: &mut Request<'_>| match call {
        Call::Handle => {
            match request.input.take_all() {
                b"(" => request.set_message_deadline(Some(10 * SECOND)),
                b")" => request.set_message_deadline(None),
                _ => {}
            }
            Ok(Next::Wait)
        }
        Call::Timeout(Timeout::Message) if forgives => Ok(Next::Wait),
        call => usual(&call, request),
    })
}

#[test]
fn a_message_that_trickles_in_does_not_escape_its_deadline() {
    let mut client = Client::new(bracketed(false));
    client.feed(b"(");
    for _ in 0..9 {
        client.advance(SECOND);
        client.feed(b".");
    }
    assert_eq!(client.finished(), None);
    client.advance(SECOND);
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Message)));
    assert_eq!(client.stats().timeouts_message, 1);
}

#[test]
fn a_message_that_is_complete_has_no_deadline_and_the_next_has_its_own() {
    let mut client = Client::new(bracketed(false));
    client.feed(b"(");
    client.advance(9 * SECOND);
    client.feed(b")");
    client.advance(30 * SECOND);
    client.feed(b"(");
    client.advance(10 * SECOND - Duration::from_nanos(1));
    assert_eq!(client.finished(), None);
    client.advance(Duration::from_nanos(1));
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Message)));
}

#[test]
fn a_forgiven_late_message_gets_its_time_again() {
    let mut client = Client::new(bracketed(true));
    client.feed(b"(");
    client.advance(25 * SECOND);
    client.advance(9 * SECOND);
    assert_eq!(client.transcript().iter().filter(|call| call.starts_with("timeout")).count(), 1);
    client.advance(SECOND);
    assert_eq!(client.transcript().iter().filter(|call| call.starts_with("timeout")).count(), 2);
    assert_eq!(client.finished(), None);
}

/// Its setup comes before the timeout, which may hold no longer then.
#[test]
fn a_deadline_that_a_successor_lifts_in_its_setup_does_not_pass() {
    let mut limits = Limits::default();
    limits.callbacks_per_turn = 1; // So the deadline passes between the replacement and the setup.
    let handler = probe(|call, request: &mut Request<'_>| {
        match call {
            Call::Setup => request.set_message_deadline(Some(Duration::from_secs(1))),
            Call::Handle => request.replace_handler(probe(|call, request: &mut Request<'_>| {
                if let Call::Setup = call {
                    request.set_message_deadline(None);
                }
                usual(&call, request)
            })),
            _ => {}
        }
        usual(&call, request)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.feed_after(Duration::from_secs(2), b"done");
    assert_eq!(client.transcript(), ["setup", "handle 4", "setup"]);
}
