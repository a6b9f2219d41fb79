//! Replaces the process by its next version, the successor, which gets its sockets.
//!
//! ```text
//!  predecessor                                          successor
//!  starts it ──────────── sockets, environment ───────▶ takes its sockets (`InheritedSockets::from_env`)
//!  serves                                               binds, opens files, ...
//!         ◀─────────────────── ready ────────────────── begins to serve, and waits
//!  MAINPID=successor
//!         ──────────────────── go ────────────────────▶ serves, and tells the supervisor READY=1
//!  drains, and ends
//! ```
//!
//! Until `go` the predecessor serves, and can end the successor at any time. Afterwards it cannot, and the successor
//! serves. So exactly one of them is in charge at any time. If the predecessor dies before, the successor serves.

pub(crate) mod link;
pub(crate) mod origin;
pub(crate) mod spawn;
