//! The reactor, its real code, over simulated sockets and a clock that stands until it is moved: each seed is another
//! network, with other faults, other peers and other handlers. See `docs/testing.md`.
//!
//! - `SIMULATION_SEEDS=5000` runs so many seeds, `SIMULATION_FROM=1000` from another first one.
//! - `SIMULATION_SEED=17` runs that one; `SIMULATION_STEPS=3,8-12` only those of its steps, and
//!   `SIMULATION_WITHOUT=short,panics` without those faults and habits: what a failure prints.

#[cfg(feature = "tls")]
#[path = "../common/tls.rs"]
#[allow(dead_code, reason = "the simulation uses a part of it")]
mod certificates;
mod datagrams;
mod handlers;
mod ledger;
mod page;
mod plan;
mod records;
#[cfg(feature = "tls")]
mod secure;
mod shrink;
mod stage;
mod wire;

use std::env;

use plan::Plan;
use shrink::{Shrunk, shrink};
use stage::{Tally, play};

#[test]
fn whatever_happens_nothing_is_lost_forgotten_or_left() {
    if let Some(plan) = replay() {
        println!("seed {}\n{plan}", plan.seed);
        match play(&plan) {
            Ok(tally) => println!("passes: {tally:?}"),
            Err(error) => panic!("seed {} fails: {error}", plan.seed),
        }
        return;
    }
    let from = number("SIMULATION_FROM").unwrap_or(0);
    let seeds = number("SIMULATION_SEEDS").unwrap_or(if cfg!(debug_assertions) { 150 } else { 2_000 });
    let mut total = Tally::default();
    for seed in from..from + seeds {
        let plan = Plan::draw(seed);
        match quietly(|| play(&plan)) {
            Ok(tally) => total.add(tally),
            Err(error) => {
                println!("shrinking seed {seed}: {error}");
                let shrunk = quietly(|| shrink(&plan, error.clone()));
                panic!("seed {seed} fails: {error}\n\n{}", story(&plan, &shrunk));
            }
        }
    }
    println!("seeds {from} to {}: {total:?}", from + seeds - 1);
    if seeds >= SEEDS_FOR_ALL {
        // What never happens proves nothing.
        let missing: Vec<_> = CALLBACKS.into_iter().filter(|&name| !total.calls.contains_key(name)).collect();
        assert!(missing.is_empty(), "in {seeds} seeds these were never called: {missing:?}");
    }
}

/// The commands that repeat the failure, and the shrunk plan.
fn story(plan: &Plan, shrunk: &Shrunk) -> String {
    let mut command = format!("SIMULATION_SEED={} SIMULATION_STEPS={}", plan.seed, ranges(&shrunk.steps));
    let (kept, all) = (shrunk.plan.names(), plan.names());
    let gone: Vec<_> = all.iter().filter(|rate| !kept.contains(rate)).map(|(name, _)| *name).collect();
    if !gone.is_empty() {
        command += &format!(" SIMULATION_WITHOUT={}", gone.join(","));
    }
    format!(
        "all of it:  SIMULATION_SEED={} cargo test --test simulation -- --nocapture\n\
         shrunk to {} steps of {}, where it says: {}\n\
         that:       {command} cargo test --test simulation -- --nocapture\n{}",
        plan.seed,
        shrunk.steps.len(),
        plan.steps.len(),
        shrunk.error,
        shrunk.plan,
    )
}

/// The plan that the environment asks for.
fn replay() -> Option<Plan> {
    let mut plan = Plan::draw(number("SIMULATION_SEED")?);
    if let Ok(steps) = env::var("SIMULATION_STEPS") {
        plan.steps = numbers(&steps).into_iter().filter_map(|at| plan.steps.get(at).copied()).collect();
    }
    for name in env::var("SIMULATION_WITHOUT").unwrap_or_default().split(',').filter(|name| !name.is_empty()) {
        assert!(plan.clear(name), "SIMULATION_WITHOUT: there is no {name}");
    }
    Some(plan)
}

fn number(variable: &str) -> Option<u64> {
    let text = env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}

/// "1,3-5" and back.
fn numbers(text: &str) -> Vec<usize> {
    let parse = |text: &str| text.parse().unwrap_or_else(|_| panic!("SIMULATION_STEPS: {text} is no number"));
    let parts = text.split(',').filter(|part| !part.is_empty());
    parts
        .flat_map(|part| match part.split_once('-') {
            Some((first, last)) => parse(first)..=parse(last),
            None => parse(part)..=parse(part),
        })
        .collect()
}

fn ranges(numbers: &[usize]) -> String {
    let mut runs: Vec<(usize, usize)> = Vec::new();
    for &number in numbers {
        match runs.last_mut() {
            Some((_, last)) if *last + 1 == number => *last = number,
            _ => runs.push((number, number)),
        }
    }
    let text =
        |&(first, last): &(usize, usize)| if first == last { format!("{first}") } else { format!("{first}-{last}") };
    runs.iter().map(text).collect::<Vec<_>>().join(",")
}

/// Without what panics print: those of the simulation are caught and told once.
fn quietly<T>(act: impl FnOnce() -> T) -> T {
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let result = act();
    std::panic::set_hook(hook);
    result
}

#[test]
fn step_numbers_come_back_as_they_were_written() {
    for steps in [vec![], vec![4], vec![0, 1, 2, 5, 7, 8]] {
        assert_eq!(numbers(&ranges(&steps)), steps);
    }
}

/// Of handlers, and what they see of other things; each comes in some of so many seeds.
const CALLBACKS: [&str; 18] = [
    "setup",
    "handle",
    "writable",
    "eof",
    "timeout Idle",
    "timeout Read",
    "timeout Write",
    "timer",
    "server timer",
    "set_client_address",
    "client limit",
    "message",
    "drain",
    "finish",
    "connect_failed",
    "drain_server",
    "visit",
    "visit during a stop",
];
const SEEDS_FOR_ALL: u64 = 100;
