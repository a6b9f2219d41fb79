//! What a reactor is doing now, for the person who has to find out why it is slow or does not stop.

use std::time::Duration;

use crate::address::Address;
use crate::ids::{ConnectionId, ServerId};

/// A reactor at one moment: [`Reactor::inspect`](crate::Reactor::inspect). [`Stats`](crate::Stats) counts what has
/// happened.
///
/// ```
/// # use socketserver::{NoHandler, Reactor, TcpServer};
/// use socketserver::ReactorPhase;
///
/// let mut reactor = Reactor::new()?;
/// let id = reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
/// let inspection = reactor.inspect();
/// assert_eq!(inspection.phase, ReactorPhase::Serving);
/// assert_eq!((inspection.servers[0].id, inspection.servers[0].connections), (id, 0));
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// Whether it serves or stops.
    pub phase: ReactorPhase,
    /// Its servers, in no particular order.
    pub servers: Vec<ServerInspection>,
    /// Messages and closures of other threads that wait for the next turn, at most
    /// [`ReactorConfig::messages_max`](crate::ReactorConfig).
    pub messages_waiting: usize,
    /// Received bytes of all connections that their handlers have not consumed.
    pub input_bytes: usize,
    /// Bytes of all connections that the kernel has not taken yet.
    pub output_bytes: usize,
    /// The ten connections on which no byte has moved for the longest time, that first. A connection on a thread or of
    /// a program is not among them, nor is one whose callback is running.
    pub quietest: Vec<ConnectionInspection>,
    /// The ten connections with the most unconsumed and unsent bytes, that first. Those without any are not among them.
    pub fullest: Vec<ConnectionInspection>,
}

/// Whether a reactor serves, or how far its stop has come.
///
/// ```
/// # let mut reactor = socketserver::Reactor::new()?;
/// reactor.shutdown_handle().shutdown();
/// reactor.serve_forever()?;
/// assert_eq!(reactor.inspect().phase, socketserver::ReactorPhase::Stopped);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReactorPhase {
    /// It serves, or it will when it is called.
    Serving,
    /// A stop was requested, and [`drain_delay`](crate::ReactorConfig::drain_delay) passes.
    Delayed,
    /// It waits for its connections.
    Draining,
    /// It aborts its connections.
    Aborting,
    /// It has stopped.
    Stopped,
}

/// One server of a reactor at one moment.
///
/// ```
/// # use socketserver::{NoHandler, Reactor, TcpServer};
/// # let mut reactor = Reactor::new()?;
/// # reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
/// for server in reactor.inspect().servers {
///     if let Some(time) = server.full_for {
///         println!("{:?} has been full for {time:?}, with {} connections", server.addresses, server.connections);
///     }
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ServerInspection {
    /// Its id.
    pub id: ServerId,
    /// The addresses of its open sockets.
    pub addresses: Vec<Address>,
    /// Its connections in both directions, and its requests on threads and of programs.
    pub connections: usize,
    /// Sessions of its datagram sockets, at most [`Limits::sessions_max`](crate::Limits).
    pub sessions: usize,
    /// How long it has accepted no clients because [`Limits::connections_max`](crate::Limits) or the limit of
    /// descriptors is reached. `None` if it accepts.
    pub full_for: Option<Duration>,
    /// Requests that threads serve, at most [`Limits::max_threads`](crate::Limits).
    pub threads_busy: usize,
    /// Requests that programs serve, at most [`Limits::max_children`](crate::Limits).
    pub children_busy: usize,
    /// Requests that wait for a thread or a program.
    pub requests_waiting: usize,
}

/// One connection at one moment.
///
/// ```
/// # let mut reactor = socketserver::Reactor::new()?;
/// for connection in reactor.inspect().fullest {
///     println!("{}: {} bytes are unsent", connection.client_address, connection.output_bytes);
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ConnectionInspection {
    /// Its id.
    pub id: ConnectionId,
    /// The server to which it belongs.
    pub server: ServerId,
    /// The address of its client, or the target of an outbound connection.
    pub client_address: Address,
    /// How long no byte has moved in either direction.
    pub quiet_for: Duration,
    /// Received bytes that its handler has not consumed.
    pub input_bytes: usize,
    /// Bytes that the kernel has not taken yet.
    pub output_bytes: usize,
}

/// A histogram of the lengths of turns: [`Reactor::take_turn_times`](crate::Reactor::take_turn_times). The length of a
/// turn is the time that its callbacks took together, so it is how long a client may have waited for others.
///
/// ```
/// # let mut reactor = socketserver::Reactor::new()?;
/// reactor.poll(Some(std::time::Duration::ZERO))?;
/// let times = reactor.take_turn_times();
/// assert_eq!(times.total(), 1);
/// println!("99 % of the turns took at most {:?}", times.quantile(0.99));
/// assert_eq!(reactor.take_turn_times().total(), 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TurnTimes {
    counts: [u64; BUCKETS],
}

impl TurnTimes {
    /// Counts a turn of this many nanoseconds.
    #[inline]
    pub(crate) fn add(&mut self, nanos: u64) {
        let bucket = u64::BITS - (nanos >> SHORTEST_BITS).leading_zeros();
        self.counts[(bucket as usize).min(BUCKETS - 1)] += 1;
    }

    /// Returns, for each length, how many turns were shorter than that and not shorter than the one before. The lengths
    /// are 16.384 µs and its multiples by powers of two. The last has no bound and is [`Duration::MAX`].
    pub fn buckets(&self) -> impl Iterator<Item = (Duration, u64)> {
        self.counts.iter().enumerate().map(|(bucket, &count)| (bound(bucket), count))
    }

    /// Returns the number of turns.
    pub fn total(&self) -> u64 {
        self.counts.iter().sum()
    }

    /// Returns a time that this part of the turns, 0 to 1, did not exceed: the bound of a bucket, which may be twice as
    /// long. Zero without turns.
    pub fn quantile(&self, part: f64) -> Duration {
        let wanted = (self.total() as f64 * part).ceil() as u64;
        let mut seen = 0;
        let mut buckets = self.buckets().filter(|&(_, count)| count > 0);
        let found = buckets.find(|&(_, count)| {
            seen += count;
            seen >= wanted
        });
        found.map_or(Duration::ZERO, |(bound, _)| bound)
    }
}

fn bound(bucket: usize) -> Duration {
    match bucket {
        _ if bucket == BUCKETS - 1 => Duration::MAX,
        _ => Duration::from_nanos(1 << (SHORTEST_BITS + bucket as u32)),
    }
}

/// The number of buckets: up to 268 ms, and longer.
const BUCKETS: usize = 16;
/// The bound of the first bucket as a power of two, in nanoseconds.
const SHORTEST_BITS: u32 = 14;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_below_its_bound() {
        let mut times = TurnTimes::default();
        assert_eq!(times.quantile(0.5), Duration::ZERO);
        for nanos in [0, 16_383, 16_384, 32_767, 32_768, 268_435_455, 268_435_456, u64::MAX] {
            times.add(nanos);
        }
        let counts: Vec<_> = times.buckets().filter(|&(_, count)| count > 0).collect();
        let micros = |micros| Duration::from_nanos(micros);
        assert_eq!(
            counts,
            [
                (micros(16_384), 2),
                (micros(32_768), 2),
                (micros(65_536), 1),
                (micros(268_435_456), 1),
                (Duration::MAX, 2)
            ]
        );
        assert_eq!((times.total(), times.quantile(0.0)), (8, micros(16_384)));
        assert_eq!((times.quantile(0.5), times.quantile(0.75)), (micros(32_768), micros(268_435_456)));
        assert_eq!(times.quantile(1.0), Duration::MAX);
    }
}
