//! Settings of a server that can be read and changed, whether it has a reactor or not.

use std::time::Duration;

use super::hooks::BaseServer;
use super::unbound::Unbound;
use super::{SWAPPED, Server};
use crate::error::Result;
use crate::handler::RequestHandler;
use crate::limits::{Limits, ReactorConfig};
use crate::net::family::Family;
use crate::stats::Stats;
use crate::timers::period;

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Server<F, S, H> {
    /// Closes the server, and returns it with its value and its limits, to be bound elsewhere. Its former handles and
    /// its former id are then no longer valid.
    ///
    /// Source: none.
    ///
    /// # Panics
    /// If a closure has replaced the server's own reactor with another one, because the value is in the original
    /// reactor.
    ///
    /// ```
    /// # use socketserver::{NoHandler, TcpServer};
    /// let server = TcpServer::new("127.0.0.1:0", |_| NoHandler)?;
    /// let mut server = server.into_unbound();
    /// server.server_bind(("127.0.0.1", 0))?;
    /// let server = server.server_activate()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn into_unbound(mut self) -> Unbound<F, S, H> {
        self.server_close();
        if let Some(mut own) = self.own.take() {
            let moving = own.take_out(self.parked.id).expect(SWAPPED);
            self.parked.put_back(moving.host, moving.limits, moving.timers);
        }
        Unbound::new(self.parked.renamed())
    }

    /// Returns the server's limits in force, in which unset limits follow set ones.
    ///
    /// # Panics
    /// The same as for [`server_mut`](Self::server_mut).
    pub fn limits(&self) -> &Limits {
        match &self.own {
            Some(reactor) => reactor.limits(self.parked.id).expect(SWAPPED),
            None => &self.parked.limits,
        }
    }

    /// Changes the server's limits, immediately and also for open connections, like
    /// [`Reactor::set_limits`](crate::Reactor::set_limits) for a server in a reactor.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for contradictory limits; then nothing changes.
    /// [`Error::Gone`](crate::Error::Gone) as for [`serve_forever`](Self::serve_forever).
    ///
    /// ```
    /// # use socketserver::{Limits, NoHandler, TcpServer};
    /// let mut server = TcpServer::new("127.0.0.1:0", |_| NoHandler)?;
    /// let mut limits = Limits::default();
    /// limits.connections_max = Some(1_000);
    /// server.set_limits(limits)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_limits(&mut self, limits: Limits) -> Result<()> {
        match &mut self.own {
            Some(reactor) => reactor.set_limits(self.parked.id, limits),
            None => self.parked.set_limits(limits),
        }
    }

    /// Returns the settings of the server's own reactor.
    pub fn config(&self) -> &ReactorConfig {
        self.own.as_ref().map_or(&self.parked.config, |own| own.config())
    }

    /// Changes the settings of the server's own reactor, as
    /// [`Reactor::set_config`](crate::Reactor::set_config) does. They have no effect when the server is added to another
    /// reactor.
    pub fn set_config(&mut self, config: ReactorConfig) {
        match &mut self.own {
            Some(reactor) => reactor.set_config(config),
            None => self.parked.set_config(config),
        }
    }

    /// Returns the counters of the server's own reactor.
    pub fn stats(&self) -> Stats {
        self.own.as_ref().map_or_else(Stats::default, |own| own.stats())
    }

    /// Sets a timer of the server from outside its hooks, for example the first of a regular job. It calls
    /// [`BaseServer::timer`] once. The time counts from now, or from when the server begins to serve.
    ///
    /// Source: none; Python's `service_actions` is called every half second.
    ///
    /// ```
    /// use socketserver::{BaseServer, NoHandler, Others, TcpServer};
    /// use std::time::Duration;
    ///
    /// #[derive(Default)]
    /// struct Ticking { ticks: u32 }
    /// impl BaseServer for Ticking {
    ///     fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
    ///         self.ticks += 1;
    ///         match self.ticks {
    ///             3 => others.request_shutdown(),
    ///             _ => others.set_server_timer(tag, Duration::from_millis(1)),
    ///         }
    ///     }
    /// }
    ///
    /// let mut server = TcpServer::with_server("127.0.0.1:0", Ticking::default(), |_, _| NoHandler)?;
    /// server.set_timer(1, Duration::from_millis(1));
    /// server.serve_forever()?;
    /// assert_eq!(server.server_mut().ticks, 3);
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn set_timer(&mut self, tag: u64, after: Duration) {
        match &mut self.own {
            Some(reactor) => reactor.set_timer(self.parked.id, tag, after),
            None => self.parked.set_timer(tag, after, None),
        }
    }

    /// Like [`set_timer`](Self::set_timer), but for a periodic timer: see
    /// [`Others::set_server_interval`](crate::Others::set_server_interval).
    pub fn set_interval(&mut self, tag: u64, every: Duration) {
        match &mut self.own {
            Some(reactor) => reactor.set_interval(self.parked.id, tag, every),
            None => self.parked.set_timer(tag, every, Some(period(every))),
        }
    }
}
