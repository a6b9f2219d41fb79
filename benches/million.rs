//! A million connections in one reactor: what each costs in memory, and what a turn costs as more and more of them are
//! idle. Sockets and time are simulated, so descriptors are no limit; the reactor is the real one.
//!
//! ```text
//! cargo bench --bench million              1,000 to 1,000,000 connections, some 2 GB of memory
//! cargo bench --bench million -- --quick   1,000 to 100,000
//! ```

#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::alloc::System;
use std::io::Write;
use std::time::{Duration, Instant};

use clap::Parser;
use socketserver::testing::{Network, Peer};
use socketserver::{Limits, Next, Request, RequestHandler, Result};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// Measures memory and turns with up to a million simulated connections.
#[derive(Parser)]
struct Options {
    /// Up to 100,000 connections, and fewer turns.
    #[arg(long, visible_alias = "test")]
    quick: bool,
    /// What cargo passes to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// What one number of connections costs.
struct Figures {
    connections: usize,
    bytes_each: f64,
    empty_turn: Duration,
    message: Duration,
    timeout: Duration,
}

fn main() -> Result<()> {
    let options = Options::parse();
    let (most, turns) = if options.quick { (100_000, 200) } else { (1_000_000, 2_000) };
    println!("connections   bytes each   a turn with nothing   a message, of {ACTIVE} a turn   an idle timeout");
    let mut first: Option<Figures> = None;
    for connections in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|&connections| connections <= most) {
        let figures = measure(connections, turns)?;
        let base = first.as_ref().unwrap_or(&figures);
        let ratio = |time: Duration, base: Duration| time.as_secs_f64() / base.as_secs_f64();
        println!(
            "{:>11}   {:>10.1}   {:>12.0} ns {:>4.2}x   {:>17.0} ns {:>4.2}x   {:>9.0} ns {:>4.2}x",
            figures.connections,
            figures.bytes_each,
            figures.empty_turn.as_nanos(),
            ratio(figures.empty_turn, base.empty_turn),
            figures.message.as_nanos(),
            ratio(figures.message, base.message),
            figures.timeout.as_nanos(),
            ratio(figures.timeout, base.timeout),
        );
        first.get_or_insert(figures);
    }
    Ok(())
}

fn measure(connections: usize, turns: u32) -> Result<Figures> {
    let mut network = Network::new().without_checks();
    let mut limits = Limits::default();
    limits.connections_max = Some(connections);
    let server = network.serve((), |_, _| Echo, limits)?;
    let peers: Vec<Peer> = (0..connections).map(|_| network.connect(server)).collect();

    // The sockets are there; from here on the memory is the reactor's.
    let region = Region::new(ALLOCATOR);
    network.run();
    let change = region.change();
    assert_eq!(network.stats().active, connections as u64);
    let bytes_each = (change.bytes_allocated - change.bytes_deallocated) as f64 / connections as f64;

    // The same few talk, scattered among all the others.
    let active: Vec<&Peer> = peers.iter().step_by(connections / ACTIVE).take(ACTIVE).collect();
    let empty_turn = median(turns, || {
        let begun = Instant::now();
        network.turn();
        begun.elapsed()
    });
    let message = median(turns, || {
        active.iter().for_each(|peer| peer.send(&[b'x'; 64]));
        let begun = Instant::now();
        network.turn();
        let took = begun.elapsed();
        assert!(active.iter().all(|peer| peer.take_received().len() == 64), "each is answered in the same turn");
        took
    });

    network.advance(Duration::from_secs(700));
    let begun = Instant::now();
    while network.turn() {}
    network.advance(Duration::from_secs(3)); // They linger, and the peers do not end their side.
    while network.turn() {}
    let timeout = begun.elapsed() / connections as u32;
    assert_eq!(network.stats().timeouts_idle, connections as u64);
    assert_eq!(network.stats().active, 0);
    Ok(Figures { connections, bytes_each, empty_turn, message: message / ACTIVE as u32, timeout })
}

fn median(turns: u32, mut measure: impl FnMut() -> Duration) -> Duration {
    let mut times: Vec<_> = (0..turns).map(|_| measure()).collect();
    times.sort_unstable();
    times[times.len() / 2]
}

/// Connections that talk.
const ACTIVE: usize = 100;
