//! What CPython demands of its own module, demanded of this crate: each test of `Lib/test/test_socketserver.py` (Python
//! 3.8 to 3.14, the same 27 in all of them) has its counterpart here and is named in its comment.
//!
//! What a kind of server must do is one table with one client, as there. Every wait has a deadline, nothing sleeps, and
//! sockets have port 0 or a path of their own.
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

#[path = "common/mod.rs"]
mod common;

use std::collections::HashSet;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use socketserver::family::{self, Family, ServerAddress};
use socketserver::{
    Address, BaseServer, BlockingHandler, BlockingRequest, DatagramRequestHandler, EndReason, Error, ForkingMixIn,
    Incoming, Next, Request, RequestHandler, Result, ServeOn, Server, ShutdownHandle, StreamRequestHandler, TcpOptions,
    TcpServer, ThreadingMixIn, ThreadingTcpServer,
};

use crate::common::{Journal, PATIENCE, Peer, SCRIPTED, limit, options, silence_scripted_panics};

/// `TEST_STR`.
const TEST_STR: &[u8] = b"hello world\n";

// ---- SocketServerTest: every kind of server echoes a line, three times, and stops ----

/// Python's handlers are `self.wfile.write(self.rfile.readline())`; so is this one, on the reactor.
struct Line;

impl RequestHandler for Line {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        if let Some(line) = request.input.read_line()? {
            request.output.write_all(line)?;
            return Ok(Next::Close);
        }
        Ok(Next::Wait)
    }
}

/// The same for threads, of streams and datagrams alike.
fn line(request: &mut BlockingRequest) -> Result<()> {
    let mut line = Vec::new();
    request.rfile.read_until(b'\n', &mut line)?;
    Ok(request.wfile.write_all(&line)?)
}

/// The same as a program.
fn head(_: &Address) -> Command {
    let mut command = Command::new("head");
    command.args(["-n", "1"]);
    command
}

/// `run_server`, and what the test case has around it.
struct Case<F: Family> {
    address: String,
    exchange: fn(&Address),
    /// Returns whether a server answers there.
    answers: fn(&Address) -> bool,
    family: std::marker::PhantomData<F>,
}

impl Case<family::Tcp> {
    fn tcp() -> Self {
        let exchange = |to: &Address| stream_examine(&mut tcp(to.as_inet().unwrap()));
        Case::new("localhost:0".into(), exchange, |to| tcp_answers(to.as_inet().unwrap()))
    }
}

impl Case<family::Udp> {
    fn udp() -> Self {
        Case::new("localhost:0".into(), udp_examine, |to| UdpSocket::bind(to.as_inet().unwrap()).is_err())
    }
}

impl Case<family::UnixStream> {
    fn unix_stream() -> Self {
        Case::new(text(&fresh_path()), unix_examine, |to| UnixStream::connect(path_of(to)).is_ok())
    }
}

impl Case<family::UnixDatagram> {
    fn unix_datagram() -> Self {
        Case::new(text(&fresh_path()), unix_datagram_examine, |to| {
            UnixDatagram::unbound().unwrap().connect(path_of(to)).is_ok()
        })
    }
}

impl<F: Family> Case<F>
where
    String: ServerAddress<F::Address>,
{
    fn new(address: String, exchange: fn(&Address), answers: fn(&Address) -> bool) -> Self {
        Case { address, exchange, answers, family: std::marker::PhantomData }
    }

    /// Served by the reactor: Python's synchronous server.
    fn plain(self) {
        let server = Server::<F, (), Line>::new(self.address.clone(), |_| Line).unwrap();
        self.run_server(server);
    }

    /// Served by threads; none of their handlers is left in the end.
    fn threading(self, handler: fn() -> Box<dyn BlockingHandler>) {
        let alive = Arc::new(());
        let counted = Arc::clone(&alive);
        let make = move |_: &Address| Counted { handler: handler(), _alive: Arc::clone(&counted) };
        let server = ThreadingMixIn::<F>::new(self.address.clone(), make).unwrap();
        self.run_server(server);
        assert_eq!(Arc::strong_count(&alive), 1, "a thread is left");
    }

    /// Served by programs. `simple_subprocess`: the status of a child that is not ours to wait for is still there for
    /// the one whose it is (bpo-1540386).
    fn forking(self) {
        let foreign = Command::new("sh").args(["-c", "exit 72"]).spawn().unwrap();
        let server = ForkingMixIn::<F>::new(self.address.clone(), head).unwrap();
        self.run_server(server);
        assert_eq!(status(foreign), Some(72));
    }

    /// Serves on a thread, lets the client at it three times, stops it from here, and looks at what is left.
    ///
    /// There is no counterpart to `poll_interval`: nothing is polled, and a stop takes effect at once.
    fn run_server<S: BaseServer, H: RequestHandler<S>>(&self, mut server: Server<F, S, H>) {
        let address: Address = server.server_address().into();
        match address.port() {
            Some(port) => assert_ne!(port, 0, "the real port"),
            None => assert_eq!(path_of(&address), Path::new(&self.address)),
        }
        let stop = server.shutdown_handle();
        let done = on_a_thread(move || {
            let result = server.serve_forever();
            let active = server.stats().active;
            server.server_close();
            (result, active)
        });
        for _ in 0..3 {
            (self.exchange)(&address);
        }
        stop.shutdown();
        let (result, active) = done.recv_timeout(PATIENCE).expect("serve_forever returns");
        result.unwrap();
        assert_eq!(active, 0, "requests are left");
        wait_until("the socket is closed", || !(self.answers)(&address));
    }
}

/// Notices when a handler is dropped.
struct Counted {
    handler: Box<dyn BlockingHandler>,
    _alive: Arc<()>,
}

impl BlockingHandler for Counted {
    fn handle(&mut self, request: &mut BlockingRequest) -> Result<()> {
        self.handler.handle(request)
    }
}

fn stream_handler() -> Box<dyn BlockingHandler> {
    Box::new(StreamRequestHandler::new(line))
}

fn datagram_handler() -> Box<dyn BlockingHandler> {
    Box::new(DatagramRequestHandler::new(line))
}

/// Mirrors `test_TCPServer`.
#[test]
fn tcp_server() {
    Case::tcp().plain();
}

/// Mirrors `test_ThreadingTCPServer`.
#[test]
fn threading_tcp_server() {
    Case::tcp().threading(stream_handler);
}

/// Mirrors `test_ForkingTCPServer`.
#[test]
fn forking_tcp_server() {
    Case::tcp().forking();
}

/// Mirrors `test_UnixStreamServer`. Python's test removes the path itself; here it is gone.
#[test]
fn unix_stream_server() {
    Case::unix_stream().plain();
}

/// Mirrors `test_ThreadingUnixStreamServer`.
#[test]
fn threading_unix_stream_server() {
    Case::unix_stream().threading(stream_handler);
}

/// Mirrors `test_ForkingUnixStreamServer`.
#[test]
fn forking_unix_stream_server() {
    Case::unix_stream().forking();
}

/// Mirrors `test_UDPServer`.
#[test]
fn udp_server() {
    Case::udp().plain();
}

/// Mirrors `test_ThreadingUDPServer`.
#[test]
fn threading_udp_server() {
    Case::udp().threading(datagram_handler);
}

/// Mirrors `test_ForkingUDPServer`.
#[test]
fn forking_udp_server() {
    Case::udp().forking();
}

/// Mirrors `test_UnixDatagramServer`.
#[test]
fn unix_datagram_server() {
    Case::unix_datagram().plain();
}

/// Mirrors `test_ThreadingUnixDatagramServer`.
#[test]
fn threading_unix_datagram_server() {
    Case::unix_datagram().threading(datagram_handler);
}

/// Mirrors `test_ForkingUnixDatagramServer`.
#[test]
fn forking_unix_datagram_server() {
    Case::unix_datagram().forking();
}

/// Mirrors `test_shutdown` (bpo-2302): a stop that comes before, while or after the loop begins is not lost.
#[test]
fn a_stop_that_races_with_the_start_is_not_lost() {
    for _ in 0..20 {
        let (stop, done) = serving(TcpServer::new("localhost:0", |_| Line).unwrap());
        stop.shutdown();
        done.recv_timeout(PATIENCE).expect("serve_forever returns").unwrap();
    }
}

/// Mirrors `test_close_immediately`: a threading server that never had a request, and never asks for a handler.
#[test]
fn a_threading_server_is_closed_without_having_served() {
    let make = || ThreadingTcpServer::new("localhost:0", |_| -> Box<dyn BlockingHandler> { unreachable!() }).unwrap();
    make().server_close();
    drop(make());
}

/// Mirrors `test_tcpserver_bind_leak` (bpo-22435). Port -1 cannot be written in Rust; a port that is taken fails in the
/// same place.
#[test]
#[cfg(target_os = "linux")]
fn a_failed_bind_leaves_no_descriptor() {
    let descriptors = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let before = descriptors();
    for _ in 0..1_024 {
        let error = TcpServer::new(address, |_| Line).expect_err("the port is taken");
        assert!(matches!(error, Error::Bind { source, .. } if source.kind() == ErrorKind::AddrInUse));
    }
    // Other tests of this program open some at the same time.
    assert!(descriptors() < before + 512);
}

/// Mirrors `test_context_manager`: the end of the scope closes the server, and its address is free again.
#[test]
fn leaving_the_scope_closes_the_server() {
    let address = {
        let server = TcpServer::new("localhost:0", |_| Line).unwrap();
        server.server_address()
    };
    wait_until("the port is free", || !tcp_answers(address));
    wait_until("it can be bound again", || TcpServer::new(address, |_| Line).is_ok());
}

// ---- ErrorHandlerTest ----

/// `BaseErrorTestServer`: notes errors, and the end of each request.
struct Watched {
    journal: Journal,
    process: fn(&Journal) -> ServeOn<Watched>,
}

impl BaseServer for Watched {
    fn process_request(&mut self, _: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        (self.process)(&self.journal)
    }
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.journal.note(format!("error handled: {error:#}"));
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.journal.note(format!("closed: {why}"));
    }
}

/// `BadHandler`, on the reactor.
struct Bad {
    handle: fn(&mut Request<'_, Watched>) -> Result<Next>,
}

impl RequestHandler<Watched> for Bad {
    fn handle(&mut self, _: &mut Request<'_, Watched>) -> Result<Next> {
        Ok(Next::Wait)
    }
    fn setup(&mut self, request: &mut Request<'_, Watched>) -> Result<Next> {
        request.server.journal.note("handler called");
        (self.handle)(request)
    }
}

/// One client, one `handle_request()`, then `server_close()`: what was called.
///
/// `server_close()` of a Python server waits for the handler of a request that has just come; here it ends it, perhaps
/// before it has begun. To wait in good order is what a stop does.
fn one_request(
    process: fn(&Journal) -> ServeOn<Watched>,
    handle: fn(&mut Request<'_, Watched>) -> Result<Next>,
) -> Vec<String> {
    let journal = Journal::new();
    let watched = Watched { journal: journal.clone(), process };
    let mut server = TcpServer::with_server("localhost:0", watched, move |_, _| Bad { handle }).unwrap();
    drop(TcpStream::connect(server.server_address()).unwrap());
    on_a_thread(move || {
        server.handle_request().unwrap();
        finish(&mut server);
        server.server_close();
    })
    .recv_timeout(PATIENCE)
    .expect("one request is served, and the server closed");
    journal.lines()
}

/// A handler on a thread, as `handle` says.
fn threaded(journal: &Journal, handle: fn(&mut BlockingRequest<Watched>) -> Result<()>) -> ServeOn<Watched> {
    let journal = journal.clone();
    ServeOn::thread(StreamRequestHandler::new(move |request| {
        journal.note("handler called");
        handle(request)
    }))
}

/// Mirrors `test_sync_handled`.
#[test]
fn an_error_of_a_handler_is_handled_and_handle_request_returns() {
    let lines = one_request(|_| ServeOn::Reactor, |_| Err("Test error".into()));
    assert_eq!(lines, ["handler called", "error handled: Test error", "closed: handler error"]);
}

/// Mirrors `test_sync_not_handled`, as far as it can: nothing passes through `handle_error` here. What SystemExit is for
/// in a handler, ending the server, is a call; a panic, the nearest thing to an unexpected exception, ends its
/// connection and is handled.
#[test]
fn a_handler_ends_the_server_without_an_error_and_a_panic_is_handled() {
    let exit = |request: &mut Request<'_, Watched>| {
        request.others.request_shutdown();
        Ok(Next::Close)
    };
    assert_eq!(one_request(|_| ServeOn::Reactor, exit), ["handler called", "closed: done"]);

    silence_scripted_panics();
    let lines = one_request(|_| ServeOn::Reactor, |_| panic!("{SCRIPTED}"));
    assert_eq!(lines, ["handler called", "error handled: panicked: scripted", "closed: panicked"]);
}

/// Mirrors `test_threading_handled`. `handle_error` is called on the reactor's thread, and closing the server waits for
/// the handler's, so everything is there after it.
#[test]
fn an_error_of_a_handler_on_a_thread_is_handled() {
    let lines = one_request(|journal| threaded(journal, |_| Err("Test error".into())), |_| unreachable!());
    assert_eq!(lines, ["handler called", "error handled: Test error", "closed: handler error"]);
}

/// Mirrors `test_threading_not_handled`: see `test_sync_not_handled`. That the exception ends the thread has no
/// counterpart; the thread is one of a pool and serves the next request.
#[test]
fn a_handler_on_a_thread_ends_the_server_without_an_error_and_a_panic_is_handled() {
    let exit = |journal: &Journal| {
        threaded(journal, |request| {
            request.handle().shutdown_handle().shutdown();
            Ok(())
        })
    };
    assert_eq!(one_request(exit, |_| unreachable!()), ["handler called", "closed: done"]);

    silence_scripted_panics();
    let lines = one_request(|journal| threaded(journal, |_| panic!("{SCRIPTED}")), |_| unreachable!());
    assert_eq!(lines, ["handler called", "error handled: panicked: scripted", "closed: panicked"]);
}

/// Mirrors `test_forking_handled`, where the exception is one of Python code in the child. A program has none: what goes
/// wrong on our side is that it cannot be run.
#[test]
fn a_program_that_cannot_be_run_is_an_error_that_is_handled() {
    let lines = one_request(|_| ServeOn::program(Command::new("/nowhere/to/be/found")), |_| unreachable!());
    let error = "error handled: cannot run /nowhere/to/be/found: no such file or directory";
    assert_eq!(lines, [error, "closed: handler error"]);
}

/// Mirrors `test_forking_not_handled`: a child that exits with status 1 is no error of the server.
#[test]
fn a_program_that_fails_is_its_own_business() {
    let lines = one_request(|_| ServeOn::program(Command::new("false")), |_| unreachable!());
    assert_eq!(lines, ["closed: done"]);
}

// ---- SocketWriterTest ----

/// Mirrors `test_basics`. `wfile` has no descriptor of its own to compare: it shares the request's one, which shows when
/// that is shut down under it. That a write needs no flush is in the next test.
#[test]
fn wfile_is_a_writer_on_the_request_s_own_socket() {
    fn is_a_writer(_: &impl Write) {}
    let (tell, told) = channel();
    let handler = move |_: &Address| {
        let tell = tell.clone();
        StreamRequestHandler::new(move |request| {
            is_a_writer(&request.wfile);
            assert!(request.socket().as_fd().is_some());
            request.socket().shutdown(std::net::Shutdown::Write)?;
            tell.send(request.wfile.write(b"x").is_err()).unwrap();
            Ok(())
        })
    };
    let server = ThreadingTcpServer::new("localhost:0", handler).unwrap();
    let address = server.server_address();
    let (stop, done) = serving(server);
    drop(tcp(address));
    assert!(told.recv_timeout(PATIENCE).expect("the handler ran"), "there is a second descriptor");
    stop.shutdown();
    done.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// Mirrors `test_write`: a write arrives without a flush, and one that is interrupted by signals is not cut short.
/// The system does not restart a call on a socket with a time limit after a signal (signal(7)): therefore `timeout`.
#[test]
#[cfg(all(target_os = "linux", feature = "signals"))]
fn a_large_write_is_whole_though_signals_interrupt_it() {
    const SOCK_MAX_SIZE: usize = 16 * 1024 * 1024 + 1;
    const ALONE: &str = "SOCKETSERVER_PARITY_ALONE";
    if std::env::var_os(ALONE).is_none() {
        // In a process of its own: what the thread does not take would interrupt other tests.
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "a_large_write_is_whole_though_signals_interrupt_it"]).env(ALONE, "1");
        let output = on_a_thread(move || command.output().unwrap()).recv_timeout(PATIENCE * 3).expect("it ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
        return;
    }
    let caught = Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(10, Arc::clone(&caught)).unwrap(); // SIGUSR1
    let (tell, told) = channel();
    let handler = move |_: &Address| {
        let tell = tell.clone();
        let mut handler = StreamRequestHandler::new(move |request| {
            // "self" and the number of the thread: kill(2) prefers the thread it is given.
            let thread = std::fs::read_link("/proc/thread-self")?;
            tell.send(thread.file_name().unwrap().to_owned()).unwrap();
            assert_eq!(request.wfile.write(b"write data\n")?, 11);
            let mut line = String::new();
            request.rfile.read_line(&mut line)?;
            assert_eq!(line, "client response\n");
            assert_eq!(request.wfile.write(&vec![0; SOCK_MAX_SIZE])?, SOCK_MAX_SIZE);
            let read = { request.socket() }.read(&mut [0; 10]); // Neither is a read.
            tell.send(format!("{read:?}").into()).unwrap();
            Ok(())
        });
        handler.timeout = Some(PATIENCE);
        handler
    };
    let server = ThreadingTcpServer::new("localhost:0", handler).unwrap();
    let address = server.server_address();
    let (stop, done) = serving(server);
    let mut client = Peer::of(tcp(address));
    client.expect("write data\n");
    client.send("client response\n");
    client.expect([0; 100]);
    let thread = told.recv_timeout(PATIENCE).expect("the handler ran");
    let interrupt = || assert!(Command::new("kill").arg("-USR1").arg(&thread).status().unwrap().success());
    for _ in 0..5 {
        interrupt();
        client.expect([0; 1_000]);
    }
    client.expect(vec![0; SOCK_MAX_SIZE - 5_100]);
    (0..5).for_each(|_| interrupt());
    client.send("bye\n");
    client.expect_eof();
    assert_eq!(told.recv_timeout(PATIENCE).unwrap(), "Ok(4)");
    assert!(caught.load(Ordering::SeqCst));
    stop.shutdown();
    done.recv_timeout(PATIENCE).unwrap().unwrap();
}

// ---- MiscTestCase ----
// `test_all` is in tests/from_socketserver.rs: every public name of Python's has its row.

/// Mirrors `test_shutdown_request_called_if_verify_request_false` (bpo-26309): a request that is turned away is closed.
/// The hook that tells of it is `close_request`; ours of the other name ends a direction in good order, which no peer
/// waits for here.
#[test]
fn a_request_that_verify_request_turns_away_is_closed_once_and_not_handled() {
    struct No(Journal);
    impl BaseServer for No {
        fn verify_request(&mut self, _: &Incoming<'_>, _: &Address) -> bool {
            self.0.note("verify_request");
            false
        }
        fn close_request(&mut self, _: &Address, why: EndReason) {
            self.0.note(format!("close_request: {why}"));
        }
        fn handle_error(&mut self, _: &Address, _: &Error) {
            unreachable!()
        }
    }
    struct Never;
    impl RequestHandler<No> for Never {
        fn handle(&mut self, _: &mut Request<'_, No>) -> Result<Next> {
            unreachable!()
        }
    }
    let journal = Journal::new();
    let mut server =
        TcpServer::with_server("localhost:0", No(journal.clone()), |_, _| -> Never { unreachable!() }).unwrap();
    let mut client = Peer::of(tcp(server.server_address()));
    let done = on_a_thread(move || {
        server.handle_request().unwrap();
        server.stats().panics
    });
    assert_eq!(done.recv_timeout(PATIENCE).expect("handle_request returns"), 0);
    client.expect_eof();
    assert_eq!(journal.lines(), ["verify_request", "close_request: refused"]);
}

/// Mirrors `test_threads_reaped` (bpo-37193). Python keeps a list of threads and weeds it; here there are no more than
/// `max_threads`, and they are used again.
#[test]
fn threads_are_used_again() {
    let threads = Arc::new(Mutex::new(HashSet::new()));
    let seen = Arc::clone(&threads);
    let mut server = ThreadingTcpServer::new("localhost:0", move |_| {
        let seen = Arc::clone(&seen);
        StreamRequestHandler::new(move |_| {
            seen.lock().unwrap().insert(std::thread::current().id());
            Ok(())
        })
    })
    .unwrap();
    limit(&mut server, |limits| limits.max_threads = 3);
    let address = server.server_address();
    let done = on_a_thread(move || {
        for _ in 0..10 {
            let mut client = Peer::of(tcp(address));
            server.handle_request().unwrap(); // Returns as soon as a thread has it, as in Python.
            client.expect_eof();
        }
        server.server_close();
    });
    done.recv_timeout(PATIENCE).expect("ten requests are served");
    let threads = threads.lock().unwrap().len();
    assert!((1..=3).contains(&threads), "{threads}");
}

// ---- What CPython has no test for, and its documentation says ----

/// `handle_timeout` is called when `timeout` has passed, and `handle_request` returns.
#[test]
fn handle_timeout_is_called_when_no_client_comes() {
    #[derive(Default)]
    struct Waiting(u32);
    impl BaseServer for Waiting {
        fn handle_timeout(&mut self) {
            self.0 += 1;
        }
    }
    struct Never;
    impl RequestHandler<Waiting> for Never {
        fn handle(&mut self, _: &mut Request<'_, Waiting>) -> Result<Next> {
            unreachable!()
        }
    }
    let mut server = TcpServer::with_server("localhost:0", Waiting::default(), |_, _| Never).unwrap();
    server.timeout = Some(Duration::from_millis(1));
    server.handle_request().unwrap();
    server.handle_request().unwrap();
    assert_eq!(server.server_mut().0, 2);
}

/// `handle_request` serves one datagram, however many wait.
#[test]
fn handle_request_serves_one_datagram() {
    let mut server = socketserver::UdpServer::new("127.0.0.1:0", |_| Line).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.server_address()).unwrap();
    for packet in [b"1\n", b"2\n", b"3\n"] {
        client.send(packet).unwrap();
    }
    let mut reply = [0; 10];
    for packet in [b"1\n", b"2\n", b"3\n"] {
        server.handle_request().unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        let n = uninterrupted(|| client.recv(&mut reply)).unwrap();
        assert_eq!(&reply[..n], packet);
        client.set_nonblocking(true).unwrap();
        assert_eq!(client.recv(&mut reply).unwrap_err().kind(), ErrorKind::WouldBlock, "more than one was served");
        client.set_nonblocking(false).unwrap();
    }
}

/// `allow_reuse_port` (3.11): two servers share a port if both ask for it, and otherwise not.
#[test]
fn allow_reuse_port_shares_a_port() {
    let bound = |address: &str, share| {
        let mut server = TcpServer::unbound(|_| Line);
        let options = options(|options: &mut TcpOptions| options.allow_reuse_port = share);
        server.server_bind_with(address, options).and_then(|()| server.server_activate())
    };
    let first = bound("127.0.0.1:0", true).unwrap();
    let address = first.server_address().to_string();
    let second = bound(&address, true).unwrap();
    assert_eq!(first.server_address(), second.server_address());
    assert!(matches!(bound(&address, false), Err(Error::Bind { .. })));
}

/// `max_children`: as many programs at once, and the next request waits. Python's server waits with it, for a child to
/// end; here only the request does.
#[test]
fn max_children_makes_further_requests_wait() {
    let mut server = socketserver::ForkingTcpServer::new("localhost:0", |_| Command::new("cat")).unwrap();
    limit(&mut server, |limits| limits.max_children = 2);
    let address = server.server_address();
    let (stop, done) = serving(server);
    let mut clients: Vec<_> = (0..5).map(|_| Peer::of(tcp(address))).collect();
    clients.iter_mut().for_each(|client| client.send("hello"));
    clients[0].expect("hello");
    clients[1].expect("hello");
    clients[2].socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert!(clients[2].socket.read(&mut [0]).is_err(), "a third program runs");
    clients[2].socket.set_read_timeout(Some(PATIENCE)).unwrap();
    for mut client in clients.into_iter() {
        client.half_close();
        assert!(b"hello".ends_with(&client.rest()));
    }
    stop.shutdown();
    done.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// Python's children have all descriptors of the server, its programs none (PEP 446); a program has its request, and
/// nothing else of ours.
#[test]
#[cfg(target_os = "linux")]
fn a_program_has_no_descriptor_but_the_request() {
    let list = |_: &Address| {
        let mut command = Command::new("ls");
        command.args(["-l", "/proc/self/fd"]);
        command
    };
    let server = socketserver::ForkingTcpServer::new("localhost:0", list).unwrap();
    let address = server.server_address();
    let (stop, done) = serving(server);
    let descriptors = String::from_utf8(Peer::of(tcp(address)).rest()).unwrap();
    let others = descriptors.lines().filter(|line| !line.contains(" 2 -> ")); // Standard error is as it was.
    let ours = others.filter(|line| line.contains("socket:") || line.contains("anon_inode:"));
    assert_eq!(ours.count(), 2, "its input and output: {descriptors}");
    stop.shutdown();
    done.recv_timeout(PATIENCE).unwrap().unwrap();
}

/// `block_on_close` and `daemon_threads`: whether closing waits for a handler that waits for something else than its
/// socket, and so does not notice.
#[test]
fn closing_waits_for_threads_unless_block_on_close_is_false() {
    for (daemon_threads, block_on_close) in [(false, true), (false, false), (true, true), (true, false)] {
        let (begun, began) = channel();
        let (release, released) = channel::<()>();
        let released = Arc::new(Mutex::new(released));
        let mut server = ThreadingTcpServer::new("localhost:0", move |_| {
            let (begun, released) = (begun.clone(), Arc::clone(&released));
            StreamRequestHandler::new(move |_| {
                begun.send(()).unwrap();
                let _ = released.lock().unwrap().recv_timeout(PATIENCE);
                Ok(())
            })
        })
        .unwrap();
        limit(&mut server, |limits| {
            (limits.daemon_threads, limits.block_on_close) = (daemon_threads, block_on_close);
        });
        let mut client = Peer::of(tcp(server.server_address()));
        let closed = on_a_thread(move || {
            server.handle_request().unwrap();
            began.recv_timeout(PATIENCE).unwrap();
            server.server_close();
        });
        if block_on_close && !daemon_threads {
            assert!(closed.recv_timeout(Duration::from_millis(50)).is_err(), "it does not wait");
            release.send(()).unwrap();
        }
        client.expect_eof(); // It is done, or its socket was shut down.
        closed.recv_timeout(PATIENCE / 2).expect("the server is closed");
    }
}

/// `finish` is called after a `handle` that failed, and not after a `setup` that did.
#[test]
fn finish_follows_a_handle_that_failed_but_not_a_setup() {
    struct Scripted {
        journal: Journal,
        setup_fails: bool,
    }
    impl BlockingHandler for Scripted {
        fn setup(&mut self, _: &mut BlockingRequest) -> Result<()> {
            self.journal.note("setup");
            if self.setup_fails { Err("setup".into()) } else { Ok(()) }
        }
        fn handle(&mut self, _: &mut BlockingRequest) -> Result<()> {
            self.journal.note("handle");
            Err("handle".into())
        }
        fn finish(&mut self, _: &mut BlockingRequest) {
            self.journal.note("finish");
        }
    }
    for setup_fails in [false, true] {
        let journal = Journal::new();
        let noted = journal.clone();
        let make = move |_: &Address| Scripted { journal: noted.clone(), setup_fails };
        let mut server = ThreadingTcpServer::new("localhost:0", make).unwrap();
        let client = tcp(server.server_address());
        let done = on_a_thread(move || {
            server.handle_request().unwrap();
            finish(&mut server);
        });
        done.recv_timeout(PATIENCE).unwrap();
        drop(client);
        let expected: &[&str] = if setup_fails { &["setup"] } else { &["setup", "handle", "finish"] };
        assert_eq!(journal.lines(), expected);
    }
}

/// A handler that answers a datagram with nothing sends nothing; Python's sends an empty datagram.
#[test]
fn a_datagram_handler_that_writes_nothing_sends_nothing() {
    let handler = |_: &Address| DatagramRequestHandler::new(|_| Ok(()));
    let server = socketserver::ThreadingUdpServer::new("127.0.0.1:0", handler).unwrap();
    let client = UdpSocket::bind("127.0.0.1:0").unwrap();
    client.connect(server.server_address()).unwrap();
    client.send(b"hello").unwrap();
    let done = on_a_thread({
        let mut server = server;
        move || {
            server.handle_request().unwrap();
            finish(&mut server);
        }
    });
    done.recv_timeout(PATIENCE).unwrap();
    client.set_nonblocking(true).unwrap();
    // A closed port may be reported, but there is no datagram.
    assert!(client.recv(&mut [0; 10]).is_err());
}

// ---- Helpers ----

/// Serves on a thread.
fn serving<F: Family, S: BaseServer, H: RequestHandler<S>>(
    mut server: Server<F, S, H>,
) -> (ShutdownHandle, Receiver<Result<()>>) {
    (server.shutdown_handle(), on_a_thread(move || server.serve_forever()))
}

/// Waits for what threads and programs have under way.
fn finish<F: Family, S: BaseServer, H: RequestHandler<S>>(server: &mut Server<F, S, H>) {
    server.shutdown_handle().shutdown();
    match server.serve_forever() {
        // A handler has stopped it, it would bind again, and by now another socket has its port: nothing is under way.
        Err(Error::Bind { .. }) => {}
        result => result.unwrap(),
    }
}

/// Runs something on a thread, to be waited for with a deadline.
fn on_a_thread<T: Send + 'static>(run: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (tell, done) = channel();
    std::thread::spawn(move || {
        let result = run();
        let _ = tell.send(result); // After a deadline the receiver is gone.
    });
    done
}

fn tcp(to: SocketAddr) -> TcpStream {
    let socket = TcpStream::connect_timeout(&to, PATIENCE).expect("connect");
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn tcp_answers(to: SocketAddr) -> bool {
    TcpStream::connect_timeout(&to, PATIENCE).is_ok()
}

/// `stream_examine`: sends a line, does not end its side, and reads until there is a newline or the end.
fn stream_examine(client: &mut (impl Read + Write)) {
    client.write_all(TEST_STR).unwrap();
    let mut got = Vec::new();
    let mut buffer = [0; 100];
    while !got.contains(&b'\n') {
        match uninterrupted(|| client.read(&mut buffer)).expect("an answer in time") {
            0 => break,
            n => got.extend_from_slice(&buffer[..n]),
        }
    }
    assert_eq!(got, TEST_STR);
}

/// The same on a Unix socket.
fn unix_examine(to: &Address) {
    let mut client = UnixStream::connect(path_of(to)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    stream_examine(&mut client);
}

/// `dgram_examine`, with a client that is not connected.
fn udp_examine(to: &Address) {
    let to = to.as_inet().unwrap();
    let client = UdpSocket::bind((to.ip(), 0)).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(TEST_STR, to).unwrap();
    let mut reply = [0; 100];
    let (n, from) = uninterrupted(|| client.recv_from(&mut reply)).expect("an answer in time");
    assert_eq!((&reply[..n], from), (TEST_STR, to));
}

/// The same on Unix sockets, where the client needs a name to be answered.
fn unix_datagram_examine(to: &Address) {
    let own = fresh_path();
    let client = UnixDatagram::bind(&own).unwrap();
    client.set_read_timeout(Some(PATIENCE)).unwrap();
    client.send_to(TEST_STR, path_of(to)).unwrap();
    let mut reply = [0; 100];
    let n = uninterrupted(|| client.recv(&mut reply)).expect("an answer in time");
    assert_eq!(&reply[..n], TEST_STR);
    std::fs::remove_file(own).unwrap();
}

/// A call with a time limit fails when a signal comes, signal(7), if only SIGCHLD for another test's program.
fn uninterrupted<T>(mut call: impl FnMut() -> std::io::Result<T>) -> std::io::Result<T> {
    loop {
        match call() {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => return result,
        }
    }
}

/// `pickaddr` for AF_UNIX.
fn fresh_path() -> PathBuf {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("parity-{}-{number}.sock", std::process::id()))
}

fn text(path: &Path) -> String {
    path.to_str().expect("a path that is text").to_owned()
}

fn path_of(address: &Address) -> &Path {
    address.as_unix().and_then(|address| address.as_path()).expect("a path")
}

/// The status of a child, waited for with a deadline.
fn status(mut child: Child) -> Option<i32> {
    let mut status = None;
    wait_until("the child ends", || {
        status = child.try_wait().expect("its status is still there");
        status.is_some()
    });
    status.and_then(|status| status.code())
}

/// A program that another test starts has all our descriptors for a moment, until exec closes them: what is closed here
/// may not be closed for the system yet.
#[track_caller]
fn wait_until(what: &str, mut reached: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !reached() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::yield_now();
    }
}
