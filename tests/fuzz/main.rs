//! The corpora of the fuzzer, replayed: what once found something new, or a fault, is tested for ever.
//!
//! `cargo +nightly fuzz run --fuzz-dir tests/fuzz TARGET` goes on from there.

#[path = "bodies/framing.rs"]
mod framing;
#[cfg(feature = "signals")]
#[path = "bodies/options.rs"]
mod options;
#[path = "bodies/session.rs"]
mod session;

#[cfg(feature = "signals")]
#[path = "../../examples/common/mod.rs"]
mod common;
#[path = "../../src/models/replay.rs"]
mod replay;

#[test]
fn framing() {
    replay::corpus("framing", framing::framing);
}

#[test]
fn session() {
    replay::corpus("session", session::session);
}

#[cfg(feature = "signals")]
#[test]
fn options() {
    replay::corpus("options", options::options);
}
