//! Counters. Updating one on the message path costs a single addition to cached memory.

mod sum;

use std::time::Duration;

/// A snapshot of the counters of a reactor since it was created.
///
/// ```
/// let reactor = socketserver::Reactor::new()?;
/// assert_eq!(reactor.stats().accepted, 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Stats {
    /// Accepted connections, including refused ones, and those whose header of the PROXY protocol has not come yet:
    /// [`ServerInspection::headers_awaited`](crate::ServerInspection).
    pub accepted: u64,
    /// Accepted connections and received datagrams that were then refused: by `verify_request`, by the cap per client,
    /// because too many requests waited for threads or programs, or because of the header of the PROXY protocol:
    /// `proxy_headers_failed`, and connections that their peer or a stop has ended before it.
    pub refused: u64,
    /// Refused connections whose header of the PROXY protocol was wrong or late, or that did not come from a trusted
    /// proxy.
    pub proxy_headers_failed: u64,
    /// Outbound connections that were started.
    pub connects: u64,
    /// Outbound connections that could not be established.
    pub connects_failed: u64,
    /// Handshakes of TLS at either end that have begun: one for each connection that is accepted or connects under TLS, or
    /// on which a handler starts TLS. Each of them is in one of `handshakes_completed`, `handshakes_failed`,
    /// `handshakes_timed_out` and `handshakes_abandoned`, or still in progress.
    pub handshakes: u64,
    /// Handshakes that were completed.
    pub handshakes_completed: u64,
    /// Completed handshakes that continued an earlier session.
    pub handshakes_resumed: u64,
    /// Handshakes that failed.
    pub handshakes_failed: u64,
    /// Handshakes that were not complete in time.
    pub handshakes_timed_out: u64,
    /// Handshakes that ended without a failure of TLS: the client has closed the connection before its first byte, as
    /// health checks do, an outbound connection was not established, or this end has closed the connection, for example
    /// because of a stop.
    pub handshakes_abandoned: u64,
    /// Connections that ended because the peer's side ended without `close_notify`.
    pub tls_truncated: u64,
    /// Connections that ended by a failure of TLS after the handshake, or because the peer had sent input before a handler
    /// started TLS.
    pub tls_failed: u64,
    /// Connections open now, in both directions and including those that are closing, and sessions of datagram servers.
    /// A request on a thread or of a program counts until the reactor is notified of its end. If a stop has not waited
    /// for it, it counts until the reactor serves again or the server is closed.
    pub active: u64,
    /// The maximum number of connections that were open at the same time.
    pub active_max: u64,
    /// Requests that threads serve now, at most [`Limits::max_threads`](crate::Limits) for each server.
    pub threads_busy: u64,
    /// Requests that programs serve now, at most [`Limits::max_children`](crate::Limits) for each server.
    pub children_busy: u64,
    /// Requests that now wait for a thread or a program, at most [`Limits::thread_queue_max`](crate::Limits) for each
    /// server and kind.
    pub requests_waiting: u64,
    /// Offloaded jobs that run now, at most [`ReactorConfig::offload_threads`](crate::ReactorConfig).
    pub offload_busy: u64,
    /// Offloaded jobs that now wait for a thread, at most [`ReactorConfig::offload_queue_max`](crate::ReactorConfig).
    pub offload_waiting: u64,
    /// Connections that have ended.
    pub closed: u64,
    /// Bytes received by the reactor. Bytes that threads receive are not counted.
    pub bytes_in: u64,
    /// Bytes sent by the reactor. Bytes that threads send are not counted.
    pub bytes_out: u64,
    /// Connections broken by the peer or the network.
    pub resets: u64,
    /// Those of `resets` that interrupted no request: the peer has reset the connection when there was no unread input, no
    /// unsent output and no [offloaded](crate::Request::offload) job. A handler that waits for something else, for example
    /// for a message of another thread, counts as idle. Connections on threads and of programs are never idle.
    pub resets_idle: u64,
    /// Callbacks and hooks that returned an error.
    pub handler_errors: u64,
    /// Callbacks and hooks that panicked.
    pub panics: u64,
    /// Connections that ended because a line, a frame or the unread input was too long.
    pub input_limits: u64,
    /// Connections that ended because too much output was unsent.
    pub output_limits: u64,
    /// Connections that ended because all of them together held more than
    /// [`ReactorConfig::buffered_bytes_max`](crate::ReactorConfig), and they held the most.
    pub buffer_limits: u64,
    /// Idle timeouts.
    pub timeouts_idle: u64,
    /// Read timeouts.
    pub timeouts_read: u64,
    /// Write timeouts.
    pub timeouts_write: u64,
    /// Connections ended by the deadline of a message.
    pub timeouts_message: u64,
    /// Accepts that failed because the client had gone, or for another reason that affects only that client.
    pub accept_errors: u64,
    /// How often accepting, or receiving datagrams, was paused because descriptors or memory had run out.
    pub accept_pauses: u64,
    /// Received datagrams, including dropped ones.
    pub datagrams_in: u64,
    /// Datagrams that the system accepted for sending.
    pub datagrams_out: u64,
    /// Received datagrams that were longer than [`Limits::max_packet_size`](crate::Limits).
    pub datagrams_truncated: u64,
    /// Received datagrams that the same socket had sent, either to a group of which it is a member or to itself. They
    /// are dropped. On a wildcard address without the feature `batch`, this can include a datagram from another socket
    /// with the same port, if its bytes equal those of a datagram that was just sent to that socket.
    pub datagrams_reflected: u64,
    /// Received datagrams that were dropped because the maximum number of sessions was reached.
    pub sessions_refused: u64,
    /// Datagrams not sent because [`Limits::datagram_queue_bytes_max`](crate::Limits) was reached.
    pub datagrams_dropped: u64,
    /// Datagrams that were not sent because the system refused them (no receiver, too long, no route), because the peer
    /// has no name, or because a thread answered after the socket was closed.
    pub datagrams_failed: u64,
    /// Errors while receiving, which may have been caused by an earlier datagram.
    pub receive_errors: u64,
    /// [Restarts](crate::Reactor::restart) that have failed: the next version could not be started, ended or was late. Those
    /// that a stop has ended are not counted, nor are requests that were refused because of a stop or another restart.
    /// [`Inspection::failed_restart`](crate::Inspection) has the reason of the last one. Feature `restart`.
    pub restarts_failed: u64,
    /// Dropped events for connections that had already been closed.
    pub stale_events: u64,
    /// Dropped messages and offload results whose connection or server was gone, and offloaded jobs that had not begun
    /// by then.
    pub messages_dropped: u64,
    /// Turns of the loop.
    pub turns: u64,
    /// The time spent in turns, without the waits. Divided by the time that has passed, it is how busy the reactor is.
    pub turns_took: Duration,
    /// The longest turn, without the wait.
    pub longest_turn: Duration,
    /// Callbacks that took longer than [`ReactorConfig::slow_callback`](crate::ReactorConfig).
    pub slow_callbacks: u64,
    /// The longest callback, measured while `slow_callback` is set.
    pub longest_callback: Duration,
}

impl Stats {
    /// Returns how many handshakes of TLS are in progress now.
    ///
    /// ```
    /// assert_eq!(socketserver::Reactor::new()?.stats().handshakes_in_progress(), 0);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn handshakes_in_progress(&self) -> u64 {
        let over = self.handshakes_completed + self.handshakes_failed + self.handshakes_timed_out;
        self.handshakes - over - self.handshakes_abandoned
    }
}
