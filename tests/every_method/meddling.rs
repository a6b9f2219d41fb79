//! What a callback or a hook does to other connections, to its server and to the reactor.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socketserver::{
    Address, BaseServer, ConnectionId, Delivery, Error, Handle, Message, MulticastGroup, Others, Reactor,
    ShutdownHandle, TurnTimes,
};

use crate::chaos::Chaos;
use crate::foreign::submit_connection;
use crate::ledger::Ledger;
use crate::making::limits;
use crate::methods::call;
use crate::secure;
use crate::values::shared_bytes;

/// One call of a random method.
pub(crate) fn meddle<S: BaseServer>(rng: &mut Rng, ledger: &Arc<Ledger>, others: &mut Others<'_, S>) {
    let victim = ledger.victim(rng);
    match rng.u32(..22) {
        0 => broadcast(rng, others),
        1 => {
            let (to, packet) = (target(rng, ledger), vec![b'd'; rng.usize(..2_000)]);
            let _: Delivery = call!(Others::send_to(others, &to, &packet));
        }
        2 => multicast(ledger, others),
        3 => {
            let to = target(rng, ledger);
            let connected = match rng.u32(..3) {
                0 => secure::connect(rng, ledger, others, to),
                1 => call!(Others::connect_datagram(others, to, Chaos::new(ledger, rng))),
                _ => call!(Others::connect(others, to, Chaos::new(ledger, rng))),
            };
            let documented = |error: &Error| matches!(error, Error::Connect { .. } | Error::Gone);
            if let Some(id) = ledger.only("connect", connected, documented) {
                ledger.saw(id);
            }
        }
        4 | 5 => look(rng, ledger, others),
        6 => timers(rng, ledger, others),
        7 if rng.u32(..60) == 0 => call!(Others::request_shutdown(others)),
        8 => {
            let before = call!(Others::now(others));
            ledger.expect(call!(Others::now(others)) == before, "time stands in a callback");
        }
        9 => submit(rng, ledger, &call!(Others::handle(others))),
        _ => {
            if let Some(id) = victim {
                harm(rng, ledger, others, id);
            }
        }
    }
}

/// Acts on one other connection. Its own id is among them, and ids of connections that are gone.
fn harm<S: BaseServer>(rng: &mut Rng, ledger: &Arc<Ledger>, others: &mut Others<'_, S>, id: ConnectionId) {
    match rng.u32(..10) {
        0..3 => {
            let bytes = vec![b's'; if rng.u32(..10) == 0 { 70_000 } else { rng.usize(..100) }];
            let sent = call!(Others::send(others, id, &bytes));
            ledger.expect(
                sent != Delivery::Queued || others.client_address(id).is_some(),
                "a connection that takes bytes is there",
            );
        }
        3 if rng.u32(..3) == 0 => call!(Others::close(others, id)),
        4 if rng.u32(..3) == 0 => call!(Others::abort(others, id)),
        5 if rng.u32(..3) == 0 => call!(Others::shutdown_write(others, id)),
        6 => call!(Others::pause_reading(others, id)),
        7 | 8 => call!(Others::resume_reading(others, id)),
        _ => {
            let length = call!(Others::output_len(others, id));
            ledger.expect(
                length.is_none() || others.client_address(id).is_some(),
                "a connection with output has an address",
            );
        }
    }
}

fn broadcast<S: BaseServer>(rng: &mut Rng, others: &mut Others<'_, S>) {
    let bytes = vec![b'b'; rng.usize(..50)];
    let mut asked = 0;
    let mut wanted = |_: ConnectionId| {
        asked += 1;
        asked % 3 != 0
    };
    let count = match rng.bool() {
        true => call!(Others::broadcast(others, bytes, &mut wanted)),
        false => call!(Others::broadcast_shared(others, shared_bytes(rng, bytes), &mut wanted)),
    };
    assert!(count <= asked, "more connections got it than were asked");
}

fn multicast<S: BaseServer>(ledger: &Ledger, others: &mut Others<'_, S>) {
    let group = call!(MulticastGroup::new(Ipv4Addr::new(239, 255, 7, 7)));
    let documented = |error: &Error| matches!(error, Error::Io(_) | Error::NotBound);
    let joined = call!(Others::join_multicast(others, &group));
    if ledger.only("join_multicast", joined, documented).is_some() {
        let left = call!(Others::leave_multicast(others, &group));
        ledger.expect(left.is_ok(), "a group that was joined is left");
    } else {
        let _ = call!(Others::leave_multicast(others, &group));
    }
}

fn look<S: BaseServer>(rng: &mut Rng, ledger: &Ledger, others: &mut Others<'_, S>) {
    let stats = call!(Others::stats(others));
    let stopping = call!(Others::is_stopping(others));
    let inspection = call!(Others::inspect(others));
    ledger.expect(
        inspection.servers.iter().map(|server| server.connections + server.sessions).sum::<usize>() as u64
            == stats.active,
        "each open connection belongs to a server",
    );
    for id in call!(Others::connections(others)) {
        ledger.expect(call!(Others::client_address(others, id)).is_some(), "an open connection has an address");
    }
    let own = call!(Others::server_id(others));
    ledger.expect(
        call!(Others::connections_of(others, own)) == others.connections(),
        "its own server is the one it says",
    );
    let Some(server) = ledger.server(rng) else { return };
    if rng.u32(..20) == 0 {
        let set = call!(Others::set_limits(others, server, limits(rng)));
        ledger.only("Others::set_limits", set, |_| false);
    }
    if rng.u32(..200) == 0 {
        call!(Others::drain_server(others, server));
    }
    let of = call!(Others::connections_of(others, server));
    ledger.expect(of.len() as u64 <= stats.active, "all open connections are counted");
    let _ = stopping;
}

fn timers<S: BaseServer>(rng: &mut Rng, ledger: &Ledger, others: &mut Others<'_, S>) {
    let (tag, time) = (rng.u64(..3), Duration::from_micros(rng.u64(..5_000)));
    match rng.u32(..3) {
        0 => call!(Others::set_server_timer(others, tag, time)),
        1 => call!(Others::set_server_interval(others, tag, time)),
        _ => {
            others.set_server_timer(tag, time);
            ledger
                .expect(call!(Others::cancel_server_timer(others, tag)), "a server's timer that was set is cancelled");
            ledger.expect(!others.cancel_server_timer(tag), "a cancelled timer of a server is gone");
        }
    }
}

/// What any thread may do.
pub(crate) fn submit(rng: &mut Rng, ledger: &Arc<Ledger>, handle: &Handle) {
    let documented = |error: &Error| matches!(error, Error::Full { .. } | Error::Gone);
    match rng.u32(..6) {
        5 => {
            let Some(server) = ledger.server(rng) else { return };
            submit_connection(ledger, handle, server);
        }
        0 => {
            let Some(id) = ledger.victim(rng) else { return };
            ledger.only("Handle::send", call!(Handle::send(handle, id, 7_u8)), documented);
        }
        1 => {
            let Some(server) = ledger.server(rng) else { return };
            let sent = call!(Handle::send_to_server(handle, server, call!(Message::new(7_u8))));
            ledger.only("Handle::send_to_server", sent, documented);
        }
        2 => {
            let shutdown = call!(Handle::shutdown_handle(handle));
            let _ = call!(ShutdownHandle::is_requested(&shutdown));
        }
        _ => {
            let (mut rng, ledger_too) = (rng.fork(), Arc::clone(ledger));
            let run = call!(Handle::run(handle, move |reactor| closure(&mut rng, &ledger_too, reactor)));
            ledger.only("Handle::run", run, documented);
        }
    }
}

/// A closure on the loop must not start another loop, and may do everything else.
fn closure(rng: &mut Rng, ledger: &Arc<Ledger>, reactor: &mut Reactor) {
    match rng.u32(..8) {
        0 => {
            let poll = call!(Reactor::poll(reactor, Some(Duration::ZERO)));
            ledger.expect(matches!(poll, Err(Error::Reactor { .. })), "the loop is not nested by poll");
        }
        1 => {
            let serve = call!(Reactor::serve_forever(reactor));
            ledger.expect(matches!(serve, Err(Error::Reactor { .. })), "the loop is not nested by serve_forever");
        }
        2 if rng.u32(..5) == 0 => ledger.panic(),
        3 => {
            let Some(id) = ledger.server(rng) else { return };
            let set = call!(Reactor::set_limits(reactor, id, limits(rng)));
            ledger.only("Reactor::set_limits", set, |error| matches!(error, Error::Gone));
            if rng.u32(..5) == 0 {
                call!(Reactor::drain_server(reactor, id));
            }
            if rng.u32(..5) == 0 {
                call!(Reactor::server_close(reactor, id)); // Its threads may not be done, and are not waited for here.
            }
        }
        4 => call!(Reactor::reload(reactor)),
        _ => {
            let _ = call!(Reactor::next_timeout(reactor));
            let _ = format!("{:?}{:?}", call!(Reactor::stats(reactor)), call!(Reactor::inspect(reactor)));
            let times = call!(Reactor::take_turn_times(reactor));
            let longest = call!(TurnTimes::buckets(&times)).filter(|&(_, count)| count > 0).last();
            let quantile = call!(TurnTimes::quantile(&times, 1.0));
            ledger.expect(longest.is_none_or(|(bound, _)| bound == quantile), "no turn is longer than the longest");
            ledger.expect((call!(TurnTimes::total(&times)) == 0) == longest.is_none(), "each turn is in a bucket");
        }
    }
}

/// An address to connect to or to send to: sometimes one at which nothing is.
pub(crate) fn target(rng: &mut Rng, ledger: &Ledger) -> Address {
    let nowhere = SocketAddr::from(([127, 0, 0, 1], 1));
    let target = if rng.u32(..4) > 0 { ledger.target(rng) } else { None };
    target.unwrap_or(Address::Inet(nowhere))
}
