//! `rivals NAME JOB ADDRESS` is one of the servers that are compared, until a signal comes.

mod job;
mod rivals;

use clap::Parser;
use job::Job;
use rivals::Rival;
use std::net::SocketAddr;
use std::process::ExitCode;

#[derive(Parser)]
struct CommandLine {
    rival: Rival,
    job: Job,
    address: SocketAddr,
}

fn main() -> ExitCode {
    let CommandLine { rival, job, address } = CommandLine::parse();
    let Err(error) = rivals::serve(rival, job, address) else { return ExitCode::SUCCESS };
    eprintln!("rivals: {job} at {address}: {error}");
    ExitCode::FAILURE
}
