//! Memory of connections that stay and are silent: this crate and its rivals.
//!
//!     cargo bench --bench idle              # all servers; takes a while, and says how long
//!     cargo bench --bench idle -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("idle")
}
