//! `rivals BENCHMARK --list` names the servers that are compared, and `rivals serve NAME JOB ADDRESS` is one of them.

mod check;
mod contenders;
mod counts;
mod cpus;
mod figures;
mod job;
mod load;
mod options;
mod process;
mod progress;
mod report;
mod results;
mod rivals;
mod scenario;
mod server;

use clap::Parser;
use options::{CommandLine, Options};
use std::process::ExitCode;

fn main() -> ExitCode {
    let result = match CommandLine::parse() {
        CommandLine::ConnectionFlood(options)
        | CommandLine::Echo(options)
        | CommandLine::Idle(options)
        | CommandLine::Datagrams(options) => list(&options),
        CommandLine::Serve { rival, job, address } => {
            rivals::serve(rival, job, address).map_err(|error| format!("{job} at {address}: {error}"))
        }
    };
    let Err(message) = result else { return ExitCode::SUCCESS };
    eprintln!("rivals: {message}");
    ExitCode::FAILURE
}

fn list(options: &Options) -> Result<(), String> {
    let (contenders, absent) = contenders::find(&options.only, &options.servers)?;
    contenders.iter().for_each(|contender| println!("{:20}{}", contender.name, contender.version));
    absent.iter().for_each(|(name, reason)| println!("{name:20}absent: {reason}"));
    Ok(())
}
