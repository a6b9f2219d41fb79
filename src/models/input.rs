//! Compares the input with a run of bytes, however the bytes arrive. The model cuts each message out of the run by the
//! documented rules.

use std::io::{self, Read};

use arbitrary::Arbitrary;

use crate::connection::budget::Budget;
use crate::connection::carry::Scan;
use crate::connection::frames::Prefix;
use crate::connection::input::Input;
use crate::error::{Error, Result};
use crate::limits::Limits;

/// The bytes that arrive at a connection, and the calls of its handler.
#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Case {
    line_bytes_max: u8,
    frame_bytes_max: u8,
    input_bytes_max: u8,
    #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
    callbacks: Vec<Callback>,
}

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Callback {
    arrives: Vec<u8>,
    ended: bool,
    #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
    calls: Vec<Call>,
}

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Call {
    /// Whether the output is above its high-water mark.
    Full(bool),
    Line,
    Until {
        delimiter: [u8; 3],
        length: u8,
    },
    Exact(u8),
    Frame(u8),
    Consume(u8),
    TakeAll,
    Read(u8),
}

/// A message, if it is complete, and how many bytes it consumes.
type Found<'a> = Option<(&'a [u8], usize)>;

pub(crate) fn check(case: Case) {
    let limits = Limits {
        line_bytes_max: usize::from(case.line_bytes_max).max(1),
        frame_bytes_max: case.frame_bytes_max.into(),
        input_bytes_max: case.input_bytes_max.into(),
        ..Limits::default()
    };
    let budget = Budget::of(limits);
    let (mut unread, mut scan, mut ended) = (Vec::new(), Scan::default(), false);
    for callback in case.callbacks {
        if !ended {
            unread.extend(callback.arrives.iter().map(letter));
            ended = callback.ended;
        }
        budget.full.set(false);
        let mut input = Input::new(&unread, scan, &budget, ended, false);
        let mut held_back = false;
        for call in callback.calls {
            held_back |= step(&mut input, &call, &unread, ended);
            assert_eq!(input.unread(), &unread[input.consumed()..]);
            assert_eq!(input.len(), unread.len() - input.consumed());
            assert_eq!(input.was_held_back(), held_back);
            assert_eq!(input.is_eof(), ended && !held_back);
        }
        scan = input.scan.after(input.consumed());
        let consumed = input.consumed();
        unread.drain(..consumed);
        if unread.is_empty() {
            scan = Scan::default(); // It is dropped with the carry.
        }
    }
}

/// Applies a step to the input and to the model. Returns whether the input is held back.
fn step(input: &mut Input<'_>, call: &Call, bytes: &[u8], ended: bool) -> bool {
    let before = input.consumed();
    let (rest, limits) = (&bytes[before..], &input.budget.limits);
    let consumed = |input: &Input<'_>| input.consumed() - before;
    let (found, expected) = match *call {
        Call::Full(on) => {
            input.budget.full.set(on);
            return false;
        }
        Call::Consume(_) | Call::TakeAll | Call::Read(_) => {
            take(input, call, rest, ended);
            return false;
        }
        Call::Line => (input.read_line(), delimited(rest, b"\n", ended, limits.line_bytes_max).ok_or("line")),
        Call::Until { ref delimiter, length } => {
            let delimiter: Vec<u8> = delimiter[..1 + usize::from(length) % 3].iter().map(letter).collect();
            let expected = delimited(rest, &delimiter, ended, limits.line_bytes_max);
            (input.read_until(&delimiter), expected.ok_or("text up to the delimiter"))
        }
        Call::Exact(n) => {
            let n = usize::from(n).max(1); // An empty block can be read only once at one position.
            let expected =
                if n > limits.input_bytes_max { Err("block") } else { Ok(rest.get(..n).map(|cut| (cut, n))) };
            (input.read_exact(n), expected)
        }
        Call::Frame(prefix) => {
            let prefix = Prefix::ALL[usize::from(prefix) % Prefix::ALL.len()];
            (input.read_frame(prefix), frame(rest, prefix, limits.frame_bytes_max))
        }
    };
    // Whether a block is complete is known without a search.
    let missing = matches!(call, Call::Exact(_)) && !matches!(expected, Ok(Some(_)));
    let held = input.budget.full.get() && !rest.is_empty() && !missing;
    match (found, expected) {
        (Ok(found), _) if held => assert_eq!(found, None),
        (Ok(found), Ok(expected)) => {
            assert_eq!(found, expected.map(|(message, _)| message));
            assert_eq!(consumed(input), expected.map_or(0, |(_, consumed)| consumed));
        }
        (Err(Error::InputLimit { what, .. }), Err(expected)) if !held => {
            assert_eq!(what, expected);
            assert_eq!(consumed(input), 0);
        }
        disagreement => panic!("{disagreement:?} of {rest:?}, {call:?}"),
    }
    held
}

/// A call that takes bytes without a format.
fn take(input: &mut Input<'_>, call: &Call, rest: &[u8], ended: bool) {
    let before = input.consumed();
    match *call {
        Call::Consume(n) => {
            input.consume(n.into());
            assert_eq!(input.consumed() - before, rest.len().min(n.into()));
        }
        Call::Read(n) => {
            let mut buffer = vec![0; n.into()];
            match input.read(&mut buffer) {
                Ok(n) => assert_eq!(buffer[..n], rest[..rest.len().min(buffer.len())]),
                Err(error) => {
                    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
                    assert!(rest.is_empty() && !ended);
                }
            }
        }
        _ => assert_eq!(input.take_all(), rest),
    }
}

/// Bytes up to the delimiter; `None` if there are too many.
fn delimited<'a>(bytes: &'a [u8], delimiter: &[u8], ended: bool, max: usize) -> Option<Found<'a>> {
    let end = bytes.windows(delimiter.len()).position(|window| window == delimiter).map(|at| at + delimiter.len());
    match end.or(Some(bytes.len()).filter(|&rest| ended && rest > 0)) {
        Some(end) => (end <= max).then_some(Some((&bytes[..end], end))),
        None => (bytes.len() <= max).then_some(None),
    }
}

/// Reads the frames of `Prefix` as its documentation says.
fn frame(bytes: &[u8], prefix: Prefix, max: usize) -> Result<Found<'_>, &'static str> {
    let big = |bytes: &[u8]| bytes.iter().fold(0, |length, &byte| length << 8 | u128::from(byte));
    let little = |bytes: &[u8]| bytes.iter().rev().fold(0, |length, &byte| length << 8 | u128::from(byte));
    let fixed = |width: usize, decode: &dyn Fn(&[u8]) -> u128| bytes.get(..width).map(|bytes| (width, decode(bytes)));
    let stated = match prefix {
        Prefix::U8 => fixed(1, &big),
        Prefix::U16Be => fixed(2, &big),
        Prefix::U16Le => fixed(2, &little),
        Prefix::U32Be => fixed(4, &big),
        Prefix::U32Le => fixed(4, &little),
        Prefix::U64Be => fixed(8, &big),
        Prefix::U64Le => fixed(8, &little),
        Prefix::Varint => match bytes.iter().position(|byte| byte & 0x80 == 0) {
            None if bytes.len() < 10 => None,
            Some(last) if last < 10 => {
                let digits = bytes[..=last].iter().rev();
                let length = digits.fold(0, |length, byte| length << 7 | u128::from(byte & 0x7f));
                if length > u64::MAX.into() {
                    return Err("varint");
                }
                Some((last + 1, length))
            }
            _ => return Err("varint"),
        },
    };
    let Some((width, length)) = stated else { return Ok(None) };
    if length > max as u128 {
        return Err("frame");
    }
    let end = width + length as usize;
    Ok(bytes.get(width..end).map(|payload| (payload, end)))
}

/// Few letters, so that messages begin and end often.
fn letter(byte: &u8) -> u8 {
    b"\0\0\x01\x02\n\n\ra\x80\xff"[usize::from(*byte) % 10]
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::models::cases::cases())]

        #[test]
        fn messages_are_the_same_however_they_arrive(case: super::Case) {
            super::check(case);
        }
    }
}
