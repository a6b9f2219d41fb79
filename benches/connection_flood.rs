//! Connections that come, echo one message and go, as fast as possible: this crate and its rivals.
//!
//!     cargo bench --bench connection_flood              # all servers; takes a while, and says how long
//!     cargo bench --bench connection_flood -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("connection_flood")
}
