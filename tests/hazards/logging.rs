//! What a logger can do to the loop. Each test is run in a process of its own, with a logger of its own.

use std::panic::panic_any;
use std::sync::Mutex;
use std::thread::{self, ThreadId};

use log::{Level, LevelFilter, Log, Metadata, Record};
use socketserver::testing::Client;
use socketserver::{Error, Next, Request, RequestHandler, Result};

use crate::common;

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

struct Seen {
    thread: ThreadId,
    level: Level,
    target: String,
    place: String,
    text: String,
}

struct Collector(Mutex<Vec<Seen>>);

impl Collector {
    const fn new() -> Self {
        Collector(Mutex::new(Vec::new()))
    }
}

impl Log for Collector {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        self.0.lock().unwrap().push(Seen {
            thread: thread::current().id(),
            level: record.level(),
            target: record.target().to_owned(),
            place: format!("{}:{}", record.file().unwrap_or_default().replace('\\', "/"), record.line().unwrap_or(0)),
            text: record.args().to_string(),
        });
    }

    fn flush(&self) {}
}

#[test]
fn a_line_is_logged_on_the_thread_of_the_loop_with_its_place_and_escaped() {
    static LINES: Collector = Collector::new();
    if !is_apart("a_line_is_logged_on_the_thread_of_the_loop_with_its_place_and_escaped", &LINES) {
        return;
    }
    fail("a\nb\x1b[2J");
    let lines = LINES.0.lock().unwrap();
    let line = lines.iter().find(|line| line.level == Level::Error).unwrap();
    assert_eq!((line.thread, &*line.target), (thread::current().id(), "socketserver::server::hooks"));
    assert!(line.place.starts_with("src/server/hooks.rs:") && !line.place.ends_with(":0"), "{}", line.place);
    assert!(line.text.ends_with("a\\nb\\u{1b}[2J"), "{}", line.text);
}

#[test]
#[cfg(unix)]
fn an_inherited_socket_that_no_server_takes_is_logged() {
    static LINES: Collector = Collector::new();
    if !is_apart("an_inherited_socket_that_no_server_takes_is_logged", &LINES) {
        return;
    }
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(socketserver::InheritedSockets::new([("admin".to_owned(), listener.into())]));
    let lines = LINES.0.lock().unwrap();
    let text = format!("no server takes the inherited socket 0 \"admin\" (TCP {address}): its clients wait forever");
    assert!(lines.len() == 1 && lines[0].level == Level::Warn && lines[0].text == text);
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
    let shown = LINES.0.lock().unwrap().iter().filter(|line| line.text.ends_with("fault")).count();
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
