//! The testing kit, and the rules of one connection on its clock.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use socketserver::testing::{Client, Network, Outcome, Script, check_chunking};
use socketserver::{
    Address, BaseServer, EndReason, Limits, Message, Next, Request, RequestHandler, Result, Stream, Timeout,
};

use crate::common::{Call, PATIENCE, echo, probe, usual};

#[test]
fn a_script_is_played_in_its_order() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| echo(&call, request)));
    client.play(Script::new().short_write(1).read(b"he").would_block().read(b"llo").eof());
    assert_eq!(client.sent(), b"hello");
    assert_eq!(client.transcript(), ["setup", "handle 2", "handle 3", "eof", "finish peer closed"]);
    assert!(client.is_closed() && !client.is_reset());
}

#[test]
fn bytes_before_a_reset_are_handled_first() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| usual(&call, request)));
    client.play(Script::new().read(b"last words").reset());
    assert_eq!(client.transcript(), ["setup", "handle 10", "finish reset"]);
}

#[test]
fn every_short_write_pattern_delivers_everything_in_order() {
    for first in 0..6 {
        for second in 0..6 {
            let mut client = Client::new(probe(|call, request: &mut Request<'_>| echo(&call, request)));
            client.play(Script::new().short_write(first).short_write(second).read(b"abcdef").read(b"ghi").eof());
            assert_eq!(client.sent(), b"abcdefghi", "short writes of {first} and {second}");
            assert_eq!(client.finished(), Some(EndReason::PeerClosed));
        }
    }
}

#[test]
#[should_panic(expected = "the input gives another result")]
fn a_handler_that_depends_on_how_bytes_are_cut_is_caught() {
    // It takes a read for a message.
    let counting = || {
        Client::new(probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let n = request.input.take_all().len();
                write!(request.output, "{n} ")?;
            }
            usual(&call, request)
        }))
    };
    check_chunking(b"one message", counting);
}

#[test]
fn a_handler_of_lines_does_not_depend_on_how_bytes_are_cut() {
    let lines = || {
        Client::new(probe(|call, request: &mut Request<'_>| match call {
            Call::Handle => {
                while let Some(line) = request.input.read_line()? {
                    writeln!(request.output, "{}", line.len())?;
                }
                Ok(Next::Wait)
            }
            call => usual(&call, request),
        }))
    };
    check_chunking(b"one\n\ntwo and more\nrest", lines);
}

#[test]
#[should_panic(expected = "does not come to rest")]
fn a_handler_that_never_rests_is_caught() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Timer(_) | Call::Handle = call {
            request.set_timer(1, Duration::ZERO);
        }
        usual(&call, request)
    }));
    client.feed(b"go");
}

#[test]
fn a_message_to_a_connection_that_is_over_is_refused() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| usual(&call, request)));
    client.feed_eof();
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));
    assert!(client.message("too late").is_err(), "documented as Error::Gone");
}

#[test]
fn the_window_stops_the_server_and_lets_it_go_on() {
    let limits = limits(|limits| {
        limits.output_high_water = 8;
        limits.output_low_water = 2;
    });
    let handler = probe(|call, request: &mut Request<'_>| echo(&call, request));
    let mut client = Client::with_limits((), handler, limits);
    client.set_window(3);
    client.feed(b"0123456789abcdef");
    client.feed(b"not read yet");
    assert_eq!(client.transcript(), ["setup", "handle 16"], "above the mark it is not read");
    client.set_window(10);
    assert_eq!(client.sent(), b"0123456789abc");
    assert_eq!(client.transcript(), ["setup", "handle 16"]);
    client.set_window(100);
    // What the second one wrote went above the mark as well, so it is told that it left.
    assert_eq!(client.transcript(), ["setup", "handle 16", "writable", "handle 12", "writable"]);
    assert_eq!(client.sent(), b"0123456789abcdefnot read yet");
}

// ---- output ----

#[test]
fn a_producer_that_saw_full_output_is_called_even_if_the_socket_took_everything() {
    let limits = limits(|limits| {
        limits.output_high_water = 1_000;
        limits.output_low_water = 100;
    });
    let mut left = 1_000;
    let producer = probe(move |call, request: &mut Request<'_>| {
        if let Call::Setup | Call::Writable = call {
            while left > 0 && !request.output.is_full() {
                request.output.write_all(&[7; 100])?;
                left -= 1;
            }
            return Ok(if left == 0 { Next::Close } else { Next::Wait });
        }
        usual(&call, request)
    });
    let client = Client::with_limits((), producer, limits);
    assert_eq!(client.sent().len(), 100_000);
    assert!(client.is_closed());
}

#[test]
fn a_write_behind_a_shared_payload_does_not_strand_it() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.input.take_all();
            request.output.write_shared(&b"shared "[..])?;
            request.output.write_all(b"and written")?;
        }
        usual(&call, request)
    }));
    client.feed(b"go");
    assert_eq!(client.sent(), b"shared and written");
}

#[test]
fn a_write_from_a_message_behind_leftovers_of_the_budget_does_not_strand_them() {
    let limits = limits(|limits| {
        limits.write_bytes_per_turn = 10;
        limits.output_high_water = 10_000;
    });
    let handler = probe(|call, request: &mut Request<'_>| {
        match call {
            Call::Handle => {
                request.input.take_all();
                // Three payloads of more than a budget, and a message to be handled before they are out.
                for _ in 0..3 {
                    request.output.write_shared(&[b'x'; 20][..])?;
                }
                request.others.handle().send(request.id(), ())?;
            }
            Call::Message(_) => request.output.write_all(b"end")?,
            _ => {}
        }
        usual(&call, request)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.play(Script::new().short_write(5).read(b"go")); // The rest waits, and leaves within the budget.
    assert_eq!(String::from_utf8(client.sent()).unwrap(), format!("{}end", "x".repeat(60)));
}

#[test]
fn shutdown_write_sends_fin_once_the_queue_has_left() {
    for half in ["in one go", "after waiting"] {
        let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.input.take_all();
                request.output.write_all(b"the whole reply")?;
                request.shutdown_write();
            }
            usual(&call, request)
        }));
        if half == "after waiting" {
            client.set_window(4);
        }
        client.feed(b"go");
        client.set_window(100);
        assert_eq!(client.sent(), b"the whole reply", "{half}");
        assert!(client.is_closed(), "FIN {half}");
        client.feed_eof();
        assert_eq!(client.finished(), Some(EndReason::PeerClosed), "{half}");
    }
}

#[test]
fn a_second_shutdown_write_shuts_nothing_down_again() {
    #[derive(Default)]
    struct Counts(Arc<AtomicUsize>);
    impl BaseServer for Counts {
        fn shutdown_request(&mut self, _: &Stream, _: &Address) -> io::Result<()> {
            self.0.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
    }
    struct Shuts;
    impl RequestHandler<Counts> for Shuts {
        fn handle(&mut self, request: &mut Request<'_, Counts>) -> Result<Next> {
            request.input.take_all();
            request.shutdown_write();
            Ok(Next::Wait)
        }
    }
    let server = Counts::default();
    let calls = Arc::clone(&server.0);
    let mut client = Client::with_server(server, Shuts);
    client.feed(b"once");
    client.feed(b"twice");
    client.feed_eof();
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[test]
fn a_write_after_shutdown_write_is_refused() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.input.take_all();
            request.output.write_all(b"said")?;
            request.shutdown_write();
            let error = request.output.write_all(b"unsaid").unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
        }
        usual(&call, request)
    }));
    client.feed(b"go");
    assert_eq!(client.sent(), b"said");
    assert_eq!(client.finished(), None, "it is still read");
}

#[test]
fn a_quiet_close_that_the_peer_breaks_is_a_reset() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| match call {
        Call::Handle => {
            request.output.write_all(b"a reply that does not fit")?;
            Ok(Next::Close)
        }
        call => usual(&call, request),
    }));
    client.set_window(5);
    client.feed(b"go");
    assert_eq!(client.finished(), None);
    client.feed_reset();
    assert_eq!(client.finished(), Some(EndReason::Reset));
}

// ---- pausing ----

#[test]
fn unread_input_is_handled_when_another_callback_resumes_reading() {
    for resumed_by in ["timer", "message"] {
        let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
            match call {
                Call::Handle if request.input.unread() == b"wait" && request.others.now() < Duration::from_secs(1) => {
                    request.pause_reading();
                    request.set_timer(1, Duration::from_secs(1));
                    return Ok(Next::Wait);
                }
                Call::Handle => return echo(&call, request),
                Call::Timer(_) | Call::Message(_) => request.resume_reading(),
                _ => {}
            }
            usual(&call, request)
        }));
        client.feed(b"wait");
        assert_eq!(client.sent(), b"", "paused");
        client.advance(Duration::from_millis(999));
        assert_eq!(client.sent(), b"", "paused");
        if resumed_by == "message" {
            // The timer comes at the same moment: what counts is that one of the two hands the bytes over.
            client.message(()).unwrap();
        }
        client.advance(Duration::from_secs(1));
        assert_eq!(client.sent(), b"wait", "resumed by a {resumed_by}: {:?}", client.transcript());
    }
}

#[test]
fn a_resumed_connection_gets_a_fresh_read_timeout() {
    let limits = limits(|limits| limits.read_timeout = Some(Duration::from_secs(5)));
    let handler = probe(|call, request: &mut Request<'_>| {
        match call {
            Call::Setup => request.set_timer(1, Duration::from_secs(20)),
            Call::Handle => {
                if request.others.now() < Duration::from_secs(20) {
                    request.pause_reading();
                }
                return Ok(Next::Wait); // Half a message.
            }
            Call::Timer(_) => request.resume_reading(),
            _ => {}
        }
        usual(&call, request)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.feed(b"half");
    client.advance(Duration::from_secs(19));
    assert_eq!(client.finished(), None, "the read timeout stands still while paused");
    client.advance(Duration::from_secs(2));
    client.advance(Duration::from_secs(4));
    assert_eq!(client.finished(), None, "it starts again: {:?}", client.transcript());
    client.advance(Duration::from_secs(3));
    assert_eq!(client.finished(), Some(EndReason::Timeout(Timeout::Read)));
}

// ---- replacing the handler ----

struct Successor {
    setup_fails: bool,
}

thread_local! {
    static SUCCESSOR: std::cell::RefCell<Vec<String>> = const { std::cell::RefCell::new(Vec::new()) };
}

fn successor(setup_fails: bool) -> impl socketserver::RequestHandler {
    SUCCESSOR.with_borrow_mut(Vec::clear);
    let successor = Successor { setup_fails };
    probe(move |call, request: &mut Request<'_>| {
        SUCCESSOR.with_borrow_mut(|lines| lines.push(call.to_string()));
        match call {
            Call::Setup if successor.setup_fails => Err("scripted".into()),
            call => echo(&call, request),
        }
    })
}

fn successor_lines() -> Vec<String> {
    SUCCESSOR.with_borrow(Vec::clone)
}

#[test]
fn setup_of_a_replacement_handler_comes_before_any_other_call() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Message(_) = call {
            request.replace_handler(successor(false));
        }
        usual(&call, request)
    }));
    let (handle, id) = (client.handle(), client.id().unwrap());
    // Both are handled in one go, before the connection has its turn.
    handle.send(id, 1).unwrap();
    handle.send(id, 2).unwrap();
    client.run();
    assert_eq!(successor_lines().first().map(String::as_str), Some("setup"), "{:?}", successor_lines());
}

#[test]
fn a_timer_that_is_due_does_not_reach_a_replaced_handler_before_its_setup() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        match call {
            Call::Setup => {
                request.set_timer(1, Duration::from_secs(1));
                request.set_timer(2, Duration::from_secs(1));
            }
            Call::Timer(_) => request.replace_handler(successor(false)),
            _ => {}
        }
        usual(&call, request)
    }));
    client.advance(Duration::from_secs(1));
    assert_eq!(successor_lines().first().map(String::as_str), Some("setup"), "{:?}", successor_lines());
}

#[test]
fn messages_that_follow_a_replacement_reach_the_successor() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Message(_) = call {
            request.replace_handler(successor(false));
        }
        usual(&call, request)
    }));
    let (handle, id) = (client.handle(), client.id().unwrap());
    for n in 0..3 {
        handle.send(id, n).unwrap();
    }
    client.run();
    assert_eq!(successor_lines(), ["setup", "message", "message"]);
    assert_eq!(client.stats().messages_dropped, 0, "the connection is there");
}

#[test]
fn a_message_reaches_the_successor_also_while_much_is_to_be_sent() {
    let limits = limits(|limits| limits.write_bytes_per_turn = 10);
    let handler = probe(|call, request: &mut Request<'_>| {
        if let Call::Message(_) = call {
            request.output.write_shared(vec![0; 1_000])?; // More than a turn sends.
            request.replace_handler(successor(false));
        }
        usual(&call, request)
    });
    let mut client = Client::with_limits((), handler, limits);
    let (handle, id) = (client.handle(), client.id().unwrap());
    client.play(Script::new().short_write(5));
    handle.send(id, 1).unwrap();
    handle.send(id, 2).unwrap();
    client.run();
    assert_eq!(successor_lines(), ["setup", "message"]);
    assert_eq!(client.stats().messages_dropped, 0, "the connection is there");
    assert_eq!(client.sent().len(), 1_000);
}

#[test]
fn a_limit_that_passes_as_a_successor_closes_does_not_cut_that_short() {
    let idle = Duration::from_secs(10);
    let limits = limits(|limits| (limits.idle_timeout, limits.callbacks_per_turn) = (Some(idle), 1));
    let mut paused = false;
    let handler = probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Handle if !paused => {
                paused = true;
                request.pause_reading();
            }
            // Nothing moves with this, and it is the one callback of this turn.
            Call::Handle => request.replace_handler(probe(|call, request: &mut Request<'_>| match call {
                Call::Setup => {
                    request.output.write_all(b"bye")?;
                    Ok(Next::Close)
                }
                call => usual(&call, request),
            })),
            Call::Message(_) => request.resume_reading(),
            call => return usual(&call, request),
        }
        Ok(Next::Wait)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.feed(b"upgrade");
    let id = client.id().unwrap();
    client.handle().send(id, 1).unwrap();
    client.advance(idle);
    assert_eq!(client.sent(), b"bye", "{:?}", client.transcript());
    assert!(!client.is_reset());
    assert_eq!(client.stats().timeouts_idle, 0);
}

#[test]
fn timers_due_with_a_replacement_reach_the_successor() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        match call {
            Call::Setup => (1..4).for_each(|tag| request.set_timer(tag, Duration::from_secs(1))),
            Call::Timer(_) => request.replace_handler(successor(false)),
            _ => {}
        }
        usual(&call, request)
    }));
    client.advance(Duration::from_secs(1));
    let lines = successor_lines();
    assert_eq!(lines[0], "setup");
    assert_eq!(lines.iter().filter(|line| line.starts_with("timer")).count(), 2, "{lines:?}");
    assert_eq!(client.finished(), None, "and nothing ended");
}

#[test]
fn a_handler_put_in_place_by_finish_is_never_called() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Finish(_) = call {
            request.replace_handler(successor(false));
        }
        usual(&call, request)
    }));
    client.feed_eof();
    client.advance(Duration::from_secs(60));
    assert_eq!(successor_lines(), [""; 0]);
    let stats = client.stats();
    assert_eq!((stats.panics, stats.handler_errors, stats.active), (0, 0, 0), "{:?}", client.transcript());
}

#[test]
fn an_error_that_leaves_much_unread_ends_for_the_error() {
    let limits = limits(|limits| limits.input_bytes_max = 4);
    let handler = probe(|call, request: &mut Request<'_>| match call {
        Call::Handle => Err("scripted".into()),
        call => usual(&call, request),
    });
    let mut client = Client::with_limits((), handler, limits);
    client.feed(b"more than four bytes");
    assert_eq!(client.finished(), Some(EndReason::Error));
}

#[test]
fn a_replacement_handler_with_a_failing_setup_gets_no_finish() {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            request.replace_handler(successor(true));
        }
        usual(&call, request)
    }));
    client.feed(b"upgrade");
    assert!(client.is_closed());
    assert_eq!(successor_lines(), ["setup"]);
}

/// A client whose handler consumes `upgrade:` and is then replaced.
fn upgraded() -> Client {
    let mut client = Client::new(probe(|call, request: &mut Request<'_>| match call {
        Call::Handle => {
            request.input.consume(8);
            request.replace_handler(successor(false));
            Ok(Next::Wait)
        }
        call => usual(&call, request),
    }));
    client.feed(b"upgrade:rest");
    client
}

#[test]
fn a_client_sees_the_calls_of_a_replacement_handler() {
    let mut client = upgraded();
    assert_eq!(client.transcript(), ["setup", "handle 12", "setup", "handle 4"]);
    client.feed_eof();
    assert_eq!(client.transcript()[4..], ["eof", "finish peer closed"]);
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));
}

#[test]
fn a_replacement_handler_gets_the_unread_input_of_its_predecessor() {
    let mut client = upgraded();
    assert_eq!(client.sent(), b"rest");
    client.feed_eof();
    assert_eq!(successor_lines(), ["setup", "handle", "eof", "finish peer closed"]);
}

pub(crate) fn limits(change: impl FnOnce(&mut Limits)) -> Limits {
    let mut limits = Limits::default();
    change(&mut limits);
    limits
}

/// Answers each line with a kilobyte, and the end with three bytes.
fn verbose(limits: Limits, full_duplex: bool) -> Client {
    let handler = probe(move |call, request: &mut Request<'_>| {
        match call {
            Call::Setup => request.set_full_duplex(full_duplex),
            Call::Handle => {
                while request.input.read_line()?.is_some() {
                    request.output.write_all(&[b'x'; 1_000])?;
                }
                // The end is not told before all lines are answered.
                assert!(request.input.is_empty() || !(full_duplex || request.input.is_eof()));
            }
            Call::Eof => {
                request.output.write_all(b"end")?;
                return Ok(Next::Close);
            }
            _ => {}
        }
        Ok(Next::Wait) // In `writable` as well: it is not what calls `handle` again.
    });
    let mut client = Client::with_limits((), handler, limits);
    client.set_window(0);
    client
}

#[test]
fn a_loop_over_pipelined_requests_ends_by_itself_when_the_client_does_not_read() {
    let mut client = verbose(Limits::default(), false);
    // 100,000 answers of a kilobyte: six times what may wait at all.
    client.feed(&b"?\n".repeat(100_000));
    client.feed_eof();
    assert_eq!(client.finished(), None, "the client is not too slow yet");
    let mut got = 0;
    while client.finished().is_none() {
        client.set_window(20_000);
        let read = client.take_sent().len();
        assert!(read > 0, "it goes on as the client reads");
        got += read;
    }
    client.set_window(usize::MAX);
    got += client.take_sent().len();
    assert_eq!(got, 100_000 * 1_000 + 3);
    assert_eq!(client.finished(), Some(EndReason::PeerClosed));
}

#[test]
fn held_back_input_counts_neither_as_slow_nor_as_too_much() {
    let mut limits = Limits::default();
    limits.input_bytes_max = 100;
    let mut client = verbose(limits, false);
    client.feed(&b"?\n".repeat(1_000));
    client.advance(Duration::from_secs(30));
    assert_eq!(client.finished(), None);
    client.set_window(usize::MAX);
    assert_eq!(client.sent().len(), 1_000 * 1_000);
}

#[test]
fn a_small_high_water_mark_holds_back_as_well() {
    let mut limits = Limits::default();
    (limits.output_high_water, limits.output_low_water) = (2_000, 1_000);
    let mut client = verbose(limits, false);
    client.feed(&b"?\n".repeat(1_000));
    assert_eq!(client.stats().bytes_in, 2_000);
    client.set_window(5_000);
    assert_eq!(client.take_sent().len(), 5_000);
    client.set_window(usize::MAX);
    assert_eq!(client.sent().len(), 1_000 * 1_000 - 5_000);
}

#[test]
fn a_full_duplex_connection_reads_messages_whatever_waits() {
    let mut client = verbose(Limits::default(), true);
    client.feed(&b"?\n".repeat(1_000));
    client.set_window(usize::MAX);
    assert_eq!(client.sent().len(), 1_000 * 1_000);
}

#[test]
fn a_frame_that_is_refused_leaves_no_prefix_behind() {
    let mut limits = Limits::default();
    limits.output_bytes_max = 4;
    limits.output_overflow = socketserver::Overflow::Refuse;
    let handler = probe(|call, request: &mut Request<'_>| {
        if matches!(call, Call::Handle) {
            let payload = request.input.take_all();
            if request.output.write_frame(socketserver::Prefix::U16Be, payload).is_err() {
                request.output.write_all(b"long")?;
            }
        }
        Ok(Next::Wait)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.feed(b"abc");
    assert_eq!(client.take_sent(), b"long");
    client.feed(b"ab");
    assert_eq!(client.take_sent(), b"\0\x02ab");
}

#[test]
fn a_connection_lost_over_its_output_keeps_none_of_it_until_it_ends() {
    let mut limits = Limits::default();
    limits.output_bytes_max = 10;
    limits.callbacks_per_turn = 1; // So that the end comes a turn later.
    let handler = probe(|call, request: &mut Request<'_>| {
        if matches!(call, Call::Handle) {
            request.input.take_all();
            assert!(request.output.write_all(&[b'x'; 20]).is_err());
            assert_eq!(request.output.len(), 0);
        }
        Ok(Next::Wait)
    });
    let mut client = Client::with_limits((), handler, limits);
    client.set_window(0);
    client.feed(b"go");
    assert_eq!(client.finished(), Some(EndReason::OutputLimit));
}

#[test]
fn an_empty_shared_payload_leaves_no_queue_behind() {
    let mut limits = Limits::default();
    limits.callbacks_per_turn = 1;
    let mut client = Client::with_limits(
        (),
        probe(|call, request: &mut Request<'_>| {
            if matches!(call, Call::Handle) {
                request.input.take_all();
                request.output.write_shared(&b""[..])?;
            }
            Ok(Next::Wait)
        }),
        limits,
    );
    client.feed(b"go");
    assert_eq!(client.sent(), b"");
    assert_eq!(client.finished(), None);
}

#[test]
fn a_last_line_of_exactly_the_maximum_is_read_however_late_the_end_comes() {
    let client = || {
        let mut limits = Limits::default();
        limits.line_bytes_max = 5;
        let handler = probe(|call, request: &mut Request<'_>| {
            if matches!(call, Call::Handle) {
                while let Some(line) = request.input.read_line()? {
                    request.output.write_all(line)?;
                }
            }
            Ok(if matches!(call, Call::Eof) { Next::Close } else { Next::Wait })
        });
        Client::with_limits((), handler, limits)
    };
    for (bytes, sent, why) in [
        (&b"four\nfive5"[..], &b"four\nfive5"[..], EndReason::PeerClosed),
        (b"four\nfive5\n", b"four\n", EndReason::InputLimit),
        (b"four\nfive56", b"four\n", EndReason::InputLimit),
    ] {
        let mut at_once = client();
        at_once.play(Script::new().read(bytes).eof());
        assert_eq!((at_once.sent(), at_once.finished()), (sent.to_vec(), Some(why)));
        check_chunking(bytes, client);
    }
}

// ---- the network ----

#[test]
fn a_network_with_calls_that_use_its_peers_leaves_nothing_behind() {
    let kept = Arc::new(());
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), handler, Limits::default()).unwrap();
    let peer = network.connect(server);
    let (witness, clock, handle, other) = (Arc::clone(&kept), network.clock(), network.handle(), peer.clone());
    network.on_call(move |_, _| {
        let _ = (&witness, clock.now(), &handle, other.is_closed());
        Outcome::Proceed
    });
    peer.send(b"hello");
    network.run();
    assert_eq!(peer.take_received(), b"hello");
    drop((network, peer));
    assert_eq!(Arc::strong_count(&kept), 1, "what decides about calls is gone, and all that it knew");
}

/// Counts down by jobs, each begun when the last is done.
struct Countdown;

impl RequestHandler for Countdown {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let from = request.input.take_all()[0];
        request.offload(move || from)?;
        Ok(Next::Wait)
    }
    fn message(&mut self, request: &mut Request<'_>, message: Message) -> Result<Next> {
        let n = message.downcast::<u8>().expect("a job's result");
        request.output.write_all(&[n])?;
        if n > b'0' {
            request.offload(move || n - 1)?;
        }
        Ok(Next::Wait)
    }
}

#[test]
fn jobs_are_awaited_and_those_that_they_lead_to() {
    let mut client = Client::new(Countdown);
    client.run_jobs(PATIENCE);
    client.feed(b"9");
    client.run_jobs(PATIENCE);
    assert_eq!(client.sent(), b"9876543210");
}

/// The thread of a job submits its result and then wakes the loop. In between, the loop may ask whether anything waits.
#[test]
fn a_job_that_ends_while_a_simulated_loop_goes_to_sleep_is_no_lost_wake_up() {
    let mut network = Network::new();
    let server = network.serve((), |_, _| Countdown, Limits::default()).unwrap();
    let peer = network.connect(server);
    for _ in 0..10_000 {
        peer.send(b"2");
        network.run();
    }
}

#[test]
fn jobs_that_take_too_long_are_not_awaited() {
    let (release, held) = std::sync::mpsc::channel::<()>();
    let mut held = Some(held);
    let mut client = Client::new(probe(move |call, request: &mut Request<'_>| {
        if let Call::Handle = call {
            let held = held.take().expect("one call");
            request.offload(move || held.recv_timeout(PATIENCE).is_ok())?;
        }
        usual(&call, request)
    }));
    client.feed(b"go");
    let run = std::panic::AssertUnwindSafe(|| client.run_jobs(Duration::from_millis(1)));
    let panic = std::panic::catch_unwind(run).unwrap_err();
    assert_eq!(panic.downcast_ref::<String>().unwrap(), "jobs still run after 1ms");
    drop(release);
}
