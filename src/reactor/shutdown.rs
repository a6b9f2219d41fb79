//! Stops in phases: accept no more clients, drain every connection, flush output, end the wait.

pub(crate) mod stop;

use self::stop::{Hold, Stop};
use super::Reactor;
use super::core::Core;
use super::served::{Asked, Life};
#[cfg(all(unix, feature = "signals"))]
use super::signals::Signals;
#[cfg(all(unix, feature = "signals"))]
use super::slots::{Contents, Slot};
use crate::error::{Error, Result};
use crate::lifecycle::EndReason;
use crate::logging::note;
use crate::timers::nanos;

impl Reactor {
    /// Starts to serve, perhaps after a pause or a stop.
    ///
    /// # Errors
    /// If it serves already and a closure calls this.
    pub(super) fn serve_again(&mut self) -> Result<()> {
        self.core.config.check()?;
        #[cfg(all(unix, feature = "restart"))]
        self.take_over()?;
        if self.turning {
            let source = std::io::Error::other("a closure that the loop runs cannot run the loop");
            return Err(Error::Reactor { doing: "serve", source });
        }
        #[cfg(unix)]
        crate::net::inherited::begin_to_serve();
        self.core.now = self.core.selector.now();
        if self.core.stop.serve_again() {
            self.close_stopped();
            for (_, served) in self.core.served.iter_mut().filter(|(_, served)| !served.is_draining()) {
                served.asked = Asked::Nothing;
            }
            if self.core.shared.drain_requested() {
                self.core.shared.wake(); // A turn since the last stop has consumed the wake-up, but not the request.
            }
        }
        #[cfg(all(unix, feature = "sd-notify"))]
        self.core.tell_ready();
        Ok(())
    }

    /// Returns whether it has stopped. If so, the stop is reported and over.
    pub(super) fn report_stop(&mut self) -> bool {
        let stopped = self.core.stop.report(self.core.shared.now_requested());
        if stopped {
            self.core.shared.clear_request();
        }
        stopped
    }

    /// Returns whether a stop was carried out and not reported.
    pub(crate) fn has_stopped(&self) -> bool {
        matches!(self.core.stop, Stop::Stopped)
    }

    /// A stop was requested: tells the servers, and begins the drain at once or after [`ReactorConfig::drain_delay`].
    ///
    /// [`ReactorConfig::drain_delay`]: crate::ReactorConfig::drain_delay
    pub(super) fn begin_stop(&mut self) {
        #[cfg(all(unix, feature = "sd-notify"))]
        self.core.tell_stopping();
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.stopping(&mut self.core);
            }
        }
        #[cfg(all(unix, feature = "restart"))]
        if let Some(restarting) = &mut self.core.restarting {
            restarting.is_given_up = true;
            restarting.successor.take_back();
        }
        #[cfg(all(unix, feature = "restart"))]
        if self.core.is_replaced {
            return self.begin_drain(); // Clients that come now are served by the successor.
        }
        let delay = self.core.config.drain_delay;
        if delay.is_zero() || !self.has_open_server() {
            return self.begin_drain();
        }
        if !self.is_control() {
            note!(Info, "stopping in {delay:?}: {} connections are served as before", self.core.stats.active);
        }
        self.core.stop.delay(self.core.now, nanos(delay), &mut self.core.timers);
    }

    /// Accepts the clients that are connected already, closes the listeners, and asks every connection to end. A server
    /// that serves while others drain goes on.
    pub(super) fn begin_drain(&mut self) {
        match self.core.stats.handshakes_in_progress() {
            _ if self.is_control() => {}
            0 => note!(Info, "stopping, connections to finish: {}", self.core.stats.active),
            count => note!(
                Info,
                "stopping, connections to finish: {}, in their TLS handshake: {count}",
                self.core.stats.active
            ),
        }
        let mut servers = self.numbers();
        servers.retain(|&server| {
            let served = &self.core.served[usize::from(server)];
            let (asked, lasts) = (served.asked, served.limits.serve_while_draining);
            // The successor is asked whether it is ready, for example.
            #[cfg(all(unix, feature = "restart"))]
            let lasts = lasts && !self.core.is_left_to_successor(server);
            asked == Asked::Nothing && !lasts
        });
        #[cfg(all(unix, feature = "restart"))]
        (self.core.is_replaced = false);
        servers.iter().for_each(|&server| self.take_in(server));
        servers.iter().for_each(|&server| self.ask_to_drain(server));
        let grace = nanos(self.core.config.drain_grace);
        self.core.stop.drain(self.core.now, grace, &mut self.core.timers);
        self.look_elsewhere();
    }

    /// Returns whether it is the control reactor of workers, which have the connections and log the stop themselves.
    fn is_control(&self) -> bool {
        self.core.hold == Hold::Clients && self.core.worker.is_none()
    }

    fn has_open_server(&self) -> bool {
        self.numbers().into_iter().any(|server| !self.core.served[usize::from(server)].is_closed())
    }

    /// Closes the listeners of a server, and asks its connections to end.
    pub(super) fn ask_to_drain(&mut self, server: u16) {
        self.core.unlisten_streams(server);
        self.core.served[usize::from(server)].asked = Asked::Drain;
        let quiet = nanos(self.core.config.drain_quiet);
        for key in self.core.slots.connections(Some(server)) {
            self.core.slots.connection(key).state.drain(self.core.now, quiet);
            self.core.queue(key);
        }
    }

    /// Ends the input of quiet requests that are served elsewhere, and checks the others again later, because no event
    /// tells when a thread begins to wait.
    pub(super) fn look_elsewhere(&mut self) {
        let mut others = false;
        for server in self.drained() {
            others |= self.core.drain_elsewhere(Some(server), true);
        }
        if others {
            self.core.stop.look_again(self.core.now, &mut self.core.timers);
        }
    }

    /// The servers that were asked to end.
    fn asked(&self) -> Vec<u16> {
        let mut servers = self.numbers();
        servers.retain(|&server| self.core.served[usize::from(server)].asked != Asked::Nothing);
        servers
    }

    /// The servers whose connections were asked to end when they are quiet.
    fn drained(&self) -> Vec<u16> {
        let mut servers = self.numbers();
        servers.retain(|&server| self.core.served[usize::from(server)].asked == Asked::Drain);
        servers
    }

    /// Serves waiting clients and datagrams at the sockets of a server. A client in the backlog is connected and may have
    /// sent its request. A received datagram is a request.
    pub(super) fn take_in(&mut self, server: u16) {
        for key in self.core.served[usize::from(server)].listeners.clone() {
            // Its event may not have come yet.
            self.core.slots.listening(key).into_iter().for_each(|listening| listening.ready = true);
            for _ in 0..BACKLOG_ROUNDS_MAX {
                let length = nanos(self.core.config.turn_length);
                self.scratch.budget.turn.begin(self.core.selector.now(), length);
                let server = &mut self.servers[usize::from(server)];
                match self.core.slots.endpoint(key).is_some() {
                    true => server.receive(&mut self.core, &mut self.scratch, key),
                    false => server.accept(&mut self.core, &mut self.scratch, key),
                }
                let paused = self.core.slots.pause(key).is_none_or(|pause| pause.is_on());
                if paused || !self.core.slots.is_ready(key) {
                    break;
                }
            }
        }
    }

    pub(super) fn tell_all(&mut self) {
        self.drained().into_iter().for_each(|server| self.core.tell(server));
    }

    /// The grace is over, or the stop is cut short.
    pub(super) fn abort(&mut self) {
        self.core.note_aborted(None);
        self.core.stop.abort(&mut self.core.timers);
    }

    pub(super) fn abort_all(&mut self) {
        for server in self.numbers() {
            if self.core.served[usize::from(server)].asked == Asked::Nothing {
                self.core.unlisten_streams(server);
                self.core.served[usize::from(server)].asked = Asked::End;
            }
        }
        self.core.end_all(None, EndReason::StopAborted, true);
    }

    pub(super) fn stopped(&mut self) {
        self.core.stop.carry_out(&mut self.core.timers);
        for server in self.numbers() {
            self.core.unlisten(server);
            let served = &mut self.core.served[usize::from(server)];
            if let Life::Open { stopped } = &mut served.life {
                *stopped = true;
            }
        }
        self.free_dead();
    }

    /// Returns whether a stop has nothing left to wait for.
    pub(super) fn is_over(&mut self) -> bool {
        if !self.core.stop.is_draining() {
            return self.core.left(None).0 == 0;
        }
        if self.core.hold == Hold::Clients {
            return false;
        }
        if !self.has_drained(None) {
            self.core.cut_last();
            return false;
        }
        if self.core.hold != Hold::Nothing && self.core.served.iter().any(|(_, it)| it.asked == Asked::Nothing) {
            self.core.hold = Hold::OthersOnly;
            // Nothing is received at them any more: the datagrams of further clients go to the other workers.
            self.asked().into_iter().for_each(|server| self.core.unlisten(server));
            self.free_dead();
            return false;
        }
        !self.end_last()
    }

    /// Returns whether nothing is left of a drain, of one server or of all that were asked. Until then datagrams are
    /// served as before. Datagrams that come during the drain do not prolong it, or it might never end. When everything
    /// else is over, the sockets are read once more, and the drain waits only for what has begun by then.
    pub(super) fn has_drained(&mut self, only: Option<u16>) -> bool {
        let (here, awaited) = self.core.left(only);
        // Commands that other threads submitted before this turn, and that are still waiting, come first.
        if here > 0 || !self.taken.is_empty() || self.core.awaits_earlier(only) || self.core.is_sending(only) {
            return false;
        }
        let (servers, mut receives) = (only.map_or_else(|| self.asked(), |server| vec![server]), false);
        for &server in &servers {
            self.core.each_endpoint(Some(server), |endpoint| {
                receives |= !endpoint.receives_no_more;
                endpoint.ready = true;
            });
        }
        if receives {
            servers.iter().for_each(|&server| self.take_in(server));
            self.free_dead(); // A server that was added during the stop may have a client.
            for &server in &servers {
                self.core.each_endpoint(Some(server), |endpoint| endpoint.receives_no_more = true);
            }
            return self.has_drained(only);
        }
        awaited == 0
    }

    /// All others have drained: ends the servers that have served until now. Returns whether that takes another turn.
    fn end_last(&mut self) -> bool {
        for server in self.numbers() {
            if self.core.served[usize::from(server)].asked == Asked::Nothing {
                self.core.unlisten_streams(server);
                self.core.served[usize::from(server)].asked = Asked::End;
                self.core.end_all(Some(server), EndReason::Stopped, false);
            }
        }
        self.core.left(None).0 > 0
    }
}

impl Core {
    /// Asks the connections of a draining server to end although they are busy.
    pub(super) fn tell(&mut self, server: u16) {
        self.drain_elsewhere(Some(server), false);
        for key in self.slots.connections(Some(server)) {
            self.slots.connection(key).state.phase.drain_now();
            self.queue(key);
        }
    }

    /// Ends everything, of one server or of all.
    fn end_all(&mut self, server: Option<u16>, why: EndReason, at_once: bool) {
        #[cfg(all(unix, feature = "proxy-protocol"))]
        self.end_headings(server);
        self.end_all_elsewhere(server);
        for key in self.slots.connections(server) {
            self.slots.connection(key).state.end(why, at_once);
            self.queue(key);
        }
    }

    /// Resets what is left of the servers that were ended last, because it must not hold up the stop.
    fn cut_last(&mut self) {
        for server in 0..self.served.capacity() {
            if self.served.get(server).is_some_and(|served| served.asked == Asked::End) {
                self.end_all(Some(server as u16), EndReason::StopAborted, true);
            }
        }
    }

    /// What a drain waits for, of one server or of all that were asked: the number of connections, and of requests that
    /// are served elsewhere.
    #[inline(never)]
    fn left(&self, only: Option<u16>) -> (usize, usize) {
        let of_drain = self.served.iter().filter(|&(server, served)| match only {
            Some(only) => server == usize::from(only),
            None => served.asked != Asked::Nothing,
        });
        of_drain.fold((0, 0), |(here, awaited), (_, served)| {
            let elsewhere = if served.is_awaited() { served.elsewhere } else { 0 };
            (here + served.active - served.elsewhere, awaited + elsewhere)
        })
    }
}

/// Rounds of accepting before a listener is closed: enough for any backlog, and bounded during a flood.
const BACKLOG_ROUNDS_MAX: usize = 256;

impl Reactor {
    /// Makes SIGINT and SIGTERM [shut the reactor down](crate::ShutdownHandle::shutdown), and a second one [abort its
    /// connections](crate::ShutdownHandle::shutdown_now), as long as the reactor lives. When no reactor watches them
    /// any more, the signals have their previous effect again: the default, or that of handlers which the program had
    /// before. Install your own handlers before you call this.
    ///
    /// A signal that is ignored when this is first called stays ignored, as nohup(1) and background jobs of shells
    /// expect. This is read from `/proc`, so it works on Linux only. A blocked signal stays blocked, with a warning in
    /// the log. On Windows, which has neither signal, this does nothing. Feature `signals`.
    ///
    /// Source: Python's `signal`, which also leaves an ignored SIGINT ignored.
    ///
    /// # Errors
    /// [`Error::Reactor`] if they cannot be installed.
    #[cfg(feature = "signals")]
    pub fn shutdown_on_signals(&mut self) -> Result<()> {
        #[cfg(unix)]
        self.watch_signals(&super::signals::STOPPING)?;
        Ok(())
    }

    /// Calls the hook [`reload`](crate::BaseServer::reload) of every server for each SIGHUP, as long as the reactor lives.
    /// Otherwise SIGHUP ends the process. Everything else is as for
    /// [`shutdown_on_signals`](Self::shutdown_on_signals): a SIGHUP that is ignored, because nohup(1) has started the
    /// program, stays ignored. On Windows this does nothing. Feature `signals`.
    ///
    /// Source: daemon(7).
    ///
    /// # Errors
    /// [`Error::Reactor`] if it cannot be installed.
    ///
    /// ```
    /// # use socketserver::Reactor;
    /// let mut reactor = Reactor::new()?;
    /// reactor.reload_on_signal()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[cfg(feature = "signals")]
    pub fn reload_on_signal(&mut self) -> Result<()> {
        #[cfg(unix)]
        self.watch_signals(&[super::signals::RELOADING])?;
        Ok(())
    }

    /// Watches for these signals, except for those that it watches for already: one signal must not count as two.
    #[cfg(all(unix, feature = "signals"))]
    pub(crate) fn watch_signals(&mut self, signals: &[i32]) -> Result<()> {
        self.try_to_watch_signals(signals).map_err(|source| Error::Reactor { doing: "watch for signals", source })
    }

    #[cfg(all(unix, feature = "signals"))]
    fn try_to_watch_signals(&mut self, signals: &[i32]) -> std::io::Result<()> {
        if let Some(watched) = self.core.signals() {
            return watched.add(signals);
        }
        let mut watched = Signals::new()?;
        watched.add(signals)?;
        if watched.numbers().is_empty() {
            return Ok(()); // All of them are ignored.
        }
        let key = self.core.slots.insert(0, Contents::Signals(Box::new(watched)));
        let token = self.core.slots.token(key);
        let Some(Contents::Signals(signals)) = self.core.slots.get(key).and_then(Slot::contents) else {
            unreachable!("just inserted");
        };
        self.core.selector.register_source(&mut signals.delivery, token).inspect_err(|_| {
            self.core.slots.remove(key);
        })
    }

    /// The signals for which this reactor watches.
    #[cfg(all(unix, feature = "signals"))]
    pub(crate) fn watched_signals(&mut self) -> Vec<i32> {
        self.core.signals().map(|signals| signals.numbers().to_vec()).unwrap_or_default()
    }
}

#[cfg(all(unix, feature = "signals"))]
impl Core {
    /// The first signal to stop stops gracefully, and any further one immediately.
    pub(super) fn obey(&mut self, signal: i32) {
        let (handle, stop) = (self.handle(), self.handle().shutdown_handle());
        match signal {
            #[cfg(feature = "restart")]
            super::signals::RESTARTING => handle.run_next(|reactor| reactor.restart_by_signal()),
            super::signals::RELOADING => handle.run_next(|reactor| reactor.reload()),
            #[cfg(feature = "restart")]
            _ if self.take_first_signal() => note!(Info, "told to stop; the drain goes on"),
            _ if stop.is_requested() => stop.shutdown_now(),
            _ => stop.shutdown(),
        }
    }

    /// Obeys the signals that have come.
    pub(super) fn hear_signals(&mut self) {
        let signals = self.signals().map(Signals::take).unwrap_or_default();
        signals.into_iter().for_each(|signal| self.obey(signal));
    }

    fn signals(&mut self) -> Option<&mut Signals> {
        self.slots.iter().find_map(|(_, slot)| match slot.contents() {
            Some(Contents::Signals(signals)) => Some(&mut **signals),
            _ => None,
        })
    }
}
