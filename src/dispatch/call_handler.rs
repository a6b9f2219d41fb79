//! Handlers are called here. Runs one callback of one connection, with everything that it can reach. The handlers of
//! requests on threads are called in `blocking/job.rs`.

use std::ops::Range;

use super::Service;
use crate::connection::carry::Scan;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::handler::others::{Others, Pending};
use crate::handler::request::Request;
use crate::lifecycle::{EndReason, Next, Timeout};
use crate::panics::catch;
use crate::reactor::handle::Message;
use crate::reactor::hosted::Scratch;

/// A callback and its argument. It needs no drop, so the compiler removes each test of one that is known.
pub(crate) enum Callback<'a> {
    Setup,
    Handle,
    Writable,
    Eof,
    Timeout(Timeout),
    Timer(u64),
    Message(&'a mut Option<Message>),
    Drain,
    Finish(EndReason),
    ConnectFailed(&'a Error),
}

/// Runs a callback and sends its output. It borrows the parts of its own connection, and all other connections through
/// the core. Returns what the handler wants next. `left` is set unless all input was consumed and all output was sent.
///
/// `PLAIN`: the connection [is clear](crate::connection::Connection::is_clear). The compiler then leaves out what is for
/// others. `ended`: no input follows.
#[inline(always)]
pub(super) fn run<const PLAIN: bool, S>(
    at: &mut Service<'_>,
    fresh: Range<usize>,
    ended: bool,
    (server, pending): (&mut S, &mut Pending<S>),
    left: &mut Option<Left>,
    callback: impl FnOnce(&mut Request<'_, S>) -> Result<Next>,
) -> Next {
    let Service { core, scratch, slot, connection } = at;
    let Scratch { input: buffer, output: gathered, budget, .. } = &mut **scratch;
    let full_duplex = !PLAIN && connection.state.is_full_duplex();
    let (bytes, scan) = match &connection.carry {
        Some(carry) if !PLAIN => (carry.unread(), carry.scan),
        _ => (&buffer[fresh], Scan::default()),
    };
    let mut request = Request {
        input: Input::new(bytes, scan, budget, ended, full_duplex),
        output: match PLAIN {
            true => Output::plain(&mut connection.io, gathered, budget),
            false => {
                let state = connection.output_state();
                Output::new(&mut connection.io, gathered, budget, state)
            }
        },
        server,
        others: Others { core, pending, budget: Some(budget) },
        state: &mut connection.state,
        slot: *slot,
    };
    let mut error = None;
    let returned = catch(|| {
        callback(&mut request).unwrap_or_else(|failed| {
            error = Some(failed);
            Next::Wait
        })
    });
    let next = returned.unwrap_or_else(|panic| {
        request.output.discard();
        error = Some(panic);
        Next::Wait
    });
    let output = request.output.settle();
    let input = &request.input;
    let (consumed, bytes, scan, held_back) = (input.consumed(), input.len(), input.scan, input.was_held_back());
    budget.written += output.0;
    let is_sent = connection.after_output(output, budget, &mut core.stats);
    if !is_sent || error.is_some() || bytes > 0 || (!PLAIN && connection.carry.is_some()) {
        *left = Some(Left { error, consumed, bytes, scan, held_back });
    }
    next
}

/// What is left of a callback.
pub(crate) struct Left {
    pub(crate) error: Option<Error>,
    /// The numbers of consumed and unread bytes.
    pub(crate) consumed: usize,
    pub(crate) bytes: usize,
    pub(crate) scan: Scan,
    /// The unread bytes were held back, because the output is full or the time is over.
    pub(crate) held_back: bool,
}

/// Calls the handler. No other function does.
#[inline(always)]
pub(crate) fn invoke<S, T: RequestHandler<S> + ?Sized>(
    handler: &mut T,
    request: &mut Request<'_, S>,
    callback: Callback<'_>,
) -> Result<Next> {
    match callback {
        Callback::Handle => handler.handle(request),
        Callback::Setup => handler.setup(request),
        Callback::Writable => handler.writable(request),
        Callback::Eof => handler.eof(request),
        Callback::Timeout(timeout) => handler.timed_out(request, timeout),
        Callback::Timer(tag) => handler.timer(request, tag),
        Callback::Message(message) => {
            message.take().map_or(Ok(Next::Wait), |message| handler.message(request, message))
        }
        Callback::Drain => handler.drain(request),
        Callback::Finish(why) => {
            handler.finish(request, why);
            Ok(Next::Wait)
        }
        Callback::ConnectFailed(error) => {
            handler.connect_failed(request, error);
            Ok(Next::Wait)
        }
    }
}

impl Callback<'_> {
    pub(super) fn name(&self) -> &'static str {
        match self {
            Callback::Setup => "setup",
            Callback::Handle => "handle",
            Callback::Writable => "writable",
            Callback::Eof => "eof",
            Callback::Timeout(_) => "timeout",
            Callback::Timer(_) => "timer",
            Callback::Message(_) => "message",
            Callback::Drain => "drain",
            Callback::Finish(_) => "finish",
            Callback::ConnectFailed(_) => "connect_failed",
        }
    }

    /// Returns whether a later callback can continue the work of this one. The others are for an end, and are not
    /// interrupted.
    #[inline(always)]
    pub(super) fn is_followed(&self) -> bool {
        matches!(
            self,
            Callback::Setup | Callback::Handle | Callback::Writable | Callback::Timer(_) | Callback::Message(_)
        )
    }

    /// The reason of the end if this callback asks for it.
    #[inline(always)]
    pub(crate) fn reason(&self) -> EndReason {
        match self {
            Callback::Eof => EndReason::PeerClosed,
            Callback::Timeout(timeout) => EndReason::Timeout(*timeout),
            Callback::Drain => EndReason::Stopped,
            _ => EndReason::Done,
        }
    }
}
