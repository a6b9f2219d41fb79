//! Runs one callback of one connection, with all it may reach.

use std::cell::Cell;
use std::ops::Range;

use super::Service;
use crate::connection::carry::Scan;
use crate::connection::input::Input;
use crate::connection::output::Output;
use crate::error::{Error, Result};
use crate::handler::others::{Others, Pending};
use crate::handler::request::Request;
use crate::lifecycle::Next;
use crate::limits::Limits;
use crate::panics::catch;

/// Runs a callback, and sends what it wrote. It borrows the parts of its own connection, and through the core all others.
/// `None`: it waits for more and has consumed everything.
#[inline(always)]
pub(super) fn run<S>(
    at: &mut Service<'_>,
    fresh: Range<usize>,
    (server, pending): (&mut S, &mut Pending<S>),
    callback: impl FnOnce(&mut Request<'_, S>) -> Result<Next>,
) -> Option<Left> {
    let Service { limits, core, scratch, id, connection, .. } = at;
    let (limits, now): (&Limits, u64) = (limits, core.now);
    let (output_state, ended) = (connection.output_state(), connection.input_ended());
    let carries = connection.carry.is_some();
    let (bytes, scan) = match &connection.carry {
        Some(carry) => (carry.unread(), carry.scan),
        None => (&scratch.input[fresh], Scan::default()),
    };
    let full = Cell::new(false);
    let held_by = (!connection.state.is_full_duplex()).then_some(&full);
    let mut request = Request {
        input: Input::new(bytes, scan, ended, limits).held_by(held_by).timed_by(&scratch.budget),
        output: Output::new(&mut connection.io, &mut scratch.output, limits, now, &full, &scratch.budget, output_state),
        server,
        others: Others { core, pending, budget: Some(&scratch.budget) },
        state: &mut connection.state,
        id: *id,
    };
    if request.state.extra.is_some() {
        request.output.keep_to(request.state.own_bounds());
    }
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
    let left = if next == Next::Wait && error.is_none() && request.input.is_empty() && !carries {
        None
    } else {
        let input = &request.input;
        let (consumed, bytes) = (input.consumed(), input.len());
        Some(Left { next, error, consumed, bytes, scan: input.scan, held_back: input.was_held_back() })
    };
    if connection.state.extra.is_some() {
        scratch.budget.own.set(None);
    }
    scratch.budget.write = scratch.budget.write.saturating_sub(output.0);
    connection.after_output(output, limits, now, &mut core.stats);
    left
}

/// What a callback leaves to be dealt with.
pub(super) struct Left {
    pub(super) next: Next,
    pub(super) error: Option<Error>,
    /// Of the input: bytes it consumed, and bytes it did not.
    pub(super) consumed: usize,
    pub(super) bytes: usize,
    pub(super) scan: Scan,
    /// Those were to be left, because the output is full, or the time over.
    pub(super) held_back: bool,
}
