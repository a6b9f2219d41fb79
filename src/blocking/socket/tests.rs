//! Handlers are served over a pair of sockets here, without a reactor.

use std::io::BufRead as _;

use super::*;
use crate::blocking::serve_on::Work;
use crate::blocking::tests::{
    MOMENT, PATIENCE, Served, answer, client, datagram, is_timed_out, origin, pair, rest, serve,
};
use crate::blocking::{BlockingRequest, StreamRequestHandler};

#[test]
fn a_read_that_waits_too_long_fails_with_timed_out() {
    let mut handler = StreamRequestHandler::new(|request| Ok(_ = request.rfile.read_line(&mut String::new())?));
    handler.timeout = Some(MOMENT);
    let (served, _peer) = serve(handler);
    assert!(is_timed_out(&served.result()));
}

#[test]
fn a_write_that_waits_too_long_fails_with_timed_out() {
    for wbufsize in [0, 10_000] {
        let mut handler = StreamRequestHandler::new(|request| {
            let block = [0; 5_000];
            loop {
                request.wfile.write_all(&block)?;
            }
        });
        handler.timeout = Some(MOMENT);
        handler.wbufsize = wbufsize;
        let (served, _peer) = serve(handler);
        assert!(is_timed_out(&served.result()));
    }
}

#[test]
fn a_time_for_reads_does_not_cut_the_answer_to_a_slow_reader() {
    let mut handler = StreamRequestHandler::new(|request| {
        assert_eq!(request.rfile.read(&mut [0]).unwrap_err().kind(), io::ErrorKind::TimedOut);
        Ok(request.wfile.write_all(&vec![b'x'; 30_000_000])?)
    });
    handler.read_timeout = Some(MOMENT / 5);
    let (served, mut peer) = serve(handler);
    assert!(served.is_running(), "it waits for its client");
    assert!(served.is_running());
    assert_eq!(rest(&mut peer).len(), 30_000_000);
    served.result().unwrap();
}

#[test]
fn a_time_for_writes_does_not_cut_a_client_that_says_nothing() {
    let mut handler = StreamRequestHandler::new(|request| Ok(_ = request.rfile.read_line(&mut String::new())?));
    handler.write_timeout = Some(MOMENT / 5);
    let (served, peer) = serve(handler);
    assert!(served.is_running(), "it waits for its client");
    drop(peer);
    served.result().unwrap();
}

#[test]
fn a_client_is_quiet_while_a_thread_waits_for_a_message_and_does_nothing_else() {
    let (socket, mut peer) = pair();
    let socket = BlockingSocket::from(socket);
    let descriptor = Arc::clone(&socket.descriptor);
    let quiet_since = || {
        let deadline = descriptor.clock.now() + PATIENCE.as_nanos() as u64;
        while descriptor.quiet_since().is_none() {
            assert!(descriptor.clock.now() < deadline, "it does not wait");
            std::thread::yield_now();
        }
        descriptor.quiet_since().unwrap()
    };
    assert_eq!(descriptor.quiet_since(), None, "no thread waits yet");
    let mut handler = StreamRequestHandler::new(|request: &mut BlockingRequest| {
        let mut line = String::new();
        loop {
            match request.rfile.read_line(&mut line) {
                Ok(0) => return Ok(()),
                Ok(_) => request.wfile.write_all(std::mem::take(&mut line).as_bytes())?,
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                Err(error) => return Err(error.into()),
            }
        }
    });
    handler.read_timeout = Some(MOMENT / 10);
    let served = Served::begin(Work::Handler(Box::new(handler)), origin(socket));
    let first = quiet_since();
    assert!(served.is_running());
    assert_eq!(quiet_since(), first, "a wait that is tried again goes on");
    peer.write_all(b"one\nhal").unwrap();
    peer.read_exact(&mut [0; 4]).unwrap();
    assert_eq!(descriptor.quiet_since(), None, "a message has begun");
    peer.write_all(b"f\n").unwrap();
    peer.read_exact(&mut [0; 5]).unwrap();
    assert!(quiet_since() > first);
    descriptor.drain();
    served.result().unwrap();
    assert_eq!(descriptor.quiet_since(), None);
}

#[test]
fn nagle_s_algorithm_is_switched_off_on_request() {
    for disable in [false, true] {
        let (socket, _peer) = pair();
        let watched = socket.try_clone().unwrap();
        let mut handler = StreamRequestHandler::new(|_: &mut BlockingRequest| Ok(()));
        handler.disable_nagle_algorithm = disable;
        Served::begin(Work::Handler(Box::new(handler)), origin(socket)).result().unwrap();
        assert_eq!(watched.nodelay().unwrap(), disable);
    }
}

#[test]
fn one_thread_reads_while_another_writes() {
    let (served, mut peer) = serve(StreamRequestHandler::new(|request| {
        let socket = request.socket();
        std::thread::scope(|scope| {
            scope.spawn(|| { socket }.write_all(&[b'x'; 1_000_000]));
            let mut text = String::new();
            { socket }.read_to_string(&mut text)?;
            assert_eq!(text.len(), 1_000_000);
            Ok(())
        })
    }));
    peer.write_all(&[b'y'; 1_000_000]).unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut peer).len(), 1_000_000);
    served.result().unwrap();
}

#[test]
#[cfg(unix)]
fn a_unix_socket_is_a_stream_like_any_other() {
    let (socket, mut peer) = std::os::unix::net::UnixStream::pair().unwrap();
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    let handler = StreamRequestHandler::new(|request: &mut BlockingRequest| {
        assert!(request.socket().as_fd().is_some());
        let mut line = String::new();
        request.rfile.read_line(&mut line)?;
        Ok(request.wfile.write_all(line.to_uppercase().as_bytes())?)
    });
    let served = Served::begin(Work::Handler(Box::new(handler)), origin(socket));
    peer.write_all(b"hello\n").unwrap();
    let mut answer = String::new();
    peer.read_to_string(&mut answer).unwrap();
    assert_eq!(answer, "HELLO\n");
    served.result().unwrap();
}

#[test]
fn operations_that_a_socket_does_not_have_are_refused() {
    type Serve = fn(&mut BlockingRequest) -> crate::Result<()>;
    type Set = fn(&mut StreamRequestHandler<Serve>);
    let of_datagrams: [(&str, Set); 4] = [
        ("timeout = 50ms: a datagram is not waited for", |handler| handler.timeout = Some(MOMENT)),
        ("read_timeout = 50ms: a datagram is not waited for", |handler| handler.read_timeout = Some(MOMENT)),
        ("write_timeout = 50ms: a datagram is not waited for", |handler| handler.write_timeout = Some(MOMENT)),
        ("disable_nagle_algorithm = true: only TCP has that", |handler| handler.disable_nagle_algorithm = true),
    ];
    let refused = |socket: BlockingSocket, (expected, set): (&str, Set)| {
        let mut handler = StreamRequestHandler::new((|_| unreachable!()) as Serve);
        set(&mut handler);
        let result = Served::begin(Work::Handler(Box::new(handler)), origin(socket)).result();
        assert_eq!(result.unwrap_err().to_string(), format!("cannot use {expected}"));
    };
    of_datagrams.into_iter().for_each(|case| refused(datagram(b"").0, case));
    #[cfg(unix)]
    refused(std::os::unix::net::UnixStream::pair().unwrap().0.into(), of_datagrams[3]);

    let socket = datagram(b"").0;
    for result in [
        socket.set_timeout(None),
        socket.set_read_timeout(Some(MOMENT)),
        socket.set_write_timeout(None),
        socket.shutdown(Shutdown::Both),
    ] {
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::Unsupported);
    }
}

#[test]
fn further_datagrams_are_sent_at_once() {
    let replies = answer(|request| {
        request.wfile.write_all(b"last")?;
        { request.socket() }.write_all(b"first")?;
        request.socket().send_to(b"second", &client())?;
        let unread = { request.socket() }.read(&mut [0; 10]).unwrap_err();
        assert_eq!(unread.kind(), io::ErrorKind::Unsupported);
        Ok(())
    });
    assert_eq!(replies, [&b"first"[..], b"second", b"last"]);
}
