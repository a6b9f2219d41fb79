//! The rules of one connection. No clock and no selector: readiness, limits and `now` come in, and what to do next
//! comes out as a [`Step`].
//!
//! A connection moves through these states; only the reactor's service phase moves it:
//!
//! ```text
//!  connecting ──▶ setup ──▶ open ──▶ ending ──▶ finish ──▶ lingering ──▶ dead
//!       │           │         │        │ flush     │ once     │ FIN sent,   │ freed in reap
//!       └───────────┴─────────┴────────┴───────────┴──────────┴─────────────┘ abort, reset
//! ```
//!
//! A session of a datagram server is a connection without a stream of its own: it is never read, only handed datagrams,
//! and there is nothing to flush or to linger for. A single datagram is such a session for one request.
//!
//! What never happens: a callback before `setup` or after `finish`, a read while output is above the high-water mark
//! or reading is paused, FIN before the queued output is sent.

mod allowance;
pub(crate) mod connection;
pub(crate) mod input;
pub(crate) mod output;
mod state;

pub(crate) use allowance::{Allowance, Slice};
pub use connection::Sent;
pub(crate) use connection::{Connection, Due, Payload, Step};
pub use input::Input;
pub use output::Output;
pub(crate) use state::State;
