//! Requests are served here without a reactor.

use std::io::{BufRead as _, Write as _};
use std::panic::resume_unwind;
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};

use super::*;
use crate::blocking::StreamRequestHandler;
use crate::blocking::tests::{MOMENT, PATIENCE, is_timed_out, job, origin, pair, rest, serve};
use crate::reactor::entries::Stopper as _;

type Function = Box<dyn FnMut(&mut BlockingRequest) -> Result<()> + Send>;

/// Notes its calls, writes in each, and fails where it is told to.
struct Scripted {
    handle: Function,
    setup_fails: bool,
    attribute_panics: bool,
    journal: Sender<&'static str>,
}

impl BlockingHandler for Scripted {
    fn setup(&mut self, request: &mut BlockingRequest) -> Result<()> {
        self.journal.send("setup").unwrap();
        request.wfile.write_all(b"<")?;
        if self.setup_fails { Err("no".into()) } else { Ok(()) }
    }
    fn handle(&mut self, request: &mut BlockingRequest) -> Result<()> {
        self.journal.send("handle").unwrap();
        (self.handle)(request)
    }
    fn finish(&mut self, request: &mut BlockingRequest) {
        self.journal.send("finish").unwrap();
        request.wfile.write_all(b">").unwrap();
    }
    fn wbufsize(&self) -> usize {
        if self.attribute_panics {
            resume_unwind(Box::new("scripted"));
        }
        100
    }
}

/// The result of such a handler, its calls, and what the client got.
fn script(
    handle: impl FnMut(&mut BlockingRequest) -> Result<()> + Send + 'static,
    change: impl FnOnce(&mut Scripted),
) -> (Result<()>, Vec<&'static str>, String) {
    let (journal, calls) = channel();
    let handle = Box::new(handle);
    let mut handler = Scripted { handle, setup_fails: false, attribute_panics: false, journal };
    change(&mut handler);
    // Boxed twice, so that all methods go through the box.
    let boxed: Box<dyn BlockingHandler> = Box::new(handler);
    let (served, mut peer) = serve(boxed);
    let result = served.result();
    (result, calls.iter().collect(), rest(&mut peer))
}

#[test]
fn finish_is_called_after_handle_and_its_output_is_sent() {
    let (result, calls, sent) = script(|request| Ok(request.wfile.write_all(b"hello")?), |_| ());
    result.unwrap();
    assert_eq!((calls, sent.as_str()), (vec!["setup", "handle", "finish"], "<hello>"));
}

#[test]
fn finish_is_called_after_an_error_and_after_a_panic() {
    let (result, calls, sent) = script(|_| Err("scripted".into()), |_| ());
    assert_eq!(result.unwrap_err().to_string(), "scripted");
    assert_eq!((calls.len(), sent.as_str()), (3, "<>"));

    let (result, calls, sent) = script(|_| resume_unwind(Box::new("scripted")), |_| ());
    assert!(matches!(result, Err(Error::Panicked { message }) if message == "scripted"));
    assert_eq!((calls.len(), sent.as_str()), (3, "<>"));
}

#[test]
fn finish_is_not_called_if_setup_failed() {
    let (result, calls, sent) = script(|_| Ok(()), |handler| handler.setup_fails = true);
    assert_eq!(result.unwrap_err().to_string(), "no");
    assert_eq!((calls, sent.as_str()), (vec!["setup"], "<"));
}

#[test]
fn a_panic_in_an_attribute_or_in_a_drop_is_an_error_too() {
    let (result, calls, sent) = script(|_| Ok(()), |handler| handler.attribute_panics = true);
    assert!(matches!(result, Err(Error::Panicked { .. })));
    assert_eq!((calls, sent.as_str()), (vec![], ""));

    struct Bomb;
    impl Drop for Bomb {
        fn drop(&mut self) {
            resume_unwind(Box::new("scripted"));
        }
    }
    let bomb = Bomb;
    let (result, _, sent) = script(move |_| Ok(_ = &bomb), |_| ());
    assert!(result.is_err());
    assert_eq!(sent, "<>");
}

#[test]
fn a_stop_ends_a_blocked_read_and_does_not_keep_the_socket_open() {
    let (begun, began) = channel();
    let (served, mut peer) = serve(StreamRequestHandler::new(move |request| {
        begun.send(()).unwrap();
        assert_eq!(request.rfile.read_line(&mut String::new())?, 0);
        assert!(request.wfile.write_all(b"too late").is_err());
        Ok(())
    }));
    began.recv_timeout(PATIENCE).unwrap();
    assert!(served.is_running());
    served.stop.end(Ended::Closed);
    served.result().unwrap();
    served.stop.end(Ended::Closed); // It is over: nothing happens.
    assert_eq!(rest(&mut peer), "");
}

#[test]
fn a_request_beyond_its_time_limit_is_reported_as_such() {
    let (served, _peer) = serve(StreamRequestHandler::new(|request| {
        let _ = request.rfile.read_line(&mut String::new());
        Ok(())
    }));
    served.stop.end(Ended::TimedOut(MOMENT));
    served.stop.end(Ended::Closed); // The first reason counts.
    assert!(is_timed_out(&served.result()));
}

#[test]
fn a_request_that_is_ended_before_it_began_is_closed_and_calls_nothing() {
    let (socket, mut peer) = pair();
    let handler = StreamRequestHandler::new(|_: &mut BlockingRequest| unreachable!());
    let (job, stop) = job(Work::Handler(Box::new(handler)), origin(socket));
    stop.end(Ended::Closed);
    assert!(matches!(job(), Err(Error::Gone)));
    assert_eq!(rest(&mut peer), "");
}

#[test]
fn a_request_that_is_dropped_instead_of_served_is_closed() {
    let (socket, mut peer) = pair();
    let (keep, dropped) = channel::<()>();
    let handler = StreamRequestHandler::new(move |_: &mut BlockingRequest| Ok(_ = &keep));
    let (job, stop) = job(ServeOn::thread(handler).into_work().unwrap().0, origin(socket));
    drop(job);
    assert_eq!(rest(&mut peer), "");
    assert_eq!(dropped.recv_timeout(PATIENCE), Err(RecvTimeoutError::Disconnected));
    stop.end(Ended::TimedOut(MOMENT));
}
