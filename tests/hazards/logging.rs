//! What a logger can do to the loop. Each test is run in a process of its own, with a logger of its own.

use std::panic::panic_any;
use std::sync::Mutex;
use std::thread;
use std::time::Duration;

use log::{Level, LevelFilter, Log, Metadata, Record};
use socketserver::testing::{Client, Network};
use socketserver::{Address, Error, Limits, Next, ReactorConfig, Request, RequestHandler, Result, ServerId};

use crate::common;
use crate::common::collector::Collector;

/// Installs a logger, and returns whether this process is the test's own. If not, the test is run there.
fn is_apart(test: &str, logger: &'static dyn Log) -> bool {
    let is_apart = common::is_apart(&format!("logging::{test}"), "");
    if is_apart {
        log::set_logger(logger).unwrap();
        log::set_max_level(LevelFilter::Debug);
    }
    is_apart
}

/// Fails with what it received, or panics with it.
struct Failing;

impl RequestHandler for Failing {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        match String::from_utf8_lossy(request.input.take_all()).into_owned() {
            text if text == "panic" => panic!("scripted"),
            text => Err(Error::other(text)),
        }
    }
}

fn fail(with: &str) {
    let mut client = Client::new(Failing);
    client.feed(with.as_bytes());
    assert!(client.is_closed());
}

#[test]
fn a_line_is_logged_on_the_thread_of_the_loop_with_its_place_and_escaped() {
    static LINES: Collector = Collector::new();
    if !is_apart("a_line_is_logged_on_the_thread_of_the_loop_with_its_place_and_escaped", &LINES) {
        return;
    }
    fail("a\nb\x1b[2J");
    let lines = LINES.lines();
    let line = lines.iter().find(|line| line.level == Level::Error).unwrap();
    assert_eq!((line.thread, &*line.target), (thread::current().id(), "socketserver::server::hooks"));
    assert!(line.place.starts_with("src/server/hooks.rs:") && !line.place.ends_with(":0"), "{}", line.place);
    assert!(line.text.ends_with("a\\nb\\u{1b}[2J"), "{}", line.text);
}

#[test]
#[cfg(unix)]
fn an_inherited_socket_that_no_server_takes_is_logged_when_a_reactor_serves() {
    static LINES: Collector = Collector::new();
    if !is_apart("an_inherited_socket_that_no_server_takes_is_logged_when_a_reactor_serves", &LINES) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let inherit = || {
        let socket = listener.try_clone().unwrap();
        socketserver::InheritedSockets::new([("admin".to_owned(), socket.into())])
    };
    let text = format!("no server takes the inherited socket 0 \"admin\" (TCP {address}): its clients wait forever");
    let warnings = || LINES.lines().iter().map(|line| (line.level, line.text.clone())).collect::<Vec<_>>();
    drop(inherit());
    assert!(warnings().is_empty(), "the program may end because of another error");
    let mut reactor = socketserver::Reactor::new().unwrap();
    reactor.poll(Some(Duration::ZERO)).unwrap();
    let mut expected = vec![(Level::Warn, text)];
    assert_eq!(warnings(), expected);
    drop(inherit());
    expected.push(expected[0].clone());
    assert_eq!(warnings(), expected);
}

#[test]
#[cfg(all(unix, feature = "proxy-protocol"))]
fn a_wrong_header_of_a_proxy_is_logged_with_its_fault_and_its_first_bytes() {
    use socketserver::{NoHandler, ProxyProtocol, TcpOptions, TcpServer};
    use std::io::Write as _;
    use std::net::{Shutdown, TcpStream};

    static LINES: Collector = Collector::new();
    if !is_apart("a_wrong_header_of_a_proxy_is_logged_with_its_fault_and_its_first_bytes", &LINES) {
        return;
    }
    let mut options = TcpOptions::default();
    options.proxy_protocol = Some(ProxyProtocol::new(|_| true));
    let mut server = TcpServer::unbound(|_client_address| NoHandler);
    server.server_bind_with("127.0.0.1:0", options.clone()).unwrap();
    options.proxy_protocol.as_mut().unwrap().timeout = Duration::from_millis(1);
    server.server_bind_with("127.0.0.1:0", options).unwrap();
    let mut server = server.server_activate().unwrap();
    let address = server.server_address();
    let hasty = server.server_addresses()[1].as_inet().unwrap();
    let mut refused = |client: TcpStream, why: &str| {
        server.handle_request().unwrap();
        let lines = LINES.lines();
        let warning = lines.iter().rfind(|line| line.level == Level::Warn).unwrap();
        assert_eq!(warning.text, format!("{} is refused: {why}", client.local_addr().unwrap()));
    };
    let silent = TcpStream::connect(hasty).unwrap();
    refused(silent, "no whole PROXY header in 1ms (proxy_protocol.timeout), no byte has come");
    for (sent, why) in [
        ("GET / HTTP/1.1\r\n", r#"no PROXY header, it begins with "GET / HTTP/1.1\r\n""#),
        (
            "PROXY TCP4 \x1b[2J 192.0.2.1 1 2\r\n",
            r#"its PROXY header is wrong (the client's address is no address of its protocol), it begins with "PROXY TCP4 \x1b[2J 192.0.2.1 1 2\r\n""#,
        ),
        (
            "\r\n\r\n\0\r\nQUIT\n\x21\x12\0\x0c",
            r#"its PROXY header is wrong (its protocol is for datagrams, and this is a connection), it begins with "\r\n\r\n\x00\r\nQUIT\n!\x12\x00\x0c""#,
        ),
        ("PROXY TCP4 203", r#"its PROXY header is cut off, it begins with "PROXY TCP4 203""#),
    ] {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(sent.as_bytes()).unwrap();
        client.shutdown(Shutdown::Write).unwrap();
        refused(client, why);
    }
}

#[test]
fn a_stop_that_aborts_connections_logs_once_how_many_and_why() {
    static LINES: Collector = Collector::new();
    if !is_apart("a_stop_that_aborts_connections_logs_once_how_many_and_why", &LINES) {
        return;
    }
    fn drain(network: &Network, server: ServerId) {
        network.handle().run(move |reactor| reactor.drain_server(server)).unwrap();
    }
    /// The warnings during a stop of a server with a client that leaves, some that stay, and as many sessions.
    fn warnings(staying: u16, stop: fn(&mut Network, ServerId)) -> Vec<String> {
        let mut config = ReactorConfig::default();
        config.drain_grace = Duration::from_millis(1_500);
        let mut network = Network::with_config(config);
        let stays = |_: &mut (), _: &Address| {
            common::probe(|call, request: &mut Request<'_>| match call {
                common::Call::Drain => Ok(Next::Wait),
                call => common::echo(&call, request),
            })
        };
        let mut limits = Limits::default();
        limits.sessions_max = Some(10);
        let (tcp, udp) = (network.serve((), stays, limits.clone()), network.serve_datagrams((), stays, limits));
        let (tcp, udp) = (tcp.unwrap(), udp.unwrap());
        let leaving = network.connect(tcp);
        let _staying: Vec<_> = (0..staying).map(|_| network.connect(tcp)).collect();
        for port in 1..=staying {
            network.send_datagram(udp, &std::net::SocketAddr::from(([192, 0, 2, 7], port)).into(), b"hello");
        }
        network.run();
        LINES.lines().clear();
        stop(&mut network, tcp);
        network.run();
        leaving.send_eof();
        network.run_for(Duration::from_secs(5));
        LINES.lines().iter().filter(|line| line.level <= Level::Warn).map(|line| line.text.clone()).collect()
    }
    let shutdown = |network: &mut Network, _| network.shutdown_handle().shutdown();
    assert_eq!(warnings(2, shutdown), ["connections aborted: 4 (drain_grace = 1.5s)"]);
    assert_eq!(warnings(0, shutdown), [""; 0]);
    let twice = |network: &mut Network, _| {
        network.shutdown_handle().shutdown();
        network.run_for(Duration::from_secs(1));
        network.shutdown_handle().shutdown_now();
    };
    // The client that leaves comes too late.
    assert_eq!(warnings(2, twice), ["connections aborted: 5 (shutdown_now, or a second signal)"]);
    assert_eq!(warnings(1, |network, server| drain(network, server)), ["connections aborted: 1 (drain_grace = 1.5s)"]);
    assert_eq!(warnings(0, |network, server| drain(network, server)), [""; 0]);
    let both = |network: &mut Network, server| {
        drain(network, server);
        network.shutdown_handle().shutdown();
    };
    assert_eq!(warnings(2, both), ["connections aborted: 4 (drain_grace = 1.5s)"]);
}

/// Its thread does not hear that its client has gone.
#[test]
fn a_request_on_a_thread_that_a_stop_aborts_counts_in_the_log() {
    use socketserver::{BlockingHandler, BlockingRequest, ThreadingTcpServer};
    use std::sync::Arc;
    use std::sync::mpsc::{Receiver, Sender, channel};

    static LINES: Collector = Collector::new();
    if !is_apart("a_request_on_a_thread_that_a_stop_aborts_counts_in_the_log", &LINES) {
        return;
    }
    struct Waits(Arc<Mutex<Receiver<()>>>, Sender<()>);
    impl BlockingHandler for Waits {
        fn handle(&mut self, _: &mut BlockingRequest) -> Result<()> {
            self.1.send(()).unwrap();
            let _ = self.0.lock().unwrap().recv_timeout(common::PATIENCE);
            Ok(())
        }
    }
    let ((release, wait), (tell, begun)) = (channel(), channel());
    let wait = Arc::new(Mutex::new(wait));
    let handler = move |_: &Address| Waits(Arc::clone(&wait), tell.clone());
    let mut server = ThreadingTcpServer::new("127.0.0.1:0", handler).unwrap();
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_millis(50);
    server.set_config(config);
    let (address, stop) = (server.server_address(), server.shutdown_handle());
    let serving = thread::spawn(move || {
        server.serve_forever().unwrap();
        drop(release);
    });
    let _client = std::net::TcpStream::connect(address).unwrap();
    begun.recv_timeout(common::PATIENCE).unwrap();
    stop.shutdown();
    serving.join().unwrap();
    let lines = LINES.lines();
    let aborted: Vec<_> = lines.iter().filter(|line| line.text.starts_with("connections aborted")).collect();
    assert!(aborted.len() == 1 && aborted[0].text == "connections aborted: 1 (drain_grace = 50ms)", "{aborted:?}");
}

#[test]
fn faults_of_clients_do_not_flood_the_log() {
    static LINES: Collector = Collector::new();
    if !is_apart("faults_of_clients_do_not_flood_the_log", &LINES) {
        return;
    }
    let begun = std::time::Instant::now();
    (0..1_000).for_each(|_| fail("fault"));
    let seconds = begun.elapsed().as_secs() as usize + 1;
    let shown = LINES.lines().iter().filter(|line| line.text.ends_with("fault")).count();
    assert!((10..=10 * seconds).contains(&shown), "{shown} in {seconds} s");
}

#[test]
fn a_logger_that_panics_does_not_end_the_loop() {
    /// What its panics carry panics when it is dropped.
    struct Panics;
    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            panic!("scripted");
        }
    }
    impl Log for Panics {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, _: &Record<'_>) {
            panic_any(Bomb);
        }
        fn flush(&self) {}
    }
    if !is_apart("a_logger_that_panics_does_not_end_the_loop", &Panics) {
        return;
    }
    fail("fault");
    fail("panic");
}

#[test]
fn a_logger_that_blocks_does_not_block_the_loop_if_it_is_wrapped() {
    use socketserver::logging::NonBlocking;
    use std::sync::mpsc::{Receiver, Sender, channel};

    /// Writes a line when the test lets it.
    struct Blocks(Mutex<Receiver<()>>, Mutex<Sender<String>>);
    impl Log for Blocks {
        fn enabled(&self, _: &Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &Record<'_>) {
            self.0.lock().unwrap().recv().unwrap();
            self.1.lock().unwrap().send(format!("{} {}", record.target(), record.args())).unwrap();
        }
        fn flush(&self) {}
    }
    if !common::is_apart("logging::a_logger_that_blocks_does_not_block_the_loop_if_it_is_wrapped", "") {
        return;
    }
    let ((go, wait), (said, heard)) = (channel(), channel());
    NonBlocking::new(Blocks(Mutex::new(wait), Mutex::new(said))).unwrap().init(LevelFilter::Info).unwrap();
    log::warn!("first");
    go.send(()).unwrap();
    let until = |end: &str| {
        let mut lines = Vec::new();
        while !lines.last().is_some_and(|line: &String| line.contains(end)) {
            lines.push(heard.recv_timeout(common::PATIENCE).unwrap());
        }
        lines
    };
    until("first");
    // The thread holds one line at most, and 1,024 wait.
    (0..2_000).for_each(|n| log::warn!("line {n}"));
    fail("panic");
    log::logger().flush();
    (0..4_000).for_each(|_| go.send(()).unwrap());
    assert!(until("line 1023").iter().any(|line| line.contains("lines were dropped")));
    fail("panic");
    until("panic panicked at tests/hazards/logging.rs");
}
