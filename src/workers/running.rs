//! The thread of a worker: serves, and makes a new worker when one has failed.

use std::sync::{Mutex, PoisonError};

use super::crew::Place;
use super::worker::{Make, Worker};
use crate::backoff::Backoff;
use crate::error::Result;
use crate::logging::{LinesOf, note};
use crate::net::clock::Clock;
use crate::panics::{catch, drop_caught};

pub(super) fn run(place: Place, mut worker: Worker, make: &Mutex<Make>) {
    place.begin();
    let _lines = LinesOf::worker(place.number);
    let (clock, mut backoff) = (Clock::new(), Backoff::default());
    loop {
        let begun = clock.now();
        let ended = catch(|| worker.serve()).and_then(|ended| ended);
        let stats = catch(|| worker.stats()).unwrap_or_default();
        if let Err(error) = &ended {
            note!(Error, "it has failed: {error:#}");
            worker.handle().shutdown_handle().shutdown_now(); // Its threads are not waited for.
        }
        place.vacate(stats);
        let handle = worker.handle();
        if !drop_caught(worker) {
            handle.close(); // Otherwise what waits for it would wait as long as there are handles.
        }
        let Err(error) = ended else {
            note!(Info, "it has stopped");
            return;
        };
        place.crew.note_failure(error);
        if !place.crew.config.replace_failed {
            return place.give_away();
        }
        if clock.now() - begun > STEADY {
            backoff = Backoff::default();
        }
        match replace(&place, make, &mut backoff) {
            Some(next) => {
                note!(Info, "it serves again");
                worker = next;
            }
            None => return,
        }
    }
}

/// Makes a new worker, with pauses between the attempts. `None` if all stop.
fn replace(place: &Place, make: &Mutex<Make>, backoff: &mut Backoff) -> Option<Worker> {
    while place.pause(backoff.pause()) {
        match attempt(place, make) {
            Ok(worker) => {
                place.lend(); // The closure may have left out an address.
                return place.fill(worker.handle()).then_some(worker);
            }
            Err(error) => {
                note!(Error, "it cannot be made again: {error:#}");
                place.lend(); // It may take long.
            }
        }
    }
    None
}

fn attempt(place: &Place, make: &Mutex<Make>) -> Result<Worker> {
    let mut make = make.lock().unwrap_or_else(PoisonError::into_inner);
    let made = catch(|| Worker::make(&place.crew, place.number, &mut make)).and_then(|made| made);
    place.settle(made.is_ok()); // Before another worker is made, which may bind the same address.
    made
}

/// A worker that has served for longer begins with the shortest pause again.
const STEADY: u64 = 10_000_000_000;
