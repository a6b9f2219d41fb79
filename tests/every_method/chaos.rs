//! A handler that calls the methods of its request in random order.

use std::io::{BufRead as _, ErrorKind, IoSlice, Read as _, Write as _};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socketserver::{
    Address, BaseServer, ConnectionLimits, Delivery, EndReason, Error, Input, Message, Next, Origin, Others, Output,
    Prefix, Request, RequestHandler, Result, Timeout,
};

use crate::ledger::{Ledger, Life};
use crate::meddling::{meddle, target};
use crate::methods::{call, note};
use crate::secure;
use crate::values::shared_bytes;

/// How far a handler has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    New,
    Serving,
    Over,
}

pub(crate) struct Chaos {
    rng: Rng,
    ledger: Arc<Ledger>,
    life: Arc<Life>,
    stage: Stage,
    /// One callback in so many ends the connection.
    patience: u32,
    /// How many handlers have been before it.
    generation: u32,
    shut: bool,
}

impl Chaos {
    pub(crate) fn new(ledger: &Arc<Ledger>, rng: &mut Rng) -> Self {
        Chaos {
            rng: rng.fork(),
            ledger: Arc::clone(ledger),
            life: Life::new(ledger),
            stage: Stage::New,
            patience: rng.choice([8, 40, 400]).unwrap_or(8),
            generation: 0,
            shut: false,
        }
    }

    fn successor(&mut self) -> Self {
        let life = Arc::clone(&self.life);
        let generation = self.generation + 1;
        Chaos { life, generation, shut: self.shut, ..Chaos::new(&self.ledger, &mut self.rng) }
    }

    fn called(&mut self, callback: &'static str, stage: Stage) {
        note(callback);
        if self.stage != stage {
            self.ledger.violation(format!("{callback} in {:?}", self.stage));
        }
    }

    /// Does a few things, and says what is next.
    fn act<S: BaseServer>(&mut self, callback: &'static str, request: &mut Request<'_, S>) -> Result<Next> {
        self.called(callback, Stage::Serving);
        for _ in 0..self.rng.u32(..4) {
            match self.rng.u32(..6) {
                0 | 1 => self.read(&mut request.input)?,
                2 => self.write(&mut request.output)?,
                3 => self.ask(request),
                4 => self.command(request)?,
                _ => meddle(&mut self.rng, &self.ledger, &mut request.others),
            }
        }
        match self.rng.u32(..self.patience) {
            0 => Ok(Next::Close),
            1 => Ok(Next::Abort),
            2 => Err(call!(Error::other("scripted"))),
            3 => self.ledger.panic(),
            4 => {
                call!(Request::close(request));
                Ok(Next::Wait)
            }
            5 => {
                call!(Request::abort(request));
                Ok(Next::Wait)
            }
            _ => Ok(Next::Wait),
        }
    }

    fn read(&mut self, input: &mut Input<'_>) -> Result<()> {
        let (before, expect) = (call!(Input::len(input)), |holds, promise| self.ledger.expect(holds, promise));
        expect(call!(Input::unread(input)).len() == before, "unread shows all input");
        expect(call!(Input::is_empty(input)) == (before == 0), "is_empty is len of 0");
        let ended = call!(Input::is_eof(input));
        let some = self.rng.usize(..200);
        let read = match self.rng.u32(..12) {
            0 => {
                call!(Input::consume(input, some));
                expect(input.len() == before.saturating_sub(some), "consume consumes");
                return Ok(());
            }
            1 | 2 => {
                expect(call!(Input::take_all(input)).len() == before, "take_all takes all");
                expect(call!(Input::is_empty(input)), "nothing is left of all");
                return Ok(());
            }
            3 | 4 => call!(Input::read_line(input)),
            5 => call!(Input::read_until(input, b"ab")),
            6 => {
                let block = call!(Input::read_exact(input, some));
                let is_whole = |block: &Option<&[u8]>| block.is_none_or(|block| block.len() == some);
                expect(block.as_ref().map_or(true, is_whole), "a block is whole");
                block
            }
            7 => call!(Input::read_frame(input, prefix(&mut self.rng))),
            8 => {
                let n = input.read(&mut vec![0; some]);
                expect(n.is_err() || n.is_ok_and(|n| n <= some), "a read is no longer than its buffer");
                return Ok(());
            }
            9 => {
                let mut left = some as u64;
                let part = call!(Input::read_part(input, &mut left)).map_or(0, <[u8]>::len);
                expect(part as u64 + left == some as u64 && input.len() + part == before, "a part is counted");
                return Ok(());
            }
            10 => {
                let n = input.fill_buf().map(<[u8]>::len);
                expect(n.as_ref().is_ok_and(|&n| n == before) || n.is_err() && before == 0 && !ended, "fill_buf waits");
                return Ok(());
            }
            _ => {
                let error = call!(Input::read_until(input, b""));
                expect(error.is_err(), "an empty delimiter is refused");
                return Ok(());
            }
        };
        let taken = read.as_ref().map_or(0, |read| read.map_or(0, <[u8]>::len));
        expect(input.len() + taken <= before, "what was read is consumed");
        let read = self.ledger.only("a read", read, |error| matches!(error, Error::InputLimit { .. }));
        if read.is_none() && self.rng.bool() {
            return Err(Error::InputLimit { what: "line", max: 0 });
        }
        Ok(())
    }

    fn write(&mut self, output: &mut Output<'_>) -> Result<()> {
        let length = if self.rng.u32(..8) == 0 { self.rng.usize(..100_000) } else { self.rng.usize(..100) };
        let bytes = vec![b'o'; length];
        let before = call!(Output::len(output));
        self.ledger.expect(call!(Output::is_empty(output)) == (before == 0), "output is empty if nothing waits");
        let _ = call!(Output::is_full(output));
        let written = match self.rng.u32(..7) {
            0 => output.write_all(&bytes).map_err(Error::from),
            1 => output.write(&bytes).map(drop).map_err(Error::from),
            2 => output.write_vectored(&[IoSlice::new(&bytes), IoSlice::new(b"\n")]).map(drop).map_err(Error::from),
            3 => call!(Output::write_shared(output, shared_bytes(&mut self.rng, bytes))),
            4 => output.flush().map_err(Error::from),
            5 => std::env::current_exe().and_then(std::fs::File::open).map_err(Error::from).and_then(|file| {
                let start = self.rng.u64(..1_000);
                call!(Output::write_file(output, file, start..start + length as u64))
            }),
            _ => call!(Output::write_frame(output, prefix(&mut self.rng), &bytes)),
        };
        let documented = |error: &Error| match error {
            // A datagram has no file.
            Error::Io(error) => [ErrorKind::BrokenPipe, ErrorKind::Unsupported].contains(&error.kind()),
            Error::Other(error) => error.to_string().contains("prefix") || error.to_string().contains("fit"),
            error => matches!(error, Error::Gone | Error::OutputLimit { .. }),
        };
        match written {
            Err(error) if self.rng.bool() && documented(&error) => Err(error),
            written => self.ledger.only("a write", written, documented).map_or(Ok(()), Ok),
        }
    }

    /// Methods that change nothing.
    fn ask<S: BaseServer>(&mut self, request: &mut Request<'_, S>) {
        let id = call!(Request::id(request));
        let expect = |holds, promise| self.ledger.expect(holds, promise);
        let _ = call!(Request::client_address(request)).to_string();
        let _ = call!(Request::local_address(request));
        expect(call!(Request::proxy_header(request)).is_none(), "no client is a proxy");
        expect(
            call!(Request::is_stopping(request)) == request.others.is_stopping(),
            "both know whether a stop is asked",
        );
        expect(!request.others.connections().contains(&id), "connections skips the own one");
        expect(request.others.send(id, b"x") == Delivery::Refused, "send to the own connection is refused");
        expect(request.others.client_address(id).is_none(), "client_address of the own id is None");
        expect(request.others.stats().active > 0 || request.is_datagram(), "its own connection is active");
        secure::ask(&self.ledger, request);
        let _ = format!("{request:?}{:?}{:?}{:?}", request.input, request.output, request.others);
    }

    /// Methods that change the connection.
    fn command<S: BaseServer>(&mut self, request: &mut Request<'_, S>) -> Result<()> {
        let (tag, time) = (self.rng.u64(..4), Duration::from_micros(self.rng.u64(..20_000)));
        match self.rng.u32(..20) {
            0 if self.rng.u32(..4) == 0 => {
                call!(Request::shutdown_write(request));
                self.shut = !call!(Request::is_datagram(request));
            }
            1 => call!(Request::pause_reading(request)),
            2 | 3 => call!(Request::resume_reading(request)),
            4 => call!(Request::set_full_duplex(request, self.rng.bool())),
            5 => {
                call!(Request::set_timer(request, tag, time));
                if self.rng.bool() {
                    self.ledger.expect(call!(Request::cancel_timer(request, tag)), "a timer that was set is cancelled");
                }
            }
            6 => call!(Request::set_interval(request, tag, time)),
            7 | 8 => {
                call!(Request::cancel_timer(request, tag));
                self.ledger.expect(!request.cancel_timer(tag), "a cancelled timer is not cancelled again");
            }
            9 => {
                let which = [Timeout::Idle, Timeout::Read, Timeout::Write, Timeout::Message][self.rng.usize(..4)];
                call!(Request::set_timeout(request, which, self.rng.bool().then_some(time)));
            }
            10 => {
                let set = call!(Request::set_limits(request, &connection_limits(&mut self.rng)));
                self.ledger.only("set_limits", set, |error| matches!(error, Error::Setting { .. }));
            }
            11 => call!(Request::set_message_deadline(request, self.rng.bool().then_some(time))),
            12 => self.offload(request),
            13 if self.generation < 5 => {
                let successor = self.successor();
                call!(Request::replace_handler(request, successor));
            }
            14 => self.rename(request)?,
            15 => {
                let to = target(&mut self.rng, &self.ledger);
                let _: Delivery = call!(Request::send_to(request, &to, b"hello"));
            }
            17 => self.exchange(request),
            16 => secure::start(&mut self.rng, &self.ledger, request),
            _ if self.shut => {
                let write = request.output.write_all(b"x");
                self.ledger.expect(write.is_err(), "nothing can be written after shutdown_write");
            }
            _ => {}
        }
        Ok(())
    }

    /// A message and its answer. The answer to another request may come late.
    fn exchange<S: BaseServer>(&mut self, request: &mut Request<'_, S>) {
        let origin = call!(Request::origin(request));
        self.ledger.expect(call!(Origin::id(&origin)) == request.id(), "a request comes from itself");
        let message = call!(Request::read_message(request, prefix(&mut self.rng)));
        self.ledger.only("read_message", message, |error| matches!(error, Error::InputLimit { .. }));
        if let Some(waiting) = self.ledger.exchange(origin, &mut self.rng) {
            let _: Delivery = call!(Others::answer(&mut request.others, &waiting, b"late"));
            let _: Delivery = call!(Others::answer_message(&mut request.others, &waiting, Prefix::U8, &[b'l'; 256]));
        }
        let documented = |error: &Error| match error {
            Error::Io(error) => error.kind() == ErrorKind::BrokenPipe,
            error => matches!(error, Error::Gone | Error::OutputLimit { .. }),
        };
        let told = call!(Request::write_message(request, Prefix::U16Be, b"told"));
        self.ledger.only("write_message", told, documented);
    }

    fn offload<S: BaseServer>(&mut self, request: &mut Request<'_, S>) {
        let (ledger, fails) = (Arc::clone(&self.ledger), self.rng.u32(..6) == 0);
        let offloaded = call!(Request::offload(request, move || if fails { ledger.panic() } else { 7_u8 }));
        let documented = |error: &Error| matches!(error, Error::Full { .. } | Error::Reactor { .. });
        self.ledger.only("offload", offloaded, documented);
    }

    /// Names another client address, as a proxy's header does.
    fn rename<S: BaseServer>(&mut self, request: &mut Request<'_, S>) -> Result<()> {
        let address = Address::from(std::net::SocketAddr::from(([192, 0, 2, self.rng.u8(..4)], 1)));
        match call!(Request::set_client_address(request, address.clone())) {
            Ok(()) => self.ledger.expect(request.client_address() == address, "the client has its new address"),
            // The connection then ends as refused.
            Err(error @ Error::ClientLimit { .. }) => return Err(error),
            Err(error) => self.ledger.expect(
                matches!(error, Error::Setting { .. }) && request.is_datagram(),
                "only a datagram keeps its address",
            ),
        }
        Ok(())
    }
}

impl<S: BaseServer> RequestHandler<S> for Chaos {
    fn setup(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.called("RequestHandler::setup", Stage::New);
        self.ledger.saw(request.id());
        // Whatever happens in it, also a panic, is the end of both.
        self.life.setup_fails();
        self.stage = Stage::Serving;
        let next = self.act("RequestHandler::setup", request)?;
        self.life.set_up();
        Ok(next)
    }

    fn handle(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.act("RequestHandler::handle", request)
    }

    fn finish(&mut self, request: &mut Request<'_, S>, why: EndReason) {
        let _ = why.to_string();
        self.life.finished();
        let _ = self.act("RequestHandler::finish", request);
        self.stage = Stage::Over;
    }

    fn writable(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.act("RequestHandler::writable", request)
    }

    fn eof(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.ledger.expect(request.input.is_eof(), "is_eof in eof");
        self.act("RequestHandler::eof", request)
    }

    fn timed_out(&mut self, request: &mut Request<'_, S>, timeout: Timeout) -> Result<Next> {
        match self.rng.u32(..3) {
            0 => self.act("RequestHandler::timed_out", request),
            _ if timeout == Timeout::Write => Ok(Next::Abort),
            _ => Ok(Next::Close),
        }
    }

    fn timer(&mut self, request: &mut Request<'_, S>, tag: u64) -> Result<Next> {
        self.ledger.expect(tag < 4, "the tag of a timer is one that was set");
        self.act("RequestHandler::timer", request)
    }

    fn message(&mut self, request: &mut Request<'_, S>, message: Message) -> Result<Next> {
        self.ledger.expect(call!(Message::is::<u8>(&message)), "a message is of the type that was sent");
        self.ledger.expect(call!(Message::downcast::<u8>(message)).is_ok_and(|n| n == 7), "a message is what was sent");
        self.act("RequestHandler::message", request)
    }

    fn drain(&mut self, request: &mut Request<'_, S>) -> Result<Next> {
        self.ledger.expect(request.is_stopping(), "drain is called during a stop");
        match self.rng.bool() {
            true => self.act("RequestHandler::drain", request),
            false => Ok(Next::Close),
        }
    }

    fn connect_failed(&mut self, request: &mut Request<'_, S>, error: &Error) {
        self.called("RequestHandler::connect_failed", Stage::New);
        self.stage = Stage::Over;
        self.ledger.expect(matches!(error, Error::Connect { .. }), "a connection that fails is an Error::Connect");
        self.ask(request);
    }
}

fn prefix(rng: &mut Rng) -> Prefix {
    use Prefix::{U8, U16Be, U16Le, U32Be, U32Le, U64Be, U64Le, Varint};
    [U8, U16Be, U16Le, U32Be, U32Le, U64Be, U64Le, Varint][rng.usize(..8)]
}

fn connection_limits(rng: &mut Rng) -> ConnectionLimits {
    let mut some = |most: usize| rng.bool().then(|| rng.usize(..most));
    let mut limits = ConnectionLimits::default();
    limits.input_bytes_max = some(5_000);
    limits.output_low_water = some(300);
    limits.output_high_water = some(3_000);
    limits.output_bytes_max = some(30_000);
    limits
}
