//! Datagrams that are sent through one socket: gathered, sent several at a time, and kept while there is no room.
//!
//! A datagram is *fresh* first. It is sent by the next flush, and shares a system call with others if the system has a
//! call for that. A datagram that the socket does not accept *waits*, in order and within a bound. When the bound is
//! reached, the policy decides which one is dropped. Until then, further datagrams for the same peer (on UDP, for any
//! peer) queue behind those that wait.

use std::collections::{HashSet, VecDeque};
use std::io;
use std::net::IpAddr;

use crate::address::Address;
use crate::limits::{DropPolicy, Limits};
use crate::net::datagram::DatagramSocket;
use crate::net::fault::DatagramFault;
use crate::net::packet::{Outgoing, append};
use crate::stats::Stats;

#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// The bytes of all fresh datagrams, one after the other.
    bytes: Vec<u8>,
    pub(crate) fresh: Vec<Outgoing>,
    pub(crate) waiting: VecDeque<Waiting>,
    /// The cost of `waiting`, in bytes.
    pub(crate) cost: usize,
    blocked: Blocked,
}

#[derive(Debug)]
pub(crate) struct Waiting {
    to: Address,
    local: Option<IpAddr>,
    pub(crate) bytes: Box<[u8]>,
}

/// The peers whose datagrams the socket refused at the last attempt.
#[derive(Debug, Default)]
struct Blocked {
    everybody: bool,
    peers: HashSet<Address>,
}

impl Blocked {
    #[inline(always)]
    fn is(&self, to: &Address) -> bool {
        self.everybody || (!self.peers.is_empty() && self.peers.contains(to))
    }
}

impl Outbox {
    /// Takes a datagram. Returns `false` if it was dropped immediately.
    pub(crate) fn push(
        &mut self,
        to: &Address,
        local: Option<IpAddr>,
        bytes: &[u8],
        limits: &Limits,
        stats: &mut Stats,
    ) -> bool {
        if !self.gather(to, local, bytes) {
            return self.wait(Waiting { to: to.clone(), local, bytes: bytes.into() }, limits, stats);
        }
        true
    }

    /// Takes a datagram if it need not wait behind others. Returns whether it did.
    #[inline(always)]
    pub(crate) fn gather(&mut self, to: &Address, local: Option<IpAddr>, bytes: &[u8]) -> bool {
        if self.blocked.is(to) {
            return false;
        }
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        let range = start..self.bytes.len();
        match *to {
            Address::Inet(to) => append(&mut self.fresh, || Outgoing { range, to: Address::Inet(to), local }),
            #[cfg(unix)]
            Address::Unix(_) => self.fresh.push(Outgoing { range, to: to.clone(), local }),
        }
        true
    }

    /// Sends a datagram immediately if none waits before it, and if it would not share a system call with others. Returns
    /// whether that is done: it was sent, or can never be sent. Otherwise it must be [pushed](Self::push).
    pub(crate) fn send_now(&self, socket: &mut DatagramSocket, to: &Address, bytes: &[u8], stats: &mut Stats) -> bool {
        if !self.is_empty() || socket.sends_several() {
            return false;
        }
        match socket.send_now(bytes, to) {
            Ok(()) => {
                stats.datagrams_out += 1;
                stats.bytes_out += bytes.len() as u64;
            }
            Err(error) if DatagramFault::from(&error) == DatagramFault::Skip => stats.datagrams_failed += 1,
            Err(_) => return false,
        }
        true
    }

    /// Enough is gathered for a system call, or more would need too much memory.
    pub(crate) fn is_ripe(&self) -> bool {
        self.fresh.len() >= FRESH_MAX || self.bytes.len() >= FRESH_BYTES_MAX
    }

    pub(crate) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.fresh.is_empty()
    }

    /// Sends fresh datagrams. Those that the socket does not accept then wait.
    pub(crate) fn flush(&mut self, socket: &mut DatagramSocket, limits: &Limits, stats: &mut Stats) {
        let (bytes, fresh) = (std::mem::take(&mut self.bytes), std::mem::take(&mut self.fresh));
        let mut next = 0;
        while let Some(datagram) = fresh.get(next) {
            let content = |datagram: &Outgoing| bytes[datagram.range.clone()].into();
            if self.blocked.is(&datagram.to) {
                let (to, local) = (datagram.to.clone(), datagram.local);
                self.wait(Waiting { to, local, bytes: content(datagram) }, limits, stats);
                next += 1;
                continue;
            }
            let most = if socket.blocks_by_peer() { next + 1 } else { fresh.len() };
            let (sent, result) = socket.send(&bytes, &fresh[next..most]);
            stats.datagrams_out += sent as u64;
            if sent > 0 {
                let sent_bytes = datagram.range.start..fresh[next + sent - 1].range.end;
                stats.bytes_out += sent_bytes.len() as u64;
            }
            next += sent;
            if let Err(error) = result
                && let Some(datagram) = fresh.get(next)
                && !self.failed(&datagram.to, socket, &error)
            {
                stats.datagrams_failed += 1;
                next += 1;
            }
        }
        (self.bytes, self.fresh) = (bytes, fresh);
        self.bytes.clear(); // This keeps the memory.
        self.fresh.clear();
        if self.waiting.is_empty() {
            // Nothing waits, so there is no order to keep and nothing to retry. The next datagram finds out whether
            // there is room.
            self.blocked = Blocked::default();
        }
    }

    /// Tries again to send waiting datagrams. Returns whether any left the queue.
    pub(crate) fn retry(&mut self, socket: &mut DatagramSocket, stats: &mut Stats) -> bool {
        self.blocked = Blocked::default();
        let before = self.waiting.len();
        for _ in 0..before {
            let Some(waiting) = self.waiting.pop_front() else { break };
            if self.blocked.is(&waiting.to) {
                self.waiting.push_back(waiting); // In the end all are in their old order.
                continue;
            }
            let datagram = Outgoing { range: 0..waiting.bytes.len(), to: waiting.to, local: waiting.local };
            let (sent, result) = socket.send(&waiting.bytes, std::slice::from_ref(&datagram));
            if result.is_err_and(|error| self.failed(&datagram.to, socket, &error)) {
                let (to, local) = (datagram.to, datagram.local);
                self.waiting.push_back(Waiting { to, local, bytes: waiting.bytes });
                continue;
            }
            self.cost -= cost(&waiting.bytes);
            if sent == 0 {
                stats.datagrams_failed += 1;
            } else {
                stats.datagrams_out += 1;
                stats.bytes_out += waiting.bytes.len() as u64;
            }
        }
        self.check();
        self.waiting.len() < before
    }

    /// The socket refused a datagram. Returns whether it may take it later.
    fn failed(&mut self, to: &Address, socket: &DatagramSocket, error: &io::Error) -> bool {
        match DatagramFault::from(error) {
            DatagramFault::Blocked if socket.blocks_by_peer() => _ = self.blocked.peers.insert(to.clone()),
            DatagramFault::Blocked | DatagramFault::Pause => self.blocked.everybody = true,
            DatagramFault::Skip => return false,
        }
        true
    }

    /// Keeps a datagram until there is room. Returns whether it could be kept.
    fn wait(&mut self, datagram: Waiting, limits: &Limits, stats: &mut Stats) -> bool {
        let needed = cost(&datagram.bytes);
        if limits.datagram_queue_overflow == DropPolicy::Oldest {
            self.make_room(needed, limits, stats);
        }
        if self.cost + needed > limits.datagram_queue_bytes_max {
            stats.datagrams_dropped += 1;
            return false;
        }
        self.cost += needed;
        self.waiting.push_back(datagram);
        self.check();
        true
    }

    /// Drops datagrams until so many more bytes may wait.
    pub(crate) fn make_room(&mut self, needed: usize, limits: &Limits, stats: &mut Stats) {
        while self.cost + needed > limits.datagram_queue_bytes_max {
            let dropped = match limits.datagram_queue_overflow {
                DropPolicy::Oldest => self.waiting.pop_front(),
                DropPolicy::Newest => self.waiting.pop_back(),
            };
            let Some(dropped) = dropped else { break };
            self.cost -= cost(&dropped.bytes);
            stats.datagrams_dropped += 1;
        }
    }

    fn check(&self) {
        if cfg!(debug_assertions) && self.waiting.len() < 64 {
            assert_eq!(self.cost, self.waiting.iter().map(|waiting| cost(&waiting.bytes)).sum::<usize>());
        }
    }
}

/// The cost of a waiting datagram. Even an empty one needs memory.
fn cost(bytes: &[u8]) -> usize {
    bytes.len() + size_of::<Waiting>()
}

/// More than the kernel sends with one sendmmsg(2), or as segments of one datagram.
const FRESH_MAX: usize = 128;
const FRESH_BYTES_MAX: usize = 256 * 1024;
