//! `rivals BENCHMARK` starts this crate's server and its rivals one after the other, loads each with the same work, and
//! reports what it cost. `cargo bench --bench BENCHMARK` runs it.
//!
//! Linux only, loopback only. How it is measured: `rounds`. What: `scenario`. What comes out: `results` and `report`.

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
mod rounds;
mod scenario;
mod server;
mod services;
mod trial;

use clap::Parser;
use cpus::Cpus;
use options::{Benchmark, CommandLine, Options};
use progress::Progress;
use results::Results;
use rounds::Rounds;
use std::io::Write;
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

fn main() -> ExitCode {
    let result = match CommandLine::parse() {
        CommandLine::ConnectionFlood(options) => measure(Benchmark::ConnectionFlood, &options),
        CommandLine::Echo(options) => measure(Benchmark::Echo, &options),
        CommandLine::Idle(options) => measure(Benchmark::Idle, &options),
        CommandLine::Datagrams(options) => measure(Benchmark::Datagrams, &options),
        CommandLine::Cores(options) => measure(Benchmark::Cores, &options),
        CommandLine::Services { options, services } => services::measure(&options, &services),
        CommandLine::ServeFiles { address, directory } => {
            rivals::serve_files(address, &directory).map_err(|error| format!("files at {address}: {error}"))
        }
        CommandLine::Serve { rival, job, address, threads } => {
            rivals::serve(rival, job, address, threads).map_err(|error| format!("{job} at {address}: {error}"))
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("rivals: {message}");
            ExitCode::FAILURE
        }
    }
}

fn measure(benchmark: Benchmark, options: &Options) -> Result<(), String> {
    let (started, clock) = (SystemTime::now(), Instant::now());
    process::catch_signals().map_err(|error| format!("cannot catch signals: {error}"))?;
    let connections_possible = load::connections_possible()?;
    let scenarios = scenario::scenarios(benchmark, connections_possible, options.quick);
    if scenarios.is_empty() {
        return Err(format!("the limit of descriptors allows {connections_possible} connections, which are too few"));
    }
    let (mut contenders, absent) = contenders::find(benchmark, &options.only, &options.servers)?;
    contenders.retain(|contender| scenarios.iter().any(|scenario| scenario.is_for(contender)));
    if options.list {
        contenders.iter().for_each(|contender| println!("{:20}{}", contender.name, contender.version));
        absent.iter().for_each(|(name, reason)| println!("{name:20}absent: {reason}"));
        return Ok(());
    }
    let directory = results::make_directory(options)?;
    let cpus = if benchmark == Benchmark::Cores { Cpus::all() } else { Cpus::choose() }?;

    let turns = rounds::plan(&contenders, &scenarios, options.rounds());
    let countable = counts::plan(benchmark, &contenders);
    let mut progress = Progress::new(turns.len() + countable.len());
    let mut rounds = Rounds::new(cpus, options.measured());
    rounds.run(&turns, &mut progress)?;
    let mut counts = Vec::new();
    for (item, contender) in countable {
        progress.step(&format!("counts for each {}: {}", item.name(), contender.name));
        counts.push(counts::count(contender, item, options.quick, cpus));
        process::check_interrupt()?;
    }
    drop(progress);

    let results = Results {
        benchmark,
        command_line: std::env::args().skip(1).collect(),
        started: started.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()),
        took_s: clock.elapsed().as_secs_f64(),
        machine: [results::describe_machine(connections_possible), vec![cpus.to_string()]].concat(),
        rounds: options.rounds(),
        measured_s: options.measured().as_secs_f64(),
        contenders: contenders.into_iter().map(|one| (one.name, one.version)).collect(),
        absent,
        scenarios,
        trials: rounds.trials,
        gaps: rounds.gaps,
        counts,
    };
    let files: Vec<_> = report::write(&results, &directory)?.iter().map(|file| file.display().to_string()).collect();
    // A reader of standard output may have ended by now.
    let _ = writeln!(std::io::stdout(), "\n{}", files.join("\n"));
    match results.without_trials().as_slice() {
        [] => Ok(()),
        names => Err(format!("could not be measured at all: {}", names.join(", "))),
    }
}
