//! One round on real sockets: a reactor with servers of every kind, servers with reactors of their own, and clients.

use std::sync::Arc;
use std::time::{Duration, Instant};

use fastrand::Rng;
use socketserver::{Address, Error, Limits, Reactor, ReactorConfig, ServerId, ShutdownHandle, Stats};

use crate::clients::Crowd;
use crate::common::Directory;
use crate::foreign;
use crate::ledger::Ledger;
use crate::making::{config, limits, make};
use crate::meddling::submit;
use crate::methods::call;
use crate::owned::{Owned, handle_of, is_documented, stopping};
use crate::polite::Clients;
use crate::value::Value;
use crate::values::addresses;
use crate::watchdog::step;

pub(crate) struct Round {
    rng: Rng,
    ledger: Arc<Ledger>,
    reactor: Reactor,
    hosted: Vec<ServerId>,
    polite: Clients,
    /// A stop was asked for that waits for nothing.
    abrupt: bool,
    owned: Vec<Box<dyn Owned>>,
    crowd: Crowd,
    directories: Vec<Directory>,
}

/// A stop that takes longer than this may lose answers.
const GRACE: Duration = Duration::from_secs(1);

impl Round {
    pub(crate) fn new(seed: u64, ledger: Arc<Ledger>) -> Self {
        let mut rng = Rng::with_seed(seed);
        let reactor = if rng.bool() { call!(Reactor::new()) } else { call!(Reactor::with_config(settings(&mut rng))) };
        let mut reactor = reactor.expect("a descriptor is left");
        reactor.set_config(settings(&mut rng));
        let polite = Clients::new(&ledger, &mut reactor);
        let (hosted, owned, directories) = (Vec::new(), Vec::new(), Vec::new());
        Round { rng, ledger, reactor, hosted, polite, abrupt: false, owned, crowd: Crowd::default(), directories }
    }

    pub(crate) fn step(&mut self) {
        match self.rng.u32(..40) {
            0..3 => self.add(),
            3..5 => self.make(),
            5..8 => self.act_on_owned(),
            8..10 => self.move_owned(),
            10..16 => self.come(),
            16..24 => {
                step("the crowd acts");
                (0..4).for_each(|_| self.crowd.act(&mut self.rng));
            }
            24..31 => self.poll(),
            31 => {
                step("submit");
                submit(&mut self.rng, &self.ledger, &handle_of(&self.reactor));
            }
            32..35 => self.act_on_reactor(),
            35 if self.rng.u32(..3) == 0 => self.stop(),
            36..39 => {
                step("polite clients talk");
                let length = if self.rng.u32(..5) == 0 { self.rng.usize(..9_000) } else { self.rng.usize(..100) };
                // From the request of a stop until it is over, a quiet client is closed at any time.
                if !self.reactor.shutdown_handle().is_requested() {
                    self.polite.talk(&self.ledger, length);
                }
            }
            39 => self.settle(),
            _ => addresses(&mut self.rng),
        }
    }

    /// Ends it all. Returns the last counters of the reactor.
    pub(crate) fn end(mut self) -> Stats {
        self.settle();
        let (ids, polite) = (self.hosted.clone(), self.polite.server);
        step("all are closed");
        ids.into_iter().for_each(|id| call!(Reactor::server_close(&mut self.reactor, id)));
        self.owned.clear();
        self.reactor.server_close(polite);
        let stats = call!(Reactor::stats(&self.reactor));
        let expect = |holds, promise| self.ledger.expect(holds, promise);
        expect(stats.active == 0, "nothing is active when all servers are closed");
        expect(stats.threads_busy + stats.children_busy + stats.requests_waiting == 0, "no request is left elsewhere");
        expect(call!(Stats::handshakes_in_progress(&stats)) == 0, "no handshake is in progress");
        expect(stats.connects_failed <= stats.connects, "no more connects fail than were started");
        expect(stats.refused <= stats.accepted + stats.datagrams_in, "no more is refused than came");
        expect(stats.closed <= stats.accepted + stats.connects + stats.datagrams_in, "no more ends than began");
        expect(stats.closed >= stats.connects, "every outbound connection ends");
        expect(call!(Reactor::next_timeout(&self.reactor)) != Some(Duration::MAX), "a timeout is finite");
        self.polite.end(&self.ledger, false);
        step("the reactor is dropped");
        drop(self.reactor);
        stats
    }

    /// A server of any kind comes into the reactor.
    fn add(&mut self) {
        step("add");
        if self.hosted.len() < 8 && self.rng.u32(..6) == 0 {
            if let Some(id) = foreign::add_unbound(&mut self.rng, &self.ledger, &mut self.reactor) {
                self.hosted.push(id);
                self.ledger.add_server(id);
            }
        } else if self.hosted.len() < 8
            && let Some(server) = make(&mut self.rng, &self.ledger, &mut self.directories)
        {
            self.host(server);
        }
    }

    fn host(&mut self, server: Box<dyn Owned>) {
        let (addresses, added) = (server.addresses(), server.add_to(&mut self.reactor));
        if let Some(id) = self.ledger.only("Reactor::add", added, is_documented) {
            self.hosted.push(id);
            self.ledger.add_server(id);
            addresses.into_iter().for_each(|address| self.ledger.add_target(address));
        }
    }

    fn make(&mut self) {
        step("make");
        if self.owned.len() < 4 {
            self.owned.extend(make(&mut self.rng, &self.ledger, &mut self.directories));
        }
    }

    fn act_on_owned(&mut self) {
        step("act on an owned server");
        if let Some(at) = self.some_owned() {
            self.owned[at].act(&mut self.rng, &self.ledger);
        }
    }

    /// An owned server is taken apart and bound again, moves into the reactor, or is dropped.
    fn move_owned(&mut self) {
        let Some(at) = self.some_owned() else { return };
        let server = self.owned.swap_remove(at);
        match self.rng.u32(..3) {
            0 => {
                step("an owned server moves into the reactor");
                self.host(server);
            }
            1 => {
                step("an owned server is bound elsewhere");
                self.owned.extend(server.rebind(&mut self.rng, &self.ledger, &mut self.directories));
            }
            _ => {
                step("an owned server is dropped");
                drop(server);
            }
        }
    }

    fn some_owned(&mut self) -> Option<usize> {
        (!self.owned.is_empty()).then(|| self.rng.usize(..self.owned.len()))
    }

    fn come(&mut self) {
        step("clients come");
        let Some(address) = self.some_address() else { return };
        for _ in 0..self.rng.u32(1..4) {
            match self.rng.bool() {
                true => self.crowd.come(&mut self.rng, &address),
                false => Crowd::send_datagram(&mut self.rng, &address),
            }
        }
    }

    fn some_address(&mut self) -> Option<Address> {
        if self.rng.u32(..3) == 0
            && let Some(at) = self.some_owned()
        {
            return self.rng.choice(self.owned[at].addresses());
        }
        let id = self.rng.choice(self.hosted.iter().copied())?;
        let addresses = call!(Reactor::server_addresses(&mut self.reactor, id));
        self.rng.choice(addresses)
    }

    fn poll(&mut self) {
        step("poll");
        for _ in 0..self.rng.u32(1..6) {
            let wait = Duration::from_micros(self.rng.u64(..1_500));
            if !call!(Reactor::poll(&mut self.reactor, Some(wait))).expect("the loop goes on") {
                return self.stopped(true);
            }
        }
    }

    fn settle(&mut self) {
        step("polite clients wait for their answers");
        if !self.polite.settle(&self.ledger, &mut self.reactor) {
            self.stopped(true);
        }
    }

    fn act_on_reactor(&mut self) {
        step("act on the reactor");
        let id = self.ledger.server(&mut self.rng).filter(|&id| id != self.polite.server);
        let Some(id) = id else { return };
        let (tag, time) = (self.rng.u64(..3), Duration::from_micros(self.rng.u64(..5_000)));
        let (reactor, ledger) = (&mut self.reactor, &self.ledger);
        match self.rng.u32(..12) {
            9 => foreign::admit(ledger, reactor, id),
            11 => foreign::hand_over(&mut self.rng, ledger, reactor, id),
            10 => foreign::serve_one(&mut self.rng, ledger),
            0 => {
                let set = call!(Reactor::set_limits(reactor, id, limits(&mut self.rng)));
                ledger.only("Reactor::set_limits", set, |error| matches!(error, Error::Gone));
            }
            1 => {
                let limits: Option<&Limits> = call!(Reactor::limits(reactor, id));
                let known = limits.is_some();
                ledger.expect(known || reactor.server_addresses(id).is_empty(), "a closed server has no address");
            }
            2 => call!(Reactor::set_timer(reactor, id, tag, time)),
            3 => call!(Reactor::set_interval(reactor, id, tag, time)),
            4 => {
                if let Some(value) = call!(Reactor::server_mut::<Value>(reactor, id)) {
                    ledger.expect(Arc::ptr_eq(&value.ledger, ledger), "the value is the one that was given");
                }
            }
            5 => {
                call!(Reactor::set_config(reactor, settings(&mut self.rng)));
                let _ = format!("{:?}{reactor:?}", call!(Reactor::config(reactor)));
            }
            6 => {
                call!(Reactor::server_close(reactor, id));
                ledger.expect(reactor.server_addresses(id).is_empty(), "a closed server has no address");
                self.hosted.retain(|&hosted| hosted != id);
            }
            7 => {
                let watched = call!(Reactor::shutdown_on_signals(reactor));
                ledger.only("Reactor::shutdown_on_signals", watched, |_| false);
                foreign::notify(ledger, call!(Reactor::notify_supervisor(reactor)));
                let watched = call!(Reactor::reload_on_signal(reactor));
                ledger.only("Reactor::reload_on_signal", watched, |_| false);
                let watched = call!(Reactor::restart_on_signal(reactor));
                ledger.only("Reactor::restart_on_signal", watched, |_| false);
                foreign::restart(ledger);
            }
            _ => {
                let shutdown = call!(Reactor::shutdown_handle(reactor));
                let _ = call!(ShutdownHandle::is_requested(&shutdown));
            }
        }
    }

    /// A stop while anything may be under way.
    fn stop(&mut self) {
        step("stop");
        // What was sent before a stop is answered.
        let (length, shutdown) = (self.rng.usize(..3_000), self.reactor.shutdown_handle());
        if !shutdown.is_requested() {
            self.polite.talk(&self.ledger, length);
        }
        match self.rng.u32(..3) {
            0 => {
                self.abrupt = true;
                call!(ShutdownHandle::shutdown_now(&shutdown));
            }
            _ => call!(ShutdownHandle::shutdown(&shutdown)),
        }
        if self.rng.bool() {
            return; // The next turns do it.
        }
        let begun = Instant::now();
        // It has been stopped, so this returns by itself.
        call!(Reactor::serve_forever(&mut self.reactor)).expect("the loop goes on");
        self.stopped(begun.elapsed() < GRACE);
    }

    /// The reactor has stopped. Its servers are closed, and new ones may come.
    fn stopped(&mut self, in_time: bool) {
        step("stopped");
        self.hosted.clear();
        let polite = Clients::new(&self.ledger, &mut self.reactor);
        let gracefully = in_time && !std::mem::take(&mut self.abrupt);
        std::mem::replace(&mut self.polite, polite).end(&self.ledger, gracefully);
        if self.rng.bool() {
            let (stop, time) = (self.reactor.shutdown_handle(), Duration::from_millis(2));
            let served = stopping(stop, time, || self.reactor.serve_forever());
            self.ledger.only("serve_forever", served, |_| false);
            let polite = Clients::new(&self.ledger, &mut self.reactor);
            std::mem::replace(&mut self.polite, polite).end(&self.ledger, false);
        }
    }
}

/// Settings with which a stop has time to answer.
fn settings(rng: &mut Rng) -> ReactorConfig {
    let mut settings = config(rng);
    settings.drain_grace = GRACE;
    settings
}
