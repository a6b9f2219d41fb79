//! One test for each hazard that has hurt a server before, named after it: the list of the test functions is the
//! catalogue.
//!
//! Clients are those of the standard library, on the loopback, with a deadline on every wait; whatever depends on time
//! alone runs on the testing kit's clock. Nothing sleeps, and nothing asserts how fast something is.
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]

#[path = "../common/mod.rs"]
mod common;

mod accept;
mod close;
mod connect;
mod faults;
mod flow;
mod outbound;
mod random;
mod reactor;
mod shutdown;
#[cfg(feature = "signals")]
mod signals;
mod testing_kit;
mod timers;
mod tokens;
