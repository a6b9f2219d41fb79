//! What can be done with a server that is in no reactor but its own.

use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::Duration;

use fastrand::Rng;
use socketserver::family::{Tcp, UnixStream};
use socketserver::{
    Address, BaseServer, Error, Handle, Reactor, RequestHandler, Result, Server, ServerId, ShutdownHandle,
};

use crate::common::Directory;
use crate::foreign::notify;
use crate::ledger::Ledger;
use crate::making::{Any, activated, config, limits};
use crate::meddling::submit;
use crate::methods::call;

pub(crate) trait Owned {
    /// Calls a random method.
    fn act(&mut self, rng: &mut Rng, ledger: &Arc<Ledger>);
    fn addresses(&self) -> Vec<Address>;
    fn add_to(self: Box<Self>, reactor: &mut Reactor) -> Result<ServerId>;
    /// Takes it apart, and binds it elsewhere.
    fn rebind(
        self: Box<Self>,
        rng: &mut Rng,
        ledger: &Arc<Ledger>,
        directories: &mut Vec<Directory>,
    ) -> Option<Box<dyn Owned>>;
}

impl<F: Any, S: BaseServer, H: RequestHandler<S>> Owned for Server<F, S, H> {
    fn act(&mut self, rng: &mut Rng, ledger: &Arc<Ledger>) {
        let (tag, time) = (rng.u64(..3), Duration::from_micros(rng.u64(..5_000)));
        match rng.u32(..16) {
            0 => {
                let first = call!(Server::server_address(self)).into();
                let all = call!(Server::server_addresses(self));
                ledger.expect(all.contains(&first), "server_address is one of server_addresses");
                let tcp = call!(Server::server_addresses_as::<Tcp>(self)).len();
                let unix = call!(Server::server_addresses_as::<UnixStream>(self)).len();
                ledger.expect(tcp + unix <= all.len(), "an address is of one family");
            }
            1..5 => {
                self.timeout = Some(time);
                let stop = call!(Server::shutdown_handle(self));
                let served = stopping(stop, Duration::from_millis(30), || call!(Server::handle_request(self)));
                ledger.only("handle_request", served, is_documented);
            }
            5 => {
                let stop = self.shutdown_handle();
                let served = stopping(stop, time, || call!(Server::serve_forever(self)));
                ledger.only("serve_forever", served, is_documented);
            }
            6 => call!(Server::server_close(self)),
            7 => submit(rng, ledger, &call!(Server::handle(self))),
            8 => {
                let watched = call!(Server::shutdown_on_signals(self));
                ledger.only("shutdown_on_signals", watched, |_| false);
                notify(ledger, call!(Server::notify_supervisor(self)));
                let watched = call!(Server::reload_on_signal(self));
                ledger.only("reload_on_signal", watched, |_| false);
                let watched = call!(Server::restart_on_signal(self));
                ledger.only("Server::restart_on_signal", watched, |_| false);
            }
            9 => ledger.add_server(call!(Server::id(self))),
            10 => _ = call!(Server::server_mut(self)),
            11 => {
                let set = call!(Server::set_limits(self, limits(rng)));
                ledger.only("Server::set_limits", set, |_| false);
                ledger.expect(call!(Server::limits(self)).idle_timeout.is_some(), "the limits are those that were set");
            }
            12 => {
                call!(Server::set_config(self, config(rng)));
                let _ = call!(Server::config(self));
            }
            13 => {
                let stats = call!(Server::stats(self));
                ledger.expect(stats.active <= stats.active_max, "no more are open than were at most");
            }
            14 => call!(Server::set_timer(self, tag, time)),
            _ => call!(Server::set_interval(self, tag, time)),
        }
        let _ = format!("{self:?}");
    }

    fn addresses(&self) -> Vec<Address> {
        self.server_addresses()
    }

    fn add_to(self: Box<Self>, reactor: &mut Reactor) -> Result<ServerId> {
        call!(Reactor::add(reactor, *self))
    }

    fn rebind(
        self: Box<Self>,
        rng: &mut Rng,
        ledger: &Arc<Ledger>,
        directories: &mut Vec<Directory>,
    ) -> Option<Box<dyn Owned>> {
        let unbound = call!(Server::into_unbound(*self));
        activated(rng, ledger, directories, unbound)
    }
}

/// An adopted address is not bound by the server, and cannot always be bound again.
pub(crate) fn is_documented(error: &Error) -> bool {
    matches!(error, Error::Bind { .. } | Error::Listen { .. } | Error::Setting { .. })
}

/// Serves, and stops it from another thread if that takes too long.
pub(crate) fn stopping<T>(stop: ShutdownHandle, after: Duration, serve: impl FnOnce() -> T) -> T {
    let (done, wait) = channel::<()>();
    let thread = std::thread::spawn(move || {
        if wait.recv_timeout(after).is_err() {
            call!(ShutdownHandle::shutdown(&stop));
        }
        if wait.recv_timeout(Duration::from_millis(50)).is_err() {
            call!(ShutdownHandle::shutdown_now(&stop));
        }
    });
    let result = serve();
    let _ = (done.send(()), done.send(()));
    thread.join().expect("it only waits");
    result
}

pub(crate) fn handle_of(reactor: &Reactor) -> Handle {
    call!(Reactor::handle(reactor))
}
