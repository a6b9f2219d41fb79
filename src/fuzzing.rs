//! Where a fuzzer comes in, for what is not public: operations made of its bytes, done to a part of the crate and to a
//! model of it. The models stand beside their parts, in files named `model.rs`.
//!
//! Compiled for tests, which replay the corpora in `tests/fuzz/corpus`, and with `--cfg fuzzing`. What is fuzzed through
//! the public interface is in `tests/fuzz/bodies`.

#[cfg(test)]
mod replay;
mod socket;

use arbitrary::{Arbitrary, Unstructured};

use crate::buffer::model as queue;
use crate::machine::{input, outbox, output};
use crate::reactor::slots::model as slots;
pub(crate) use socket::{Socket, Take};

/// One of the buffers of a connection or of a datagram socket, and what is done to it.
#[derive(Debug, Arbitrary)]
enum Buffer {
    Queue(Vec<queue::Operation>),
    Input(input::model::Case),
    Output(output::model::Case),
    Outbox(outbox::model::Case),
}

/// Holds a buffer against its model.
///
/// # Panics
/// If they do not agree.
pub fn buffers(data: &[u8]) {
    match Buffer::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Buffer::Queue(operations)) => queue::check(operations),
        Ok(Buffer::Input(case)) => input::model::check(case),
        Ok(Buffer::Output(case)) => output::model::check(case),
        Ok(Buffer::Outbox(case)) => outbox::model::check(case),
        Err(_) => {} // Too few bytes.
    }
}

/// Holds the slots, and the tokens that name them, against a model.
///
/// # Panics
/// If they do not agree.
pub fn tokens(data: &[u8]) {
    if let Ok(case) = Arbitrary::arbitrary_take_rest(Unstructured::new(data)) {
        slots::check(case);
    }
}

/// Nothing is written into the source tree: what fails is printed in full, and becomes a test of its own.
#[cfg(test)]
pub(crate) fn cases() -> proptest::test_runner::Config {
    proptest::test_runner::Config { failure_persistence: None, ..Default::default() }
}

/// A few of them: lists in lists grow long soon.
#[cfg(test)]
pub(crate) fn few<T: proptest::arbitrary::Arbitrary>() -> impl proptest::strategy::Strategy<Value = Vec<T>> {
    proptest::collection::vec(proptest::arbitrary::any::<T>(), 0..12)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpora_pass() {
        super::replay::corpus("buffers", super::buffers);
        super::replay::corpus("tokens", super::tokens);
    }
}
