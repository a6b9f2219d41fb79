//! The servers of a reactor: added, given limits, queried.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use super::Reactor;
use super::core::Core;
use super::hosted::Hosted;
use super::served::{Asked, Cap, Life, Served};
use super::slots::Contents;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::{SERVERS_MAX, ServerId};
use crate::limits::{Limits, ReactorConfig};
use crate::logging::{note, note_fault};
use crate::net::family::Bound;
use crate::net::{ExpectedHeader, Stream};
use crate::panics::catch;
use crate::timers::{NO_TIMER, nanos, period};

impl Reactor {
    /// The ids of the servers.
    #[inline(never)]
    pub(super) fn numbers(&self) -> Vec<u16> {
        self.servers.iter().map(|(number, _)| number as u16).collect()
    }

    /// Changes the limits of a server, even while it serves. They also apply to open connections: time limits apply
    /// immediately, and a connection that holds more than a lowered limit allows ends with
    /// [`EndReason::InputLimit`](crate::EndReason::InputLimit) or
    /// [`EndReason::OutputLimit`](crate::EndReason::OutputLimit). If the maximum number of connections, sessions,
    /// threads or programs is lowered, none of them is ended, but no new one begins until there are few enough.
    ///
    /// # Errors
    /// [`Error::Setting`] for contradictory limits; then nothing changes. [`Error::Gone`] if there is no such server.
    ///
    /// ```
    /// # use socketserver::{Limits, NoHandler, Reactor, TcpServer};
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.add(TcpServer::new("127.0.0.1:0", |_| NoHandler)?)?;
    /// // From another thread, while the reactor serves:
    /// reactor.handle().run(move |reactor| {
    ///     let mut limits = Limits::default();
    ///     limits.connections_max = Some(100);
    ///     reactor.set_limits(id, limits).expect("they do not contradict each other");
    /// })?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_limits(&mut self, id: ServerId, limits: Limits) -> Result<()> {
        let limits = Arc::new(limits.resolved()?);
        let server = self.core.server(id).ok_or(Error::Gone)?;
        if self.core.served[usize::from(server)].limits != limits {
            self.core.set_limits(server, limits);
        }
        Ok(())
    }

    /// Returns the limits of a server in force, in which unset limits follow set ones. `None` if there is no such
    /// server.
    pub fn limits(&self, id: ServerId) -> Option<&Limits> {
        let server = self.core.server(id)?;
        Some(&*self.core.served[usize::from(server)].limits)
    }

    /// Returns the addresses of a server, with the real ports. Empty once it is closed. While it waits for threads or
    /// programs, it still has its datagram sockets.
    pub fn server_addresses(&mut self, id: ServerId) -> Vec<Address> {
        let server = self.core.server(id);
        let keys = server.map(|server| self.core.served[usize::from(server)].listeners.clone()).unwrap_or_default();
        keys.into_iter().filter_map(|key| self.core.slots.bound(key).cloned()).collect()
    }

    /// Closes a server. Its listeners are closed immediately and its connections are aborted; `finish` is called for
    /// every handler, with [`EndReason::StopAborted`](crate::EndReason::StopAborted). Then its value and the closure
    /// that makes its handlers are dropped, and its id is no longer valid. (A [`Server`](crate::Server) with this
    /// reactor of its own keeps them, and can be bound again.) Nothing happens if there is no such server or it is
    /// closing already.
    ///
    /// It waits for requests that threads or programs serve, as [`Limits::block_on_close`] says. During the wait their
    /// datagrams are sent, and the other servers are served. If a stop comes in that time, it is carried out, and
    /// [`serve_forever`](Self::serve_forever) then returns immediately. A closure ([`Handle::run`](crate::Handle::run))
    /// that calls this method does not wait, because the loop must continue; later turns do the rest. Do not call it
    /// from a callback, which has [`request_shutdown`](crate::Others::request_shutdown).
    ///
    /// Source: `BaseServer.server_close`.
    pub fn server_close(&mut self, id: ServerId) {
        if let Some(server) = self.core.server(id) {
            self.close(server);
            self.await_closed(id);
        }
    }

    /// Calls the hook [`reload`](crate::BaseServer::reload) of every server, now. Other threads use
    /// [`Handle::run`](crate::Handle::run). Feature `signals`: [`reload_on_signal`](Self::reload_on_signal) does this for
    /// SIGHUP. A supervisor that is notified (feature `sd-notify`) is told before and after: `Type=notify-reload` of
    /// systemd.
    ///
    /// ```
    /// # use socketserver::Reactor;
    /// let mut reactor = Reactor::new()?;
    /// reactor.reload();
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn reload(&mut self) {
        #[cfg(all(unix, feature = "sd-notify"))]
        self.core.begin_reload();
        for (number, server) in &mut self.servers {
            if !self.core.served[number].is_closed() {
                server.reload(&mut self.core);
            }
        }
        #[cfg(all(unix, feature = "sd-notify"))]
        drop(self.core.take_reload());
    }

    /// Returns the server's value, if it is an `S`; handlers have it as `request.server`. `None` if there is no such
    /// server any more.
    pub fn server_mut<S: 'static>(&mut self, id: ServerId) -> Option<&mut S> {
        self.hosted(id).ok()?.state().downcast_mut()
    }

    /// Calls a closure with the server's value, for a thread that may have outlived the server.
    ///
    /// # Errors
    /// [`Error::Gone`] if there is no such server, it is closed, or its value is not an `S`; [`Error::Panicked`] if the
    /// closure panicked.
    pub(crate) fn ask<S: 'static, R>(&mut self, id: ServerId, run: impl FnOnce(&mut S) -> R) -> Result<R> {
        self.core.open_server(id).ok_or(Error::Gone)?;
        let server = self.server_mut::<S>(id).ok_or(Error::Gone)?;
        let result = catch(|| run(server));
        self.core.stats.panics += u64::from(result.is_err());
        result
    }

    /// Sets a timer of a server, as [`Others::set_server_timer`](crate::Others::set_server_timer) does, from outside its
    /// hooks.
    /// Nothing happens if there is no such server, or it is closed.
    pub fn set_timer(&mut self, id: ServerId, tag: u64, after: Duration) {
        self.arm_server_timer(id, tag, after, None);
    }

    /// Sets a periodic timer of a server: see [`Others::set_server_interval`](crate::Others::set_server_interval).
    /// Nothing happens if there is no such server, or it is closed.
    pub fn set_interval(&mut self, id: ServerId, tag: u64, every: Duration) {
        self.arm_server_timer(id, tag, every, Some(period(every)));
    }

    pub(crate) fn arm_server_timer(&mut self, id: ServerId, tag: u64, after: Duration, every: Option<u64>) {
        if let Some(server) = self.core.open_server(id) {
            self.core.set_server_timer(server, tag, after, every);
        }
    }

    /// Accepts one client of one server, and serves until its connection is over.
    pub(crate) fn handle_request(&mut self, id: ServerId, timeout: Option<Duration>) -> Result<()> {
        self.serve_again()?;
        let server = self.core.server(id).ok_or(Error::Gone)?;
        self.core.set_quota(server, 1);
        let deadline = timeout.map(|timeout| self.core.selector.now().saturating_add(nanos(timeout)));
        while !self.core.stop.is_over() {
            // A closure may have closed the server or replaced this reactor.
            let Some(served) = self.core.open_server(id).map(|server| &self.core.served[usize::from(server)]) else {
                break;
            };
            let accepted = served.quota == 0;
            if accepted && served.active == served.sessions + served.elsewhere {
                break;
            }
            let left = deadline.map(|deadline| deadline.saturating_sub(self.core.selector.now()));
            self.turn(left.filter(|_| !accepted).map(Duration::from_nanos))?;
            let waits = |server: u16| self.core.served[usize::from(server)].quota > 0;
            if left == Some(0) && !accepted && self.core.open_server(id).is_some_and(waits) {
                self.servers[usize::from(server)].handle_timeout(&mut self.core);
                break;
            }
        }
        if self.core.server(id).is_some() {
            self.core.set_quota(server, usize::MAX);
        }
        Ok(())
    }

    /// Adds a server, for which there is [room](Self::admits_server). `own`: this reactor is made for it. Then it stays
    /// when it is closed, and may be bound again.
    pub(crate) fn host(&mut self, id: ServerId, mut server: Box<dyn Hosted>, limits: Arc<Limits>, own: bool) {
        let number = self.core.serve(id, limits, own);
        server.set_number(number);
        let key = self.servers.insert(server);
        debug_assert_eq!(key, usize::from(number), "the two tables go together");
    }

    /// Returns whether there is room for another server. Servers whose sockets a stop has closed make room.
    pub(crate) fn admits_server(&mut self) -> Result<()> {
        if self.core.stop.is_given_up() {
            return Err(Error::Gone);
        }
        self.close_stopped();
        if self.servers.len() == SERVERS_MAX {
            return Err(Error::Full { queue: "server", max: SERVERS_MAX });
        }
        Ok(())
    }

    /// Drops user values, which may panic.
    pub(super) fn dissolve(&mut self, server: Box<dyn Hosted>) {
        let panics = server.dissolve();
        self.core.stats.panics += panics;
        if panics > 0 {
            note_fault!(Error, "a server or its contents panicked while it was dropped");
        }
    }

    /// Frees its number for another server.
    pub(super) fn remove(&mut self, server: u16) -> Box<dyn Hosted> {
        self.core.served.remove(usize::from(server));
        self.servers.remove(usize::from(server))
    }

    /// Lets a server use these sockets, or none of them if one cannot be watched.
    pub(crate) fn open(&mut self, id: ServerId, sockets: impl IntoIterator<Item = Bound>) -> Result<()> {
        let server = self.core.server(id).ok_or(Error::Gone)?;
        for socket in sockets {
            if let Err(error) = self.open_another(server, socket) {
                self.core.unlisten(server);
                self.free_dead();
                return Err(error);
            }
        }
        Ok(())
    }

    /// Lets a server use another socket as well. If it cannot be watched, it is closed.
    pub(crate) fn open_another(&mut self, server: u16, socket: Bound) -> Result<()> {
        let address = socket.address().clone();
        note!(Info, "listening on {address}");
        self.core.served[usize::from(server)].life = Life::Open { stopped: false };
        match socket {
            Bound::Listener(listener) => self.core.listen(server, listener)?,
            Bound::Datagram(socket) => self.servers[usize::from(server)].receive_from(&mut self.core, socket)?,
        }
        self.core.served[usize::from(server)].addresses.push(address);
        Ok(())
    }

    /// # Errors
    /// [`Error::Gone`] if there is no such server, because its own reactor was replaced by another.
    pub(crate) fn hosted(&mut self, id: ServerId) -> Result<&mut dyn Hosted> {
        let server = self.core.server(id).ok_or(Error::Gone)?;
        Ok(&mut *self.servers[usize::from(server)])
    }

    /// Admits a connection, whatever the limits are.
    pub(crate) fn admit_any(
        &mut self,
        id: ServerId,
        stream: Stream,
        from: Address,
        header: &ExpectedHeader,
    ) -> io::Result<()> {
        self.allocate();
        let server = self.core.server(id).expect("it was taken in");
        self.servers[usize::from(server)].admit(&mut self.core, &mut self.scratch, stream, from, header)
    }
}

impl Core {
    pub(super) fn serve(&mut self, id: ServerId, limits: Arc<Limits>, own: bool) -> u16 {
        let served = Served {
            id,
            life: Life::Open { stopped: false },
            asked: match self.stop.is_under_way() && !limits.serve_while_draining {
                true => Asked::Drain,
                false => Asked::Nothing,
            },
            own,
            limits,
            listeners: Vec::new(),
            active: 0,
            sessions: 0,
            headings: 0,
            addresses: Vec::new(),
            sessions_full: None,
            elsewhere: 0,
            threads: None,
            #[cfg(all(unix, feature = "children"))]
            children: None,
            cap: Cap::default(),
            quota: usize::MAX,
            per_client: HashMap::new(),
            timers: BTreeMap::new(),
            #[cfg(all(unix, feature = "restart"))]
            named: Vec::new(),
        };
        self.served.insert(served) as u16
    }

    pub(crate) fn set_limits(&mut self, server: u16, limits: Arc<Limits>) {
        let served = &mut self.served[usize::from(server)];
        let before = std::mem::replace(&mut served.limits, limits);
        served.cap.is_reached = false; // Its listeners find out again.
        self.queue_listeners(server);
        self.fit_read_buffer(server);
        self.fit_outboxes(server);
        self.refit_elsewhere(server);
        self.count_clients(server);
        self.hold_to_limits(server, &before);
        self.reconsider(Some(server));
        self.resume_accepting(); // There may be room now.
    }

    /// Applies lowered limits: ends connections that hold more.
    fn hold_to_limits(&mut self, server: u16, before: &Limits) {
        let limits = Arc::clone(&self.served[usize::from(server)].limits);
        for key in self.slots.connections(Some(server)) {
            self.slots.connection(key).hold_to(&limits, before);
        }
    }

    /// Settings have changed: every connection of one server, or of all, is queued, and its next deadline is computed
    /// again.
    pub(crate) fn reconsider(&mut self, server: Option<u16>) {
        for key in self.slots.connections(server) {
            self.slots.connection(key).state.phase.unwatched();
            self.queue(key);
        }
    }

    /// Counts the clients of a server again, because there is now a cap on them.
    fn count_clients(&mut self, server: u16) {
        let served = &mut self.served[usize::from(server)];
        served.per_client.clear();
        if served.limits.connections_per_client_max.is_none() {
            return;
        }
        for (_, slot) in self.slots.iter().filter(|(_, slot)| slot.server == server) {
            let client = match slot.contents() {
                Some(Contents::Connection(connection)) if connection.state.is_datagram() => None,
                Some(Contents::Connection(connection)) => connection.state.counted_client(),
                Some(Contents::Elsewhere(elsewhere)) => elsewhere.counted_client(),
                _ => None,
            };
            if let Some(ip) = client.and_then(Address::ip) {
                *served.per_client.entry(ip).or_default() += 1;
            }
        }
    }

    pub(crate) fn set_config(&mut self, config: ReactorConfig) {
        let bound = std::mem::replace(&mut self.config, config).buffered_bytes_max;
        if bound != self.config.buffered_bytes_max {
            self.bound_buffers();
        }
        if let Some(pool) = &mut self.pool {
            pool.resize(self.config.offload_threads, self.config.offload_queue_max);
        }
        let (delay, grace) = (nanos(self.config.drain_delay), nanos(self.config.drain_grace));
        self.stop.rearm(delay, grace, &mut self.timers);
        let now = self.selector.now();
        for &server in self.draining.iter().chain(&self.closing) {
            // It finds out how long it still waits.
            let look = self.served[usize::from(server)].life.look();
            look.filter(|look| **look != NO_TIMER).into_iter().for_each(|look| self.timers.rearm(*look, now));
        }
        self.reconsider(None);
    }
}
