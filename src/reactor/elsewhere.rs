//! Requests that a thread or a program serves. The reactor keeps a slot for each, so that they count, have an id, and
//! can be ended. The thread reports when a request is over.

use super::core::{CodeElsewhere, Core};
use super::entries::{Alarm, Elsewhere, Ended, Stopper};
use super::served::Asked;
use super::slots::{Contents, Slots};
use crate::address::Address;
use crate::error::Result;
use crate::ids::ConnectionId;
use crate::lifecycle::EndReason;
use crate::threads::Pool;
use crate::timers::{NO_TIMER, nanos};

/// Where a request is served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    Threads,
    #[cfg(all(unix, feature = "children"))]
    Programs,
}

impl Core {
    /// Lets a thread of its server serve a request of this client. `serve` is given the id of the request, and must not
    /// panic.
    ///
    /// # Errors
    /// [`Error::Full`](crate::Error::Full) if too many requests wait already; [`Error::Reactor`](crate::Error::Reactor)
    /// if no thread can be started. `serve` is dropped then.
    pub(crate) fn serve_elsewhere(
        &mut self,
        server: u16,
        place: Place,
        (address, is_datagram): (Address, bool),
        stop: Box<dyn Stopper>,
        serve: impl FnOnce(ConnectionId) -> Result<()> + Send + 'static,
    ) -> Result<()> {
        let way_back = self.handle();
        let served = &mut self.served[usize::from(server)];
        let limits = &served.limits;
        let queue_max = limits.thread_queue_max;
        let (pool, setting, threads_max, begun) = match place {
            Place::Threads => (&mut served.threads, "max_threads", limits.max_threads, None),
            #[cfg(all(unix, feature = "children"))]
            Place::Programs => (&mut served.children, "max_children", limits.max_children, Some(self.now)),
        };
        let pool = pool.get_or_insert_with(|| Pool::new("request", setting, threads_max, queue_max));

        let elsewhere = Elsewhere {
            address,
            is_datagram,
            late: served.asked != Asked::Nothing,
            stop,
            is_told: false,
            begun,
            timer: NO_TIMER,
            ended: None,
        };
        self.elsewhere = Some(&CodeElsewhere {
            all: Slots::all_elsewhere,
            end_all: Core::end_each_elsewhere,
            drain: Core::drain_each_elsewhere,
            awaits_earlier: Core::awaits_any_earlier,
        });
        let client = elsewhere.counted_client().cloned();
        let key = self.slots.insert(server, Contents::Elsewhere(Box::new(elsewhere)));
        let id = self.slots.id(key);
        if let Err(error) = pool.submit(Box::new(move || way_back.over(id, serve(id)))) {
            self.slots.remove(key);
            return Err(error);
        }
        served.elsewhere += 1;
        self.count_in(server, client.as_ref(), false);
        self.watch_child(server, key);
        Ok(())
    }

    /// Sets the timer of a program, or moves it if the limit has changed. A timer that has fired is not set again.
    fn watch_child(&mut self, server: u16, key: u32) {
        let time = self.served[usize::from(server)].limits.child_timeout;
        let Some(elsewhere) = self.slots.elsewhere(key) else { return };
        let Some(begun) = elsewhere.begun.filter(|_| elsewhere.ended.is_none()) else { return };
        let deadline = time.map(|time| begun.saturating_add(nanos(time)));
        match (deadline, elsewhere.timer) {
            (Some(deadline), NO_TIMER) => elsewhere.timer = self.timers.arm(deadline, Alarm::Child(key)),
            (Some(deadline), timer) => self.timers.rearm(timer, deadline),
            (None, NO_TIMER) => {}
            (None, timer) => {
                elsewhere.timer = NO_TIMER;
                self.timers.cancel(timer);
            }
        }
    }

    /// The limits of a server have changed. Applies them to its threads and programs.
    pub(crate) fn refit_elsewhere(&mut self, server: u16) {
        let served = &mut self.served[usize::from(server)];
        let queue_max = served.limits.thread_queue_max;
        if let Some(pool) = &mut served.threads {
            pool.resize(served.limits.max_threads, queue_max);
        }
        #[cfg(all(unix, feature = "children"))]
        if let Some(pool) = &mut served.children {
            pool.resize(served.limits.max_children, queue_max);
        }
        for id in self.slots.all_elsewhere(Some(server)) {
            self.watch_child(server, id.slot.key);
        }
    }

    /// A program has exceeded its time limit.
    pub(crate) fn child_timed_out(&mut self, key: u32) {
        let Some(slot) = self.slots.get(key) else { return };
        let time = self.served[usize::from(slot.server)].limits.child_timeout;
        if let Some((elsewhere, time)) = slot.elsewhere().zip(time) {
            elsewhere.timer = NO_TIMER;
            elsewhere.ended.get_or_insert(EndReason::ChildTimeout);
            elsewhere.stop.end(Ended::TimedOut(time));
        }
    }

    /// Ends a request that is served elsewhere, if the id names one. It is over when its thread reports that.
    pub(crate) fn end_elsewhere(&mut self, id: ConnectionId, why: EndReason) {
        if let Some(elsewhere) = self.slots.named(id).and_then(|slot| slot.elsewhere()) {
            elsewhere.ended.get_or_insert(why);
            elsewhere.stop.end(Ended::Closed);
        }
    }

    /// Ends all requests that are served elsewhere, or all of one server.
    pub(crate) fn end_all_elsewhere(&mut self, server: Option<u16>) {
        self.elsewhere.into_iter().for_each(|code| (code.end_all)(self, server));
    }

    fn end_each_elsewhere(&mut self, server: Option<u16>) {
        for id in self.slots.all_elsewhere(server) {
            self.end_elsewhere(id, EndReason::StopAborted);
        }
    }

    /// The server is stopping: ends the input of requests that are served elsewhere. `quiet_only`: only of those whose
    /// thread has waited for its client for [`ReactorConfig::drain_quiet`](crate::ReactorConfig). Returns whether there
    /// are others.
    pub(crate) fn drain_elsewhere(&mut self, server: Option<u16>, quiet_only: bool) -> bool {
        self.elsewhere.is_some_and(|code| (code.drain)(self, server, quiet_only))
    }

    fn drain_each_elsewhere(&mut self, server: Option<u16>, quiet_only: bool) -> bool {
        let (now, quiet) = (self.selector.now(), nanos(self.config.drain_quiet));
        let mut others = false;
        for id in self.slots.all_elsewhere(server) {
            let Some(elsewhere) = self.slots.elsewhere(id.slot.key).filter(|elsewhere| !elsewhere.is_told) else {
                continue;
            };
            let is_quiet = elsewhere.stop.quiet_since().is_some_and(|since| now.saturating_sub(since) >= quiet);
            if is_quiet || !quiet_only {
                elsewhere.is_told = true;
                elsewhere.stop.drain();
            } else {
                others = true;
            }
        }
        others
    }

    /// Returns whether a drain, of one server or of all, waits for a request that began before it.
    pub(crate) fn awaits_earlier(&mut self, only: Option<u16>) -> bool {
        self.elsewhere.is_some_and(|code| (code.awaits_earlier)(self, only))
    }

    fn awaits_any_earlier(&mut self, only: Option<u16>) -> bool {
        let served = &self.served;
        self.slots.iter().filter(|(_, slot)| only.is_none_or(|server| slot.server == server)).any(|(_, slot)| {
            let server = usize::from(slot.server); // The slot of the signals belongs to no server.
            slot.elsewhere().is_some_and(|elsewhere| !elsewhere.late && served[server].is_awaited())
        })
    }

    /// Its slot was freed.
    pub(crate) fn forget_elsewhere(&mut self, server: u16, elsewhere: Elsewhere) {
        if elsewhere.timer != NO_TIMER {
            self.timers.cancel(elsewhere.timer);
        }
        self.served[usize::from(server)].elsewhere -= 1;
        self.count_out(server, elsewhere.counted_client(), false);
    }
}
