//! Stops in phases: accept no more clients, drain every connection, flush output, end the wait.

pub(crate) mod stop;

use self::stop::Stop;
use super::Reactor;
use super::served::Life;
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
        if self.turning {
            let source = std::io::Error::other("a closure that the loop runs cannot run the loop");
            return Err(Error::Reactor { doing: "serve", source });
        }
        self.core.now = self.core.selector.now();
        if self.core.stop.serve_again() {
            self.close_stopped();
            if self.core.shared.drain_requested() {
                self.core.shared.wake(); // A turn since the last stop has consumed the wake-up, but not the request.
            }
        }
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
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.stopping(&mut self.core);
            }
        }
        let delay = self.core.config.drain_delay;
        if delay.is_zero() {
            return self.begin_drain();
        }
        note!(Info, "stopping in {delay:?}: {} connections are served as before", self.core.stats.active);
        self.core.stop.delay(self.core.now, nanos(delay), &mut self.core.timers);
    }

    /// Accepts the clients that are connected already, closes the listeners, and asks every connection to end.
    pub(super) fn begin_drain(&mut self) {
        match self.core.stats.handshakes_in_progress() {
            0 => note!(Info, "stopping, connections to finish: {}", self.core.stats.active),
            count => note!(
                Info,
                "stopping, connections to finish: {}, in their TLS handshake: {count}",
                self.core.stats.active
            ),
        }
        self.take_in();
        for server in self.numbers() {
            self.core.unlisten_streams(server);
        }
        let quiet = nanos(self.core.config.drain_quiet);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.drain(self.core.now, quiet);
            self.core.queue(key);
        }
        let grace = nanos(self.core.config.drain_grace);
        self.core.stop.drain(self.core.now, grace, &mut self.core.timers);
        self.look_elsewhere();
    }

    /// Ends the input of quiet requests that are served elsewhere, and checks the others again later, because no event
    /// tells when a thread begins to wait.
    pub(super) fn look_elsewhere(&mut self) {
        if self.core.drain_elsewhere(None, true) {
            self.core.stop.look_again(self.core.now, &mut self.core.timers);
        }
    }

    /// Serves waiting clients and datagrams at the sockets of all servers. A client in the backlog is connected and may
    /// have sent its request. A received datagram is a request.
    fn take_in(&mut self) {
        for server in self.numbers().into_iter().map(usize::from) {
            for key in self.core.served[server].listeners.clone() {
                for _ in 0..BACKLOG_ROUNDS_MAX {
                    let length = nanos(self.core.config.turn_length);
                    self.scratch.budget.turn.begin(self.core.selector.now(), length);
                    let server = &mut self.servers[server];
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
    }

    pub(super) fn tell_all(&mut self) {
        self.core.drain_elsewhere(None, false);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.phase.drain_now();
            self.core.queue(key);
        }
    }

    pub(super) fn abort_all(&mut self) {
        #[cfg(all(unix, feature = "proxy-protocol"))]
        self.core.end_headings(None);
        self.core.end_all_elsewhere(None);
        for key in self.core.slots.connections(None) {
            self.core.slots.connection(key).state.end(EndReason::StopAborted, true);
            self.core.queue(key);
        }
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

    /// Returns whether a stop has nothing left to wait for. Until then datagrams are served as before. Datagrams that
    /// come during the stop do not prolong it, or it might never end. When everything else is over, the sockets are
    /// read once more, and the stop waits only for what has begun by then.
    pub(super) fn is_over(&mut self) -> bool {
        let (elsewhere, awaited) = self.core.elsewhere();
        let here = self.core.stats.active - elsewhere;
        if !self.core.stop.is_draining() {
            return here == 0;
        }
        // Commands that other threads submitted before this turn, and that are still waiting, come first.
        if here > 0 || !self.taken.is_empty() || self.core.awaits_earlier() || self.core.is_sending() {
            return false;
        }
        let mut receives = false;
        self.core.each_endpoint(None, |endpoint| {
            receives |= !endpoint.closing;
            endpoint.ready = true;
        });
        if receives {
            self.take_in();
            self.free_dead(); // A server that was added during the stop may have a client.
            self.core.each_endpoint(None, |endpoint| endpoint.closing = true);
            return self.is_over();
        }
        awaited == 0
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
        self.watch_signals().map_err(|source| Error::Reactor { doing: "watch for signals", source })?;
        Ok(())
    }

    #[cfg(all(unix, feature = "signals"))]
    fn watch_signals(&mut self) -> std::io::Result<()> {
        if self.watches_signals() {
            return Ok(()); // If it were watched twice, one signal would count as two.
        }
        let Some(signals) = Signals::watch()? else { return Ok(()) };
        let key = self.core.slots.insert(0, Contents::Signals(Box::new(signals)));
        let token = self.core.slots.token(key);
        let Some(Contents::Signals(signals)) = self.core.slots.get(key).and_then(Slot::contents) else {
            unreachable!("just inserted");
        };
        self.core.selector.register_source(&mut signals.delivery, token).inspect_err(|_| {
            self.core.slots.remove(key);
        })
    }

    /// Returns whether signals stop this reactor.
    #[cfg(feature = "signals")]
    pub(crate) fn watches_signals(&mut self) -> bool {
        #[cfg(unix)]
        return self.core.slots.iter().any(|(_, slot)| matches!(slot.contents(), Some(Contents::Signals(_))));
        #[cfg(not(unix))]
        false
    }
}
