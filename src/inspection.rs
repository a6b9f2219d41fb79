//! What a reactor is doing now, for the person who has to find out why it is slow or does not stop.

use std::fmt::{self, Display};
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
/// println!("{inspection}");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Inspection {
    /// The number of the worker whose reactor this is. `None` if it is not one of [`Workers`](crate::Workers).
    pub worker: Option<usize>,
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
    /// The ten connections that were accepted or started first, that first. How long ago is not known, because a
    /// connection keeps no time for that. Of connections between which more than 4 billion others came, the order may be
    /// wrong. Connections that are left out of `quietest` are left out here too.
    pub oldest: Vec<ConnectionInspection>,
    /// The last [restart](crate::Reactor::restart) that has failed. `None` if none has. With
    /// [`Workers`](crate::Workers), every worker knows it. Feature `restart`.
    pub failed_restart: Option<FailedRestart>,
}

/// A restart that has failed. The process continued to serve.
///
/// ```
/// # let mut reactor = socketserver::Reactor::new()?;
/// if let Some(failed) = reactor.inspect().failed_restart {
///     println!("a restart has failed {:?} ago: {}", failed.ago, failed.reason);
/// }
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FailedRestart {
    /// How long ago it failed.
    pub ago: Duration,
    /// Why, as the log has it.
    pub reason: String,
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
    /// Whether it serves, or how far its end has come.
    pub phase: ServerPhase,
    /// The addresses of its sockets, each once, and those at which [`Workers`](crate::Workers) accept clients for it.
    /// They tell which server it is, so they stay when its sockets are closed.
    pub addresses: Vec<Address>,
    /// Its connections in both directions, and its requests on threads and of programs.
    pub connections: usize,
    /// Those of `connections` whose header of the PROXY protocol has not come yet: none of them is in the lists of
    /// [`Inspection`], and no hook knows them. Each waits for at most
    /// [`ProxyProtocol::timeout`](crate::ProxyProtocol::timeout). 0 without the feature `proxy-protocol`.
    pub headers_awaited: usize,
    /// Sessions of its datagram sockets, at most [`Limits::sessions_max`](crate::Limits).
    pub sessions: usize,
    /// How long it has accepted no clients because [`Limits::connections_max`](crate::Limits) or the limit of
    /// descriptors is reached. `None` if it accepts.
    pub full_for: Option<Duration>,
    /// How long ago a datagram of a new peer was first dropped because [`Limits::sessions_max`](crate::Limits) was
    /// reached. `None` if none was dropped, or if a session has begun since then when a tenth of them was free.
    pub sessions_full_for: Option<Duration>,
    /// Requests that threads serve, at most [`Limits::max_threads`](crate::Limits).
    pub threads_busy: usize,
    /// How long ago a request first had to wait because all threads were busy. `None` if none had to, or if none waits and
    /// a tenth of the threads was free since then.
    pub threads_full_for: Option<Duration>,
    /// Requests that programs serve, at most [`Limits::max_children`](crate::Limits).
    pub children_busy: usize,
    /// Like `threads_full_for`, for programs.
    pub children_full_for: Option<Duration>,
    /// Requests that wait for a thread or a program.
    pub requests_waiting: usize,
}

/// Whether a server serves, or how far its end has come.
///
/// ```
/// # use socketserver::{NoHandler, Reactor, TcpServer};
/// # let mut reactor = Reactor::new()?;
/// # reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
/// assert_eq!(reactor.inspect().servers[0].phase, socketserver::ServerPhase::Serving);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ServerPhase {
    /// It serves, also [while others drain](crate::Limits::serve_while_draining).
    Serving,
    /// Its listeners are closed, and its connections end.
    Draining,
    /// Its connections are closed, and its threads and programs are waited for.
    Closing,
    /// It is closed or stopped.
    Closed,
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

impl Display for Inspection {
    /// Lines for a person: the worker, the phase, each server, the listed connections, and a failed restart. Nothing that a peer has
    /// sent is in them raw.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(worker) = self.worker {
            write!(f, "worker {worker}: ")?;
        }
        let Inspection { phase, messages_waiting, input_bytes, output_bytes, .. } = self;
        writeln!(
            f,
            "{phase:?}: {input_bytes} bytes unread, {output_bytes} bytes unsent, {messages_waiting} messages wait"
        )?;
        self.servers.iter().try_for_each(|server| writeln!(f, "  {server}"))?;
        for (title, list) in [("quietest", &self.quietest), ("fullest", &self.fullest), ("oldest", &self.oldest)] {
            list.iter().try_for_each(|connection| writeln!(f, "  {title}: {connection}"))?;
        }
        self.failed_restart.iter().try_for_each(|failed| writeln!(f, "  {failed}"))
    }
}

impl Display for FailedRestart {
    /// One line: when it failed, and why.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FailedRestart { ago, reason } = self;
        write!(f, "a restart has failed {ago:.0?} ago: {reason}")
    }
}

impl Display for ServerInspection {
    /// One line: the addresses, the phase, and each count that is not 0, with the time for which a limit has been reached.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, address) in self.addresses.iter().enumerate() {
            write!(f, "{}{address}", if at == 0 { "" } else { ", " })?;
        }
        write!(f, ": {:?}, {} connections", self.phase, self.connections)?;
        full(f, self.full_for)?;
        for (count, what, full_for) in [
            (self.headers_awaited, "PROXY headers awaited", None),
            (self.sessions, "sessions", self.sessions_full_for),
            (self.threads_busy, "threads", self.threads_full_for),
            (self.children_busy, "programs", self.children_full_for),
            (self.requests_waiting, "requests wait", None),
        ] {
            if count > 0 || full_for.is_some() {
                write!(f, ", {count} {what}")?;
                full(f, full_for)?;
            }
        }
        Ok(())
    }
}

fn full(f: &mut fmt::Formatter<'_>, time: Option<Duration>) -> fmt::Result {
    time.map_or(Ok(()), |time| write!(f, " (full for {time:.0?})"))
}

impl Display for ConnectionInspection {
    /// One line: the address of the client, for how long it has been quiet, and its bytes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ConnectionInspection { client_address, quiet_for, input_bytes, output_bytes, .. } = self;
        write!(
            f,
            "{client_address}, quiet for {quiet_for:.0?}, {input_bytes} bytes unread, {output_bytes} bytes unsent"
        )
    }
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
    #[test]
    fn an_inspection_is_text_of_what_is_not_0() {
        let address = |text: &str| text.parse::<std::net::SocketAddr>().unwrap().into();
        let (server, slot) = (ServerId::new(), crate::ids::SlotId { key: 0, generation: 7 });
        let of_servers = ServerInspection {
            id: server,
            phase: ServerPhase::Draining,
            addresses: ["127.0.0.1:80", "127.0.0.1:81"].map(address).to_vec(),
            connections: 3,
            headers_awaited: 1,
            sessions: 0,
            full_for: Some(Duration::from_secs(5)),
            sessions_full_for: None,
            threads_busy: 2,
            threads_full_for: Some(Duration::from_millis(1_500)),
            children_busy: 0,
            children_full_for: None,
            requests_waiting: 4,
        };
        let connection = ConnectionInspection {
            id: ConnectionId { slot, reactor: 0 },
            server,
            client_address: address("192.0.2.1:5000"),
            quiet_for: Duration::from_secs(61),
            input_bytes: 1,
            output_bytes: 2,
        };
        let inspection = Inspection {
            worker: Some(3),
            phase: ReactorPhase::Draining,
            servers: vec![of_servers],
            messages_waiting: 0,
            input_bytes: 10,
            output_bytes: 20,
            quietest: vec![connection.clone()],
            fullest: Vec::new(),
            oldest: vec![connection],
            failed_restart: Some(FailedRestart { ago: Duration::from_secs(9), reason: "it has ended".to_owned() }),
        };
        let text = "worker 3: Draining: 10 bytes unread, 20 bytes unsent, 0 messages wait\n  \
             127.0.0.1:80, 127.0.0.1:81: Draining, 3 connections (full for 5s), 1 PROXY headers awaited, \
             2 threads (full for 2s), 4 requests wait\n  \
             quietest: 192.0.2.1:5000, quiet for 61s, 1 bytes unread, 2 bytes unsent\n  \
             oldest: 192.0.2.1:5000, quiet for 61s, 1 bytes unread, 2 bytes unsent\n  \
             a restart has failed 9s ago: it has ended\n";
        assert_eq!(inspection.to_string(), text);
    }
}
