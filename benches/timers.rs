//! What timers cost when there are many: 100,000 of one connection, set, set again, unset, and due.
//!
//!     cargo bench --bench timers              # measures
//!     cargo bench --bench timers -- --test    # runs each once, to see that it works
//!
//! Each figure is for all 100,000 and for one callback (`fire`: for 100,000 of them); divan's second line is timers per
//! second. A timer of a handler costs a search by its tag and O(log n) steps in the reactor's heap.
//!
//! - `arm`: none is set; sets all, at deadlines in no order.
//! - `rearm`: all are set; moves each to another deadline.
//! - `cancel`: all are set; unsets each.
//! - `fire`: all are set; time passes, and each calls its handler's `timer`.
//!
//! Messages cost no timer work at all, whatever limits are on: see `turn`.

use divan::Bencher;
use divan::counter::ItemsCount;
use socketserver::testing::Client;
use socketserver::{Next, Request, RequestHandler, Result};
use std::time::Duration;

fn main() {
    divan::main();
}

const TIMERS: u64 = 100_000;

/// Does with all its timers what a byte tells it.
struct Many;

impl RequestHandler for Many {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        for &order in request.input.take_all() {
            for tag in 0..TIMERS {
                match order {
                    ARM => request.set_timer(tag, after(tag, 7_919)),
                    REARM => request.set_timer(tag, after(tag, 104_729)),
                    _ => assert!(request.cancel_timer(tag)),
                }
            }
        }
        Ok(Next::Wait)
    }
}

/// Deadlines between 1 and 100 s, in no order: 100,003 is prime.
fn after(tag: u64, step: u64) -> Duration {
    Duration::from_millis(1_000 + tag * step % 100_003)
}

const ARM: u8 = b'a';
const REARM: u8 = b'r';
const CANCEL: u8 = b'c';

fn armed() -> Client {
    let mut client = Client::new(Many);
    client.feed(&[ARM]);
    client
}

fn order(bencher: Bencher<'_, '_>, client: impl FnMut() -> Client, order: u8) {
    bencher.counter(ItemsCount::new(TIMERS)).with_inputs(client).bench_local_refs(|client| client.feed(&[order]));
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn arm(bencher: Bencher<'_, '_>) {
    order(bencher, || Client::new(Many), ARM);
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn rearm(bencher: Bencher<'_, '_>) {
    order(bencher, armed, REARM);
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn cancel(bencher: Bencher<'_, '_>) {
    order(bencher, armed, CANCEL);
}

#[divan::bench(sample_count = 20, sample_size = 1)]
fn fire(bencher: Bencher<'_, '_>) {
    bencher
        .counter(ItemsCount::new(TIMERS))
        .with_inputs(armed)
        .bench_local_refs(|client| client.advance(Duration::from_secs(102)));
}
