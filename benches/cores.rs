//! Several threads in one server: this crate's workers and tokio's multi-threaded runtime.
//!
//!     cargo bench --bench cores              # all servers; takes a while, and says how long
//!     cargo bench --bench cores -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("cores")
}
