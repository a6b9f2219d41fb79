//! Counters. On the message path each is one addition to memory that is in the cache anyway.

use std::time::Duration;

/// What a reactor has done since it was made. A copy, taken when asked for.
///
/// ```
/// let reactor = socketserver::Reactor::new()?;
/// assert_eq!(reactor.stats().accepted, 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Connections accepted, the refused ones included.
    pub accepted: u64,
    /// Connections accepted, and datagrams received, that were then refused: by `verify_request`, by the cap per client,
    /// or because the threads or children had too many waiting.
    pub refused: u64,
    /// Outbound connections begun.
    pub connects: u64,
    /// Outbound connections that were not established.
    pub connects_failed: u64,
    /// Connections open now, in either direction, those being closed included; and sessions of datagram servers. A
    /// request on a thread or of a program counts until the reactor hears of its end. If a stop has not waited for it,
    /// that is when the reactor serves again or the server is closed.
    pub active: u64,
    /// The most that were open at once.
    pub active_max: u64,
    /// Requests that threads serve now, at most [`Limits::max_threads`](crate::Limits) for each server.
    pub threads_busy: u64,
    /// Requests that programs serve now, at most [`Limits::max_children`](crate::Limits) for each server.
    pub children_busy: u64,
    /// Requests that wait now for a thread or a program, at most
    /// [`Limits::thread_queue_max`](crate::Limits) for each server and kind.
    pub requests_waiting: u64,
    /// Offloaded jobs that are run now, at most [`ReactorConfig::offload_threads`](crate::ReactorConfig).
    pub offload_busy: u64,
    /// Offloaded jobs that wait now for a thread, at most [`ReactorConfig::offload_queue_max`](crate::ReactorConfig).
    pub offload_waiting: u64,
    /// Connections over and done.
    pub closed: u64,
    /// Bytes received.
    pub bytes_in: u64,
    /// Bytes sent.
    pub bytes_out: u64,
    /// Connections broken by the peer or the network.
    pub resets: u64,
    /// Callbacks and hooks that returned an error.
    pub handler_errors: u64,
    /// Callbacks and hooks that panicked.
    pub panics: u64,
    /// Connections ended because a line, frame or the unread input grew too long.
    pub input_limits: u64,
    /// Connections ended because too much output waited for them.
    pub output_limits: u64,
    /// Idle timeouts.
    pub timeouts_idle: u64,
    /// Read timeouts.
    pub timeouts_read: u64,
    /// Write timeouts.
    pub timeouts_write: u64,
    /// Connections ended by the deadline of a message.
    pub timeouts_message: u64,
    /// Accepts that failed because the client was gone already, or for another reason that concerns it alone.
    pub accept_errors: u64,
    /// Times that accepting, or receiving datagrams, was paused because descriptors or memory ran out.
    pub accept_pauses: u64,
    /// Datagrams received, those that were dropped included.
    pub datagrams_in: u64,
    /// Datagrams that the system took.
    pub datagrams_out: u64,
    /// Datagrams received that were longer than [`Limits::max_packet_size`](crate::Limits).
    pub datagrams_truncated: u64,
    /// Datagrams received that the same socket had sent: to a group that it is a member of, or to itself; dropped. On a
    /// wildcard address without the feature `batch`, one of a neighbour with the same port that repeats the last one word
    /// for word can be among them.
    pub datagrams_reflected: u64,
    /// Datagrams received for which there was no session left; dropped.
    pub sessions_refused: u64,
    /// Datagrams not sent because [`Limits::datagram_queue_bytes_max`](crate::Limits) was reached.
    pub datagrams_dropped: u64,
    /// Datagrams not sent because the system refused them: nobody listens there, too long, no route; or because the
    /// peer has no name to send to, or a thread answers when the socket is closed.
    pub datagrams_failed: u64,
    /// Errors of receiving, which an earlier datagram may have caused.
    pub receive_errors: u64,
    /// Events for a connection that was closed already; dropped.
    pub stale_events: u64,
    /// Messages and offload results whose connection or server was gone, and offloaded jobs that had not begun by then;
    /// dropped.
    pub messages_dropped: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// The longest turn, the wait not counted.
    pub longest_turn: Duration,
    /// Callbacks that took longer than [`ReactorConfig::slow_callback`](crate::ReactorConfig).
    pub slow_callbacks: u64,
    /// The longest callback; measured while `slow_callback` is set.
    pub longest_callback: Duration,
}
