//! Compares the outbox with the list of pushed datagrams: all are in order, and none is lost or sent twice.

use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use mio::Token;

use crate::address::Address;
use crate::datagrams::outbox::Outbox;
use crate::limits::{DropPolicy, Limits};
use crate::net::datagram::DatagramSocket;
use crate::net::scripted::ScriptedDatagrams;
use crate::stats::Stats;

/// The datagrams of one socket.
#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Case {
    datagram_queue_bytes_max: u16,
    drop_newest: bool,
    operations: Vec<Operation>,
}

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Operation {
    Push {
        peer: u8,
        length: u8,
    },
    Flush(#[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))] Vec<Fate>),
    /// There may be room now.
    Retry(#[cfg_attr(test, proptest(strategy = "crate::models::cases::few()"))] Vec<Fate>),
}

/// The result of sending a datagram.
#[derive(Clone, Copy, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Fate {
    Sent,
    Interrupted,
    NoRoom,
    NoMemory,
    Refused,
}

/// Each datagram ends with the next result of the list. When the list is empty, there is no room.
#[derive(Debug, Default)]
struct Wire {
    fates: VecDeque<Fate>,
    sent: Vec<(Address, Vec<u8>)>,
    refused: u64,
}

impl ScriptedDatagrams for Arc<Mutex<Wire>> {
    fn register(&mut self, _: Token) {}
    fn watch_room(&mut self, _: bool) {}
    fn receive(&mut self, _: &mut [u8]) -> io::Result<(usize, Address)> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn send(&mut self, bytes: &[u8], to: &Address) -> io::Result<usize> {
        let mut wire = self.lock().expect("one thread");
        match wire.fates.pop_front().unwrap_or(Fate::NoRoom) {
            Fate::Sent => {
                wire.sent.push((to.clone(), bytes.to_vec()));
                Ok(bytes.len())
            }
            Fate::Interrupted => Err(io::ErrorKind::Interrupted.into()),
            Fate::NoRoom => Err(io::ErrorKind::WouldBlock.into()),
            Fate::NoMemory => Err(io::ErrorKind::OutOfMemory.into()),
            Fate::Refused => {
                wire.refused += 1;
                Err(io::ErrorKind::ConnectionRefused.into())
            }
        }
    }
}

pub(crate) fn check(case: Case) {
    let limits = Limits {
        datagram_queue_bytes_max: case.datagram_queue_bytes_max.into(),
        datagram_queue_overflow: if case.drop_newest { DropPolicy::Newest } else { DropPolicy::Oldest },
        ..Limits::default()
    };
    let wire = Arc::new(Mutex::new(Wire::default()));
    let mut socket = DatagramSocket::scripted(Arc::clone(&wire), peer(0));
    let (mut outbox, mut stats) = (Outbox::default(), Stats::default());
    let mut pushed = Vec::new();
    for operation in case.operations {
        match operation {
            Operation::Push { peer: number, length } => {
                let (to, mut bytes) = (peer(number), (pushed.len() as u32).to_be_bytes().to_vec());
                bytes.resize(bytes.len() + usize::from(length), number);
                let dropped = stats.datagrams_dropped;
                let kept = outbox.push(&to, None, &bytes, &limits, &mut stats);
                assert!(kept || stats.datagrams_dropped > dropped);
                pushed.push((to, bytes));
            }
            Operation::Flush(fates) => {
                wire.lock().unwrap().fates = fates.into();
                outbox.flush(&mut socket, &limits, &mut stats);
                assert!(outbox.fresh.is_empty(), "a flushed datagram waits or is gone");
            }
            Operation::Retry(fates) => {
                wire.lock().unwrap().fates = fates.into();
                let before = outbox.waiting.len();
                let went_on = outbox.retry(&mut socket, &mut stats);
                assert_eq!(went_on, outbox.waiting.len() < before);
            }
        }
        assert!(outbox.cost <= limits.datagram_queue_bytes_max, "too much waits");
        assert_eq!(outbox.is_waiting(), !outbox.waiting.is_empty());
        let unsent = outbox.waiting.len() + outbox.fresh.len();
        account(&stats, &wire.lock().unwrap(), unsent, &pushed);
    }
    // Flush the rest.
    wire.lock().unwrap().fates = vec![Fate::Sent; pushed.len() + outbox.fresh.len()].into();
    outbox.retry(&mut socket, &mut stats);
    outbox.flush(&mut socket, &limits, &mut stats);
    assert!(outbox.is_empty());
    account(&stats, &wire.lock().unwrap(), 0, &pushed);
}

/// Every datagram is sent, failed, dropped or still in the outbox. Sent ones are in order and unchanged.
fn account(stats: &Stats, wire: &Wire, unsent: usize, pushed: &[(Address, Vec<u8>)]) {
    assert_eq!(stats.datagrams_out, wire.sent.len() as u64);
    assert_eq!(stats.datagrams_failed, wire.refused);
    let accounted = stats.datagrams_out + stats.datagrams_failed + stats.datagrams_dropped + unsent as u64;
    assert_eq!(accounted, pushed.len() as u64);
    let mut rest = pushed.iter();
    for sent in &wire.sent {
        assert!(rest.any(|pushed| pushed == sent), "{sent:?} was not pushed, or overtook another");
    }
}

fn peer(number: u8) -> Address {
    SocketAddr::from(([192, 0, 2, number % 4], 9)).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::datagrams::outbox::Waiting;

    #[test]
    fn as_much_waits_as_may_to_the_byte() {
        for (policy, short) in [DropPolicy::Newest, DropPolicy::Oldest].into_iter().flat_map(|p| [(p, 0), (p, 1)]) {
            let each = 10 + size_of::<Waiting>();
            let datagram_queue_bytes_max = 3 * each - short;
            let limits = Limits { datagram_queue_bytes_max, datagram_queue_overflow: policy, ..Limits::default() };
            let wire = Arc::new(Mutex::new(Wire::default()));
            let mut socket = DatagramSocket::scripted(Arc::clone(&wire), peer(0));
            let (mut outbox, mut stats) = (Outbox::default(), Stats::default());
            let kept: Vec<_> = (0..5)
                .map(|i| {
                    let kept = outbox.push(&peer(0), None, &[i; 10], &limits, &mut stats);
                    outbox.flush(&mut socket, &limits, &mut stats); // There is no room, so it waits.
                    kept
                })
                .collect();
            let fit = 3 - short;
            let first = if policy == DropPolicy::Newest { 0 } else { 5 - fit };
            let waiting: Vec<_> = outbox.waiting.iter().map(|waiting| usize::from(waiting.bytes[0])).collect();
            assert_eq!(waiting, (first..first + fit).collect::<Vec<_>>(), "{policy:?}");
            assert_eq!(stats.datagrams_dropped, 5 - fit as u64, "{policy:?}");
            let dropped_at_once = kept.iter().filter(|kept| !**kept).count();
            assert_eq!(dropped_at_once, if policy == DropPolicy::Newest { 5 - fit } else { 0 }, "{policy:?}");
        }
    }

    proptest! {
        #![proptest_config(crate::models::cases::cases())]

        #[test]
        fn datagrams_leave_in_order_and_are_accounted_for(case: Case) {
            check(case);
        }
    }
}
