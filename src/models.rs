//! Compares parts of the crate with models of them; for tests and fuzzers only.
//!
//! Most models take operations, which proptest or a fuzzer's bytes produce, and apply them to the part and to the
//! model. This file has the entry points of the fuzzer. Targets that use the public interface are in
//! `tests/fuzz/bodies`. `threads` has another kind of models: loom tries the orders in which threads can run.
//!
//! Compiled with `--cfg fuzzing`, and for tests, which replay the corpora in `tests/fuzz/corpus`.

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

/// One of the buffers of a connection or of a datagram socket, with operations on it.
#[derive(Debug, Arbitrary)]
enum Buffer {
    Queue(Vec<queue::Operation>),
    Input(input::Case),
    Output(output::Case),
    Outbox(outbox::Case),
}

/// Compares a buffer with its model.
///
/// # Panics
/// If they differ.
pub fn buffers(data: &[u8]) {
    match Buffer::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Buffer::Queue(operations)) => queue::check(operations),
        Ok(Buffer::Input(case)) => input::check(case),
        Ok(Buffer::Output(case)) => output::check(case),
        Ok(Buffer::Outbox(case)) => outbox::check(case),
        Err(_) => {} // Too few bytes.
    }
}

/// Compares the slots, and their tokens, with a model.
///
/// # Panics
/// If they differ.
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
