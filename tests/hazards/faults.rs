//! A fault in user code, wherever it is, ends the connection it concerns and nothing else.

use std::sync::mpsc::channel;
use std::time::Duration;

use socketserver::testing::{Call as Io, Network, Outcome};
use socketserver::{
    Address, BaseServer, EndReason, Error, Incoming, Limits, Listener, Message, Next, Others, Request, RequestHandler,
    ServeOn, Socket, Stream, TcpServer,
};
use std::io::{self, Write};

use crate::common::loopback::loopback;
use crate::common::{
    Call, Journal, Running, SCRIPTED, echo, is_alone, limit, probe, serve, silence_scripted_panics, usual,
};

/// A server whose hooks panic when told to, once each time.
#[derive(Default)]
struct Fragile {
    /// The hook that will panic next.
    breaks: Option<&'static str>,
    journal: Journal,
}

impl Fragile {
    fn hook(&mut self, name: &'static str) {
        if self.breaks == Some(name) {
            self.breaks = None;
            self.journal.note(format!("broken {name}"));
            panic!("{}", SCRIPTED);
        }
    }
}

impl BaseServer for Fragile {
    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        let request = listener.accept()?;
        self.hook("get_request");
        Ok(request)
    }
    fn verify_request(&mut self, _: &Incoming<'_>, _: &Address) -> bool {
        self.hook("verify_request");
        true
    }
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        self.hook("process_request");
        ServeOn::Reactor
    }
    fn finish_request(&mut self, _: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        self.hook("finish_request");
        None
    }
    fn shutdown_request(&mut self, request: &Stream, _: &Address) -> io::Result<()> {
        request.shutdown(std::net::Shutdown::Write)?;
        self.hook("shutdown_request");
        Ok(())
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.journal.note(format!("close_request {why}"));
        self.hook("close_request");
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("handle_error {error:#}"));
        self.hook("handle_error");
    }
    fn service_actions(&mut self, _: &mut Others<'_, Self>) {
        self.hook("service_actions");
    }
    fn timer(&mut self, others: &mut Others<'_, Self>, _: u64) {
        others.set_server_timer(1, Duration::from_secs(3_600));
        self.hook("timer");
    }
    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        match message.downcast::<&'static str>() {
            Ok(hook) => {
                self.breaks = Some(hook);
                if hook == "timer" {
                    others.set_server_timer(1, Duration::ZERO);
                }
                self.hook("message");
            }
            Err(_) => panic!("an order is the name of a hook"),
        }
    }
}

fn fragile(journal: &Journal) -> Running<Fragile> {
    silence_scripted_panics();
    let state = Fragile { breaks: None, journal: journal.clone() };
    let server = TcpServer::with_server("127.0.0.1:0", state, |state: &mut Fragile, _| {
        state.hook("factory");
        probe(|call, request: &mut Request<'_, Fragile>| match call {
            Call::Handle if request.input.unread() == b"fail" => Err(SCRIPTED.into()),
            Call::Handle if request.input.unread() == b"bye" => Ok(Next::Close),
            call => echo(&call, request),
        })
    })
    .unwrap();
    let id = server.id();
    let running = serve(server);
    running.handle.send_to_server(id, "nothing").unwrap();
    running
}

/// Breaks one hook once while a bystander is served, and checks that it and all later clients go on.
#[track_caller]
fn a_hook_panics(hook: &'static str, provoke: impl FnOnce(&Running<Fragile>)) -> Journal {
    let journal = Journal::new();
    let running = fragile(&journal);
    let mut bystander = running.connect();
    bystander.echo("before");
    let arm = hook;
    running.handle.send_to_server(running.id, arm).unwrap();
    running.stats();
    provoke(&running);
    journal.wait(&format!("broken {hook}"));
    bystander.echo("after");
    running.connect().echo("newcomer");
    let stats = running.wait_for_stats("the panic is counted", |stats| stats.panics >= 1);
    assert_eq!(stats.panics, 1, "{hook}: {:?}", journal.lines());
    drop(bystander);
    let stats = running.stop();
    assert_eq!(stats.active, 0);
    journal
}

#[test]
fn a_panic_in_get_request_loses_that_client_only() {
    a_hook_panics("get_request", |running| drop(running.connect().read_to_the_end()));
}

#[test]
fn a_panic_in_verify_request_refuses_that_client_only() {
    let journal = a_hook_panics("verify_request", |running| running.connect().expect_eof());
    assert_eq!(journal.count("close_request panicked"), 1);
}

#[test]
fn a_panic_in_process_request_ends_that_request_only() {
    a_hook_panics("process_request", |running| running.connect().expect_eof());
}

#[test]
fn a_panic_in_finish_request_ends_that_request_only() {
    let journal = a_hook_panics("finish_request", |running| running.connect().expect_eof());
    assert_eq!(journal.count("handle_error panicked: scripted"), 1);
}

#[test]
fn a_panic_in_the_handler_factory_ends_that_request_only() {
    let journal = a_hook_panics("factory", |running| running.connect().expect_eof());
    assert_eq!(journal.count("handle_error panicked: scripted"), 1);
    assert_eq!(journal.count("close_request panicked"), 1);
}

#[test]
fn a_panic_in_shutdown_request_still_closes_the_connection() {
    a_hook_panics("shutdown_request", |running| {
        let mut client = running.connect();
        client.send("bye");
        client.expect_eof();
    });
}

#[test]
fn a_panic_in_close_request_is_survived() {
    a_hook_panics("close_request", |running| drop(running.connect()));
}

#[test]
fn a_panic_in_handle_error_is_survived() {
    a_hook_panics("handle_error", |running| {
        let mut client = running.connect();
        client.send("fail");
        client.expect_eof();
    });
}

#[test]
fn a_panic_in_service_actions_is_survived() {
    a_hook_panics("service_actions", |_| {});
}

#[test]
fn a_panic_in_the_server_s_timer_is_survived() {
    a_hook_panics("timer", |_| {});
}

#[test]
fn a_panic_in_the_server_s_message_is_survived() {
    a_hook_panics("message", |_| {});
}

#[test]
fn a_panic_in_handle_timeout_is_survived() {
    silence_scripted_panics();
    struct Impatient;
    impl BaseServer for Impatient {
        fn handle_timeout(&mut self) {
            panic!("{}", SCRIPTED);
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Impatient, |_: &mut Impatient, _| {
        probe(|call, request: &mut Request<'_, Impatient>| echo(&call, request))
    })
    .unwrap();
    server.timeout = Some(Duration::from_millis(1));
    server.handle_request().expect("the panic is caught");
    assert_eq!(server.stats().panics, 1);
}

#[test]
fn a_get_request_that_always_panics_does_not_make_the_loop_spin() {
    silence_scripted_panics();
    struct Broken;
    impl BaseServer for Broken {
        fn get_request(&mut self, _: &mut Listener) -> io::Result<(Stream, Address)> {
            panic!("{}", SCRIPTED);
        }
    }
    let mut server = TcpServer::with_server("127.0.0.1:0", Broken, |_: &mut Broken, _| {
        probe(|call, request: &mut Request<'_, Broken>| echo(&call, request))
    })
    .unwrap();
    let address = server.server_address();
    let _client = std::net::TcpStream::connect(address).unwrap();
    server.timeout = Some(Duration::from_millis(100));
    server.handle_request().unwrap();
    let stats = server.stats();
    // Pauses of 10, 20, 40 ms, with 32 attempts in each turn at most.
    assert!(stats.turns < 50, "{} turns in a tenth of a second", stats.turns);
}

/// In debug builds mio refuses a socket that is registered already: the nearest thing to a kernel without room for it.
#[test]
#[cfg(all(unix, debug_assertions))]
fn a_request_that_cannot_be_registered_is_closed_as_others_are() {
    struct Elsewhere(mio::Poll, Journal);
    impl BaseServer for Elsewhere {
        fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
            let (stream, from) = listener.accept()?;
            let copy = std::net::TcpStream::from(stream.as_fd().unwrap().try_clone_to_owned()?);
            let mut copy = mio::net::TcpStream::from_std(copy);
            self.0.registry().register(&mut copy, mio::Token(0), mio::Interest::READABLE)?;
            Ok((copy.into(), from))
        }
        fn close_request(&mut self, _: &Address, why: EndReason) {
            self.1.note(format!("closed {why}"));
        }
    }
    let journal = Journal::new();
    let state = Elsewhere(mio::Poll::new().unwrap(), journal.clone());
    let handler =
        |_: &mut Elsewhere, _: &Address| probe(|call, request: &mut Request<'_, Elsewhere>| echo(&call, request));
    let mut server = TcpServer::with_server("127.0.0.1:0", state, handler).unwrap();
    let address = server.server_address();
    let _client = std::net::TcpStream::connect(address).unwrap();
    server.handle_request().unwrap();
    assert_eq!(journal.count("closed handler error"), 1);
    assert_eq!(server.stats().active, 0);
}

#[test]
fn after_a_shutdown_an_unavailable_address_is_tried_again() {
    if !is_alone() {
        return;
    }
    struct Unlucky(Vec<&'static str>);
    impl Unlucky {
        fn hook(&mut self, name: &str) -> io::Result<()> {
            if self.0.last() == Some(&name) {
                self.0.pop();
                return Err(io::ErrorKind::AddrInUse.into());
            }
            Ok(())
        }
    }
    impl BaseServer for Unlucky {
        fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
            self.hook("bind")?;
            socket.bind(address)
        }
        fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
            self.hook("activate")?;
            socket.listen(request_queue_size)
        }
    }
    let handler = |_: &mut Unlucky, _: &Address| probe(|call, request: &mut Request<'_, Unlucky>| echo(&call, request));
    let mut server = TcpServer::with_server((loopback(), 0), Unlucky(vec![]), handler).unwrap();
    let addresses = server.server_addresses();
    let stop = server.shutdown_handle();
    stop.shutdown();
    server.serve_forever().unwrap();
    server.server_mut().0 = vec!["activate", "bind"];
    assert!(matches!(server.serve_forever(), Err(Error::Bind { .. })));
    assert!(matches!(server.serve_forever(), Err(Error::Listen { .. })));
    assert_eq!(server.server_addresses(), addresses);
    stop.shutdown();
    server.serve_forever().unwrap();
}

#[test]
fn a_panic_while_an_error_is_dropped_is_survived() {
    silence_scripted_panics();
    #[derive(Debug)]
    struct Bomb;
    impl std::fmt::Display for Bomb {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a bomb")
        }
    }
    impl std::error::Error for Bomb {}
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{}", SCRIPTED);
        }
    }
    #[derive(Default)]
    struct Both {
        here: bool,
    }
    impl BaseServer for Both {
        fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
            self.here = !self.here;
            match self.here {
                true => ServeOn::Reactor,
                false => ServeOn::thread(socketserver::StreamRequestHandler::new(|_| Err(Error::other(Bomb)))),
            }
        }
    }
    let server = TcpServer::with_server("127.0.0.1:0", Both::default(), |_: &mut Both, _: &Address| {
        probe(|call, _: &mut Request<'_, Both>| match call {
            Call::Setup => Err(Error::other(Bomb)),
            _ => Ok(Next::Wait),
        })
    });
    let running = serve(server.unwrap());
    for _here_or_on_a_thread in 0..2 {
        assert!(running.connect().read_to_the_end().0.is_empty());
    }
    running.wait_for_stats("both are over", |stats| stats.active == 0 && stats.panics == 2);
    running.stop();
}

#[test]
fn a_panic_while_a_handler_is_dropped_is_survived() {
    silence_scripted_panics();
    struct Bomb(bool);
    impl Drop for Bomb {
        fn drop(&mut self) {
            if self.0 && !std::thread::panicking() {
                panic!("{}", SCRIPTED);
            }
        }
    }
    impl RequestHandler for Bomb {
        fn handle(&mut self, request: &mut Request<'_>) -> socketserver::Result<Next> {
            self.0 = request.input.unread() == b"boom";
            echo(&Call::Handle, request)
        }
    }
    let running = serve(TcpServer::new("127.0.0.1:0", |_| Bomb(false)).unwrap());
    let mut bystander = running.connect();
    bystander.echo("before");
    let mut client = running.connect();
    client.echo("boom");
    drop(client);
    running.wait_for_stats("the panic is counted", |stats| stats.panics == 1 && stats.active == 1);
    bystander.echo("after");
    running.connect().echo("newcomer");
    running.stop();
}

#[test]
fn a_message_that_panics_when_it_is_dropped_unread_is_survived() {
    silence_scripted_panics();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            if !std::thread::panicking() {
                panic!("{}", SCRIPTED);
            }
        }
    }
    let (tell, hear) = channel();
    let running = serve(
        TcpServer::new("127.0.0.1:0", move |_| {
            let tell = tell.clone();
            probe(move |call, request: &mut Request<'_>| {
                if let Call::Setup = call {
                    tell.send(request.id()).unwrap();
                }
                echo(&call, request)
            })
        })
        .unwrap(),
    );
    let client = running.connect();
    let gone = hear.recv_timeout(crate::common::PATIENCE).unwrap();
    client.reset();
    running.wait_for_stats("it is gone", |stats| stats.accepted == 1 && stats.active == 0);
    running.handle.send(gone, Bomb).unwrap();
    running.connect().echo("the loop goes on");
    running.stop();
}

#[test]
fn a_panic_of_a_connection_that_is_lost_already_is_still_reported() {
    silence_scripted_panics();
    for lost_by in ["reset", "abort"] {
        let journal = Journal::new();
        let state = Fragile { breaks: None, journal: journal.clone() };
        let running = serve(
            TcpServer::with_server("127.0.0.1:0", state, move |_: &mut Fragile, _| {
                probe(|call, request: &mut Request<'_, Fragile>| match call {
                    Call::Handle => Ok(Next::Abort),
                    Call::Finish(_) => panic!("{}", SCRIPTED),
                    call => echo(&call, request),
                })
            })
            .unwrap(),
        );
        let mut client = running.connect();
        running.wait_for_stats("it is accepted", |stats| stats.accepted == 1);
        match lost_by {
            "reset" => client.reset(),
            _ => {
                client.send("go");
                client.expect_reset();
            }
        }
        running.wait_for_stats("it ends", |stats| stats.accepted == 1 && stats.active == 0);
        let stats = running.stop();
        assert_eq!(journal.count("handle_error panicked"), 1, "lost by {lost_by}: {:?}", journal.lines());
        assert_eq!(stats.panics, 1, "lost by {lost_by}");
    }
}

#[test]
fn the_reason_of_each_end_reaches_finish_and_close_request() {
    let journal = Journal::new();
    let notes = journal.clone();
    let state = Fragile { breaks: None, journal: journal.clone() };
    let mut server = TcpServer::with_server("127.0.0.1:0", state, move |_: &mut Fragile, _| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_, Fragile>| {
            if let Call::Finish(why) = call {
                notes.note(format!("finish {why}"));
            }
            if let Call::Handle = call {
                match request.input.unread() {
                    b"close" => return Ok(Next::Close),
                    b"fail" => return Err(SCRIPTED.into()),
                    b"line" => drop(request.input.read_line()?),
                    _ => {}
                }
            }
            if let (Call::Handle, b"hoard") = (&call, &request.input.unread()[..5.min(request.input.len())]) {
                return Ok(Next::Wait);
            }
            echo(&call, request)
        })
    })
    .unwrap();
    limit(&mut server, |limits| {
        limits.input_bytes_max = 16;
        limits.line_bytes_max = 3;
    });
    let running = serve(server);
    for (sent, why) in [
        ("close", "done"),
        ("fail", "handler error"),
        ("line", "input limit"),
        ("hoard and hoard and hoard", "input limit"),
    ] {
        let mut client = running.connect();
        client.send(sent);
        assert_eq!(client.rest(), b"", "{sent}");
        drop(client);
        journal.wait(&format!("close_request {why}"));
        assert!(journal.count(&format!("finish {why}")) > 0, "{sent}");
    }
    drop(running.connect());
    journal.wait("close_request peer closed");
    running.connect().reset();
    journal.wait("close_request reset");
    let _open = running.connect();
    running.wait_for_stats("it is open", |stats| stats.active == 1);
    running.handle.run(|reactor| reactor.shutdown_handle().shutdown_now()).unwrap();
    running.join();
    assert_eq!(journal.wait("close_request aborted by the stop"), "close_request aborted by the stop");
    let count = |what: &str| journal.count(what);
    assert_eq!(count("finish"), count("close_request"), "{:?}", journal.lines());
}

#[derive(Default)]
struct Told(usize);

impl BaseServer for Told {
    fn handle_error(&mut self, _: &Address, _: &Error) {
        self.0 += 1;
    }
}

/// How a connection ends whose handler does this and fails, and of how many errors the server is told and has counted.
fn failing(
    act: impl FnMut(&mut Request<'_, Told>) -> socketserver::Result<()> + Send + 'static,
) -> (EndReason, usize, u64) {
    failing_over(io::ErrorKind::BrokenPipe, act)
}

/// The same when each write ends like this.
fn failing_over(
    write: io::ErrorKind,
    mut act: impl FnMut(&mut Request<'_, Told>) -> socketserver::Result<()> + Send + 'static,
) -> (EndReason, usize, u64) {
    let (tell, told) = channel();
    let mut handler = Some(probe(move |call, request: &mut Request<'_, Told>| {
        match call {
            Call::Handle => act(request)?,
            Call::Finish(why) => tell.send(why).unwrap(),
            _ => {}
        }
        usual(&call, request)
    }));
    let mut limits = Limits::default();
    limits.output_bytes_max = 1_000;
    let mut network = Network::new();
    let handler = move |_: &mut Told, _: &Address| handler.take().expect("one client");
    let server = network.serve(Told::default(), handler, limits).unwrap();
    network.on_call(move |call, _| match call {
        Io::Write => Outcome::Fail(write.into()),
        _ => Outcome::Proceed,
    });
    let client = network.connect(server);
    client.send(b"go");
    network.run();
    let errors = network.stats().handler_errors;
    (told.try_recv().unwrap(), network.server_mut::<Told>(server).unwrap().0, errors)
}

#[test]
fn an_error_that_only_repeats_that_the_connection_is_lost_is_none_of_the_handler_s() {
    let broken = failing(|request| Ok(request.output.write_all(&[0; 20_000])?));
    assert_eq!(broken, (EndReason::Reset, 0, 0));
    let gone = failing(|request| {
        let _ = request.output.write_all(&[0; 20_000]);
        request.output.write_shared(&b"and more"[..])
    });
    assert_eq!(gone, (EndReason::Reset, 0, 0));
    let copied = failing(|request| {
        let failed = request.output.write_all(&[0; 20_000]).expect_err("the pipe is broken");
        Err(io::Error::from(failed.kind()).into())
    });
    assert_eq!(copied, (EndReason::Reset, 0, 0));
    let full = io::ErrorKind::WouldBlock;
    let limit = failing_over(full, |request| request.output.write_shared(vec![0; 1_001]));
    assert_eq!(limit, (EndReason::OutputLimit, 0, 0));
}

#[test]
fn an_error_of_the_handler_s_own_is_one_whatever_it_is_like() {
    for alike in [|| Error::Gone, || Error::from(io::Error::from(io::ErrorKind::BrokenPipe))] {
        assert_eq!(failing(move |_| Err(alike())), (EndReason::Error, 1, 1), "{}", alike());
    }
    // Nor is it forgotten because the connection is lost as well.
    let both = failing(|request| {
        let _ = request.output.write_all(&[0; 20_000]);
        Err(io::Error::other("the disk is full").into())
    });
    assert_eq!(both, (EndReason::Error, 1, 1));
}

#[test]
fn a_handler_that_fails_while_it_is_replaced_keeps_its_place_until_finish() {
    silence_scripted_panics();
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("{}", SCRIPTED);
        }
    }
    impl RequestHandler for Bomb {
        fn handle(&mut self, _: &mut Request<'_>) -> socketserver::Result<Next> {
            unreachable!("it is not wanted");
        }
    }
    let journal = Journal::new();
    let notes = journal.clone();
    let mut network = Network::new();
    let handler = move |_: &mut (), _: &Address| {
        let notes = notes.clone();
        probe(move |call, request: &mut Request<'_>| {
            notes.note(&call);
            if let Call::Handle = call {
                request.replace_handler(Bomb);
                return Err(SCRIPTED.into());
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    network.connect(server).send(b"go");
    network.run();
    assert_eq!(journal.lines(), ["setup", "handle", "finish handler error"]);
    assert_eq!((network.stats().panics, network.stats().handler_errors), (1, 1), "the successor's, when it is dropped");
}

#[test]
fn a_callback_that_panics_has_written_nothing() {
    silence_scripted_panics();
    let mut network = Network::new();
    let handler = |_: &mut (), _: &Address| {
        probe(|call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                request.output.write_all(b"half of a rec")?;
                panic!("{}", SCRIPTED);
            }
            usual(&call, request)
        })
    };
    let server = network.serve((), handler, Limits::default()).unwrap();
    let client = network.connect(server);
    client.send(b"go");
    network.run();
    assert_eq!((client.take_received(), client.is_reset()), (Vec::new(), true));
}

#[test]
fn an_error_survives_the_way_through_io_write() {
    let there: io::Error = Error::OutputLimit { max: 7 }.into();
    assert!(matches!(Error::from(there), Error::OutputLimit { max: 7 }));
}
