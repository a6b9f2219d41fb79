//! The state of a reactor's stop, and each step from one stage to the next.

use crate::reactor::entries::{Alarm, LOOK};
use crate::timers::{NO_TIMER, TimerKey, Timers};

/// The state of a reactor's stop. A request to stop stays in the mailbox until the stop is reported.
#[derive(Debug)]
pub(crate) enum Stop {
    /// The reactor serves.
    No,
    /// A stop was requested, and its drain begins with this timer. Until then the reactor serves as before.
    Delayed { begun: u64, start: TimerKey },
    /// Connections end when they are quiet. The timers check for quiet threads, drain busy connections, and end the
    /// wait.
    Draining { begun: u64, look: TimerKey, tell: TimerKey, end: TimerKey },
    /// Every connection is ended.
    Aborting { begun: u64 },
    /// The stop is carried out, but `serve_forever` or `poll` has not yet returned because of it. It may have been
    /// carried out while a server was closed.
    Stopped,
    /// `serve_forever` or `poll` has returned. If the stop was `hurried`, no thread or program is waited for any more.
    Reported { hurried: bool },
    /// The reactor is dropped, or its server moves to another. It takes no new work and begins no stop, and its servers
    /// are closed. `begun` belongs to the stop that was running, `hurried` to the one that was `reported`.
    GivenUp { begun: Option<u64>, reported: bool, hurried: bool },
}

/// What a drain waits for besides its own connections: a reactor of [`Workers`](crate::Workers). A worker begins with
/// `Clients`, as the control reactor does. When the acceptors have handed out all clients, the control thread sets `Others`,
/// and the worker itself `OthersOnly`. When all workers are as far, `Nothing` ends the wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Hold {
    Nothing,
    /// More connections will come from elsewhere.
    Clients,
    /// Other workers drain. If a server [serves while others drain](crate::Limits::serve_while_draining), it serves until
    /// they have drained.
    Others,
    /// Like `Others`, and everything else has drained here.
    OthersOnly,
}

impl Stop {
    /// Returns whether a stop is running. New connections are then asked to end like the others.
    #[inline]
    pub(crate) fn is_under_way(&self) -> bool {
        matches!(self, Stop::Draining { .. } | Stop::Aborting { .. })
    }

    pub(crate) fn is_delayed(&self) -> bool {
        matches!(self, Stop::Delayed { .. })
    }

    pub(crate) fn is_draining(&self) -> bool {
        matches!(self, Stop::Draining { .. })
    }

    pub(crate) fn is_aborting(&self) -> bool {
        matches!(self, Stop::Aborting { .. })
    }

    /// Returns whether the stop is carried out, reported or not.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Stop::Stopped | Stop::Reported { .. })
    }

    pub(crate) fn is_given_up(&self) -> bool {
        matches!(self, Stop::GivenUp { .. })
    }

    /// When the grace of threads and programs began, if a stop has started it.
    pub(crate) fn begun(&self) -> Option<u64> {
        match *self {
            Stop::Draining { begun, .. } | Stop::Aborting { begun } => Some(begun),
            Stop::GivenUp { begun, .. } => begun,
            Stop::No | Stop::Delayed { .. } | Stop::Stopped | Stop::Reported { .. } => None,
        }
    }

    /// Returns whether closing servers no longer wait for threads and programs. After a stop, another request refers to
    /// this wait.
    pub(crate) fn is_hurried(&self, drain_requested: bool, now_requested: bool) -> bool {
        let (reported, hurried) = match *self {
            Stop::Reported { hurried } => (true, hurried),
            Stop::GivenUp { reported, hurried, .. } => (reported, hurried),
            _ => (false, false),
        };
        hurried || now_requested || (reported && drain_requested)
    }

    // The steps.

    pub(crate) fn delay(&mut self, now: u64, delay: u64, timers: &mut Timers<Alarm>) {
        debug_assert!(matches!(self, Stop::No));
        *self = Stop::Delayed { begun: now, start: timers.arm(now.saturating_add(delay), Alarm::DrainStart) };
    }

    pub(crate) fn drain(&mut self, now: u64, grace: u64, timers: &mut Timers<Alarm>) {
        debug_assert!(matches!(self, Stop::No | Stop::Delayed { .. }));
        let (tell, end) = (timers.arm(now, Alarm::DrainTell), timers.arm(now, Alarm::DrainEnd));
        self.go_on(Stop::Draining { begun: now, look: NO_TIMER, tell, end }, timers);
        self.rearm(0, grace, timers);
    }

    /// Moves the timers that have not fired to the times of the current settings.
    pub(crate) fn rearm(&mut self, delay: u64, grace: u64, timers: &mut Timers<Alarm>) {
        let (begun, times) = match *self {
            Stop::Delayed { begun, start } => (begun, [(start, delay), (NO_TIMER, 0)]),
            Stop::Draining { begun, tell, end, .. } => (begun, [(tell, grace / 2), (end, grace)]),
            _ => return,
        };
        for (timer, after) in times.into_iter().filter(|&(timer, _)| timer != NO_TIMER) {
            timers.rearm(timer, begun.saturating_add(after));
        }
    }

    /// Some threads were busy at the last check, or one has begun since.
    pub(crate) fn look_again(&mut self, now: u64, timers: &mut Timers<Alarm>) {
        if let Stop::Draining { look, .. } = self
            && *look == NO_TIMER
        {
            *look = timers.arm(now.saturating_add(LOOK), Alarm::DrainLook);
        }
    }

    /// The timer for this alarm, or none.
    pub(crate) fn timer(&mut self, alarm: Alarm) -> Option<&mut TimerKey> {
        match (self, alarm) {
            (Stop::Delayed { start, .. }, Alarm::DrainStart) => Some(start),
            (Stop::Draining { look, .. }, Alarm::DrainLook) => Some(look),
            (Stop::Draining { tell, .. }, Alarm::DrainTell) => Some(tell),
            (Stop::Draining { end, .. }, Alarm::DrainEnd) => Some(end),
            _ => None,
        }
    }

    /// The grace is over, or the stop is cut short.
    pub(crate) fn abort(&mut self, timers: &mut Timers<Alarm>) {
        let Stop::Draining { begun, .. } = *self else { unreachable!("only what drains is cut short") };
        self.go_on(Stop::Aborting { begun }, timers);
    }

    pub(crate) fn carry_out(&mut self, timers: &mut Timers<Alarm>) {
        debug_assert!(self.is_under_way());
        self.go_on(Stop::Stopped, timers);
    }

    /// Returns whether the stop is carried out. If so, it counts as reported now.
    pub(crate) fn report(&mut self, now_requested: bool) -> bool {
        if let Stop::Stopped = self {
            *self = Stop::Reported { hurried: now_requested };
        }
        self.is_over()
    }

    /// The reactor starts to serve. Returns whether a stop came before.
    pub(crate) fn serve_again(&mut self) -> bool {
        let again = matches!(self, Stop::Reported { .. });
        if again {
            *self = Stop::No;
        }
        again
    }

    /// `moves`: a server takes its reactor's requests to stop with it, so they do not concern this reactor.
    pub(crate) fn give_up(&mut self, moves: bool, timers: &mut Timers<Alarm>) {
        let (reported, hurried) = match *self {
            Stop::Reported { hurried } => (!moves, hurried),
            Stop::GivenUp { .. } => return, // Its server has moved, and now it is dropped.
            _ => (false, false),
        };
        let begun = self.begun();
        self.go_on(Stop::GivenUp { begun, reported, hurried }, timers);
    }

    /// Cancels the timers of the previous stage.
    fn go_on(&mut self, next: Stop, timers: &mut Timers<Alarm>) {
        let before = match std::mem::replace(self, next) {
            Stop::Delayed { start, .. } => [start, NO_TIMER, NO_TIMER],
            Stop::Draining { look, tell, end, .. } => [look, tell, end],
            _ => return,
        };
        before.into_iter().filter(|&timer| timer != NO_TIMER).for_each(|timer| _ = timers.cancel(timer));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: u64 = 1_000_000_000;

    fn draining() -> (Stop, Timers<Alarm>) {
        let (mut stop, mut timers) = (Stop::No, Timers::new());
        stop.drain(7, GRACE, &mut timers);
        stop.look_again(7, &mut timers);
        assert_eq!(timers.iter().count(), 3);
        (stop, timers)
    }

    #[test]
    fn no_timer_of_a_stop_outlasts_it() {
        let ends: [fn(&mut Stop, &mut Timers<Alarm>); 3] =
            [Stop::abort, Stop::carry_out, |it, timers| it.give_up(true, timers)];
        for end in ends {
            let (mut stop, mut timers) = draining();
            end(&mut stop, &mut timers);
            assert_eq!(timers.iter().count(), 0, "{stop:?}");
        }
    }

    #[test]
    fn a_delay_is_part_of_no_grace_and_ends_with_its_timer() {
        let ends: [fn(&mut Stop, &mut Timers<Alarm>); 2] =
            [|it, timers| it.drain(9, GRACE, timers), |it, timers| it.give_up(true, timers)];
        for end in ends {
            let (mut stop, mut timers) = (Stop::No, Timers::new());
            stop.delay(7, 5, &mut timers);
            stop.rearm(6, GRACE, &mut timers);
            assert_eq!((timers.next(), stop.begun(), stop.is_under_way()), (Some(7 + 6), None, false));
            end(&mut stop, &mut timers);
            assert!(timers.next().is_none_or(|next| next == 9 + GRACE / 2), "{stop:?}");
        }
    }

    #[test]
    fn a_changed_grace_counts_from_the_beginning_and_arms_nothing_that_has_fired() {
        let (mut stop, mut timers) = draining();
        let tell =
            timers.pop(7 + GRACE / 2).and_then(|_look| timers.pop(7 + GRACE / 2)).expect("half of the grace is over");
        *stop.timer(tell).expect("it is this one's") = NO_TIMER;
        stop.rearm(0, 2 * GRACE, &mut timers);
        assert_eq!((timers.iter().count(), timers.next()), (1, Some(7 + 2 * GRACE)));
    }

    #[test]
    fn a_reactor_that_is_given_up_keeps_the_grace_that_has_begun() {
        for aborts in [false, true] {
            let (mut stop, mut timers) = draining();
            if aborts {
                stop.abort(&mut timers);
            }
            stop.give_up(false, &mut timers);
            assert_eq!(stop.begun(), Some(7));
            assert!(!stop.is_hurried(true, false), "it is the request of the stop that was under way");
        }
    }

    #[test]
    fn a_request_after_a_stop_means_the_wait_unless_the_server_moves() {
        for (hurried, moves) in [(false, false), (false, true), (true, false), (true, true)] {
            let (mut stop, mut timers) = draining();
            stop.carry_out(&mut timers);
            assert!(!stop.is_hurried(true, false), "not reported");
            assert!(!stop.serve_again());
            assert!(stop.report(hurried));
            assert_eq!(stop.is_hurried(false, false), hurried);
            assert!(stop.is_hurried(true, false));
            stop.give_up(moves, &mut timers);
            assert_eq!(stop.is_hurried(false, false), hurried);
            assert_eq!(stop.is_hurried(true, false), hurried || !moves);
            assert!(!stop.serve_again());
        }
    }
}
