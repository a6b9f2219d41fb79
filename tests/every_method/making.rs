//! Makes servers of every kind in every way.

use std::sync::Arc;
use std::time::Duration;

use fastrand::Rng;
use socketserver::family::{Family, Tcp, Udp, UnixDatagram, UnixStream};
use socketserver::{
    BaseServer, BlockingHandler, Error, ForkingMixIn, Limits, Linger, Overflow, ReactorConfig, RequestHandler, Server,
    ThreadingMixIn, Unbound,
};

use crate::chaos::Chaos;
use crate::common::{Directory, Kind, sock_addr};
use crate::foreign::inherit;
use crate::ledger::Ledger;
use crate::methods::call;
use crate::owned::Owned;
use crate::value::{Places, Value};
use crate::values::RandomOptions;
use crate::waiting::{datagram_handler, program, stream_handler};

/// A kind of server, with what a random one needs.
pub(crate) trait Any: Kind + Family<Options: RandomOptions, Adopted: From<socket2::Socket>> {}

impl<F: Kind + Family<Options: RandomOptions, Adopted: From<socket2::Socket>>> Any for F {}

pub(crate) fn make(rng: &mut Rng, ledger: &Arc<Ledger>, directories: &mut Vec<Directory>) -> Option<Box<dyn Owned>> {
    match rng.u32(..4) {
        0 => make_as::<Tcp>(rng, ledger, directories),
        1 => make_as::<Udp>(rng, ledger, directories),
        2 => make_as::<UnixStream>(rng, ledger, directories),
        _ => make_as::<UnixDatagram>(rng, ledger, directories),
    }
}

fn make_as<F: Any>(rng: &mut Rng, ledger: &Arc<Ledger>, directories: &mut Vec<Directory>) -> Option<Box<dyn Owned>> {
    let (place, directory) = F::place();
    directories.extend(directory);
    let value = Value::new(ledger, rng, Places::All);
    let (mut inner, shared) = (rng.fork(), Arc::clone(ledger));
    let mut handler = move || Chaos::new(&shared, &mut inner);
    let (mut inner, shared) = (rng.fork(), Arc::clone(ledger));
    let mut waiting = makes_waiting::<F, ()>(rng.fork(), Arc::clone(ledger));
    let mut waiting_with = makes_waiting::<F, Value>(rng.fork(), Arc::clone(ledger));
    match rng.u32(..16) {
        0 => {
            let new = call!(Server < F, (), Chaos > ::new(place, move |_| handler()));
            made(rng, ledger, new)
        }
        1 => {
            let unbound = call!(Server < F, (), Chaos > ::unbound(move |_| handler()));
            activated(rng, ledger, directories, unbound)
        }
        2 | 3 => {
            let with = call!(Server < F, Value, Chaos > ::with_server(place, value, move |_, _| handler()));
            made(rng, ledger, with)
        }
        4 => {
            let new = call!(ThreadingMixIn<F>::new(place, move |_| waiting()));
            made(rng, ledger, new)
        }
        5 => {
            let unbound = call!(ThreadingMixIn<F>::unbound(move |_| waiting()));
            activated(rng, ledger, directories, unbound)
        }
        6 => {
            let with = call!(ThreadingMixIn<F>::with_server(place, value, move |_, _| waiting_with()));
            made(rng, ledger, with)
        }
        7 => {
            let unbound = call!(ThreadingMixIn<F>::unbound_with_server(value, move |_, _| waiting_with()));
            activated(rng, ledger, directories, unbound)
        }
        8 => {
            let new = call!(ForkingMixIn<F>::new(place, move |_| program(&mut inner)));
            made(rng, ledger, new)
        }
        9 => {
            let unbound = call!(ForkingMixIn<F>::unbound(move |_| program(&mut inner)));
            activated(rng, ledger, directories, unbound)
        }
        10 => {
            let with = call!(ForkingMixIn<F>::with_server(place, value, move |_, _| program(&mut inner)));
            made(rng, ledger, with)
        }
        11 => {
            let unbound = call!(ForkingMixIn<F>::unbound_with_server(value, move |_, _| program(&mut inner)));
            activated(rng, ledger, directories, unbound)
        }
        _ => {
            let make = move |value: &mut Value, _: &_| Chaos::new(&shared, &mut value.rng);
            let unbound = call!(Server < F, Value, Chaos > ::unbound_with_server(value, make));
            activated(rng, ledger, directories, unbound)
        }
    }
}

/// Makes handlers that wait, for requests of this family.
fn makes_waiting<F: Family, S: BaseServer>(
    mut rng: Rng,
    ledger: Arc<Ledger>,
) -> impl FnMut() -> Box<dyn BlockingHandler<S>> + Send {
    move || match F::DATAGRAMS {
        true => datagram_handler(&mut rng, &ledger),
        false => stream_handler(&mut rng, &ledger),
    }
}

/// A server that is bound. It gets limits that let nothing wait for long.
fn made<F: Any, S: BaseServer, H: RequestHandler<S>>(
    rng: &mut Rng,
    ledger: &Arc<Ledger>,
    made: Result<Server<F, S, H>, Error>,
) -> Option<Box<dyn Owned>> {
    let mut server = ledger.only("a constructor", made, |_| false)?;
    server.set_limits(limits(rng)).expect("they do not contradict each other");
    server.set_config(config(rng));
    Some(Box::new(server))
}

/// Binds and activates a server.
pub(crate) fn activated<F: Any, S: BaseServer, H: RequestHandler<S>>(
    rng: &mut Rng,
    ledger: &Arc<Ledger>,
    directories: &mut Vec<Directory>,
    mut unbound: Unbound<F, S, H>,
) -> Option<Box<dyn Owned>> {
    unbound.limits = limits(rng);
    for _ in 0..rng.u32(1..4) {
        match rng.u32(..8) {
            0 | 1 => {
                let (place, directory) = F::place();
                directories.extend(directory);
                let bound = call!(Unbound::server_bind(&mut unbound, place));
                ledger.only("server_bind", bound, |_| false);
            }
            2 | 3 => {
                let (place, directory) = F::place();
                directories.extend(directory);
                let bound = call!(Unbound::server_bind_with(&mut unbound, place, F::Options::random(rng)));
                ledger.only("server_bind_with", bound, |error| matches!(error, Error::Setting { .. }));
            }
            4 => bind_as::<Tcp, F, S, H>(rng, ledger, directories, &mut unbound),
            5 => bind_as::<Udp, F, S, H>(rng, ledger, directories, &mut unbound),
            6 => bind_as::<UnixStream, F, S, H>(rng, ledger, directories, &mut unbound),
            _ => bind_as::<UnixDatagram, F, S, H>(rng, ledger, directories, &mut unbound),
        }
    }
    if rng.u32(..3) == 0 {
        let adopted = match rng.bool() {
            true => call!(Unbound::adopt(&mut unbound, foreign::<F>(directories).into())),
            false => call!(Unbound::adopt_with(&mut unbound, foreign::<F>(directories).into(), F::Options::default())),
        };
        ledger.only("adopt", adopted, |_| false);
    }
    if rng.u32(..4) == 0 {
        inherit(rng, ledger, directories, &mut unbound);
    }
    let _: &mut S = call!(Unbound::server_mut(&mut unbound));
    let addresses = call!(Unbound::server_addresses(&unbound));
    let _ = format!("{unbound:?}");
    let activated = call!(Unbound::server_activate(unbound));
    // It may have no socket of its own family.
    let documented = |error: &Error| matches!(error, Error::NotBound);
    let mut server = ledger.only("server_activate", activated, documented)?;
    ledger.expect(server.server_addresses() == addresses, "a server keeps its addresses");
    server.set_config(config(rng));
    Some(Box::new(server))
}

fn bind_as<G: Any, F: Any, S: BaseServer, H: RequestHandler<S>>(
    rng: &mut Rng,
    ledger: &Ledger,
    directories: &mut Vec<Directory>,
    unbound: &mut Unbound<F, S, H>,
) {
    if rng.u32(..3) == 0 {
        let socket = foreign::<G>(directories).into();
        let adopted = call!(Unbound::adopt_as::<G>(unbound, socket, G::Options::default()));
        ledger.only("adopt_as", adopted, |error| matches!(error, Error::Setting { .. }));
        return;
    }
    let (place, directory) = G::place();
    directories.extend(directory);
    let bound = call!(Unbound::server_bind_as::<G>(unbound, place, G::Options::random(rng)));
    ledger.only("server_bind_as", bound, |error| matches!(error, Error::Setting { .. }));
}

/// A socket that was bound elsewhere.
pub(crate) fn foreign<F: Kind>(directories: &mut Vec<Directory>) -> socket2::Socket {
    let (place, directory) = F::place();
    directories.extend(directory);
    let place = sock_addr(&place.into());
    let kind = if F::DATAGRAMS { socket2::Type::DGRAM } else { socket2::Type::STREAM };
    let socket = socket2::Socket::new(place.domain(), kind, None).expect("a descriptor is left");
    socket.bind(&place).expect("there is room");
    if !F::DATAGRAMS {
        socket.listen(10).expect("it listens");
    }
    socket
}

pub(crate) fn limits(rng: &mut Rng) -> Limits {
    let mut limits = Limits::default();
    let mut some = |most: u64| Some(Duration::from_millis(1 + rng.u64(..most)));
    (limits.idle_timeout, limits.read_timeout, limits.write_timeout) = (some(40), some(40), some(40));
    (limits.connect_timeout, limits.child_timeout, limits.handshake_timeout) = (some(20), some(20), some(20));
    limits.linger_timeout = Duration::from_millis(rng.u64(..5));
    limits.linger = [Linger::Always, Linger::WhenNeeded, Linger::Never][rng.usize(..3)];
    limits.sessions_max = rng.bool().then(|| rng.usize(1..10));
    limits.connections_max = (rng.u32(..4) == 0).then(|| rng.usize(1..4));
    limits.connections_per_client_max = (rng.u32(..4) == 0).then(|| rng.usize(1..4));
    limits.block_on_close = rng.u32(..8) > 0;
    limits.daemon_threads = rng.u32(..8) == 0;
    limits.serve_while_draining = rng.u32(..4) == 0;
    limits.max_threads = rng.usize(1..4);
    limits.max_children = rng.usize(1..4);
    limits.thread_queue_max = rng.usize(..4);
    limits.output_overflow = if rng.bool() { Overflow::Refuse } else { Overflow::Close };
    if rng.bool() {
        limits.line_bytes_max = rng.usize(10..100);
        limits.frame_bytes_max = rng.usize(10..100);
        limits.input_bytes_max = rng.usize(200..5_000);
        limits.output_bytes_max = rng.usize(100..50_000);
        limits.read_bytes_per_turn = rng.usize(1..500);
        limits.write_bytes_per_turn = rng.usize(1..500);
        limits.callbacks_per_turn = rng.usize(1..4);
        limits.max_packet_size = rng.usize(20..9_000);
        limits.datagram_queue_bytes_max = rng.usize(..5_000);
    }
    limits
}

pub(crate) fn config(rng: &mut Rng) -> ReactorConfig {
    let mut config = ReactorConfig::default();
    config.drain_grace = Duration::from_millis(rng.u64(..40));
    config.drain_delay = Duration::from_millis(rng.u64(..8).saturating_sub(4));
    config.drain_quiet = Duration::from_millis(rng.u64(..10));
    config.offload_threads = rng.usize(..3);
    config.offload_queue_max = rng.usize(..10);
    config.messages_per_turn = rng.usize(1..300);
    config.messages_max = rng.usize(1..1_000);
    config.buffered_bytes_max = (rng.u32(..8) == 0).then(|| rng.usize(..100_000));
    config.handshakes_per_turn = rng.usize(..4);
    config.read_buffer_bytes = rng.usize(..100_000);
    config.turn_length = Duration::from_micros(rng.u64(..4_000));
    config.slow_callback = rng.bool().then_some(Duration::from_micros(50));
    config
}
