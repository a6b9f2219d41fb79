//! Handlers that may wait, on threads, and programs.

use std::io::{BufRead as _, Read as _, Write as _};
use std::net::Shutdown;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socketserver::{
    BaseServer, BlockingHandler, BlockingRequest, BlockingSocket, DatagramRequestHandler, Error, Result,
    StreamRequestHandler,
};

use crate::ledger::Ledger;
use crate::meddling::{submit, target};
use crate::methods::{call, note};
use crate::secure::ask_session;

/// A handler of a stream: one of the two ways to write it.
pub(crate) fn stream_handler<S: BaseServer>(rng: &mut Rng, ledger: &Arc<Ledger>) -> Box<dyn BlockingHandler<S>> {
    let mut waiting = Waiting { rng: rng.fork(), ledger: Arc::clone(ledger) };
    if rng.bool() {
        return Box::new(waiting);
    }
    let mut handler = call!(StreamRequestHandler::new(move |request| waiting.act(request)));
    handler.timeout = Some(TIME);
    Box::new(handler)
}

pub(crate) fn datagram_handler<S: BaseServer>(rng: &mut Rng, ledger: &Arc<Ledger>) -> Box<dyn BlockingHandler<S>> {
    let mut waiting = Waiting { rng: rng.fork(), ledger: Arc::clone(ledger) };
    Box::new(call!(DatagramRequestHandler::new(move |request| waiting.act(request))))
}

/// A program that ends soon, or none at all.
pub(crate) fn program(rng: &mut Rng) -> Command {
    let mut command = Command::new(["true", "false", "head", "/no/such/program"][rng.usize(..4)]);
    command.env_clear().env("PATH", "/usr/bin:/bin").stderr(std::process::Stdio::null());
    if rng.bool() {
        command.arg("-c1");
    }
    command
}

/// Clients may say nothing, and no thread waits for longer than this.
const TIME: Duration = Duration::from_millis(3);

struct Waiting {
    rng: Rng,
    ledger: Arc<Ledger>,
}

impl Waiting {
    fn act<S: BaseServer>(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        self.ledger.saw(call!(BlockingRequest::id(request)));
        let is_datagram = call!(BlockingSocket::as_fd(call!(BlockingRequest::socket(request)))).is_none();
        for _ in 0..self.rng.u32(1..6) {
            match self.rng.u32(..12) {
                0 => {
                    let _ = request.rfile.read(&mut [0; 50])?;
                }
                1 => {
                    let _ = request.rfile.read_line(&mut String::new())?;
                }
                2 => request.wfile.write_all(b"hello\n")?,
                3 => self.ask_server(request),
                4 => submit(&mut self.rng, &self.ledger, &call!(BlockingRequest::handle(request))),
                5 => self.set_times(request.socket(), is_datagram),
                6 => {
                    let mut socket = request.socket();
                    let read = socket.read(&mut [0; 50]);
                    self.ledger.expect(!is_datagram || read.is_err(), "a datagram's socket is not read");
                }
                7 => {
                    let sent =
                        call!(BlockingSocket::send_to(request.socket(), b"x", &target(&mut self.rng, &self.ledger)));
                    self.ledger.expect(is_datagram || sent.is_err(), "a stream sends no datagrams");
                }
                8 => {
                    let ended = call!(BlockingSocket::shutdown(request.socket(), Shutdown::Write));
                    self.ledger.expect(!is_datagram || ended.is_err(), "a datagram has no directions");
                }
                9 => {
                    let packet = call!(BlockingSocket::packet(request.socket()));
                    self.ledger.expect(is_datagram || packet.is_empty(), "a stream has no packet");
                }
                10 => {
                    let _ = call!(BlockingRequest::client_address(request)).to_string();
                    let _ = call!(BlockingRequest::local_address(request));
                    #[cfg(all(unix, feature = "proxy-protocol"))]
                    self.ledger.expect(call!(BlockingRequest::proxy_header(request)).is_none(), "no client is a proxy");
                    let _ = call!(BlockingRequest::server_id(request));
                    let _ = call!(BlockingRequest::is_stopping(request));
                    let under_tls = call!(BlockingSocket::tls(request.socket(), |tls| ask_session(&self.ledger, tls)));
                    self.ledger.expect(under_tls.is_none() || !is_datagram, "a datagram has no TLS");
                    let _ = format!("{request:?}{:?}{:?}", request.rfile, request.wfile);
                }
                _ => match self.rng.u32(..10) {
                    0 => self.ledger.panic(),
                    1 => return Err("scripted".into()),
                    _ => {}
                },
            }
        }
        Ok(())
    }

    fn ask_server<S: BaseServer>(&mut self, request: &BlockingRequest<S>) {
        let (ledger, panics) = (Arc::clone(&self.ledger), self.rng.u32(..6) == 0);
        let answer = call!(BlockingRequest::server(request, move |_: &mut S| if panics { ledger.panic() } else { 7 }));
        let documented = |error: &Error| matches!(error, Error::Gone | Error::Full { .. } | Error::Panicked { .. });
        let answer = self.ledger.only("BlockingRequest::server", answer, documented);
        self.ledger.expect(answer.is_none_or(|answer| answer == 7 && !panics), "the answer is the closure's");
    }

    fn set_times(&mut self, socket: &BlockingSocket, is_datagram: bool) {
        let set = match self.rng.u32(..3) {
            0 => call!(BlockingSocket::set_timeout(socket, Some(TIME))),
            1 => call!(BlockingSocket::set_read_timeout(socket, Some(TIME))),
            _ => call!(BlockingSocket::set_write_timeout(socket, Some(TIME))),
        };
        self.ledger.expect(set.is_err() == is_datagram, "a stream has times, and a datagram has none");
        self.ledger.expect(socket.set_timeout(Some(Duration::ZERO)).is_err(), "a time of zero is refused");
    }
}

impl<S: BaseServer> BlockingHandler<S> for Waiting {
    fn setup(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        note("BlockingHandler::setup");
        if self.rng.u32(..3) == 0 { self.act(request) } else { Ok(()) }
    }

    fn handle(&mut self, request: &mut BlockingRequest<S>) -> Result<()> {
        note("BlockingHandler::handle");
        self.act(request)
    }

    fn finish(&mut self, request: &mut BlockingRequest<S>) {
        note("BlockingHandler::finish");
        let _ = request.wfile.write_all(b"bye\n");
    }

    fn rbufsize(&self) -> usize {
        note("BlockingHandler::rbufsize");
        if self.rng.clone().bool() { 0 } else { 100 }
    }

    fn wbufsize(&self) -> usize {
        note("BlockingHandler::wbufsize");
        if self.rng.clone().bool() { 0 } else { 100 }
    }

    fn timeout(&self) -> Option<Duration> {
        note("BlockingHandler::timeout");
        Some(TIME)
    }

    fn read_timeout(&self) -> Option<Duration> {
        note("BlockingHandler::read_timeout");
        Some(TIME)
    }

    fn write_timeout(&self) -> Option<Duration> {
        note("BlockingHandler::write_timeout");
        Some(TIME)
    }

    fn disable_nagle_algorithm(&self) -> bool {
        note("BlockingHandler::disable_nagle_algorithm");
        // For a Unix socket it is an error of the request.
        self.rng.clone().bool()
    }
}
