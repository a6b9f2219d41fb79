//! The end of a request: `finish`, an error, a refusal, and the hooks that report it.

use std::io;

use super::call_handler::Callback;
use super::{Calls, Service, drop_error, note_drop};
use crate::address::Address;
use crate::connection::Connection;
use crate::connection::state::State;
use crate::error::{Error, Passed, Result};
use crate::handler::RequestHandler;
use crate::lifecycle::EndReason;
use crate::logging::{note_fault, shows};
use crate::panics::drop_caught;
use crate::reactor::core::Core;
use crate::server::hooks::BaseServer;

impl<S: BaseServer, H: RequestHandler<S>> Calls<S, H> {
    /// Calls the last callback once, and then drops the handler.
    pub(crate) fn finish(&mut self, at: &mut Service<'_>, why: EndReason) {
        if at.connection.state.phase.owes_finish() {
            self.call_apart(at, || Callback::Finish(why));
        }
        self.finished(at, why);
    }

    /// The last callback was called, if it was owed.
    #[inline]
    pub(crate) fn finished(&mut self, at: &mut Service<'_>, why: EndReason) {
        if at.connection.state.phase.owes_finish() && !matches!(why, EndReason::Done) {
            at.core.count(why);
        }
        self.drop_handler(at.core, &at.connection.state);
        self.dropped(at, why);
    }

    /// The handler was called for the last time, and dropped.
    #[inline]
    pub(crate) fn dropped(&mut self, at: &mut Service<'_>, why: EndReason) {
        at.connection.state.phase.finished();
        let state = &at.connection.state;
        let named = state.extra.as_ref().and_then(|extra| extra.passed);
        at.core.note_end(self.number(), &state.address, why, Some(state), named);
        self.hook(at.core, |server| server.close_request(&state.address, why));
    }

    /// A callback returned an error or panicked, which ends only its connection.
    #[cold]
    pub(super) fn failed(&mut self, core: &mut Core, connection: &mut State, error: &Error) {
        if let Some(limit) = error.limit().filter(|_| shows(log::Level::Debug)) {
            connection.extra.get_or_insert_default().passed = Some(limit);
        }
        match error {
            Error::Panicked { .. } => {
                connection.end(EndReason::Panicked, true);
                core.stats.panics += 1;
            }
            // The connection was lost during the callback, and this error only repeats that.
            Error::Gone | Error::OutputLimit { .. } if connection.end_if_lost() => return,
            Error::Io(source) if source.kind() == io::ErrorKind::BrokenPipe && connection.end_if_lost() => return,
            Error::InputLimit { .. } => return connection.end(EndReason::InputLimit, false),
            // The peer's fault, and logged already.
            Error::Tls { source, .. } if source.kind() == io::ErrorKind::InvalidData => {
                return connection.end(EndReason::TlsFailed, false);
            }
            Error::ClientLimit { .. } => {
                core.stats.refused += 1;
                return connection.end(EndReason::Refused, false);
            }
            _ => {
                connection.end(EndReason::Error, false);
                core.stats.handler_errors += 1;
            }
        }
        self.hook(core, |state| state.handle_error(&connection.address, error));
    }

    /// A file that was to be sent could not be read.
    #[cold]
    pub(super) fn file_failed(&mut self, at: &mut Service<'_>, kind: io::ErrorKind) {
        let error = match kind {
            io::ErrorKind::UnexpectedEof => io::Error::new(kind, "a file has become shorter while it was sent"),
            _ => io::Error::new(kind, format!("cannot read a file to send: {kind}")),
        };
        self.failed(at.core, &mut at.connection.state, &error.into());
    }

    #[cold]
    pub(super) fn connect_failed(&mut self, at: &mut Service<'_>, source: io::Error, why: EndReason) {
        let error = Error::Connect { address: at.connection.state.address.clone(), source };
        at.core.stats.connects_failed += 1;
        note_fault!(Warn, "{error:#}");
        at.connection.state.end(why, true);
        self.call(at, Callback::ConnectFailed(&error));
    }

    pub(super) fn shutdown_request(&mut self, at: &mut Service<'_>) {
        let Connection { io, state, .. } = &*at.connection;
        self.hook(at.core, |server| drop(server.shutdown_request(&io.stream, &state.address)));
    }

    /// A request that was served elsewhere is over: see [`Hosted::on_over`](crate::reactor::hosted::Hosted::on_over).
    pub(super) fn over(&mut self, core: &mut Core, client: &Address, ended: Option<EndReason>, result: Result<()>) {
        let why = match (&result, ended) {
            (_, Some(ended)) => ended,
            (Ok(()), None) => EndReason::Done,
            (Err(Error::Panicked { .. }), None) => EndReason::Panicked,
            (Err(Error::Io(error)), None) if is_lost(error) => EndReason::Reset,
            (Err(Error::InputLimit { .. }), None) => EndReason::InputLimit,
            (Err(Error::TimeLimit { why, .. }), None) => *why,
            (Err(Error::Tls { source, .. }), None) if source.kind() == io::ErrorKind::UnexpectedEof => {
                EndReason::Truncated
            }
            (Err(Error::Tls { source, .. }), None) if source.kind() == io::ErrorKind::Unsupported => EndReason::Error,
            (Err(Error::Tls { .. }), None) => EndReason::TlsFailed,
            (Err(_), None) => EndReason::Error,
        };
        match why {
            EndReason::Panicked => core.stats.panics += 1,
            EndReason::Error => core.stats.handler_errors += 1,
            _ => core.count(why),
        }
        let named = result.as_ref().err().and_then(Error::limit);
        if let Err(error) = result {
            // Otherwise an error on the way to the end only repeats it.
            match why {
                EndReason::Panicked | EndReason::Error | EndReason::Timeout(_) | EndReason::ChildTimeout => {
                    _ = self.hook(core, |state| state.handle_error(client, &error))
                }
                _ => {}
            }
            drop_error(core, error);
        }
        self.closed(core, client, why, named);
    }

    /// A request without a handler on the reactor is over. `named`: the limit in an error that ended it.
    pub(super) fn closed(&mut self, core: &mut Core, client: &Address, why: EndReason, named: Option<Passed>) {
        core.note_end(self.number(), client, why, None, named);
        self.hook(core, |state| state.close_request(client, why));
    }

    /// A request is refused, perhaps because of a limit.
    #[cold]
    pub(super) fn refuse(&mut self, core: &mut Core, client: &Address, limit: Option<Passed>) {
        core.stats.refused += 1;
        self.closed(core, client, EndReason::Refused, limit);
    }

    #[inline]
    pub(super) fn drop_handler(&mut self, core: &mut Core, connection: &State) {
        let handler = connection.handler as usize;
        // Dropping runs user code as well.
        let dropped = match connection.is_boxed() {
            false => drop_caught(self.handlers.remove(handler)),
            true => drop_caught(self.boxed.remove(handler)),
        };
        note_drop(core, dropped);
    }
}

/// Returns whether the client of a blocking handler has gone. That is not a fault of the handler, as on the reactor.
fn is_lost(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    matches!(error.kind(), Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe)
}
