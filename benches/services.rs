//! The services among the examples, beside the programs that people run today.
//!
//!     cargo bench --bench services              # all of them; takes a while, and says how long
//!     cargo bench --bench services -- --help    # the options

mod launch;

fn main() -> std::process::ExitCode {
    launch::measure("services")
}
