//! Drains one server, while the others are served as before.

use super::Reactor;
use super::entries::{Alarm, LOOK};
use super::served::{Asked, Life};
use crate::ids::ServerId;
use crate::logging::note;
use crate::timers::{NO_TIMER, nanos};

impl Reactor {
    /// Drains one server as a stop drains all of them, and then closes it: clients in the backlog are accepted, and its
    /// listeners are closed. Each connection ends when it is quiet, or after half of
    /// [`ReactorConfig::drain_grace`](crate::ReactorConfig). When all of them have ended, or the grace is over, the
    /// server is [closed](Self::server_close), and its id is no longer valid. The other servers are served as before.
    /// The call returns immediately, and later turns do the rest. From now on
    /// [`is_stopping`](crate::Request::is_stopping) returns true for its handlers. The hook
    /// [`stopping`](crate::BaseServer::stopping) is not called, because the reactor does not stop.
    ///
    /// Nothing happens if there is no such server, or if it drains or is being closed already. Hooks and callbacks have
    /// [`Others::drain_server`](crate::Others::drain_server), other threads [`Handle::run`](crate::Handle::run).
    ///
    /// Source: none; Python's `shutdown` stops the only server of its loop.
    ///
    /// ```
    /// # use socketserver::{NoHandler, Reactor, TcpServer};
    /// let mut reactor = Reactor::new()?;
    /// let old = reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
    /// let new = reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
    /// reactor.drain_server(old);
    /// while reactor.limits(old).is_some() {
    ///     reactor.poll(None)?;
    /// }
    /// assert!(!reactor.server_addresses(new).is_empty());
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn drain_server(&mut self, id: ServerId) {
        let Some(server) = self.core.server(id) else { return };
        let served = &self.core.served[usize::from(server)];
        let (asked, may_serve) = (served.asked, served.life == (Life::Open { stopped: false }));
        if !may_serve || asked == Asked::End || self.core.stop.is_given_up() {
            return;
        }
        note!(Info, "one server drains, connections to finish: {}", served.active);
        if !self.turning {
            self.core.now = self.core.selector.now(); // The last turn may have been long ago.
        }
        self.allocate();
        self.core.served[usize::from(server)].life = Life::Draining { begun: self.core.now, look: NO_TIMER };
        if asked == Asked::Nothing {
            self.take_in(server);
            self.ask_to_drain(server);
        }
        self.core.draining.push(server);
        self.look(server);
        if !self.turning {
            self.reap(); // There may be nothing to wait for, and no event would tell the next turn.
        }
    }

    /// Goes on with what a draining or closing server waits for: ends the input of quiet threads, drains what is busy
    /// after half of the grace, and sets the timer for the next look.
    pub(super) fn look(&mut self, server: u16) {
        let Life::Draining { begun, .. } = self.core.served[usize::from(server)].life else {
            return self.core.look_closing(server);
        };
        let (now, grace) = (self.core.selector.now(), nanos(self.core.config.drain_grace));
        let (tell, end) = (begun.saturating_add(grace / 2), begun.saturating_add(grace));
        let next = if now >= end {
            return; // It is closed at the end of this turn.
        } else if now >= tell {
            self.core.tell(server);
            end
        } else if self.core.drain_elsewhere(Some(server), true) {
            now.saturating_add(LOOK).min(tell)
        } else {
            tell
        };
        let look = self.core.timers.arm(next, Alarm::CloseLook(server));
        self.core.served[usize::from(server)].life = Life::Draining { begun, look };
    }

    /// Closes the servers that have drained, and those whose grace is over.
    pub(super) fn go_on_draining(&mut self) {
        let grace = nanos(self.core.config.drain_grace);
        for server in self.core.draining.clone() {
            // Closing one server may close others.
            let Some(Life::Draining { begun, .. }) = self.core.served.get(usize::from(server)).map(|it| it.life) else {
                continue;
            };
            let is_over = self.core.now.saturating_sub(begun) >= grace;
            if is_over {
                self.core.note_aborted(Some(server));
            }
            if is_over || self.has_drained(Some(server)) {
                self.close(server);
            }
        }
    }
}
