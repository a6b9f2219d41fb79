//! Defines every limit, with its default and unit. Every resource in the crate is bounded.

pub(crate) mod descriptors;
pub(crate) mod resolving;

use std::time::Duration;

use crate::error::{Error, Result};

/// Limits of one server: how much data its connections may hold, and how much work the loop does for each connection in
/// one turn.
///
/// Set the fields of [`Unbound::limits`](crate::Unbound::limits) before the server starts, or call
/// [`Server::set_limits`](crate::Server::set_limits) or [`Reactor::set_limits`](crate::Reactor::set_limits) at any
/// time.
///
/// Some limits depend on each other. A field with its default value counts as unset, and follows the fields that are
/// set: each mark of the output is at most a quarter of the next larger one, and unread input has room for a line and a
/// frame. Contradictory limits are refused when they are set, as [`Error::Setting`](crate::Error::Setting). A value of
/// zero is also refused if no client could be served with it: for a time limit (`None` means no limit), for
/// `connections_per_client_max` and for `max_packet_size`. Any other zero has its literal meaning: with
/// `connections_max` or `sessions_max` of zero all clients wait, or all datagrams are dropped, until the limit is
/// raised. [`Reactor::limits`](crate::Reactor::limits) returns the values in force.
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
    /// The maximum number of open connections. When it is reached, further clients wait in the backlog; accepting
    /// resumes when the number falls to nine tenths of it. With `Some(0)` all clients wait until the limit is raised.
    /// The listener that has accepted nothing for the longest time gets free places first. Default: `None`, the soft limit of descriptors
    /// (`RLIMIT_NOFILE`) minus those that are open when the first client comes (Linux) and a reserve of one sixteenth (at
    /// least 16, at most 256), for all servers of the reactor together. The reserve is for files that handlers open, for
    /// servers that set a number of their own, and for a [restart](crate::Reactor::restart). The soft limit is read again
    /// when it is reached, so raising it takes effect. It comes from getrlimit(2) with the feature `descriptor-limit`,
    /// which `batch`, `credentials` and `children` include, and otherwise from `/proc/self/limits`. If neither is
    /// available, the limit is 10,000, and accepting pauses when descriptors run out. If programs serve some of a server's
    /// requests, this default applies in addition to an explicitly set number, because programs need descriptors to start.
    /// A datagram does not count, and neither does a session of a datagram server, for which there is
    /// [`sessions_max`](Self::sessions_max). Exceptions: a datagram that a thread or a program serves counts until it
    /// has been served, and so does an outbound datagram socket until it is closed.
    pub connections_max: Option<usize>,
    /// The maximum number of open connections from one IP address. Any further connection is accepted, closed
    /// immediately, and counted as refused. Datagrams and sessions are neither counted nor refused, because their
    /// sender's address can be forged; [`verify_request`](crate::BaseServer::verify_request) can refuse them. Default:
    /// `None`, no limit. `Some(0)` is refused, because no client could be served.
    pub connections_per_client_max: Option<usize>,

    /// Received bytes that the handler has not consumed. More bytes end the connection with
    /// [`EndReason::InputLimit`](crate::EndReason). One read may exceed the limit. Default: 2 MiB, or more if a line or
    /// a frame needs it.
    pub input_bytes_max: usize,
    /// Bytes in a line or up to any other delimiter, with the delimiter. Default: 64 KiB, as `_MAXLINE` of Python's
    /// `http.client`. At most `input_bytes_max`.
    pub line_bytes_max: usize,
    /// Bytes in the payload of a length-prefixed frame. Default: 1 MiB. At most `input_bytes_max` minus 10 bytes for a
    /// prefix.
    pub frame_bytes_max: usize,

    /// Bytes of a received datagram. A longer one is reported to
    /// [`datagram_truncated`](crate::BaseServer::datagram_truncated) and dropped by default. Default: 8,192. Source:
    /// `UDPServer.max_packet_size`, which cuts off the rest silently.
    pub max_packet_size: usize,
    /// Sessions of a datagram server: peers that have a handler of their own. A datagram from any further peer is
    /// dropped and counted. With `Some(0)`, every datagram is dropped until the limit is raised. Default: `None`, no
    /// sessions: each datagram is a request of its own, as in Python.
    pub sessions_max: Option<usize>,
    /// The maximum number of bytes in datagrams that wait because the socket accepts none or because a Unix peer does
    /// not read. About 60 bytes are added for each datagram. Default: 1 MiB for each socket.
    pub datagram_queue_bytes_max: usize,
    /// The datagram that is dropped and counted when `datagram_queue_bytes_max` is reached. Default:
    /// [`DropPolicy::Oldest`].
    pub datagram_queue_overflow: DropPolicy,

    /// Above this number of unsent bytes a connection is not read, until the peer has read some of them. Default: 64
    /// KiB, or a quarter of `output_bytes_max` if that is less, or four times `output_low_water` if that is more. At
    /// most `output_bytes_max`.
    pub output_high_water: usize,
    /// At or below this number of unsent bytes [`writable`](crate::RequestHandler::writable) is called and reading
    /// resumes. Default: a quarter of `output_high_water`, 16 KiB. At most `output_high_water`.
    pub output_low_water: usize,
    /// The maximum number of unsent bytes of a connection. Default: 16 MiB, or four times `output_high_water` if that
    /// is more.
    pub output_bytes_max: usize,
    /// What happens to a write that would exceed [`output_bytes_max`](Self::output_bytes_max). Default:
    /// [`Overflow::Close`].
    pub output_overflow: Overflow,

    /// The maximum number of requests that threads serve at the same time. Threads start when they are needed, and end
    /// after ten idle seconds. A warning is logged when the limit is reached. 0 counts as 1. Default: 64. Source: none;
    /// `ThreadingMixIn` has a thread for each request.
    pub max_threads: usize,
    /// The maximum number of requests that programs serve at the same time; 0 counts as 1. Default: 40. Source:
    /// `ForkingMixIn.max_children`.
    pub max_children: usize,
    /// Requests that may wait for a thread, and separately for a program. Any further request is closed immediately and
    /// counted as refused. Default: 1,024.
    pub thread_queue_max: usize,
    /// If true, neither a stop nor closing the server waits for threads and programs. Default: false. Source:
    /// `ThreadingMixIn.daemon_threads`.
    pub daemon_threads: bool,
    /// If true, the server is served as before while a stop drains the others: for an administrator's page that shows why
    /// the drain takes long. It does not hold up the stop. When the others have drained, with [`Workers`](crate::Workers)
    /// those of all workers, its listeners are closed, and its connections are closed if their output can be sent at once,
    /// or else reset; its threads and programs are ended and not waited for. If a successor has inherited its sockets, it
    /// drains like the others. Read when the drain begins. Default: false. Source: none.
    pub serve_while_draining: bool,
    /// If true, closing the server waits until its threads and programs are done. If a client is
    /// [quiet](ReactorConfig::drain_quiet), its thread sees the end of its input; any other thread sees it after half
    /// of [`ReactorConfig::drain_grace`]. When the grace period is over, all remaining threads and programs are ended.
    /// A handler that sleeps or computes does not notice this. If false, they are ended immediately and not waited for.
    /// Default: true. Source: `ThreadingMixIn.block_on_close`, `ForkingMixIn.block_on_close`; Python never ends them.
    pub block_on_close: bool,
    /// The time that a program has to serve a request, including the time the request waits for it to start. When the
    /// time expires, the program is killed. Default: 5 minutes. `None`: no limit. Source: none; `ForkingMixIn.timeout`
    /// (300 seconds) is the timeout of `handle_request`.
    pub child_timeout: Option<Duration>,

    /// Time without a byte received or sent. Default: 10 minutes. `None`: no limit. This limit and the next two apply
    /// to requests that the reactor serves. A request on a thread has [`timeout`](crate::BlockingHandler::timeout), and
    /// a program has [`child_timeout`](Self::child_timeout).
    pub idle_timeout: Option<Duration>,
    /// The time for which the handler may leave input unread, from the first byte of a message until the handler has
    /// consumed it, regardless of how many bytes arrive in the meantime. The timer stops while reading is paused by the
    /// handler or by unsent output. It does not watch a message whose bytes the handler has consumed so far; use
    /// [`set_message_deadline`](crate::Request::set_message_deadline) for that. Default: 60 s. `None`: no limit.
    pub read_timeout: Option<Duration>,
    /// The time for which the peer may accept none of the unsent output. Default: 60 s. `None`: no limit.
    pub write_timeout: Option<Duration>,
    /// Time until an outbound connection is established. Default: 10 s. `None`: the kernel's timeout applies.
    pub connect_timeout: Option<Duration>,
    /// Time until the handshake of TLS is complete, from the moment at which the connection was accepted or established,
    /// or at which the handler has started TLS. Bytes do not extend it. Default: 10 s. `None`: no limit. Source: none;
    /// Python's `do_handshake` waits for ever.
    pub handshake_timeout: Option<Duration>,
    /// Whether further input is read and discarded when the server closes first. Otherwise the RST that close(2) sends
    /// when input is unread could destroy the last answer. Default: [`Linger::WhenNeeded`]. Source: nginx's
    /// `lingering_close`; none in Python.
    pub linger: Linger,
    /// The maximum time of lingering, from our FIN. Default: 2 s. Zero has the same effect as [`Linger::Never`].
    pub linger_timeout: Duration,
    /// The maximum number of bytes that lingering discards. Default: 1 MiB. Zero has the same effect as
    /// [`Linger::Never`].
    pub linger_bytes_max: usize,

    /// Connections accepted from one listener per turn. For this and the following budgets, 0 counts as 1. Default: 32:
    /// small enough that other connections get their turn during a flood, and large enough that many accepts share the
    /// cost of one wait.
    pub accepts_per_turn: usize,
    /// Bytes read from one connection per turn. Default: 256 KiB, one full read of the shared buffer.
    pub read_bytes_per_turn: usize,
    /// Bytes sent to one connection per turn, from its queue or directly by its callbacks. One write of a callback may
    /// exceed it. Default: 256 KiB.
    pub write_bytes_per_turn: usize,
    /// Callbacks for one connection per turn. Default: 16. The rest waits for the next turn.
    pub callbacks_per_turn: usize,
    /// Datagrams received from one socket per turn. One system call may exceed it. Default: 256.
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
            serve_while_draining: false,
            block_on_close: true,
            child_timeout: Some(Duration::from_secs(300)),
            idle_timeout: Some(Duration::from_secs(600)),
            read_timeout: Some(Duration::from_secs(60)),
            write_timeout: Some(Duration::from_secs(60)),
            connect_timeout: Some(Duration::from_secs(10)),
            handshake_timeout: Some(Duration::from_secs(10)),
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
/// A lingering connection costs four additional system calls. It also keeps its descriptor for up to
/// [`linger_timeout`](Limits::linger_timeout), unless the peer closes too.
///
/// ```
/// let mut limits = socketserver::Limits::default();
/// limits.linger = socketserver::Linger::Always;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Linger {
    /// Whenever the server closes first. For protocols whose clients may continue to send after the answer and must
    /// still get it, for example when an upload is refused after its beginning.
    Always,
    /// If input is unread, if more may wait because the last read was not short, or if a stop has called
    /// [`drain`](crate::RequestHandler::drain) although the connection was busy. Otherwise one close(2) ends the
    /// connection. Bytes that a peer sends after that are answered with RST, and on some systems the peer then loses
    /// what it has not read yet.
    WhenNeeded,
    /// Never: calls close(2) immediately, even if input is unread.
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
    /// The write fails with [`Error::OutputLimit`](crate::Error) and queues nothing. The connection stays open.
    Refuse,
}

/// The policy for dropping datagrams when the queue is full: [`Limits::datagram_queue_overflow`].
///
/// ```
/// let mut limits = socketserver::Limits::default();
/// limits.datagram_queue_overflow = socketserver::DropPolicy::Newest;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum DropPolicy {
    /// The oldest ones, as many as necessary. For protocols in which newer data replaces older data.
    Oldest,
    /// The new one.
    Newest,
}

/// Settings of a whole reactor.
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
    /// Size of the buffer into which all connections are read, in bytes. Default: 256 KiB (measured in
    /// `docs/decisions.md`). At most 1 GiB.
    pub read_buffer_bytes: usize,
    /// The time that all ready connections share in one turn. Each gets an equal part, and at least 50 µs. When it is
    /// over, the read methods, such as [`read_line`](crate::Input::read_line), return `None` although more may be
    /// there, and [`is_full`](crate::Output::is_full) returns true. The connection continues in the next turn, behind
    /// those that became ready in between. The size of a read is chosen so that a handler that consumes all of it
    /// finishes within that time. A callback cannot be interrupted between these calls, and always gets one message.
    /// Messages from other threads, expired limits, and timers get another quarter each. Default: 4 ms.
    pub turn_length: Duration,
    /// Messages and closures from other threads handled per turn. Default: 256.
    pub messages_per_turn: usize,
    /// Messages and closures from other threads that may wait. Any further one is refused with
    /// [`Error::Full`](crate::Error). Default: 65,536.
    pub messages_max: usize,
    /// Threads that run offloaded jobs. They start when jobs need them. Default: 4.
    pub offload_threads: usize,
    /// Offloaded jobs that may wait for a thread. Any further job is refused with [`Error::Full`](crate::Error).
    /// Default: 1,024.
    pub offload_queue_max: usize,
    /// The bytes that all connections of the reactor may hold together: received ones that handlers have not consumed, and
    /// unsent ones in memory. When there are more, the connections that hold the most are aborted with
    /// [`EndReason::BufferLimit`](crate::EndReason), until an eighth of the bound is free. This is for processes whose
    /// memory is limited: when an allocation fails, the process aborts. It is checked after the callbacks of at most 32
    /// connections. So they may pass it until then, by what their own limits allow and by all that they send to others.
    /// Bytes that connections [share](crate::SharedBytes) count for each of them. Not counted: datagrams, which
    /// [`Limits::datagram_queue_bytes_max`] bounds, what threads and programs hold, the buffers of TLS, and your own.
    /// Default: `None`, no bound.
    pub buffered_bytes_max: Option<usize>,
    /// Handshakes of TLS of all connections per turn. The others wait for the next turn, so that a crowd of new clients
    /// does not delay those that are served. 0 counts as 1. Default: 16.
    pub handshakes_per_turn: usize,
    /// How long a reactor serves as before after a stop was requested: clients are accepted, and no connection is drained.
    /// [`is_stopping`](crate::Request::is_stopping) returns true in that time, and the hook
    /// [`stopping`](crate::BaseServer::stopping) was called. This is for a load balancer, which needs some time to notice
    /// that a server is not ready any more, and sends new clients until then. A second request to stop cuts it short.
    /// [`drain_grace`](Self::drain_grace) begins afterwards. Default: 0.
    pub drain_delay: Duration,
    /// How long a [restart](crate::Reactor::restart) waits for the new process to serve, before it is killed and this process
    /// continues. Default: 30 s.
    #[cfg(all(unix, feature = "restart"))]
    pub restart_timeout: Duration,
    /// How long a stopping reactor waits for its connections before it aborts them. After half of it,
    /// [`drain`](crate::RequestHandler::drain) is called for busy connections too. Default: 10 s.
    pub drain_grace: Duration,
    /// A connection is quiet if nothing was received or sent for this long, its handler has seen all input, and nothing
    /// is unsent. An incomplete message that the handler left unread does not prevent this. During a stop,
    /// [`drain`](crate::RequestHandler::drain) is called for a connection as soon as it is quiet, immediately if it is
    /// already quiet; a handler on a thread sees the end of its input. The time should be longer than a round trip to a
    /// client plus the time that the client needs between an answer and its next request. Otherwise a stop loses that
    /// request. A stop waits this long for a client that has just connected or was just answered and is silent.
    /// Default: 500 ms, for round trips of 300 ms and more.
    pub drain_quiet: Duration,
    /// A callback that takes longer is counted, and logged as a warning. Default: `None`, callbacks are not timed.
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
            buffered_bytes_max: None,
            handshakes_per_turn: 16,
            drain_delay: Duration::ZERO,
            #[cfg(all(unix, feature = "restart"))]
            restart_timeout: Duration::from_secs(30),
            drain_grace: Duration::from_secs(10),
            drain_quiet: Duration::from_millis(500),
            slow_callback: None,
        }
    }
}

/// Settings of [`Workers`](crate::Workers).
///
/// ```
/// use socketserver::{Spread, WorkersConfig};
///
/// let mut config = WorkersConfig::default();
/// config.spread = Spread::Handed;
/// config.reactor.drain_grace = std::time::Duration::from_secs(30);
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct WorkersConfig {
    /// The settings of each worker's reactor, and of the control reactor on the thread that calls `serve_forever`. That
    /// one restarts the program, within `restart_timeout`, and accepts clients for the workers until `drain_delay` has
    /// passed. It has no `drain_grace`, because it waits for the workers. [`set_config`](crate::Reactor::set_config) of a
    /// worker does not change it.
    pub reactor: ReactorConfig,
    /// How TCP connections are distributed to the workers. Default: [`Spread::Kernel`].
    pub spread: Spread,
    /// Whether a new worker replaces one that has failed. If not, the others serve its sockets, and when none is left, all
    /// sockets are closed and [`serve_forever`](crate::Workers::serve_forever) returns. Default: true.
    pub replace_failed: bool,
}

impl Default for WorkersConfig {
    fn default() -> Self {
        WorkersConfig { reactor: ReactorConfig::default(), spread: Spread::Kernel, replace_failed: true }
    }
}

/// How the connections of a TCP address are distributed to [`Workers`](crate::Workers).
///
/// ```
/// let mut config = socketserver::WorkersConfig::default();
/// config.spread = socketserver::Spread::Handed;
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Spread {
    /// By the kernel, which chooses a worker at random when a client connects. A connection costs nothing more, but the
    /// busiest of 4 workers has about 1.4 times the mean of 64 clients. A client also waits for its worker while others
    /// have nothing to do. Where the system cannot do this, they are handed.
    Kernel,
    /// By an acceptor, on the thread that has called [`serve_forever`](crate::Workers::serve_forever), which hands each
    /// connection to the worker with the fewest. All workers have the same number, as long as clients only connect. A
    /// connection costs a message to another thread.
    Handed,
}

impl ReactorConfig {
    /// # Errors
    /// [`Error::Setting`] for a value that cannot be used.
    pub(crate) fn check(&self) -> Result<()> {
        match self.read_buffer_bytes {
            bytes if bytes > READ_BUFFER_BYTES_MAX => {
                Err(Error::setting("read_buffer_bytes", bytes, "it must be 1,073,741,824 (1 GiB) at most"))
            }
            _ => Ok(()),
        }
    }
}

/// The longest prefix of a length-prefixed frame: a 64-bit varint takes 10 groups of 7 bits.
pub(crate) const PREFIX_BYTES_MAX: usize = 10;
/// A buffer larger than one read(2) can fill is useless, and a buffer may be no longer than half of the address space.
pub(crate) const READ_BUFFER_BYTES_MAX: usize = 1 << 30;
