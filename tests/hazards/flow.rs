//! What a connection owes its peer: every byte, in order, before the end; and nothing without bounds.

use std::io::{ErrorKind, Read, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::family::Tcp;
use socketserver::testing::Network;
use socketserver::{
    Address, BaseServer, Delivery, EndReason, Limits, Linger, Message, Next, Others, Overflow, Request, RequestHandler,
    Result, TcpServer,
};

use crate::common::{
    Call, Journal, Kind, PATIENCE, Peer, connect_with_small_window, echo, echoing, limit, probe, random, serve, server,
    usual,
};

over_streams! {
    a_client_that_half_closes_gets_its_whole_reply,
    close_delivers_everything_queued_then_fin,
    shutdown_write_delivers_everything_queued_then_fin,
    close_with_unread_input_does_not_destroy_the_reply,
    a_client_that_never_ends_its_side_does_not_keep_a_closed_connection_for_ever,
    a_flood_after_close_is_cut_off,
    abort_drops_what_is_queued_and_ends_at_once,
    bytes_before_a_fin_are_handled_before_the_end,
    eof_that_waits_goes_on_writing,
    a_half_open_connection_whose_peer_vanishes_ends_with_the_next_write,
    a_client_that_never_reads_costs_a_bounded_amount_and_is_not_read,
    output_beyond_the_hard_cap_ends_the_connection_or_is_refused,
    unread_input_is_bounded,
    a_paused_connection_is_not_read_and_loses_nothing,
    a_greedy_client_does_not_starve_paced_ones,
    leftovers_of_a_budget_are_handled_without_a_further_event,
    leftovers_of_a_write_budget_are_sent_without_a_further_event,
    a_proxy_with_backpressure_loses_nothing,
    random_traffic_comes_back_whole,
    messages_of_any_size_come_back,
    many_clients_at_once_are_all_served,
}

fn messages_of_any_size_come_back<F: Kind>() {
    let running = serve(echoing::<F>());
    let mut client = running.connect();
    let bytes = pattern(300_000);
    for n in (1..70_000).step_by(997).chain([1, 4_096, 16_383, 16_384, 65_536, 212_992, 300_000]) {
        client.echo(&bytes[..n]);
    }
    drop(client);
    running.stop();
}

fn many_clients_at_once_are_all_served<F: Kind>() {
    let running = serve(echoing::<F>());
    let mut clients: Vec<_> = (0..300).map(|_| running.connect()).collect();
    for round in 0..3 {
        clients.iter_mut().for_each(|client| client.send(format!("round {round}")));
        clients.iter_mut().for_each(|client| client.expect(format!("round {round}")));
    }
    assert_eq!(running.stats().active, 300);
    for client in &mut clients {
        client.half_close();
        client.expect_eof();
    }
    drop(clients);
    assert_eq!(running.stop().accepted, 300);
}

const REPLY_BYTES: usize = 8 << 20;

/// Not the same at any two places, so that a lost or doubled piece shows.
fn pattern(bytes: usize) -> Vec<u8> {
    let mut state = 0x5eed_u64;
    (0..bytes / 8 + 1).flat_map(|_| random(&mut state).to_le_bytes()).take(bytes).collect()
}

/// Answers the first bytes with the big reply, then does as told.
fn big_reply(next: Next, half_close: bool) -> impl RequestHandler {
    probe(move |call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.input.take_all();
            request.output.write_all(&pattern(REPLY_BYTES))?;
            if half_close {
                request.shutdown_write();
            }
            return Ok(next);
        }
        usual(&call, request)
    })
}

#[track_caller]
fn assert_whole_reply(got: &[u8]) {
    assert_eq!(got.len(), REPLY_BYTES);
    assert!(got == pattern(REPLY_BYTES), "the bytes arrive as they were written");
}

fn a_client_that_half_closes_gets_its_whole_reply<F: Kind>() {
    let running = serve(server::<F, _>(|_| big_reply(Next::Wait, false)));
    let mut client = running.connect();
    client.send("request");
    client.half_close();
    assert_whole_reply(&client.rest());
    running.stop();
}

fn close_delivers_everything_queued_then_fin<F: Kind>() {
    let running = serve(server::<F, _>(|_| big_reply(Next::Close, false)));
    let mut client = running.connect();
    client.send("request");
    assert_whole_reply(&client.rest());
    running.stop();
}

fn shutdown_write_delivers_everything_queued_then_fin<F: Kind>() {
    let running = serve(server::<F, _>(|_| big_reply(Next::Wait, true)));
    let mut client = running.connect();
    client.send("request");
    assert_whole_reply(&client.rest());
    running.wait_for_stats("it is still half-open", |stats| stats.active == 1);
    drop(client);
    running.wait_for_stats("it ends with the other half", |stats| stats.active == 0);
    running.stop();
}

fn close_with_unread_input_does_not_destroy_the_reply<F: Kind>() {
    let running = serve(server::<F, _>(|_| big_reply(Next::Close, false)));
    let mut client = running.connect();
    client.send("request");
    let mut start = [0];
    client.socket.read_exact(&mut start).unwrap();
    let mut uploading = client.socket.try_clone().unwrap();
    // Nothing of it is read by the handler: it begins when the reply is under way, and goes on all the while.
    let (begin, begun) = std::sync::mpsc::channel();
    let upload = std::thread::spawn(move || {
        for _ in 0..64 {
            if uploading.write_all(&[b'u'; 4 << 10]).is_err() {
                break;
            }
            let _ = begin.send(());
        }
    });
    (0..2).for_each(|_| begun.recv_timeout(PATIENCE).unwrap());
    assert_whole_reply(&[&start[..], &client.rest()].concat());
    upload.join().unwrap();
    running.stop();
}

fn a_client_that_never_ends_its_side_does_not_keep_a_closed_connection_for_ever<F: Kind>() {
    let mut server = server::<F, _>(|_| big_reply(Next::Close, false));
    limit(&mut server, |limits| {
        (limits.linger, limits.linger_timeout) = (Linger::Always, Duration::from_millis(30));
    });
    let running = serve(server);
    let mut client = running.connect();
    client.send("request");
    assert_whole_reply(&client.rest());
    running.wait_for_stats("the linger ends", |stats| stats.active == 0 && stats.closed == 1);
    drop(client);
    running.stop();
}

fn a_flood_after_close_is_cut_off<F: Kind>() {
    let mut server = server::<F, _>(|_| big_reply(Next::Close, false));
    limit(&mut server, |limits| {
        (limits.linger, limits.linger_timeout) = (Linger::Always, Duration::from_secs(3_600));
        limits.linger_bytes_max = 256 << 10;
    });
    let running = serve(server);
    let mut client = running.connect();
    client.send("request");
    assert_whole_reply(&client.rest());
    let flood = [0; 64 << 10];
    let cut = (0..1_000).find_map(|_| client.socket.write_all(&flood).err());
    assert!(
        cut.is_some_and(|error| matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)),
        "no flood is read for ever"
    );
    running.wait_for_stats("it is over", |stats| stats.active == 0);
    running.stop();
}

fn abort_drops_what_is_queued_and_ends_at_once<F: Kind>() {
    let journal = Journal::new();
    let notes = journal.clone();
    let running = serve(server::<F, _>(move |_| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Handle => {
                request.output.write_all(&pattern(REPLY_BYTES))?;
                Ok(Next::Abort)
            }
            Call::Finish(why) => {
                notes.note(why);
                Ok(Next::Wait)
            }
            call => usual(&call, request),
        })
    }));
    let mut client = running.connect();
    client.send("request");
    journal.wait("done");
    assert!(client.expect_abort::<F>().len() < REPLY_BYTES);
    running.stop();
}

fn bytes_before_a_fin_are_handled_before_the_end<F: Kind>() {
    let (got, running) = collecting::<F>();
    for n in [1, 1_000, 300_000, 1 << 20] {
        let mut client = running.connect();
        let sent = pattern(n);
        client.send(&sent);
        drop(client);
        assert!(got.recv_timeout(PATIENCE).unwrap() == (sent, EndReason::PeerClosed), "{n} bytes");
    }
    running.stop();
}

#[test]
fn bytes_before_a_reset_are_handled_before_the_end() {
    let (got, running) = collecting::<Tcp>();
    // The loop is held up until the bytes and the reset are both there.
    let (hold, held) = std::sync::mpsc::channel::<()>();
    let mut client = running.connect();
    running.wait_for_stats("it is served", |stats| stats.active == 1);
    running.handle.run(move |_| _ = held.recv_timeout(PATIENCE)).unwrap();
    client.send("the last words");
    client.reset();
    hold.send(()).unwrap();
    assert_eq!(got.recv_timeout(PATIENCE).unwrap(), (b"the last words".to_vec(), EndReason::Reset));
    running.stop();
}

type Collected = std::sync::mpsc::Receiver<(Vec<u8>, EndReason)>;

/// Hands out what each connection received and how it ended.
fn collecting<F: Kind>() -> (Collected, crate::common::Running<(), F>) {
    let (tell, got) = std::sync::mpsc::channel();
    let server = server::<F, _>(move |_| {
        let (tell, mut bytes) = (tell.clone(), Vec::new());
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Handle => bytes.extend_from_slice(request.input.take_all()),
                Call::Finish(why) => tell.send((std::mem::take(&mut bytes), why)).unwrap(),
                _ => {}
            }
            usual(&call, request)
        })
    });
    (got, serve(server))
}

fn eof_that_waits_goes_on_writing<F: Kind>() {
    let running = serve(server::<F, _>(|_| {
        let mut left = 5;
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Eof => {
                request.set_timer(1, Duration::from_millis(1));
                Ok(Next::Wait)
            }
            Call::Timer(tag) => {
                writeln!(request.output, "{tag}")?;
                left -= 1;
                request.set_timer(tag + 1, Duration::from_millis(1));
                Ok(if left == 0 { Next::Close } else { Next::Wait })
            }
            call => usual(&call, request),
        })
    }));
    let mut client = running.connect();
    client.half_close();
    assert_eq!(client.rest(), b"1\n2\n3\n4\n5\n");
    running.stop();
}

fn a_half_open_connection_whose_peer_vanishes_ends_with_the_next_write<F: Kind>() {
    let journal = Journal::new();
    let notes = journal.clone();
    let running = serve(server::<F, _>(move |_| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| match call {
            Call::Eof => {
                request.set_timer(1, Duration::ZERO);
                Ok(Next::Wait)
            }
            Call::Timer(_) => {
                request.output.write_all(b"anybody there?")?;
                request.set_timer(1, Duration::from_millis(1));
                Ok(Next::Wait)
            }
            Call::Finish(why) => {
                notes.note(why);
                Ok(Next::Wait)
            }
            call => usual(&call, request),
        })
    }));
    drop(running.connect());
    assert_eq!(journal.wait("reset"), "reset");
    running.stop();
}

// ---- bounds ----

fn a_client_that_never_reads_costs_a_bounded_amount_and_is_not_read<F: Kind>() {
    let unsent = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let most = unsent.clone();
    let server = server::<F, _>(move |_| {
        let most = most.clone();
        probe(move |call, request: &mut Request<'_>| {
            let next = echo(&call, request);
            most.fetch_max(request.output.len(), std::sync::atomic::Ordering::Relaxed);
            next
        })
    });
    let limits = server.limits().clone();
    let running = serve(server);
    let mut greedy = connect_with_small_window(running.address.clone());
    // It sends until the server does not take more for a while: the end of a write deadline is the proof.
    greedy.socket.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let block = [b'g'; 64 << 10];
    let mut sent = 0usize;
    let stalled = loop {
        match greedy.socket.write(&block) {
            Ok(n) => sent += n,
            Err(error) => break error,
        }
        assert!(sent < 1 << 30, "it is read although it does not read");
        // Others are served meanwhile.
        if sent.is_multiple_of(16 << 20) {
            running.connect().echo("me too");
        }
    };
    assert!(matches!(stalled.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{stalled}");
    running.connect().echo("me too");
    let most = unsent.load(std::sync::atomic::Ordering::Relaxed);
    let one_read = limits.read_bytes_per_turn;
    assert!(most > limits.output_high_water, "the mark was reached: {most}");
    assert!(most <= limits.output_high_water + one_read, "bounded by the mark and one read: {most}");
    let received = running.stats().bytes_in;
    // Once it reads, everything comes, in order, and what it had sent is read on.
    greedy.socket.set_write_timeout(Some(PATIENCE)).unwrap();
    greedy.half_close();
    assert_eq!(greedy.rest().len(), sent);
    assert!(running.stats().bytes_in >= received);
    running.stop();
}

fn output_beyond_the_hard_cap_ends_the_connection_or_is_refused<F: Kind>() {
    for overflow in [Overflow::Close, Overflow::Refuse] {
        let journal = Journal::new();
        let notes = journal.clone();
        let mut server = server::<F, _>(move |_| {
            let notes = notes.clone();
            probe(move |call, request: &mut Request<'_>| {
                match call {
                    Call::Handle => {
                        request.input.take_all();
                        let block = pattern(64 << 10);
                        let written = (0..1_000).take_while(|_| request.output.write_all(&block).is_ok()).count();
                        notes.note(format!("written {written}"));
                        notes.note(format!("unsent {}", request.output.len()));
                    }
                    Call::Finish(why) => notes.note(format!("finish {why}")),
                    _ => {}
                }
                usual(&call, request)
            })
        });
        limit(&mut server, |limits| {
            limits.output_overflow = overflow;
            limits.output_bytes_max = 1 << 20;
        });
        let running = serve(server);
        let mut slow = connect_with_small_window(running.address.clone());
        slow.send("everything, please");
        let unsent: usize = journal.wait("unsent")[7..].parse().unwrap();
        assert!(unsent <= (1 << 20) + (64 << 10), "{unsent}");
        match overflow {
            Overflow::Close => {
                assert_eq!(journal.wait("finish"), "finish output limit");
                slow.expect_abort::<F>();
                assert_eq!(running.stats().output_limits, 1);
            }
            _ => {
                let written: usize = journal.wait("written")[8..].parse().unwrap();
                slow.half_close();
                assert_eq!(slow.rest().len(), written * (64 << 10), "all that was accepted, and nothing of the rest");
            }
        }
        running.stop();
    }
}

fn unread_input_is_bounded<F: Kind>() {
    let mut server = server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| match call {
            Call::Handle => Ok(Next::Wait), // It never consumes anything.
            call => usual(&call, request),
        })
    });
    limit(&mut server, |limits| limits.input_bytes_max = 100_000);
    let running = serve(server);
    let mut client = running.connect();
    let block = [0; 10_000];
    let _ = (0..1_000).find_map(|_| client.socket.write_all(&block).err());
    let stats = running.wait_for_stats("it is ended", |stats| stats.input_limits == 1);
    assert!(stats.bytes_in <= 100_000 + 2 * (256 << 10), "{}", stats.bytes_in);
    drop(client);
    running.stop();
}

fn a_paused_connection_is_not_read_and_loses_nothing<F: Kind>() {
    let (tell, hear) = std::sync::mpsc::channel();
    let running = serve(server::<F, _>(move |_| {
        let tell = tell.clone();
        probe(move |call, request: &mut Request<'_>| {
            match call {
                Call::Setup => {
                    request.pause_reading();
                    tell.send(request.id()).unwrap();
                }
                Call::Message(_) => request.resume_reading(),
                _ => {}
            }
            echo(&call, request)
        })
    }));
    let mut client = running.connect();
    let id = hear.recv_timeout(PATIENCE).unwrap();
    client.send("patience");
    client.half_close();
    running.connect(); // A turn, and another.
    assert_eq!(running.stats().bytes_in, 0);
    running.handle.send(id, ()).unwrap();
    assert_eq!(client.rest(), b"patience");
    running.stop();
}

// ---- fairness ----

fn a_greedy_client_does_not_starve_paced_ones<F: Kind>() {
    let running = serve(echoing::<F>());
    let done = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut greedy = running.connect();
    let mut reader = greedy.socket.try_clone().unwrap();
    let draining = std::thread::spawn(move || drop(std::io::copy(&mut reader, &mut std::io::sink())));
    let finished = done.clone();
    let flooding = std::thread::spawn(move || {
        let block = vec![b'g'; 1 << 20];
        while !finished.load(std::sync::atomic::Ordering::Relaxed) && greedy.socket.write_all(&block).is_ok() {}
        greedy.half_close();
    });
    let mut paced: Vec<_> = (0..20).map(|_| running.connect()).collect();
    for round in 0..20 {
        for client in &mut paced {
            client.echo(format!("round {round}"));
        }
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    flooding.join().unwrap();
    draining.join().unwrap();
    drop(paced);
    running.stop();
}

fn leftovers_of_a_budget_are_handled_without_a_further_event<F: Kind>() {
    // Everything arrives in one piece, and no event follows it.
    for (read_bytes, callbacks) in [(1, 16), (7, 1), (1 << 20, 1)] {
        let mut server = server::<F, _>(|_| {
            probe(|call, request: &mut Request<'_>| match call {
                Call::Handle => {
                    while let Some(line) = request.input.read_line()? {
                        request.output.write_all(line)?;
                    }
                    Ok(Next::Wait)
                }
                call => usual(&call, request),
            })
        });
        limit(&mut server, |limits| {
            limits.read_bytes_per_turn = read_bytes;
            limits.callbacks_per_turn = callbacks;
        });
        let running = serve(server);
        let mut client = running.connect();
        let lines: String = (0..100).map(|i| format!("line {i}\n")).collect();
        client.echo(&lines);
        client.half_close();
        client.expect_eof();
        drop(client);
        running.wait_for_stats("it is reaped", |stats| stats.active == 0);
        running.stop();
    }
}

fn leftovers_of_a_write_budget_are_sent_without_a_further_event<F: Kind>() {
    let mut server = server::<F, _>(|_| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_shared(pattern(1 << 20))?;
            }
            usual(&call, request)
        })
    });
    limit(&mut server, |limits| limits.write_bytes_per_turn = 1_000);
    let running = serve(server);
    let mut client = running.connect();
    client.send("go");
    client.half_close();
    assert!(client.rest() == pattern(1 << 20));
    running.stop();
}

// ---- out of band ----

#[test]
#[cfg(any(target_os = "linux", target_os = "android"))]
fn an_out_of_band_byte_does_not_strand_later_bytes() {
    let running = serve(
        TcpServer::new("127.0.0.1:0", |_| probe(|call, request: &mut Request<'_>| echo(&call, request))).unwrap(),
    );
    for _ in 0..20 {
        let mut client = running.connect();
        client.send("before");
        client.socket.send_out_of_band(b"!").unwrap();
        client.send("after");
        client.expect("beforeafter");
        client.socket.send_out_of_band(b"!").unwrap();
        client.echo("later");
        client.half_close();
        client.expect_eof();
    }
    running.stop();
}

// ---- two connections joined ----

/// A proxy as the documentation of `Delivery` has it: no byte lost, no buffer without bounds, both ways at once.
fn a_proxy_with_backpressure_loses_nothing<F: Kind>() {
    use socketserver::{ConnectionId, Delivery};
    struct Side {
        other: Option<ConnectionId>,
        upstream: Option<Address>,
    }
    impl RequestHandler for Side {
        fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
            // Or both would wait for each other once all buffers are full; those of Unix sockets soon are.
            request.set_full_duplex(true);
            if let Some(upstream) = self.upstream.take() {
                let far = Side { other: Some(request.id()), upstream: None };
                self.other = Some(request.others.connect(upstream, far)?);
            }
            Ok(Next::Wait)
        }
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            let other = self.other.expect("both sides know each other");
            let bytes = request.input.take_all();
            match request.others.send(other, bytes) {
                Delivery::Queued => {}
                Delivery::Full => request.pause_reading(),
                _ => return Ok(Next::Close),
            }
            Ok(Next::Wait)
        }
        fn writable(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.others.resume_reading(self.other.expect("both sides know each other"));
            Ok(Next::Wait)
        }
        fn eof(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.others.shutdown_write(self.other.expect("both sides know each other"));
            Ok(Next::Wait)
        }
        fn finish(&mut self, request: &mut Request<'_>, _: EndReason) {
            if let Some(other) = self.other {
                request.others.close(other);
            }
        }
    }
    let upstream = serve(echoing::<F>());
    let far = upstream.address.clone();
    let proxy = serve(server::<F, _>(move |_| Side { other: None, upstream: Some(far.clone().into()) }));
    let mut client = proxy.connect();
    let sent = pattern(REPLY_BYTES);
    let (mut writer, upload) = (client.socket.try_clone().unwrap(), sent.clone());
    let uploading = std::thread::spawn(move || {
        writer.write_all(&upload).unwrap();
        writer.shutdown(std::net::Shutdown::Write).unwrap();
    });
    // It begins to read when the proxy can no longer write.
    let begun = Instant::now();
    while proxy.stats().bytes_in < 256 << 10 && begun.elapsed() < PATIENCE {
        std::thread::yield_now();
    }
    let mut got = Vec::new();
    client.socket.read_to_end(&mut got).unwrap();
    uploading.join().unwrap();
    assert!(got == sent, "{} of {} bytes came back", got.len(), sent.len());
    drop(client);
    proxy.wait_for_stats("both sides end", |stats| stats.active == 0);
    proxy.stop();
    upstream.stop();
}

/// Two peers, random traffic: what each sends comes back whole, however reads and writes are cut.
fn random_traffic_comes_back_whole<F: Kind>() {
    let seed = u64::from(std::process::id()) << 20 | 0x5eed;
    println!("seed {seed}");
    let mut server = echoing::<F>();
    limit(&mut server, |limits| {
        limits.read_bytes_per_turn = 5_000;
        limits.write_bytes_per_turn = 3_000;
        limits.callbacks_per_turn = 2;
        limits.output_high_water = 4_000;
        limits.output_low_water = 1_000;
    });
    let running = serve(server);
    let clients: Vec<_> = (0..8u64)
        .map(|n| {
            let (mut state, address) = (seed ^ (n + 1).wrapping_mul(0x9e37_79b9), running.address.clone());
            std::thread::spawn(move || {
                let mut client = if n % 2 == 0 { Peer::connect(address) } else { connect_with_small_window(address) };
                let sent = pattern(400_000 + n as usize);
                let (mut writer, bytes) = (client.socket.try_clone().unwrap(), sent.clone());
                let uploading = std::thread::spawn(move || {
                    let mut rest = &bytes[..];
                    while !rest.is_empty() {
                        let n = 1 + random(&mut state) as usize % rest.len().min(20_000);
                        writer.write_all(&rest[..n]).unwrap();
                        rest = &rest[n..];
                    }
                    writer.shutdown(std::net::Shutdown::Write).unwrap();
                });
                let got = client.rest();
                uploading.join().unwrap();
                assert!(got == sent, "seed {seed}, client {n}: {} of {} bytes", got.len(), sent.len());
            })
        })
        .collect();
    for client in clients {
        client.join().unwrap();
    }
    running.stop();
}

#[test]
fn an_abort_sends_nothing_any_more_even_if_there_is_room() {
    #[derive(Default)]
    struct Aborting;
    impl BaseServer for Aborting {
        fn message(&mut self, others: &mut Others<'_, Self>, _: Message) {
            others.connections().into_iter().for_each(|id| others.abort(id));
        }
    }
    let handler = |_: &mut Aborting, _: &Address| {
        probe(|call, request: &mut Request<'_, Aborting>| {
            if let Call::Handle = call {
                request.output.write_all(&[7; 100])?;
            }
            usual(&call, request)
        })
    };
    let mut network = Network::new();
    let server = network.serve(Aborting, handler, Limits::default()).unwrap();
    let client = network.connect(server);
    client.set_window(10);
    client.send(b"go");
    network.run();
    assert_eq!(client.take_received().len(), 10);
    network.handle().send_to_server(server, ()).unwrap();
    client.set_window(usize::MAX);
    network.run();
    assert_eq!((client.take_received().len(), client.is_reset()), (0, true));
}

#[test]
fn unread_output_does_not_delay_the_close() {
    let journal = Journal::new();
    let notes = journal.clone();
    let mut network = Network::new();
    let handler = move |_: &mut (), _: &Address| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| {
            notes.note(format!("{call} {}", request.input.len()));
            match call {
                Call::Handle => Ok(Next::Wait), // It waits for more than there will be.
                call => usual(&call, request),
            }
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(server);
    client.send(b"half a record");
    network.run();
    client.send_eof();
    for _ in 0..3 {
        network.turn();
    }
    assert_eq!(journal.lines(), ["setup 0", "handle 13", "handle 13", "eof 13", "finish peer closed 13"]);
}

#[test]
fn how_much_waits_for_another_connection_is_known() {
    let mut network = Network::new();
    let seen: Arc<Mutex<Vec<Option<usize>>>> = Arc::default();
    let notes = Arc::clone(&seen);
    let handler = move |_: &mut (), _: &Address| {
        let notes = Arc::clone(&notes);
        probe(move |call, request: &mut Request<'_>| {
            let Call::Handle = call else { return usual(&call, request) };
            request.input.take_all();
            let others = request.others.connections();
            others.iter().for_each(|&id| assert_ne!(request.others.send(id, &[b'x'; 1_000]), Delivery::Gone));
            let own = request.id();
            let mut notes = notes.lock().unwrap();
            notes.extend(others.into_iter().chain([own]).map(|id| request.others.output_len(id)));
            Ok(Next::Wait)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let (slow, talker) = (network.connect(server), network.connect(server));
    slow.set_window(300);
    network.run();
    for _ in 0..2 {
        talker.send(b"go");
        network.run();
    }
    assert_eq!(*seen.lock().unwrap(), [Some(1_000), None, Some(1_700), None]);
}
