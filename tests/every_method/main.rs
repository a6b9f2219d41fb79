//! Every public method of the crate, called in random order: by handlers, hooks, threads and programs, and by the owner
//! of reactors and servers of every kind, with clients that do anything, on real sockets and on simulated ones. A stop
//! may come at any time, and everything is bound, moved, closed and dropped at any time.
//!
//! The list of methods is read from the sources, and the test fails if one was never called. A method that is added
//! must be called here. Beside the random ones there are clients of an echo server, which must get back every byte.
//!
//! In every round:
//! - nothing panics but what was meant to, and no call hangs;
//! - an error is one that the documentation of the method names;
//! - `setup` comes first, `finish` last and exactly once, and every handler is dropped;
//! - the reactor's invariants hold after each turn (a debug build, or a simulated network);
//! - the counters add up, and no descriptor is left.
//!
//! ```sh
//! cargo test --test every_method
//! EVERY_METHOD_ROUNDS=20000 EVERY_METHOD_SEED=1 cargo test --test every_method
//! ```
#![cfg(unix)]
#![allow(clippy::disallowed_methods, reason = "a watchdog has the machine's clock, and a round has deadlines")]

mod methods;
