//! Compares the queue with a run of bytes, for any pushes and any behaviour of the socket.

use arbitrary::Arbitrary;

use crate::connection::queue::{Flush, Queue};
use crate::models::socket::{Socket, Take};

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Operation {
    Push(Vec<u8>),
    PushShared(Vec<u8>),
    /// As many bytes as fit into a chunk, or more than fit beside others.
    PushLong {
        byte: u8,
        length: u16,
    },
    Flush {
        budget: u16,
        #[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))]
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

/// Returns how many bytes were sent.
fn flush(queue: &mut Queue, unsent: &[u8], budget: usize, takes: Vec<Take>) -> usize {
    let mut socket = Socket { takes: takes.into(), ..Socket::default() };
    let (sent, end) = queue.write_to(&mut socket, budget);
    assert_eq!(socket.taken, unsent[..sent]);
    assert!(socket.offered <= budget);
    assert!(!socket.pressed || cfg!(not(unix)), "a short write means that there is no room");
    match end {
        Ok(Flush::Empty) => assert_eq!(sent, unsent.len()),
        Ok(Flush::Blocked) => assert!(socket.full),
        Ok(Flush::Budget) => assert!(sent == budget && sent < unsent.len()),
        Ok(Flush::File(kind)) => unreachable!("no file was pushed: {kind}"),
        Err(_) => assert!(socket.broken),
    }
    sent
}

#[cfg(test)]
mod tests {
    use crate::shared_bytes::SharedBytes;

    use proptest::prelude::*;

    use super::{Socket, Take};
    use crate::connection::carry::{Carry, Scan};
    use crate::connection::queue::{CHUNK_BYTES, COPIED_BYTES, Flush, Queue, SLICES};

    proptest! {
        #![proptest_config(crate::models::cases::cases())]

        #[test]
        fn the_queue_is_a_run_of_bytes(operations: Vec<super::Operation>) {
            super::check(operations);
        }
    }

    /// Flushes with a budget into a socket that takes everything. Returns how many bytes were sent in how many calls.
    fn flush(queue: &mut Queue, budget: usize) -> (usize, usize) {
        let calls = 100;
        let mut socket = Socket { takes: [Take::AtMost(u16::MAX)].repeat(calls).into(), ..Socket::default() };
        let (sent, end) = queue.write_to(&mut socket, budget);
        assert!(matches!(end, Ok(Flush::Empty | Flush::Budget)));
        (sent, calls - socket.takes.len())
    }

    #[test]
    fn small_writes_are_gathered_and_leave_in_one_call() {
        let mut queue = Queue::default();
        (0..1_000).for_each(|_| queue.push(b"0123456789"));
        assert_eq!(queue.chunks.len(), 1);
        assert_eq!(flush(&mut queue, usize::MAX), (10_000, 1));
    }

    #[test]
    fn unread_input_is_not_moved_for_each_message() {
        let mut carry = Carry::new(&[7; 1_000], Scan::default(), 0);
        for n in 1..=500 {
            let at = carry.unread().as_ptr();
            carry.consume(1);
            assert_eq!(carry.unread().as_ptr(), at.wrapping_add(1), "it is moved for one byte of {n}");
        }
        carry.consume(1);
        carry.extend(&[8; 1]);
        assert_eq!(*carry.unread(), [&[7; 499][..], &[8]].concat());
        assert_eq!(carry.bytes.len(), 500, "consumed bytes are not kept forever");
    }

    #[test]
    fn a_chunk_is_filled_to_its_last_byte_and_grows_no_further() {
        let mut queue = Queue::default();
        queue.push(&[0; 10]);
        queue.push(&[0; CHUNK_BYTES - 10]);
        assert_eq!(queue.chunks.len(), 1);
        queue.push(&[0]);
        assert_eq!(queue.chunks.len(), 2);
        assert_eq!(CHUNK_BYTES, 65_536);
    }

    #[test]
    fn many_payloads_leave_in_few_calls_within_the_budget() {
        let payload = SharedBytes::from(vec![0; 200]);
        let mut queue = Queue::default();
        (0..SLICES + 8).for_each(|_| queue.push_shared(payload.clone()));
        // One call for as many chunks as it takes, and one for half a payload.
        let budget = SLICES * 200 + 100;
        assert_eq!(flush(&mut queue, budget), (budget, 2));
        assert_eq!(flush(&mut queue, usize::MAX), (1_500, 1));
    }

    #[test]
    fn small_payloads_are_gathered_like_small_writes() {
        let mut queue = Queue::default();
        (0..100).for_each(|_| queue.push_shared(SharedBytes::from("0123456789")));
        queue.push_shared(SharedBytes::from(vec![b'x'; COPIED_BYTES + 1]));
        assert_eq!(queue.chunks.len(), 2);
        assert_eq!(flush(&mut queue, usize::MAX), (1_000 + COPIED_BYTES + 1, 1));
    }

    #[test]
    fn a_part_of_a_file_leaves_between_what_was_written_around_it() {
        let file = std::sync::Arc::new(std::fs::File::open("Cargo.toml").unwrap());
        let bytes = std::fs::read("Cargo.toml").unwrap();
        let part = 3..bytes.len() - 7;
        for budget in [1, 5, 1_000, usize::MAX] {
            let mut queue = Queue::default();
            queue.push(b"head");
            queue.push_file(file.clone(), part.start as u64..part.end as u64);
            queue.push(b"tail");
            assert_eq!((queue.len(), queue.held()), (8 + part.len(), 8));
            let mut socket = Socket { takes: [Take::AtMost(u16::MAX)].repeat(10_000).into(), ..Socket::default() };
            while queue.len() > 0 {
                let left = queue.len();
                let (sent, end) = queue.write_to(&mut socket, budget);
                assert!(sent <= budget && matches!(end, Ok(Flush::Empty | Flush::Budget)));
                assert_eq!(queue.len(), left - sent);
            }
            assert_eq!(socket.taken, [b"head", &bytes[part.clone()], b"tail"].concat());
        }
        let mut queue = Queue::default();
        queue.push_file(file, 0..bytes.len() as u64 + 1);
        let mut socket = Socket { takes: [Take::AtMost(u16::MAX)].repeat(10).into(), ..Socket::default() };
        let (sent, end) = queue.write_to(&mut socket, usize::MAX);
        assert_eq!((sent, end.unwrap()), (bytes.len(), Flush::File(std::io::ErrorKind::UnexpectedEof)));
    }
}
