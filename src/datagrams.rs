//! The path of a datagram.
//!
//! ```text
//!  net/datagram ──▶ receiving ──▶ the handler's callbacks ──▶ sending ──▶ outbox ──▶ net/datagram
//!  recvfrom(2)      a session,    dispatch                    by which    waits,     sendto(2)
//!                   or a single                               socket      in order
//!                   request
//! ```

pub(crate) mod endpoint;
mod opening;
pub(crate) mod outbox;
mod receiving;
mod sending;
mod single;
