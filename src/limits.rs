//! Every limit by name, with its default and unit. Nothing in the crate is unbounded.

pub(crate) mod resolving;

use std::time::Duration;

use crate::error::{Error, Result};

/// What one server allows its connections, and how much work it does for each in one turn of the loop.
///
/// Set the fields of [`Server::limits`](crate::Server::limits) before the server starts, or change them later with
/// [`Reactor::set_limits`](crate::Reactor::set_limits).
///
/// Some limits depend on each other. Of these a field that has its default value counts as not set, and follows those
/// that are set: each mark of the output is at most a quarter of the next larger one, and unread input has room for a line
/// and a frame. Limits that are set and contradict each other are refused when the server starts, as
/// [`Error::Setting`](crate::Error::Setting). So is a zero by which nothing could be served: of a time limit, which would
/// pass at once (`None` is no limit), of `connections_per_client_max` and of `max_packet_size`. Any other zero means what
/// it says: with `connections_max` or `sessions_max` of zero all wait, or are dropped, until it is raised; zero bytes of a
/// queue, and zero places in it, are no queue. [`Reactor::limits`](crate::Reactor::limits) are the values in force.
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
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections open at once. The places that become free are given to the listeners in turn. Above it clients wait in the backlog; accepting resumes at nine tenths of it. With
    /// `Some(0)` all of them wait until it is raised.
    /// Default: `None`, the soft limit of descriptors (`RLIMIT_NOFILE`) less a reserve of a sixteenth (at least 16, at
    /// most 256), of all servers of the reactor together. It is read again when it is reached, so a limit that was raised
    /// meanwhile takes effect. With the feature `descriptor-limit`, which `batch`, `credentials` and `children` bring
    /// with them, it is asked of getrlimit(2), otherwise read from `/proc/self/limits`; where neither can be had, it is
    /// taken to be 10,000, and accepting pauses when descriptors run out. A server some of whose requests are served by
    /// programs keeps to this default as well as to its own number: programs need descriptors to start.
    pub connections_max: Option<usize>,
    /// Connections open at once from one IP address; one more is accepted and closed at once, and counted as
    /// refused. Default: `None`, no such limit. `Some(0)` would serve nobody, and is refused.
    pub connections_per_client_max: Option<usize>,

    /// Bytes received that the handler has not consumed. More ends the connection with
    /// [`EndReason::InputLimit`](crate::EndReason). It can be overshot by one read. Default: 2 MiB, or more if a line or a frame
    /// needs it.
    pub input_bytes_max: usize,
    /// Bytes in a line or up to any other delimiter, the delimiter included. Default: 64 KiB, as `_MAXLINE` of
    /// Python's `http.client`; less if `input_bytes_max` is less, and it must not be more.
    pub line_bytes_max: usize,
    /// Bytes in the payload of a length-prefixed frame. Default: 1 MiB, or what `input_bytes_max` leaves beside a prefix of
    /// 10 bytes, and it must not be more than that.
    pub frame_bytes_max: usize,

    /// Bytes of a datagram that is received. A longer one is reported to
    /// [`datagram_truncated`](crate::BaseServer::datagram_truncated) and by default dropped. Default: 8,192. Source:
    /// `UDPServer.max_packet_size`; there the rest is cut off without a word.
    pub max_packet_size: usize,
    /// Peers of a datagram server that have a handler of their own at once: its sessions. A datagram of one peer more
    /// is dropped and counted; with `Some(0)` each, until it is raised. Default: `None`, no sessions: each datagram is a request of its own, as in Python.
    pub sessions_max: Option<usize>,
    /// Bytes of datagrams that wait because the socket takes none, or a Unix peer does not read; each counts for some
    /// 60 more than it has. Default: 1 MiB for each socket.
    pub datagram_queue_bytes_max: usize,
    /// Which datagram is dropped, and counted, when that is reached. Default: [`DropPolicy::Oldest`].
    pub datagram_queue_overflow: DropPolicy,

    /// Unsent bytes above which a connection is no longer read, until the peer has taken some. Default: 64 KiB, or a
    /// quarter of `output_bytes_max` if that is less, or four times `output_low_water` if that is more. It must not be
    /// more than `output_bytes_max`.
    pub output_high_water: usize,
    /// Unsent bytes at or below which [`writable`](crate::RequestHandler::writable) is called and reading goes on.
    /// Default: a quarter of `output_high_water`, 16 KiB. It must not be more than that.
    pub output_low_water: usize,
    /// Unsent bytes a connection may hold at all. Default: 16 MiB, or four times `output_high_water` if that is more.
    pub output_bytes_max: usize,
    /// What happens to a write that would pass [`output_bytes_max`](Self::output_bytes_max).
    /// Default: [`Overflow::Close`].
    pub output_overflow: Overflow,

    /// Requests that threads serve at once; the threads are started as they are needed, and end when they have been idle
    /// for ten seconds. A warning is logged when it is reached. 0 counts as 1. Default: 64. Source: none; `ThreadingMixIn`
    /// has a thread for each request.
    pub max_threads: usize,
    /// Requests that programs serve at once; 0 counts as 1. Default: 40. Source: `ForkingMixIn.max_children`.
    pub max_children: usize,
    /// Requests that may wait for a thread, and for a program; one more is closed at once and counted as refused.
    /// Default: 1,024.
    pub thread_queue_max: usize,
    /// A stop does not wait for the threads and programs, nor does closing the server. Default: false. Source:
    /// `ThreadingMixIn.daemon_threads`.
    pub daemon_threads: bool,
    /// Closing the server waits until its threads and programs are done: those whose clients are
    /// [quiet](ReactorConfig::drain_quiet) with their input at its end, others for half of [`ReactorConfig::drain_grace`] as they like
    /// and then as well, and after all of it they are ended, which
    /// a handler that sleeps or computes does not notice. False: they are ended at once, and not waited for. Default:
    /// true. Source: `ThreadingMixIn.block_on_close`, `ForkingMixIn.block_on_close`; there they are never ended.
    pub block_on_close: bool,
    /// How long a program may take for a request, the wait for its turn included; then it is killed. Default: 5
    /// minutes. `None`: no limit. Source: none; `ForkingMixIn.timeout`, of 300 seconds, is that of `handle_request`.
    pub child_timeout: Option<Duration>,

    /// Time without a byte received or sent. Default: 10 minutes. `None`: no limit. This and the next two hold for
    /// requests that the reactor serves; one on a thread has [`timeout`](crate::BlockingHandler::timeout), a program
    /// [`child_timeout`](Self::child_timeout).
    pub idle_timeout: Option<Duration>,
    /// Time for which the handler leaves input unread: from the first byte of a message until the handler consumed it,
    /// however many bytes trickle in meanwhile. A message of which a handler has consumed all that came is not watched; set
    /// a [timer](crate::Request::set_timer) for that, as the guide does. It stands still while reading is paused, by the handler or by unsent output. Default: 60 s. `None`: no limit.
    pub read_timeout: Option<Duration>,
    /// Time during which the peer takes nothing of the unsent output. Default: 60 s. `None`: no limit.
    pub write_timeout: Option<Duration>,
    /// Time for an outbound connection to be established. Default: 10 s. `None`: the kernel's.
    pub connect_timeout: Option<Duration>,
    /// Whether what the peer still sends is read and discarded when we close first, so that the last reply is not destroyed
    /// by the RST that close(2) sends when input is unread. Default: [`Linger::WhenNeeded`]. Source: nginx's
    /// `lingering_close`; none in Python.
    pub linger: Linger,
    /// How long that lasts at most, from our FIN on. Default: 2 s. Zero: as [`Linger::Never`].
    pub linger_timeout: Duration,
    /// The most bytes discarded that way. Default: 1 MiB. Zero: as [`Linger::Never`].
    pub linger_bytes_max: usize,

    /// Connections accepted from one listener per turn. Of this and the following budgets, 0 counts as 1. Default: 32;
    /// small enough that a flood of connections leaves the others their turn, large enough that the cost of waiting is
    /// shared.
    pub accepts_per_turn: usize,
    /// Bytes read from one connection per turn. Default: 256 KiB, one full read of the shared buffer.
    pub read_bytes_per_turn: usize,
    /// Bytes sent to one connection per turn, from what waits or directly by its callbacks. It can be overshot by one
    /// write of a callback. Default: 256 KiB.
    pub write_bytes_per_turn: usize,
    /// Callbacks for one connection per turn. Default: 16; what is left waits for the next turn.
    pub callbacks_per_turn: usize,
    /// Datagrams received from one socket per turn. Default: 256. It can be overshot by one system call.
    pub datagrams_per_turn: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Limits {
            connections_max: None,
            connections_per_client_max: None,
            input_bytes_max: 2 * 1024 * 1024,
            line_bytes_max: 64 * 1024,
            frame_bytes_max: 1024 * 1024,
            max_packet_size: 8_192,
            sessions_max: None,
            datagram_queue_bytes_max: 1024 * 1024,
            datagram_queue_overflow: DropPolicy::Oldest,
            output_high_water: 64 * 1024,
            output_low_water: 16 * 1024,
            output_bytes_max: 16 * 1024 * 1024,
            output_overflow: Overflow::Close,
            max_threads: 64,
            max_children: 40,
            thread_queue_max: 1_024,
            daemon_threads: false,
            block_on_close: true,
            child_timeout: Some(Duration::from_secs(300)),
            idle_timeout: Some(Duration::from_secs(600)),
            read_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(60)),
            connect_timeout: Some(Duration::from_secs(10)),
            linger: Linger::WhenNeeded,
            linger_timeout: Duration::from_secs(2),
            linger_bytes_max: 1024 * 1024,
            accepts_per_turn: 32,
            read_bytes_per_turn: 256 * 1024,
            write_bytes_per_turn: 256 * 1024,
            callbacks_per_turn: 16,
            datagrams_per_turn: 256,
        }
    }
}

/// When a connection lingers: [`Limits::linger`].
///
/// A connection that lingers costs four system calls more and its descriptor for up to
/// [`linger_timeout`](Limits::linger_timeout), unless the peer closes as well.
///
/// ```
/// let mut limits = socketserver::Limits::default();
/// limits.linger = socketserver::Linger::Always;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Linger {
    /// Whenever we close first. For protocols whose clients may go on sending after the reply, and still have to get it: an
    /// upload that is refused when its beginning was read, for example.
    Always,
    /// If input is unread, or the last read was not short so that more may wait. Otherwise a single close(2) ends the
    /// connection. What a peer sends after that is answered with RST, and on some systems the peer then loses what it has
    /// not read yet.
    WhenNeeded,
    /// Never: close(2) at once, even over unread input.
    Never,
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
    /// The consumer is too slow: its connection is aborted with [`EndReason::OutputLimit`](crate::EndReason).
    Close,
    /// The write fails with [`Error::OutputLimit`](crate::Error), nothing of it is queued, the connection lives.
    Refuse,
}

/// Which datagram goes when too many wait: [`Limits::datagram_queue_overflow`].
///
/// ```
/// let mut limits = socketserver::Limits::default();
/// limits.datagram_queue_overflow = socketserver::DropPolicy::Newest;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropPolicy {
    /// Those that have waited longest, as many as it takes: news matter more.
    Oldest,
    /// The one that was to be added: what was promised first is kept.
    Newest,
}

/// What concerns a reactor as a whole.
///
/// ```
/// use std::time::Duration;
/// use socketserver::{ReactorConfig, Reactor};
///
/// let mut config = ReactorConfig::default();
/// config.slow_callback = Some(Duration::from_millis(100));
/// let reactor = Reactor::with_config(config)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ReactorConfig {
    /// Size of the one buffer that every connection is read into, in bytes. Default: 256 KiB (measured in
    /// `docs/decisions.md`). At most 1 GiB.
    pub read_buffer_bytes: usize,
    /// The time that all ready connections share in one turn: an equal part for each, at least 50 µs. When it is over,
    /// [`read_line`](crate::Input::read_line) and its siblings return `None` although more may be there,
    /// [`is_full`](crate::Output::is_full) returns true, and the connection goes on in the next turn, behind those that
    /// became ready meanwhile. How much is read at once is chosen so that a handler that takes all of it is done in that
    /// time. A callback cannot be interrupted between these calls, and has one message in any case. Messages from other
    /// threads, limits that passed, and timers have a quarter of it each besides. Default: 4 ms.
    pub turn_length: Duration,
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
    /// A connection counts as quiet when nothing was received or sent for this long, its handler has seen all that arrived
    /// and nothing is unsent; half a message that the handler left unread may be there. When the
    /// server stops, its handler is told then; on a thread its input is at its end. One that has been quiet for longer is
    /// told at once. So it has to be longer than the round trip to a client, plus the time in which that makes its next
    /// request of the last answer: otherwise that request is lost. And it is the time that a stop waits for a client that
    /// has just been answered or has just connected, and says nothing. Default: 500 ms, for round trips of 300 ms and more.
    pub drain_quiet: Duration,
    /// A callback that takes longer is counted and logged as a warning. Default: `None`, callbacks are not timed.
    pub slow_callback: Option<Duration>,
}

impl Default for ReactorConfig {
    fn default() -> Self {
        ReactorConfig {
            read_buffer_bytes: 256 * 1024,
            turn_length: Duration::from_millis(4),
            messages_per_turn: 256,
            messages_max: 65_536,
            offload_threads: 4,
            offload_queue_max: 1_024,
            drain_grace: Duration::from_secs(10),
            drain_quiet: Duration::from_millis(500),
            slow_callback: None,
        }
    }
}

impl ReactorConfig {
    /// # Errors
    /// [`Error::Setting`] for what cannot be had.
    pub(crate) fn check(&self) -> Result<()> {
        match self.read_buffer_bytes {
            bytes if bytes > READ_BUFFER_BYTES_MAX => {
                Err(Error::setting("read_buffer_bytes", bytes, "it must be 1,073,741,824 (1 GiB) at most"))
            }
            _ => Ok(()),
        }
    }
}

/// Of a length-prefixed frame: a length of 64 bits takes so many in groups of 7.
pub(crate) const PREFIX_BYTES_MAX: usize = 10;
/// More than read(2) takes in one call is of no use, and a buffer may be no longer than half of the address space.
pub(crate) const READ_BUFFER_BYTES_MAX: usize = 1 << 30;

/// How many connections this process may have by default: its descriptors less a reserve for everything else. `None` if
/// that cannot be known.
pub(crate) fn connections_from_descriptors() -> Option<usize> {
    descriptor_limit().map(|limit| limit.saturating_sub((limit / 16).clamp(16, 256)).max(1))
}

/// The soft limit of RLIMIT_NOFILE: getrlimit(2).
#[cfg(all(unix, feature = "descriptor-limit"))]
fn descriptor_limit() -> Option<usize> {
    use nix::sys::resource::{Resource, getrlimit};
    let (soft, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    Some(usize::try_from(soft).unwrap_or(usize::MAX))
}

/// The same without an unsafe call: proc(5), on Linux only.
#[cfg(not(all(unix, feature = "descriptor-limit")))]
fn descriptor_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use super::*;

    #[test]
    fn the_descriptor_limit_is_read_and_a_reserve_kept() {
        let limit = descriptor_limit().expect("proc(5) names it");
        let connections = connections_from_descriptors().expect("the same");
        assert!(connections < limit);
        assert!(connections >= limit.saturating_sub(256));
    }
}
