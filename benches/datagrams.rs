//! Datagrams there and back: this crate and its rivals.
//!
//!     cargo bench --bench datagrams              # all servers; takes a while, and says how long
//!     cargo bench --bench datagrams -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("datagrams")
}
