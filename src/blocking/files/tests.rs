//! Handlers are served over a pair of sockets here, without a reactor.

use std::sync::Arc;
use std::sync::mpsc::channel;

use super::*;
use crate::blocking::serve_on::Work;
use crate::blocking::tests::{MOMENT, PATIENCE, Served, answer, origin, pair, rest, serve};
use crate::blocking::{BlockingRequest, StreamRequestHandler};
use crate::error::Result;
use crate::net::StdStream;
use crate::net::clock::Clock;

#[test]
fn without_a_buffer_each_write_is_sent_at_once_and_nothing_is_read_ahead() {
    let mut handler = StreamRequestHandler::new(|request| {
        let mut line = String::new();
        request.wfile.write_all(b"name? ")?;
        request.rfile.read_line(&mut line)?;
        request.wfile.write_all(line.as_bytes())?;
        let mut left = String::new();
        { request.socket() }.read_to_string(&mut left)?;
        assert_eq!(left, "more");
        Ok(())
    });
    handler.rbufsize = 0;
    let (served, mut peer) = serve(handler);
    let mut question = [0; 6];
    peer.read_exact(&mut question).unwrap();
    peer.write_all(b"me\nmore").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut peer), "me\n");
    served.result().unwrap();
}

#[test]
fn with_a_buffer_input_is_read_ahead_and_output_is_sent_at_the_end() {
    let mut handler = StreamRequestHandler::new(|request| {
        request.wfile.write_all(b"one ")?;
        request.wfile.write_all(b"two")?;
        let mut line = String::new();
        request.rfile.read_line(&mut line)?;
        request.rfile.read_line(&mut line)?;
        assert_eq!(line, "me\nmore");
        Ok(())
    });
    handler.wbufsize = 100;
    let (served, mut peer) = serve(handler);
    peer.set_read_timeout(Some(MOMENT)).unwrap();
    assert!(peer.read(&mut [0; 100]).is_err(), "nothing comes before the handler has finished");
    peer.set_read_timeout(Some(PATIENCE)).unwrap();
    peer.write_all(b"me\nmore").unwrap();
    peer.shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(rest(&mut peer), "one two");
    served.result().unwrap();
}

#[test]
fn a_write_larger_than_the_buffer_goes_out_whole_and_in_order() {
    let mut handler = StreamRequestHandler::new(|request| {
        for length in [1, 9, 10, 11, 100_000, 3] {
            assert_eq!(request.wfile.write(&vec![b'0' + (length % 10) as u8; length])?, length);
        }
        Ok(())
    });
    handler.wbufsize = 10;
    let (served, mut peer) = serve(handler);
    let text = rest(&mut peer);
    served.result().unwrap();
    assert_eq!(text.len(), 1 + 9 + 10 + 11 + 100_000 + 3);
    assert!(text.starts_with("1999999999000000000011111111111000") && text.ends_with("0333"));
}

/// More bytes than are read ahead. The buffers of a socket have room for all of them, so that sending does not wait.
const NEVER_WAITS: usize = 40_000;

/// What a handler makes of what a client sends, and how much memory it needed for that, with limits of 10 bytes for a
/// line and 100 for everything.
fn read(
    sent: &[u8],
    read: impl Fn(&mut BlockingRequest, &mut Vec<u8>) -> io::Result<usize> + Send + 'static,
) -> (Result<usize>, usize) {
    let mut limits = Limits::default();
    (limits.line_bytes_max, limits.input_bytes_max) = (10, 100);
    let (stream, mut peer) = pair();
    let socket = BlockingSocket::stream(StdStream::Tcp(stream), Clock::new(), Arc::new(limits));
    let (told, tell) = channel();
    let handler = StreamRequestHandler::new(move |request| {
        let mut bytes = Vec::new();
        let result = read(request, &mut bytes);
        told.send((result.map_err(Error::from), bytes.capacity())).unwrap();
        Ok(())
    });
    let served = Served::begin(Work::Handler(Box::new(handler)), origin(socket));
    let _ = peer.write_all(sent); // It fails if the handler does not want all of it.
    let _ = peer.shutdown(std::net::Shutdown::Write);
    served.result().unwrap();
    tell.recv_timeout(PATIENCE).unwrap()
}

fn read_line(request: &mut BlockingRequest, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let mut line = String::new();
    let result = request.rfile.read_line(&mut line);
    *bytes = line.into_bytes();
    result
}

#[test]
fn a_line_without_an_end_is_an_error_and_takes_no_memory() {
    let endless = vec![b'x'; NEVER_WAITS];
    for sent in [&b"123456789\n123"[..], b"1234567890"] {
        assert_eq!(read(sent, read_line).0.unwrap(), 10);
    }
    for sent in [&b"1234567890\n"[..], &endless] {
        let (result, capacity) = read(sent, read_line);
        assert!(matches!(result, Err(Error::InputLimit { what: "line", max: 10 })));
        assert!(capacity < 100, "{capacity} bytes for a line of 10");
        let (result, capacity) = read(sent, |request, bytes| request.rfile.read_until(0, bytes));
        assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
        assert!(capacity < 100);
        // Through an adapter as well.
        let (result, _) =
            read(sent, |request, _| request.rfile.by_ref().lines().next().unwrap().map(|line| line.len()));
        assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
    }
}

#[test]
fn a_line_that_comes_too_slowly_has_no_more_bytes_for_that() {
    let (result, _) = read(b"12345", |request, bytes| {
        request.rfile.begun = 5; // As an earlier call has left it that was over time.
        request.rfile.read_until(b'\n', bytes)
    });
    assert_eq!(result.unwrap(), 5);
    let (result, _) = read(b"123456\n", |request, bytes| {
        request.rfile.begun = 5;
        request.rfile.read_until(b'\n', bytes)
    });
    assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
}

#[test]
fn input_without_an_end_is_an_error_and_takes_no_memory() {
    type ReadAll = fn(&mut BlockingRequest, &mut Vec<u8>) -> io::Result<usize>;
    let reads: [ReadAll; 3] = [
        |request, bytes| request.rfile.read_to_end(bytes),
        |request, bytes| request.rfile.read_to_string(&mut String::new()).inspect(|_| bytes.clear()),
        |request, bytes| { request.socket() }.read_to_end(bytes),
    ];
    for read_all in reads {
        assert_eq!(read(&[b'x'; 100], read_all).0.unwrap(), 100);
        let (result, capacity) = read(&[b'x'; NEVER_WAITS], read_all);
        assert!(matches!(result, Err(Error::InputLimit { what: "unread input", max: 100 })));
        assert!(capacity < 1_000, "{capacity} bytes for 100");
    }
    // What the handler has room for has no other limit.
    let (result, _) = read(&[b'x'; 1_000], |request, _| request.rfile.read_exact(&mut [0; 1_000]).map(|()| 1_000));
    assert_eq!(result.unwrap(), 1_000);
}

#[test]
fn invalid_text_leaves_the_text_before_it_unchanged() {
    let (result, _) = read(b"\xff\n", |request, bytes| {
        let mut line = "before".to_owned();
        let result = request.rfile.read_line(&mut line);
        assert_eq!(line, "before");
        bytes.clear();
        result
    });
    assert!(matches!(result, Err(Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData));
}

#[test]
fn a_datagram_is_read_as_a_file_and_answered_with_one() {
    let replies = answer(|request| {
        let mut line = String::new();
        while request.rfile.read_line(&mut line)? > 0 {
            request.wfile.write_all(line.to_uppercase().as_bytes())?;
            line.clear();
        }
        request.wfile.flush()?;
        assert_eq!(request.socket().packet(), b"one\ntwo\n");
        Ok(())
    });
    assert_eq!(replies, [b"ONE\nTWO\n"]);
}

#[test]
fn a_datagram_is_answered_if_there_was_a_write_and_not_otherwise() {
    assert!(answer(|_| Ok(())).is_empty());
    assert_eq!(answer(|request| Ok(_ = request.wfile.write(b"")?)), [b""]);
}
