//! Messages there and back over connections that stay: this crate and its rivals.
//!
//!     cargo bench --bench echo              # all servers; takes a while, and says how long
//!     cargo bench --bench echo -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("echo")
}
