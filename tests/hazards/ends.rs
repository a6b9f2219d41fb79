//! Each end of a connection is a line in the log, with the limit that cut it. Each test is run in a process of its own,
//! whose log is nothing but its own.

use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
#[cfg(all(unix, feature = "children"))]
use std::process::Command;
use std::sync::Once;
use std::time::Duration;

use socketserver::testing::{Network, Peer};
use socketserver::{
    Address, BaseServer, BlockingRequest, Incoming, Limits, Linger, Next, Overflow, Prefix, ReactorConfig, Request,
    Result, ServerId, StreamRequestHandler, ThreadingTcpServer, Timeout,
};

use crate::common::collector::Collector;
use crate::common::{self, Call, PATIENCE, echo, limit, probe, usual};

static LINES: Collector = Collector::new();

/// Returns whether this process is the test's own, which collects what it logs. If not, the test is run there.
fn is_apart(test: &str) -> bool {
    collects(&format!("ends::{test}"))
}

/// The same with the path of a test in another file.
pub(crate) fn collects(test: &str) -> bool {
    static ONCE: Once = Once::new();
    let is_apart = common::is_apart(test, "");
    if is_apart {
        ONCE.call_once(|| LINES.install());
    }
    is_apart
}

/// What was logged since the last call at level `Debug`.
fn debug_lines() -> Vec<String> {
    logged("DEBUG ")
}

/// The same for another level. What was logged at others is forgotten.
pub(crate) fn logged(level: &str) -> Vec<String> {
    let lines = std::mem::take(&mut *LINES.lines()).into_iter().map(|line| format!("{} {}", line.level, line.text));
    lines.filter_map(|line| line.strip_prefix(level).map(str::to_owned)).collect()
}

type Serve = fn(&Call, &mut Request<'_>) -> Result<Next>;

struct Case {
    /// What is logged of the peer `P`.
    expected: &'static [&'static str],
    set: fn(&mut Limits),
    serve: Serve,
    act: fn(&mut Network, ServerId, &Peer),
}

/// The usual handler, but for `handle`.
macro_rules! handle {
    (|$request:ident| $does:expr) => {
        |call, $request| match call {
            Call::Handle => $does,
            _ => usual(call, $request),
        }
    };
}

fn hello(network: &mut Network, _: ServerId, peer: &Peer) {
    peer.send(&[1; 200]);
    network.run();
}

fn wait(network: &mut Network, seconds: u64) {
    network.advance(Duration::from_secs(seconds));
    network.run();
}

/// What the peer does not take waits.
fn stuffed(network: &mut Network, server: ServerId, peer: &Peer) {
    peer.set_window(0);
    hello(network, server, peer);
}

#[test]
fn the_end_of_a_connection_is_logged_with_the_limit_that_cut_it() {
    if !is_apart("the_end_of_a_connection_is_logged_with_the_limit_that_cut_it") {
        return;
    }
    let nothing = |_: &mut Limits| {};
    let cases = [
        Case {
            expected: &["P is closed: idle timeout (idle_timeout = 30s)"],
            set: |limits| limits.idle_timeout = Some(Duration::from_secs(30)),
            serve: usual,
            act: |network, _, _| wait(network, 31),
        },
        Case {
            expected: &["P is closed: idle timeout (idle_timeout = 1.5s)"],
            set: nothing,
            serve: |call, request| {
                request.set_timeout(Timeout::Idle, Some(Duration::from_millis(1_500)));
                usual(call, request)
            },
            act: |network, _, _| wait(network, 2),
        },
        Case {
            expected: &["P is closed: read timeout (read_timeout = 7s)"],
            set: |limits| limits.read_timeout = Some(Duration::from_secs(7)),
            serve: handle!(|_request| Ok(Next::Wait)),
            act: |network, server, peer| {
                hello(network, server, peer);
                wait(network, 8);
            },
        },
        Case {
            expected: &["P is closed: write timeout (write_timeout = 9s)"],
            set: |limits| limits.write_timeout = Some(Duration::from_secs(9)),
            serve: echo,
            act: |network, server, peer| {
                stuffed(network, server, peer);
                wait(network, 10);
            },
        },
        Case {
            expected: &["P is closed: connect timeout (connect_timeout = 4s)"],
            set: |limits| limits.connect_timeout = Some(Duration::from_secs(4)),
            serve: handle!(|request| {
                request.input.take_all();
                let to: Address = std::net::SocketAddr::from(([198, 18, 0, 0], 32_768)).into();
                request.others.connect(to, probe(|call, request| usual(&call, request)))?;
                Ok(Next::Wait)
            }),
            act: |network, server, peer| {
                hello(network, server, peer);
                wait(network, 5);
            },
        },
        Case {
            expected: &["P is closed: input limit (line_bytes_max = 10)"],
            set: |limits| limits.line_bytes_max = 10,
            serve: handle!(|request| request.input.read_line().map(|_| Next::Wait)),
            act: hello,
        },
        Case {
            expected: &["P is closed: input limit (line_bytes_max = 10)"],
            set: |limits| limits.line_bytes_max = 10,
            serve: handle!(|request| request.input.read_until(b"end").map(|_| Next::Wait)),
            act: hello,
        },
        Case {
            expected: &["P is closed: input limit (frame_bytes_max = 256)"],
            set: |limits| limits.frame_bytes_max = 256,
            serve: handle!(|request| request.input.read_frame(Prefix::U16Be).map(|_| Next::Wait)),
            act: hello,
        },
        Case {
            expected: &["P is closed: input limit (input_bytes_max = 100)"],
            set: |limits| limits.input_bytes_max = 100,
            serve: handle!(|request| request.input.read_exact(101).map(|_| Next::Wait)),
            act: hello,
        },
        Case {
            expected: &["P is closed: input limit (input_bytes_max = 100)"],
            set: |limits| limits.input_bytes_max = 100,
            serve: handle!(|_request| Ok(Next::Wait)),
            act: hello,
        },
        Case {
            expected: &["P is closed: input limit (input_bytes_max = 199)"],
            set: nothing,
            serve: handle!(|request| {
                request.pause_reading();
                Ok(Next::Wait)
            }),
            act: |network, server, peer| {
                hello(network, server, peer);
                let mut limits = Limits::default();
                limits.input_bytes_max = 199;
                network.set_limits(server, limits).unwrap();
                network.run();
            },
        },
        Case {
            expected: &["P is closed: output limit (output_bytes_max = 150)"],
            set: |limits| limits.output_bytes_max = 150,
            serve: echo,
            act: stuffed,
        },
        Case {
            expected: &["P is closed: handler error (output_bytes_max = 150)"],
            set: |limits| (limits.output_bytes_max, limits.output_overflow) = (150, Overflow::Refuse),
            serve: echo,
            act: stuffed,
        },
        Case {
            expected: &["P is closed: aborted by the stop (drain_grace = 3s)"],
            set: nothing,
            serve: |call, request| match call {
                Call::Drain => Ok(Next::Wait),
                _ => usual(call, request),
            },
            act: |network, _, _| {
                network.shutdown_handle().shutdown();
                wait(network, 0);
                wait(network, 4);
            },
        },
        Case {
            expected: &["P is closed: aborted by the stop"],
            set: nothing,
            serve: usual,
            act: |network, _, _| {
                network.shutdown_handle().shutdown_now();
                wait(network, 0);
            },
        },
        Case {
            expected: &["P is closed: aborted by the stop"],
            set: nothing,
            serve: usual,
            act: |network, server, _| network.server_close(server),
        },
        Case {
            expected: &["P is closed: done", "the rest of P is cut off (linger_timeout = 2s)"],
            set: |limits| limits.linger = Linger::Always,
            serve: handle!(|_request| Ok(Next::Close)),
            act: |network, server, peer| {
                hello(network, server, peer);
                wait(network, 3);
            },
        },
        Case {
            expected: &["P is closed: done", "the rest of P is cut off (linger_bytes_max = 100)"],
            set: |limits| (limits.linger, limits.linger_bytes_max) = (Linger::Always, 100),
            serve: handle!(|_request| Ok(Next::Close)),
            act: |network, server, peer| {
                hello(network, server, peer);
                hello(network, server, peer);
            },
        },
        Case {
            expected: &["P is closed: done", "the rest of P is cut off (write_timeout = 9s)"],
            set: |limits| limits.write_timeout = Some(Duration::from_secs(9)),
            serve: |call, request| match call {
                Call::Handle => Ok(Next::Close),
                Call::Finish(_) => {
                    request.output.write_all(b"bye")?;
                    Ok(Next::Wait)
                }
                _ => usual(call, request),
            },
            act: |network, server, peer| {
                stuffed(network, server, peer);
                wait(network, 10);
            },
        },
        Case {
            expected: &["P is closed: peer closed"],
            set: nothing,
            serve: usual,
            act: |network, _, peer| {
                peer.send_eof();
                network.run();
            },
        },
        Case {
            expected: &["P is closed: reset"],
            set: nothing,
            serve: usual,
            act: |network, _, peer| {
                peer.send_reset();
                network.run();
            },
        },
    ];
    for Case { expected, set, serve, act } in cases {
        let mut config = ReactorConfig::default();
        config.drain_grace = Duration::from_secs(3);
        let mut network = Network::with_config(config);
        let mut limits = Limits::default();
        set(&mut limits);
        let handler =
            move |_: &mut (), _: &Address| probe(move |call, request: &mut Request<'_>| serve(&call, request));
        let server = network.serve((), handler, limits).unwrap();
        let peer = network.connect(server);
        network.run();
        assert_eq!(debug_lines(), Vec::<String>::new(), "before {expected:?}");
        act(&mut network, server, &peer);
        let name = peer.address().to_string();
        let lines: Vec<_> = debug_lines().into_iter().map(|line| line.replace(&name, "P")).collect();
        assert_eq!(lines, expected);
        drop(network);
        debug_lines();
    }
}

#[test]
fn a_client_that_is_refused_is_logged_with_the_limit_that_refused_it() {
    if !is_apart("a_client_that_is_refused_is_logged_with_the_limit_that_refused_it") {
        return;
    }
    /// Refuses everything from port 2.
    struct Strict;
    impl BaseServer for Strict {
        fn verify_request(&mut self, _: &Incoming<'_>, from: &Address) -> bool {
            from.as_inet().unwrap().port() != 2
        }
    }
    let at = |port| Address::from(std::net::SocketAddr::from(([198, 18, 0, 1], port)));
    let mut limits = Limits::default();
    limits.connections_per_client_max = Some(1);
    limits.sessions_max = Some(1);
    limits.idle_timeout = Some(Duration::from_secs(30));
    let handler = |_: &mut Strict, _: &Address| probe(|call, request: &mut Request<'_, Strict>| echo(&call, request));
    let mut network = Network::new();
    let streams = network.serve(Strict, handler, limits.clone()).unwrap();
    network.connect_from(streams, at(2));
    let _one = network.connect_from(streams, at(1));
    network.run();
    assert_eq!(debug_lines(), ["198.18.0.1:2 is closed: refused"]);
    network.connect_from(streams, at(3));
    network.run();
    assert_eq!(debug_lines(), ["198.18.0.1:3 is closed: refused (connections_per_client_max = 1)"]);
    // A session ends with a line as well.
    let mut network = Network::new();
    let datagrams = network.serve_datagrams(Strict, handler, limits).unwrap();
    debug_lines();
    for port in [1, 3] {
        network.send_datagram(datagrams, &at(port), b"hello");
        network.run();
    }
    assert_eq!(debug_lines(), ["198.18.0.1:3 is refused (sessions_max = 1)"]);
    wait(&mut network, 31);
    assert_eq!(debug_lines(), ["198.18.0.1:1 is closed: idle timeout (idle_timeout = 30s)"]);
}

#[test]
fn a_request_on_a_thread_ends_with_a_line_that_names_the_limit() {
    if !is_apart("a_request_on_a_thread_ends_with_a_line_that_names_the_limit") {
        return;
    }
    let mut server = ThreadingTcpServer::new("127.0.0.1:0", |_: &Address| {
        StreamRequestHandler::new(|request| {
            let mut line = String::new();
            request.rfile.read_line(&mut line)?;
            // Until nothing takes it any more.
            while line == "fill\n" && request.wfile.write_all(&[0; 4_096]).is_ok() {}
            Ok(())
        })
    })
    .unwrap();
    limit(&mut server, |limits| (limits.max_threads, limits.thread_queue_max, limits.line_bytes_max) = (1, 0, 10));
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_millis(50);
    server.set_config(config);
    let address = server.server_address();
    let connect = |says: &[u8]| {
        let mut client = TcpStream::connect(address).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(says).unwrap();
        let name = client.local_addr().unwrap();
        (client, name)
    };
    let (_one, one) = connect(b"fill\n");
    server.handle_request().unwrap();
    let (mut other, refused) = connect(b"");
    server.handle_request().unwrap();
    assert_eq!(debug_lines(), [format!("{refused} is closed: refused (thread_queue_max = 0)")]);
    let _ = other.read(&mut [0]); // The end, or a reset.
    server.server_close();
    assert_eq!(debug_lines(), [format!("{one} is closed: aborted by the stop (drain_grace = 50ms)")]);

    // The thread that was not waited for may be busy still.
    limit(&mut server, |limits| limits.thread_queue_max = 1);
    server.timeout = Some(Duration::ZERO);
    server.handle_request().unwrap(); // It is bound again.
    server.timeout = None;
    let mut client = TcpStream::connect(address).unwrap();
    client.write_all(b"more than ten\n").unwrap();
    let name = client.local_addr().unwrap();
    server.handle_request().unwrap();
    let _ = client.read_to_end(&mut Vec::new());
    server.server_close();
    assert_eq!(debug_lines(), [format!("{name} is closed: input limit (line_bytes_max = 10)")]);
}

#[test]
fn a_time_limit_of_a_thread_s_socket_is_named_when_it_has_passed() {
    if !is_apart("a_time_limit_of_a_thread_s_socket_is_named_when_it_has_passed") {
        return;
    }
    const SHORT: Option<Duration> = Some(Duration::from_millis(20));
    const LONG: Option<Duration> = Some(Duration::from_secs(600));
    type Serve = fn(&mut BlockingRequest) -> Result<()>;
    type Handler = StreamRequestHandler<Serve>;
    type Set = fn(&mut Handler);
    let (read, write): (Serve, Serve) = (
        |request| Ok(_ = request.rfile.read_line(&mut String::new())?),
        |request| {
            // Until nothing takes it any more.
            loop {
                request.wfile.write_all(&[0; 4_096])?;
            }
        },
    );
    let set_nothing = |_: &mut Handler| {};
    let cases: &[(&str, Set, Serve)] = &[
        ("read timeout (timeout = 20ms)", |handler| handler.timeout = SHORT, read),
        ("write timeout (timeout = 20ms)", |handler| handler.timeout = SHORT, write),
        ("read timeout (read_timeout = 20ms)", |handler| (handler.timeout, handler.read_timeout) = (LONG, SHORT), read),
        (
            "write timeout (write_timeout = 20ms)",
            |handler| (handler.timeout, handler.write_timeout) = (LONG, SHORT),
            write,
        ),
        // What the handler has left in the buffer is sent when it is over.
        (
            "write timeout (write_timeout = 20ms)",
            |handler| (handler.write_timeout, handler.wbufsize) = (SHORT, 1 << 26),
            |request| Ok(request.wfile.write_all(&[0; 1 << 25])?),
        ),
        ("read timeout (set_timeout = 20ms)", set_nothing, |request| {
            request.socket().set_timeout(SHORT)?;
            let mut socket = request.socket();
            Ok(_ = socket.read(&mut [0])?)
        }),
        (
            "read timeout (set_read_timeout = 20ms)",
            |handler| handler.timeout = LONG,
            |request| {
                request.socket().set_read_timeout(SHORT)?;
                Ok(request.rfile.read_exact(&mut [0])?)
            },
        ),
        (
            "write timeout (set_write_timeout = 20ms)",
            |handler| (handler.timeout, handler.wbufsize) = (LONG, 10_000),
            |request| {
                request.socket().set_write_timeout(SHORT)?;
                loop {
                    request.wfile.write_all(&[0; 4_096])?;
                }
            },
        ),
        // Of a limit that the handler has dealt with there is nothing to say.
        (
            "done",
            |handler| handler.timeout = SHORT,
            |request| {
                let error = request.rfile.read_line(&mut String::new()).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::TimedOut);
                Ok(())
            },
        ),
        // Nor is it the limit of another socket.
        ("handler error", |handler| handler.timeout = LONG, |_| Err(std::io::Error::from(ErrorKind::TimedOut).into())),
    ];
    for &(expected, set, serve) in cases {
        let mut server = ThreadingTcpServer::new("127.0.0.1:0", move |_: &Address| {
            let mut handler = StreamRequestHandler::new(serve);
            set(&mut handler);
            handler
        })
        .unwrap();
        let client = TcpStream::connect(server.server_address()).unwrap();
        server.handle_request().unwrap();
        server.server_close();
        assert_eq!(debug_lines(), [format!("{} is closed: {expected}", client.local_addr().unwrap())]);
        let stats = server.stats();
        let counts = (stats.timeouts_read, stats.timeouts_write, stats.handler_errors);
        let is = |kind: &str| u64::from(expected.starts_with(kind));
        assert_eq!(counts, (is("read timeout"), is("write timeout"), is("handler error")), "{expected}");
    }
}

#[test]
#[cfg(all(unix, feature = "children"))]
fn a_program_ends_with_a_line_that_names_the_limit() {
    if !is_apart("a_program_ends_with_a_line_that_names_the_limit") {
        return;
    }
    let mut server = socketserver::ForkingTcpServer::new("127.0.0.1:0", |_: &Address| {
        let mut command = Command::new("sleep");
        command.arg("1000");
        command
    })
    .unwrap();
    limit(&mut server, |limits| limits.child_timeout = Some(Duration::from_millis(50)));
    let client = TcpStream::connect(server.server_address()).unwrap();
    server.handle_request().unwrap();
    server.server_close();
    let client = client.local_addr().unwrap();
    let expected = [
        format!("ERROR while serving {client}: child timeout (child_timeout = 50ms)"),
        format!("DEBUG {client} is closed: child timeout (child_timeout = 50ms)"),
    ];
    assert!(logged("").ends_with(&expected));
}

#[test]
fn a_limit_that_is_reached_again_and_again_is_one_warning() {
    if !is_apart("a_limit_that_is_reached_again_and_again_is_one_warning") {
        return;
    }
    let mut limits = Limits::default();
    limits.connections_max = Some(10);
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), handler, limits).unwrap();
    let mut peers = Vec::new();
    let mut reach = |network: &mut Network, times: usize| {
        for _ in 0..times {
            while peers.len() < 12 {
                peers.push(network.connect(server));
            }
            network.run();
            assert_eq!(network.stats().active, 10);
            for peer in peers.drain(..6) {
                Peer::send_eof(&peer);
            }
            network.run();
            wait(network, 1);
        }
    };
    let expected = "10 connections are open, of 10 that may be (connections_max): more clients wait";
    reach(&mut network, 20);
    assert_eq!(logged("WARN "), [expected]);
    // It goes on without that for a while: what comes then is news.
    wait(&mut network, 11);
    reach(&mut network, 20);
    assert_eq!(logged("WARN "), [expected]);
}

#[test]
fn a_connection_without_room_in_the_selector_is_named_in_the_log() {
    if !is_apart("a_connection_without_room_in_the_selector_is_named_in_the_log") {
        return;
    }
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| probe(|call, request: &mut Request<'_>| echo(&call, request));
    let server = network.serve((), handler, Limits::default()).unwrap();
    network.run();
    network.on_call(|call, _| match call {
        socketserver::testing::Call::Register => socketserver::testing::Outcome::Fail(std::io::Error::other("no room")),
        _ => socketserver::testing::Outcome::Proceed,
    });
    let peer = network.connect(server);
    network.run();
    let expected = format!("while serving {}: cannot watch the connection: no room", peer.address());
    assert!(logged("ERROR ").contains(&expected));
}
