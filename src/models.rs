//! Parts of the crate held against models of them: for tests and fuzzers only.
//!
//! Most models take operations, which proptest draws or a fuzzer's bytes make, and do them to the part and to the
//! model. Here is where the fuzzer comes in; what is fuzzed through the public interface is in `tests/fuzz/bodies`.
//! `threads` holds models of another kind: loom tries the orders in which threads can run.
//!
//! Compiled for tests, which replay the corpora in `tests/fuzz/corpus`, and with `--cfg fuzzing`.

#[cfg(test)]
mod cases;
mod input;
mod outbox;
mod output;
mod queue;
#[cfg(test)]
mod replay;
mod slots;
mod socket;
#[cfg(all(test, loom))]
mod threads;
#[cfg(test)]
mod timers;

use arbitrary::{Arbitrary, Unstructured};

/// One of the buffers of a connection or of a datagram socket, and what is done to it.
#[derive(Debug, Arbitrary)]
enum Buffer {
    Queue(Vec<queue::Operation>),
    Input(input::Case),
    Output(output::Case),
    Outbox(outbox::Case),
}

/// Holds a buffer against its model.
///
/// # Panics
/// If they do not agree.
pub fn buffers(data: &[u8]) {
    match Buffer::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Buffer::Queue(operations)) => queue::check(operations),
        Ok(Buffer::Input(case)) => input::check(case),
        Ok(Buffer::Output(case)) => output::check(case),
        Ok(Buffer::Outbox(case)) => outbox::check(case),
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

#[cfg(test)]
mod tests {
    #[test]
    fn the_corpora_pass() {
        super::replay::corpus("buffers", super::buffers);
        super::replay::corpus("tokens", super::tokens);
    }
}
