//! The load: clients that drive a server as hard as asked, check every byte, and say what they saw.
//!
//! Each load runs on the calling thread, which its caller has pinned, and is bounded in time whatever the server does.

mod burst;
mod connection;
mod crowd;
mod datagrams;
mod descriptors;
mod dialer;
mod echo;
mod flood;
mod pattern;
mod peers;
mod poller;
mod quota;
mod stages;
mod tally;
#[cfg(test)]
mod testing;

use std::time::Duration;

use hdrhistogram::Histogram;

use crate::job::Address;

pub(crate) use crowd::Crowd;
pub(crate) use descriptors::connections_possible;

/// When a load ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Until {
    Elapsed(Duration),
    /// So many messages (connections, for a flood) in all.
    Count(u64),
}

/// Told at the moments between which is measured, after the warm-up and before the farewell, so that the caller reads
/// the server's clocks just there; and now and then in between, for a progress bar.
pub(crate) trait Watch {
    fn begun(&mut self);
    /// `share` from 0 to 1 of the load is done.
    fn progress(&mut self, share: f64);
    fn ended(&mut self);
}

/// What went wrong, by kind, at any time: warm-up and farewell included. Each counts the messages lost, and a connection
/// that fails without any under way as one.
#[derive(Clone, Debug, Default)]
pub(crate) struct Failures {
    /// connect(2) failed, or took longer than the deadline.
    pub(crate) connects: u64,
    /// Reset or closed before the whole echo was there.
    pub(crate) broken: u64,
    /// No answer within the deadline. For datagrams: lost.
    pub(crate) silent: u64,
    /// Bytes that are not the ones sent, or too many. What comes after them on their connection is not looked at. Any is the end of the server's reputation.
    pub(crate) wrong_bytes: u64,
    /// The first of them in words, with the address.
    pub(crate) first: Option<String>,
}

/// What a load saw between `begun` and `ended`.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Messages echoed (connections served, for a flood) in full and rightly. If they were asked for by
    /// [`Until::Count`], the server has done nothing else meanwhile, so that its system calls can be divided by them.
    pub(crate) done: u64,
    /// Bytes of them, one way.
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    pub(crate) failures: Failures,
    /// Nanoseconds. Ping-pong: from send to the last byte of the echo. Fixed rate: from the moment it was due to be
    /// sent. Flood and burst: from connect(2) to the last byte of the echo.
    pub(crate) latency: Histogram<u64>,
    /// CPU time of this process meanwhile.
    pub(crate) own_cpu: Duration,
    /// Messages that were sent more than 200 µs after they were due because the load itself was late (fixed rate only).
    /// Their latency contains that.
    pub(crate) late: u64,
}

/// How the clients of [`Echo`] send.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// Each client keeps so many messages under way, and sends the next when one is back. 1 is ping-pong.
    Closed { depth: usize },
    /// So many messages a second over all clients, whether or not the answers come: no coordinated omission. What is
    /// due within the time asked for is measured, however late it comes back.
    Rate(f64),
    /// Each client writes as fast as the socket takes it, with at most so many bytes under way. A message is a block.
    Bulk { window: usize },
}

/// Connections that stay, and messages over them.
#[derive(Clone, Debug)]
pub(crate) struct Echo {
    pub(crate) address: Address,
    pub(crate) connections: usize,
    pub(crate) message_bytes: usize,
    pub(crate) pace: Pace,
    pub(crate) warm_up: Until,
    pub(crate) until: Until,
}

/// Who closes first in a [`Flood`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closes {
    Client,
    Server,
}

/// Connections that come, echo one message and go, as fast as possible, from addresses spread over 127.0.0.0/8.
#[derive(Clone, Debug)]
pub(crate) struct Flood {
    pub(crate) address: Address,
    /// Connections under way at any time.
    pub(crate) concurrency: usize,
    pub(crate) message_bytes: usize,
    pub(crate) closes: Closes,
    pub(crate) warm_up: Until,
    pub(crate) until: Until,
}

/// So many connects at the same moment, each of which then echoes one message and stays until all are served: the
/// backlog's test.
#[derive(Clone, Debug)]
pub(crate) struct Burst {
    pub(crate) address: Address,
    pub(crate) connections: usize,
    pub(crate) message_bytes: usize,
    /// When those not served yet count as failures.
    pub(crate) deadline: Duration,
}

/// Datagrams there and back.
#[derive(Clone, Debug)]
pub(crate) struct Datagrams {
    pub(crate) address: Address,
    pub(crate) senders: usize,
    /// Datagrams under way for each sender.
    pub(crate) depth: usize,
    pub(crate) message_bytes: usize,
    pub(crate) warm_up: Until,
    pub(crate) until: Until,
}
