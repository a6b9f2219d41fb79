//! The queue held against a run of bytes, whatever is pushed and however the socket takes it.

use arbitrary::Arbitrary;

use super::{Flush, Queue};
use crate::fuzzing::{Socket, Take};

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Operation {
    Push(Vec<u8>),
    PushShared(Vec<u8>),
    /// As many bytes as go into a chunk, or more than fit beside others.
    PushLong {
        byte: u8,
        length: u16,
    },
    Flush {
        budget: u16,
        #[cfg_attr(test, proptest(strategy = "crate::fuzzing::few()"))]
        takes: Vec<Take>,
    },
}

pub(crate) fn check(operations: Vec<Operation>) {
    let mut queue = Queue::default();
    let (mut pushed, mut sent): (Vec<u8>, usize) = Default::default();
    for operation in operations {
        match operation {
            Operation::Push(bytes) => {
                queue.push(&bytes);
                pushed.extend(bytes);
            }
            Operation::PushShared(bytes) => {
                queue.push_shared(bytes.clone().into());
                pushed.extend(bytes);
            }
            Operation::PushLong { byte, length } => {
                pushed.resize(pushed.len() + usize::from(length), byte);
                queue.push(&pushed[pushed.len() - usize::from(length)..]);
            }
            Operation::Flush { budget, takes } => sent += flush(&mut queue, &pushed[sent..], budget.into(), takes),
        }
        assert_eq!(queue.len(), pushed.len() - sent);
    }
    while sent < pushed.len() {
        sent += flush(&mut queue, &pushed[sent..], usize::MAX, vec![Take::AtMost(u16::MAX)]);
    }
    assert_eq!(queue.len(), 0);
}

/// Returns how many bytes went.
fn flush(queue: &mut Queue, unsent: &[u8], budget: usize, takes: Vec<Take>) -> usize {
    let mut socket = Socket { takes: takes.into(), ..Socket::default() };
    let (sent, end) = queue.write_to(&mut socket, budget);
    assert_eq!(socket.taken, unsent[..sent]);
    assert!(socket.offered <= budget);
    match end {
        Ok(Flush::Empty) => assert_eq!(sent, unsent.len()),
        Ok(Flush::Blocked) => assert!(socket.full),
        Ok(Flush::Budget) => assert!(sent == budget && sent < unsent.len()),
        Err(_) => assert!(socket.broken),
    }
    sent
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::fuzzing::cases())]

        #[test]
        fn the_queue_is_a_run_of_bytes(operations: Vec<super::Operation>) {
            super::check(operations);
        }
    }
}
