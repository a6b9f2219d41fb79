//! Every limit by name, with its default and unit. Nothing in the crate is unbounded.

use std::time::Duration;

/// What one server allows its connections, and how much work it does for each in one turn of the loop.
///
/// Set the fields of [`TcpServer::limits`](crate::TcpServer::limits) before the server starts.
///
/// ```
/// use std::time::Duration;
/// use socketserver::Limits;
///
/// let mut limits = Limits::default();
/// limits.idle_timeout = Some(Duration::from_secs(30));
/// limits.line_bytes_max = 512; // RFC 1459
/// assert_eq!(limits.output_high_water, 64 * 1024);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once. Above it clients wait in the backlog; accepting resumes at nine tenths of it.
    /// Default: `None`, the soft limit of descriptors (`RLIMIT_NOFILE`, read from `/proc/self/limits` on Linux) less
    /// a reserve of a sixteenth (at least 16, at most 256); 10,000 where that limit cannot be read.
    pub connections_max: Option<usize>,
    /// Connections open at once from one IP address; one more is accepted and closed at once, and counted as
    /// refused. Default: `None`, no such limit.
    pub connections_per_client_max: Option<usize>,

    /// Bytes received that the handler has not consumed. More ends the connection with
    /// [`Finish::InputLimit`](crate::Finish). It can be overshot by one read. Default: 2 MiB.
    pub input_bytes_max: usize,
    /// Bytes in a line or up to any other delimiter, the delimiter included. Default: 64 KiB, as `_MAXLINE` of
    /// Python's `http.client`.
    pub line_bytes_max: usize,
    /// Bytes in the payload of a length-prefixed frame. Default: 1 MiB.
    pub frame_bytes_max: usize,

    /// Unsent bytes above which a connection is no longer read, until the peer has taken some. Default: 64 KiB.
    pub output_high_water: usize,
    /// Unsent bytes at or below which [`writable`](crate::RequestHandler::writable) is called and reading goes on.
    /// Default: 16 KiB.
    pub output_low_water: usize,
    /// Unsent bytes a connection may hold at all. Default: 16 MiB.
    pub output_bytes_max: usize,
    /// What happens to a write that would pass [`output_bytes_max`](Self::output_bytes_max).
    /// Default: [`Overflow::Close`].
    pub output_overflow: Overflow,

    /// Time without a byte received or sent. Default: 10 minutes. `None`: no limit.
    pub idle_timeout: Option<Duration>,
    /// Time from the first byte of a message until the handler consumed it, however many bytes trickle in meanwhile.
    /// It stands still while reading is paused, by the handler or by unsent output. Default: 60 s. `None`: no limit.
    pub read_timeout: Option<Duration>,
    /// Time during which the peer takes nothing of the unsent output. Default: 60 s. `None`: no limit.
    pub write_timeout: Option<Duration>,
    /// Time for an outbound connection to be established. Default: 10 s. `None`: the kernel's.
    pub connect_timeout: Option<Duration>,
    /// After our FIN, how long what the peer still sends is read and discarded, so that the last reply is not
    /// destroyed by the RST that close(2) sends when input is unread. Default: 2 s. Zero: close at once.
    pub linger_timeout: Duration,
    /// The most bytes discarded that way. Default: 1 MiB.
    pub linger_bytes_max: usize,

    /// Connections accepted from one listener per turn. Default: 32; small enough that a flood of connections leaves
    /// the others their turn, large enough that the cost of waiting is shared.
    pub accepts_per_turn: usize,
    /// Bytes read from one connection per turn. Default: 256 KiB, one full read of the shared buffer.
    pub read_bytes_per_turn: usize,
    /// Bytes of queued output sent to one connection per turn. Default: 256 KiB.
    pub write_bytes_per_turn: usize,
    /// Callbacks for one connection per turn. Default: 16; what is left waits for the next turn.
    pub callbacks_per_turn: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: None,
            connections_per_client_max: None,
            input_bytes_max: 2 * 1024 * 1024,
            line_bytes_max: 64 * 1024,
            frame_bytes_max: 1024 * 1024,
            output_high_water: 64 * 1024,
            output_low_water: 16 * 1024,
            output_bytes_max: 16 * 1024 * 1024,
            output_overflow: Overflow::Close,
            idle_timeout: Some(Duration::from_secs(600)),
            read_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(60)),
            connect_timeout: Some(Duration::from_secs(10)),
            linger_timeout: Duration::from_secs(2),
            linger_bytes_max: 1024 * 1024,
            accepts_per_turn: 32,
            read_bytes_per_turn: 256 * 1024,
            write_bytes_per_turn: 256 * 1024,
            callbacks_per_turn: 16,
        }
    }
}

/// The policy for output beyond [`Limits::output_bytes_max`].
///
/// ```
/// let mut limits = socketserver::Limits::default();
/// limits.output_overflow = socketserver::Overflow::Refuse;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The consumer is too slow: its connection is aborted with [`Finish::OutputLimit`](crate::Finish).
    Close,
    /// The write fails with [`Error::OutputLimit`](crate::Error), nothing of it is queued, the connection lives.
    Refuse,
}

/// What concerns a reactor as a whole.
///
/// ```
/// use std::time::Duration;
/// use socketserver::{Config, Reactor};
///
/// let mut config = Config::default();
/// config.slow_callback = Some(Duration::from_millis(100));
/// let reactor = Reactor::with_config(config)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Config {
    /// Size of the one buffer that every connection is read into, in bytes. Default: 256 KiB (measured in
    /// `docs/decisions.md`).
    pub read_buffer_bytes: usize,
    /// Messages and closures from other threads handled per turn. Default: 256.
    pub messages_per_turn: usize,
    /// Messages and closures from other threads that may wait; one more is refused with
    /// [`Error::Full`](crate::Error). Default: 65,536.
    pub messages_max: usize,
    /// Threads that run offloaded jobs, started when the first job comes. Default: 4.
    pub offload_threads: usize,
    /// Offloaded jobs that may wait for a thread; one more is refused with [`Error::Full`](crate::Error).
    /// Default: 1,024.
    pub offload_queue_max: usize,
    /// How long a stopping reactor waits for its connections before it aborts them. After half of it, handlers that
    /// are still busy are told as well. Default: 10 s.
    pub drain_grace: Duration,
    /// A connection counts as quiet, and its handler is told that the server is stopping, when nothing was received
    /// or sent for this long and nothing waits either way. Default: 100 ms.
    pub drain_quiet: Duration,
    /// A callback that takes longer is counted and logged as a warning. Default: `None`, callbacks are not timed.
    pub slow_callback: Option<Duration>,
}

impl Default for Config {
    fn default() -> Self {
        Config {
            read_buffer_bytes: 256 * 1024,
            messages_per_turn: 256,
            messages_max: 65_536,
            offload_threads: 4,
            offload_queue_max: 1_024,
            drain_grace: Duration::from_secs(10),
            drain_quiet: Duration::from_millis(100),
            slow_callback: None,
        }
    }
}

/// How many connections this process may have by default: its descriptors less a reserve for everything else.
pub(crate) fn connections_from_descriptors() -> usize {
    match descriptor_limit() {
        Some(limit) => limit.saturating_sub((limit / 16).clamp(16, 256)).max(1),
        None => 10_000,
    }
}

/// The soft limit of RLIMIT_NOFILE without an unsafe call: proc(5), on Linux only.
fn descriptor_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_os = "linux")]
    fn the_descriptor_limit_is_read_and_a_reserve_kept() {
        let limit = descriptor_limit().expect("proc(5) names it");
        let connections = connections_from_descriptors();
        assert!(connections < limit);
        assert!(connections >= limit.saturating_sub(256));
    }
}
