//! From a benchmark's name to the program that measures it: becomes `cargo run` for the package `benches/rivals`. Only
//! these benchmarks build the rivals.

use std::io;
use std::process::{Command, ExitCode};

/// Runs `rivals NAME` with the arguments of this process. Returns only if it could not be started.
pub(crate) fn measure(name: &str) -> ExitCode {
    // `cargo bench` adds `--bench`; `cargo test --benches` does not, and wants nothing measured.
    let (asked, arguments): (Vec<String>, Vec<String>) = std::env::args().skip(1).partition(|word| word == "--bench");
    if asked.is_empty() {
        println!("to measure: cargo bench --bench {name}; its options: cargo bench --bench {name} -- --help");
        return ExitCode::SUCCESS;
    }
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/rivals/Cargo.toml");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut run = Command::new(&cargo);
    run.args(["run", "--release", "--manifest-path", manifest]);
    let error = become_it(run.args(["--", name]).args(arguments));
    eprintln!("{name}: cannot run {}: {error}", cargo.display());
    ExitCode::FAILURE
}

/// Its status and the signals sent to this process are then those of the program that measures.
#[cfg(unix)]
fn become_it(command: &mut Command) -> io::Error {
    std::os::unix::process::CommandExt::exec(command)
}

#[cfg(not(unix))]
fn become_it(_: &mut Command) -> io::Error {
    io::Error::new(io::ErrorKind::Unsupported, "it measures on Linux only")
}
