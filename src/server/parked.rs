//! A server without a reactor: its value, its handlers, and everything that it brings to a reactor.

use std::marker::PhantomData;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use crate::error::Result;
use crate::ids::ServerId;
use crate::limits::{Limits, ReactorConfig};
use crate::logging::note_fault;
use crate::panics::drop_each;
use crate::reactor::Reactor;
use crate::reactor::closing::ServerTimer;
use crate::reactor::core::Core;
use crate::reactor::handle::Shared;
use crate::reactor::hosted::Hosted;

/// The types of a server, which its parts no longer have.
pub(super) type Kind<F, S, H> = PhantomData<fn() -> (F, S, H)>;

/// A server while no reactor has it. Afterwards, its id and the mailbox of its handles.
pub(crate) struct Parked {
    pub(crate) id: ServerId,
    /// Leads to the reactor that has the server.
    pub(crate) shared: Arc<Shared>,
    host: Option<Box<dyn Hosted>>,
    pub(crate) limits: Arc<Limits>,
    /// The settings of its future reactor.
    pub(crate) config: ReactorConfig,
    /// Applies its bound of buffers. A program that sets no configuration does not contain that.
    bound: Option<fn(&mut Core)>,
    /// The names of its sockets.
    #[cfg(all(unix, feature = "restart"))]
    pub(crate) named: Vec<crate::reactor::served::Named>,
    /// Set its timers when a reactor has it. A program without such timers does not contain that.
    timers: Vec<SetTimer>,
}

/// The reactor of one server. Its type is hidden, so that only this crate contains the code that drops it: otherwise the
/// compiler would repeat that code in each crate that has a server.
pub(super) type OwnReactor = Box<dyn DerefMut<Target = Reactor> + Send>;

struct Own(Reactor);

impl Deref for Own {
    type Target = Reactor;

    fn deref(&self) -> &Reactor {
        &self.0
    }
}

impl DerefMut for Own {
    fn deref_mut(&mut self) -> &mut Reactor {
        &mut self.0
    }
}

type SetTimer = Box<dyn FnOnce(&mut Reactor) + Send>;

impl Parked {
    pub(crate) fn new(host: Box<dyn Hosted>) -> Self {
        let config = ReactorConfig::default();
        Parked {
            id: ServerId::new(),
            shared: Shared::of_server(config.messages_max),
            host: Some(host),
            limits: Arc::default(),
            config,
            bound: None,
            #[cfg(all(unix, feature = "restart"))]
            named: Vec::new(),
            timers: Vec::new(),
        }
    }

    /// Adds a server without sockets of a program, for the testing kit.
    ///
    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) and [`Error::Full`](crate::Error::Full).
    pub(crate) fn take_in(reactor: &mut Reactor, host: Box<dyn Hosted>, limits: Limits, own: bool) -> Result<ServerId> {
        let mut parked = Parked::new(host);
        parked.set_limits(limits)?;
        reactor.admits_server()?;
        parked.enter(reactor, own);
        Ok(parked.id)
    }

    /// # Errors
    /// [`Error::Setting`](crate::Error::Setting) for contradictory limits; then nothing changes.
    pub(crate) fn set_limits(&mut self, limits: Limits) -> Result<()> {
        self.limits = Arc::new(limits.resolved()?);
        Ok(())
    }

    pub(crate) fn set_config(&mut self, config: ReactorConfig) {
        self.shared.set_max(config.messages_max);
        self.config = config;
        self.bound = Some(Core::bound_buffers);
    }

    /// Returns the same server, closed and with another id. Nothing that refers to the old id refers to the new one.
    pub(crate) fn renamed(mut self) -> Self {
        let mut new = Parked::new(self.host.take().expect("no reactor has it"));
        new.limits = Arc::clone(&self.limits);
        (new.config, new.bound) = (self.config.clone(), self.bound);
        #[cfg(all(unix, feature = "restart"))]
        new.named.clone_from(&self.named);
        new
    }

    /// The server.
    pub(crate) fn hosted(&mut self) -> &mut dyn Hosted {
        &mut **self.host.as_mut().expect("no reactor has it")
    }

    /// The server leaves a reactor.
    pub(crate) fn put_back(&mut self, host: Box<dyn Hosted>, limits: Arc<Limits>, timers: Vec<ServerTimer>) {
        (self.host, self.limits) = (Some(host), limits);
        timers.into_iter().for_each(|timer| self.keep_timer(timer));
    }

    pub(crate) fn set_timer(&mut self, tag: u64, after: Duration, every: Option<u64>) {
        if !self.hosted().is_closed() {
            self.keep_timer((tag, after, every));
        }
    }

    fn keep_timer(&mut self, (tag, after, every): ServerTimer) {
        let id = self.id;
        // The reactor lets the last one of a tag count.
        self.timers.push(Box::new(move |reactor| reactor.arm_server_timer(id, tag, after, every)));
    }

    pub(crate) fn close(&mut self) {
        self.timers.clear();
        self.hosted().server_close();
    }

    /// Creates a reactor for this server alone, and adds the server to it.
    ///
    /// # Errors
    /// The same as for [`Reactor::with_config`].
    pub(super) fn make_reactor(&mut self) -> Result<OwnReactor> {
        let mut reactor = Reactor::unbounded(self.config.clone())?;
        if let Some(bound) = self.bound {
            bound(&mut reactor.core);
        }
        self.enter(&mut reactor, true);
        Ok(Box::new(Own(reactor)))
    }

    /// Adds the server to a reactor with [room](Reactor::admits_server) for it. `own`: that reactor was made for it.
    pub(crate) fn enter(&mut self, reactor: &mut Reactor, own: bool) {
        let host = self.host.take().expect("no reactor has it");
        let is_closed = host.is_closed();
        reactor.host(self.id, host, Arc::clone(&self.limits), own);
        #[cfg(all(unix, feature = "restart"))]
        reactor.core.name_sockets(self.id, &self.named);
        if is_closed {
            reactor.set_closed(self.id);
        }
        std::mem::take(&mut self.timers).into_iter().for_each(|set| set(reactor));
        self.shared.lead_to(&reactor.core.shared);
    }
}

impl Drop for Parked {
    fn drop(&mut self) {
        if self.host.is_some() {
            self.close();
        }
        if self.host.take().is_some_and(|host| host.dissolve() > 0) {
            note_fault!(Error, "a server or its contents panicked while it was dropped");
        }
        drop_each(self.shared.close());
    }
}
