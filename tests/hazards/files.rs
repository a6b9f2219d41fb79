//! Parts of files as output: in order, within the limits, and not taken for the whole if they cannot be read.

use std::fs::File;
use std::io::Write;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

#[cfg(unix)]
use socketserver::family::UnixStream;
use socketserver::family::{Tcp, Udp};
use socketserver::testing::{Client, Network};
use socketserver::{Address, BaseServer, EndReason, Error, Limits, Next, Overflow, Request, RequestHandler, Result};

use crate::common::{
    Call, Directory, Journal, Kind, Mailbox, Peer, Running, connect_with_small_window, limit, probe, serve, server,
    server_with, usual,
};

const LENGTH: usize = 5_000_000;

/// A file whose bytes tell where they are.
fn file(directory: &Directory) -> (Arc<File>, Vec<u8>) {
    let bytes: Vec<u8> = (0..LENGTH as u32).map(|at| (at ^ at >> 8 ^ at >> 16) as u8).collect();
    let path = directory.file("file", &bytes);
    (Arc::new(File::open(path).unwrap()), bytes)
}

/// Answers each byte with a head, a part of the file, and a tail.
#[derive(Clone)]
struct Sends(Arc<File>, Range<u64>);

impl<S: 'static> RequestHandler<S> for Sends {
    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        while !request.output.is_full() && request.input.read_exact(1)?.is_some() {
            request.output.write_all(b"head")?;
            request.output.write_file(Arc::clone(&self.0), self.1.clone())?;
            request.output.write_shared("tail")?;
        }
        Ok(Next::Wait)
    }
}

#[derive(Default)]
struct Noting(Journal);

impl BaseServer for Noting {
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.0.note(format!("handle_error {error:#}"));
    }
    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.0.note(format!("close_request {why}"));
    }
}

fn noting(journal: &Journal, file: &Arc<File>, part: Range<u64>, change: impl FnOnce(&mut Limits)) -> Running<Noting> {
    let sends = Sends(Arc::clone(file), part);
    let mut server = server_with::<Tcp, _, _>(Noting(journal.clone()), move |_, _| sends.clone());
    limit(&mut server, change);
    serve(server)
}

fn expected(bytes: &[u8]) -> Vec<u8> {
    [b"head", bytes, b"tail"].concat()
}

fn parts_arrive_in_order<F: Kind>() {
    let directory = Directory::new();
    let (file, bytes) = file(&directory);
    for part in [0..LENGTH, 1..LENGTH - 1, 4_000_000..4_100_000, 7..7 + 16 * 1024, 100..200, 9..9] {
        let sends = Sends(Arc::clone(&file), part.start as u64..part.end as u64);
        let running = serve(server::<F, _>(move |_| sends.clone()));
        let mut client = running.connect();
        client.send("123");
        (0..3).for_each(|_| client.expect(expected(&bytes[part.clone()])));
        client.half_close();
        client.expect_eof();
        running.stop();
    }
}

#[test]
fn parts_arrive_in_order_over_tcp() {
    parts_arrive_in_order::<Tcp>();
}

#[test]
#[cfg(unix)]
fn parts_arrive_in_order_over_a_unix_socket() {
    parts_arrive_in_order::<UnixStream>();
}

#[test]
fn parts_arrive_in_order_in_a_script() {
    parts_arrive_in_order_at(Client::new);
}

#[test]
#[cfg(feature = "tls")]
fn parts_arrive_in_order_under_tls() {
    use crate::common::tls::{VERSIONS, acceptor, client_config};

    let tls = socketserver::testing::Tls::new(&acceptor(), client_config(&VERSIONS), "localhost").unwrap();
    parts_arrive_in_order_at(|sends| Client::new_tls(sends, &tls));
}

fn parts_arrive_in_order_at(client: impl FnOnce(Sends) -> Client<()>) {
    let directory = Directory::new();
    let (file, bytes) = file(&directory);
    let part = 1_000_000..1_300_000;
    let mut client = client(Sends(file, part.start as u64..part.end as u64));
    client.feed(b"12");
    assert_eq!(client.sent(), [expected(&bytes[part.clone()]), expected(&bytes[part])].concat());
}

#[test]
fn a_file_that_becomes_shorter_resets_the_connection_and_says_why() {
    let directory = Directory::new();
    let (file, journal) = (file(&directory).0, Journal::new());
    let running = noting(&journal, &file, 0..LENGTH as u64 + 1, |_| {});
    let mut client = running.connect();
    client.send("1");
    let (received, end) = client.read_to_the_end();
    assert!(received.len() <= LENGTH + 4 && !received.ends_with(b"tail"), "{} bytes", received.len());
    assert!(end.is_err(), "an end would look like the end of the file");
    journal.wait("handle_error a file has become shorter");
    journal.wait(&format!("close_request {}", EndReason::Error));
    let stats = running.stop();
    assert_eq!((stats.active, stats.handler_errors), (0, 1));
}

#[test]
fn a_short_part_that_is_not_there_is_an_error_of_the_callback() {
    let directory = Directory::new();
    let (file, journal) = (file(&directory).0, Journal::new());
    let running = noting(&journal, &file, LENGTH as u64 - 1..LENGTH as u64 + 1, |_| {});
    running.connect().send("1");
    journal.wait("handle_error the file is too short");
    running.stop();
}

#[test]
fn a_client_that_never_reads_holds_a_file_no_longer_than_the_limit() {
    let directory = Directory::new();
    let (file, journal) = (file(&directory).0, Journal::new());
    let running = noting(&journal, &file, 0..LENGTH as u64, |limits| {
        limits.write_timeout = Some(Duration::from_millis(100));
    });
    let mut client = connect_with_small_window(running.address);
    client.send(vec![b'1'; 1_000]); // It is not read further while a file waits.
    journal.wait("close_request write timeout");
    let stats = running.stop();
    assert_eq!((stats.active, Arc::strong_count(&file)), (0, 1), "the file is let go");
}

#[test]
fn a_file_needs_no_memory_and_passes_the_limit_of_unsent_output() {
    let directory = Directory::new();
    let ((file, bytes), journal) = (file(&directory), Journal::new());
    let running = noting(&journal, &file, 0..LENGTH as u64, |limits| {
        (limits.output_bytes_max, limits.output_high_water, limits.output_low_water) = (64_000, 32_000, 16_000);
        limits.output_overflow = Overflow::Refuse;
    });
    let mut client = running.connect();
    client.send("12");
    (0..2).for_each(|_| client.expect(expected(&bytes)));
    running.stop();
}

#[test]
fn a_file_is_sent_within_the_budget_of_each_turn() {
    let directory = Directory::new();
    let (file, bytes) = file(&directory);
    let sends = Sends(Arc::clone(&file), 0..1_000_000);
    let mut network = Network::new();
    let mut limits = Limits::default();
    limits.write_bytes_per_turn = 100_000;
    let server = network.serve((), move |_, _| sends.clone(), limits).unwrap();
    let client = network.connect(server);
    client.send(b"1");
    let (mut received, mut turns) = (Vec::new(), 0);
    while received.len() < 1_000_008 {
        network.turn();
        let now = client.take_received();
        assert!(now.len() <= 100_000 + 4, "{} bytes in one turn", now.len());
        received.extend(now);
        turns += 1;
        assert!(turns < 100, "it makes progress");
    }
    assert_eq!(received, expected(&bytes[..1_000_000]));
}

#[test]
fn a_reset_by_the_peer_lets_go_of_the_file() {
    let directory = Directory::new();
    let (file, journal) = (file(&directory).0, Journal::new());
    let running = noting(&journal, &file, 0..LENGTH as u64, |_| {});
    let mut client = connect_with_small_window(running.address);
    client.send("1");
    client.expect("head");
    Peer::reset(client);
    journal.wait("close_request");
    assert_eq!((running.stop().active, Arc::strong_count(&file)), (0, 1));
    assert_eq!(journal.count("handle_error"), 0, "that is not the file's fault: {:?}", journal.lines());
}

#[test]
#[cfg(all(target_os = "linux", feature = "sendfile"))]
fn the_head_before_a_file_is_not_sent_alone() {
    let directory = Directory::new();
    let (file, bytes) = file(&directory);
    let sends = Sends(Arc::clone(&file), 0..20_000);
    let running = serve(server::<Tcp, _>(move |_| sends.clone()));
    let mut client = std::net::TcpStream::connect(running.address).unwrap();
    client.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    for _ in 0..100 {
        client.write_all(b"1").unwrap();
        let mut answer = vec![0; 20_008];
        let first = std::io::Read::read(&mut client, &mut answer).unwrap();
        assert!(first > 4, "the first bytes are {:?}", &answer[..first]);
        std::io::Read::read_exact(&mut client, &mut answer[first..]).unwrap();
        assert_eq!(answer, expected(&bytes[..20_000]));
    }
    running.stop();
}

#[test]
fn a_datagram_has_no_file() {
    let directory = Directory::new();
    let file = file(&directory).0;
    let running = serve(server::<Udp, _>(move |_| {
        let file = Arc::clone(&file);
        probe(move |call, request: &mut Request<'_>| {
            if let Call::Handle = call {
                let refused = request.output.write_file(Arc::clone(&file), 0..10).unwrap_err();
                write!(request.output, "{refused:#}")?;
            }
            usual(&call, request)
        })
    }));
    Mailbox::to(running.address).send("go");
    let answers = Mailbox::to(running.address).ask("go");
    assert_eq!(answers, "a datagram has no file");
    running.stop();
}
