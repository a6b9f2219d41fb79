//! The counters of several reactors together.

use std::iter::Sum;
use std::ops::{Add, AddAssign};

use super::Stats;

macro_rules! add {
    ($this:ident, $other:ident; sum: $($sum:ident,)*; max: $($max:ident,)*) => {
        // Without `..`, so that the compiler finds a counter that is missing here.
        let Stats { $($sum,)* $($max,)* } = $other;
        $($this.$sum += $sum;)*
        $($this.$max = $this.$max.max($max);)*
    };
}

/// The counters of several reactors together: their sum, and of each maximum the largest. So `active_max` is that of one
/// reactor, because the sum of all was not reached at one time.
///
/// ```
/// # use socketserver::{NoHandler, Reactor, TcpServer};
/// use socketserver::Stats;
///
/// let reactors = [Reactor::new()?, Reactor::new()?];
/// let all: Stats = reactors.iter().map(Reactor::stats).sum();
/// assert_eq!(all.accepted, 0);
/// # Ok::<(), socketserver::Error>(())
/// ```
impl AddAssign for Stats {
    fn add_assign(&mut self, other: Stats) {
        add!(self, other;
            sum:
            accepted, refused, proxy_headers_failed, connects, connects_failed, handshakes, handshakes_completed,
            handshakes_resumed, handshakes_failed, handshakes_timed_out, handshakes_abandoned, tls_truncated,
            tls_failed, active, threads_busy, children_busy, requests_waiting, offload_busy, offload_waiting, closed,
            bytes_in, bytes_out, resets, resets_idle, handler_errors, panics, input_limits, output_limits,
            buffer_limits, timeouts_idle, timeouts_read, timeouts_write, timeouts_message, accept_errors, accept_pauses,
            datagrams_in, datagrams_out, datagrams_truncated, datagrams_reflected, sessions_refused, datagrams_dropped,
            datagrams_failed, receive_errors, restarts_failed, stale_events, messages_dropped, turns, turns_took, slow_callbacks,
            ;
            max: active_max, longest_turn, longest_callback,
        );
    }
}

impl Add for Stats {
    type Output = Stats;

    fn add(mut self, other: Stats) -> Stats {
        self += other;
        self
    }
}

impl Sum for Stats {
    fn sum<I: Iterator<Item = Stats>>(all: I) -> Stats {
        all.fold(Stats::default(), Add::add)
    }
}

impl Stats {
    /// The counters of a reactor that is gone: its connections and handshakes have ended, and nothing is the case now.
    pub(crate) fn of_the_past(mut self) -> Stats {
        self.closed += self.active;
        self.handshakes_abandoned += self.handshakes_in_progress();
        let now = [
            &mut self.active,
            &mut self.threads_busy,
            &mut self.children_busy,
            &mut self.requests_waiting,
            &mut self.offload_busy,
            &mut self.offload_waiting,
        ];
        now.into_iter().for_each(|count| *count = 0);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_added_and_the_larger_maximum_stays() {
        let first = Stats { accepted: 3, active: 2, active_max: 5, ..Stats::default() };
        let second = Stats { accepted: 4, active: 1, active_max: 4, ..Stats::default() };
        let expected = Stats { accepted: 7, active: 3, active_max: 5, ..Stats::default() };
        assert_eq!(first.clone() + second.clone(), expected);
        assert_eq!([first, second].into_iter().sum::<Stats>(), expected);
        assert_eq!(expected.of_the_past(), Stats { accepted: 7, active_max: 5, closed: 3, ..Stats::default() });
    }

    #[test]
    fn connections_and_handshakes_of_a_reactor_that_is_gone_have_ended() {
        let stats = Stats { active: 2, closed: 5, handshakes: 4, handshakes_completed: 3, ..Stats::default() };
        let past = stats.of_the_past();
        assert_eq!((past.active, past.closed, past.handshakes_in_progress()), (0, 7, 0));
        assert_eq!((past.handshakes_completed, past.handshakes_abandoned), (3, 1));
    }
}
