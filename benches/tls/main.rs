//! What TLS costs: memory of an idle connection, instructions, and CPU, beside other servers.
//!
//! ```text
//! cargo bench --bench tls                        everything: 10,000 connections, and about ten minutes
//! cargo bench --bench tls -- --quick             whether it all works: 100 connections, and about a minute
//! cargo bench --bench tls -- memory cpu          without `instructions`
//! ```
//!
//! All servers have the same certificate and serve TLS 1.3 with the same algorithms. nginx and HAProxy cannot echo: they
//! terminate TLS in front of a plain echo, which does not count. A server that is not installed is named, and left out.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a benchmark reports")]

mod certificate;
mod client;
mod clients;
mod contenders;
mod cpu;
mod drive;
mod instructions;
mod memory;
mod process;
mod raw;
mod serve;
mod table;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand, ValueEnum};

use crate::certificate::Certificate;
use crate::clients::Situation;
use crate::contenders::Contender;
use crate::drive::Work;
use crate::instructions::Counted;

/// Measures what TLS costs, beside other servers
#[derive(Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Options {
    /// What to measure [default: everything]
    parts: Vec<Part>,
    /// Few connections and rounds: shows that everything works
    #[arg(long)]
    quick: bool,
    /// cargo passes it
    #[arg(long, hide = true)]
    bench: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    Memory,
    Instructions,
    Cpu,
}

/// What a process does that this program starts.
#[derive(Subcommand)]
enum Command {
    #[command(hide = true)]
    Serve { kind: serve::Kind, address: SocketAddr, certificate: PathBuf },
    #[command(hide = true)]
    Clients { address: SocketAddr, number: usize, situation: Situation, certificate: PathBuf },
    #[command(hide = true)]
    Count { server: Counted, work: Work, number: usize, certificate: PathBuf },
}

fn main() -> ExitCode {
    let options = Options::parse();
    match options.command {
        Some(Command::Serve { kind, address, certificate }) => {
            serve::serve(kind, address, &Certificate::of(&certificate))
        }
        Some(Command::Clients { address, number, situation, certificate }) => {
            clients::run(address, number, situation, &Certificate::of(&certificate));
        }
        Some(Command::Count { server, work, number, certificate }) => {
            instructions::count(server, work, number, &Certificate::of(&certificate));
        }
        // `cargo test --benches` wants nothing measured.
        None if !options.bench => println!("to measure: cargo bench --bench tls"),
        None => return measure(&options.parts, options.quick),
    }
    ExitCode::SUCCESS
}

fn measure(parts: &[Part], quick: bool) -> ExitCode {
    // Each connection is a descriptor, or two.
    let descriptors = rlimit::increase_nofile_limit(u64::MAX).expect("the system tells the limit");
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory for the certificate");
    let certificate = Certificate::make(directory.path());
    let wanted = |part| parts.is_empty() || parts.contains(&part);
    let mut failures = Vec::new();
    let mut contenders = Contender::ALL.to_vec();
    if wanted(Part::Memory) || wanted(Part::Cpu) {
        contenders.retain(|contender| match contender.try_out(&certificate) {
            Ok(version) => {
                eprintln!("{contender}: {version}");
                true
            }
            Err(why) => {
                eprintln!("skipped: {why}");
                false
            }
        });
    }
    if wanted(Part::Memory) {
        memory::measure(&contenders, if quick { 100 } else { 10_000 }, descriptors, &certificate, &mut failures);
    }
    if wanted(Part::Instructions) {
        instructions::measure(&certificate);
    }
    if wanted(Part::Cpu) {
        cpu::measure(&contenders, quick, &certificate, &mut failures);
    }
    failures.iter().for_each(|why| eprintln!("failed: {why}"));
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
