//! Compares the output with a run of bytes, for any writes and any behaviour of the socket.

use std::io::{IoSlice, Write};
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;

use crate::connection::budget::Budget;
use crate::connection::frames::Prefix;
use crate::connection::io::{Io, OutputState};
use crate::connection::output::Output;
use crate::error::{Error, Result};
use crate::limits::{Limits, Overflow};
use crate::models::socket::{Socket, Take};
use crate::net::Stream;
use crate::net::scripted::ScriptedStream;

/// The writes of a handler during a connection.
#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Case {
    output_high_water: u16,
    output_bytes_max: u16,
    /// The maximum is small, so that a short write can reach it.
    tight: bool,
    refuse: bool,
    #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
    turns: Vec<Turn>,
}

/// A callback, and then a flush.
#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Turn {
    #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
    takes: Vec<Take>,
    #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
    calls: Vec<Call>,
    /// Bytes that may be sent in the callback and in the flush.
    allowed: u16,
    budget: u16,
}

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Call {
    Write(Vec<u8>),
    WriteVectored(Vec<u8>, Vec<u8>),
    WriteShared(Vec<u8>),
    /// Sometimes long enough for a system call of its own.
    WriteLong {
        byte: u8,
        length: u16,
    },
    WriteFrame {
        prefix: u8,
        payload: Vec<u8>,
    },
    Shut,
}

pub(crate) fn check(case: Case) {
    let limits = Limits {
        output_high_water: case.output_high_water.into(),
        output_bytes_max: usize::from(case.output_bytes_max) % if case.tight { 300 } else { usize::MAX },
        output_overflow: if case.refuse { Overflow::Refuse } else { Overflow::Close },
        ..Limits::default()
    };
    let socket = Arc::new(Mutex::new(Socket::default()));
    let mut io = Io { stream: Stream::from(Box::new(Arc::clone(&socket)) as Box<dyn ScriptedStream>), queue: None };
    let (mut gathered, mut written, mut shut) = (Vec::new(), Vec::new(), 0);
    let mut budget = Budget::of(limits.clone());
    for turn in case.turns {
        socket.lock().unwrap().takes = turn.takes.into();
        // After an event the socket takes output, or the rest of the queue was tried without success and is not tried
        // now.
        let writable = if io.queue.is_none() { OutputState::WRITABLE } else { 0 };
        budget.renew();
        budget.written = budget.limits.write_bytes_per_turn - usize::from(turn.allowed).max(1);
        let state = OutputState(writable | shut);
        let mut output = Output::new(&mut io, &mut gathered, &budget, state);
        for call in turn.calls {
            step(&mut output, call, &mut written, &limits);
            if output.is_lost() {
                break;
            }
            assert_eq!(output.len() + socket.lock().unwrap().taken.len(), written.len());
            let allowed = output.taken < budget.write_left();
            assert_eq!(output.is_full(), output.len() > limits.output_high_water || !allowed);
            assert!(budget.full.get() == output.is_full(), "the input has a wrong value");
            assert!(output.len() <= limits.output_bytes_max);
        }
        let before = output.taken;
        let (taken, state) = output.settle();
        assert!(taken >= before);
        assert!(gathered.is_empty());
        shut = state.0 & OutputState::SHUT;
        let waiting = io.queue.as_ref().map_or(0, |queue| queue.len());
        assert!(waiting <= limits.output_bytes_max);
        if state.has(OutputState::BROKEN | OutputState::OVERFLOWN) {
            // The first bytes are the ones that were sent.
            assert!(written.starts_with(&socket.lock().unwrap().taken));
            return;
        }
        if let Some(queue) = &mut io.queue {
            assert!(queue.len() > 0, "an empty queue is kept");
            let (_, end) = queue.write_to(&mut *socket.lock().unwrap(), turn.budget.into());
            if end.is_err() {
                return;
            }
        }
        io.queue.take_if(|queue| queue.len() == 0);
        let waiting = io.queue.as_ref().map_or(0, |queue| queue.len());
        let taken = &socket.lock().unwrap().taken;
        assert_eq!(taken.len() + waiting, written.len(), "bytes are lost or sent twice");
        assert_eq!(*taken, written[..taken.len()]);
    }
}

fn step(output: &mut Output<'_>, call: Call, written: &mut Vec<u8>, limits: &Limits) {
    let (before, was_shut) = (output.len(), output.is_shut());
    let (bytes, result) = match call {
        Call::Shut => return output.shut(),
        Call::Write(bytes) => (bytes.clone(), output.write_all(&bytes).map_err(Error::from)),
        Call::WriteLong { byte, length } => {
            let bytes = vec![byte; length.into()];
            (bytes.clone(), output.write(&bytes).map(drop).map_err(Error::from))
        }
        Call::WriteShared(bytes) => (bytes.clone(), output.write_shared(bytes)),
        Call::WriteVectored(head, tail) => {
            let result = output.write_vectored(&[IoSlice::new(&head), IoSlice::new(&tail)]);
            ([head, tail].concat(), result.map(drop).map_err(Error::from))
        }
        Call::WriteFrame { prefix, payload } => {
            let prefix = Prefix::ALL[usize::from(prefix) % Prefix::ALL.len()];
            let result = output.write_frame(prefix, &payload);
            if matches!(result, Err(Error::Other(_))) {
                return assert_eq!(output.len(), before, "nothing is queued");
            }
            (frame(prefix, payload), result)
        }
    };
    written.extend(&bytes);
    judge(output, &bytes, &result, before, was_shut, limits);
    // A connection that breaks during a write may have sent the beginning of it.
    if result.is_err() && !output.is_lost() {
        written.truncate(written.len() - bytes.len());
    }
}

/// Checks the result of a write.
fn judge(output: &Output<'_>, bytes: &[u8], result: &Result<()>, before: usize, was_shut: bool, limits: &Limits) {
    let beyond = before + bytes.len() > limits.output_bytes_max;
    let refuse = limits.output_overflow == Overflow::Refuse;
    match result {
        Ok(()) => {
            assert!(!was_shut);
            assert!(!refuse || !beyond);
        }
        Err(Error::Gone) => assert!(was_shut || output.is_lost()), // It may be lost between two slices.
        Err(Error::OutputLimit { .. }) if refuse => {
            assert!(beyond && !output.is_lost());
            assert_eq!(output.len(), before, "a part of a refused write is queued");
        }
        Err(Error::OutputLimit { .. }) => assert!(beyond && output.is_lost()),
        Err(error) => panic!("{error}"),
    }
}

/// A payload with its length in front.
fn frame(prefix: Prefix, payload: Vec<u8>) -> Vec<u8> {
    let length = payload.len();
    let mut frame = match prefix {
        Prefix::U8 => vec![length as u8],
        Prefix::U16Be => (length as u16).to_be_bytes().into(),
        Prefix::U16Le => (length as u16).to_le_bytes().into(),
        Prefix::U32Be => (length as u32).to_be_bytes().into(),
        Prefix::U32Le => (length as u32).to_le_bytes().into(),
        Prefix::U64Be => (length as u64).to_be_bytes().into(),
        Prefix::U64Le => (length as u64).to_le_bytes().into(),
        Prefix::Varint if length < 0x80 => vec![length as u8],
        Prefix::Varint if length < 0x4000 => vec![length as u8 | 0x80, (length >> 7) as u8],
        Prefix::Varint => unreachable!("no fuzzer's input is that long"),
    };
    frame.extend(payload);
    frame
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::models::cases::cases())]

        #[test]
        fn written_bytes_arrive_once_and_in_order(case: super::Case) {
            super::check(case);
        }
    }
}
