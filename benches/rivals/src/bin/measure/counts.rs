//! System calls and instructions for each item: figures that do not depend on how busy the machine is.
//!
//! Each is the difference between two amounts of the same work: what comes once, such as the start of the server and
//! the attaching of the tool, is in both and vanishes. The clients are 64, and under such a tool the server is always
//! the slower side, so that it is busy all the time.

mod callgrind;
mod strace;

use crate::benchmarks::MANY;
use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::{Address, Job, Transport};
use crate::load::{Closes, Crowd, Datagrams, Echo, Flood, Pace, Until, Watch};
use crate::results::Count;
use crate::scenario::Item;

/// The two amounts whose difference is taken.
type Amounts = [u64; 2];

impl Item {
    fn transport(self) -> Transport {
        match self {
            Item::Datagram => Transport::Udp,
            _ => Transport::Tcp,
        }
    }

    fn amounts(self, quick: bool) -> Amounts {
        match (self, quick) {
            (Item::Message | Item::Datagram, false) => [2_000, 12_000],
            (Item::Message | Item::Datagram, true) => [500, 2_500],
            (Item::Connection, false) => [1_000, 5_000],
            (Item::Connection, true) => [200, 1_000],
            (Item::IdleConnection, false) => [500, 2_500],
            (Item::IdleConnection, true) => [100, 500],
        }
    }
}

/// Whether `contender` has such items at all.
pub(crate) fn can_count(contender: &Contender, item: Item) -> bool {
    contender.serves.contains(&(item.transport(), Job::Echo))
}

/// Runs strace and callgrind.
pub(crate) fn count(contender: &Contender, item: Item, quick: bool, cpus: Cpus) -> Count {
    let amounts = item.amounts(quick);
    let instructions = if contender.native {
        callgrind::per_item(contender, item, amounts, cpus)
    } else {
        Err("only native programs are fast enough under callgrind".to_owned())
    };
    let system_calls = strace::per_item(contender, item, amounts, cpus);
    Count { contender: contender.name.clone(), item, system_calls, instructions }
}

/// Has the server at `address` do `amount` items, then calls `end` while idle connections are still open. Returns how
/// many were done.
fn drive(item: Item, address: &Address, amount: u64, end: impl FnOnce() -> Result<(), String>) -> Result<u64, String> {
    let address = address.clone();
    // The same before both amounts.
    let (warm_up, until) = (Until::Count(4 * MANY as u64), Until::Count(amount));
    let message_bytes = 64;
    let outcome = match item {
        Item::Message => {
            Echo { address, connections: MANY, message_bytes, pace: Pace::Closed { depth: 1 }, warm_up, until }
                .run(&mut Unwatched)
        }
        Item::Connection => Flood { address, concurrency: MANY, message_bytes, closes: Closes::Client, warm_up, until }
            .run(&mut Unwatched),
        Item::Datagram => {
            Datagrams { address, senders: 1, depth: MANY, message_bytes, warm_up, until }.run(&mut Unwatched)
        }
        Item::IdleConnection => {
            let crowd = Crowd::gather(&address, amount as usize, &mut |_| ())?;
            end()?;
            drop(crowd);
            return Ok(amount);
        }
    }?;
    end()?;
    match outcome.failures.first {
        Some(failure) => Err(failure),
        None => Ok(outcome.done),
    }
}

/// (more - less) / (items of more - items of less).
fn per_item_of(totals: [f64; 2], done: Amounts) -> f64 {
    (totals[1] - totals[0]) / (done[1] as f64 - done[0] as f64)
}

/// Nobody waits for the ends of these loads.
struct Unwatched;

impl Watch for Unwatched {
    fn begun(&mut self) {}
    fn progress(&mut self, _: f64) {}
    fn ended(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::per_item_of;

    #[test]
    fn what_comes_once_vanishes() {
        assert_eq!(per_item_of([7_000.0 + 2.0 * 100.0, 7_000.0 + 2.0 * 500.0], [100, 500]), 2.0);
    }
}
