//! `measure BENCHMARK`: starts this crate's server and its rivals one after the other, loads each with the same work,
//! and says what it cost. Reached through `cargo bench --bench BENCHMARK`.
//!
//! Linux only, loopback only. How it is measured: `rounds`. What: `benchmarks`. What comes out: `results` and `report`.

mod benchmarks;
mod check;
mod contenders;
mod counts;
mod cpus;
mod figures;
mod job;
mod leftovers;
mod load;
mod machine;
mod options;
mod procfs;
mod progress;
mod report;
mod results;
mod rounds;
mod scenario;
mod server;
mod statistics;
mod tools;
mod trial;

use benchmarks::Extent;
use contenders::{Absent, Contender, Threads};
use cpus::Cpus;
use machine::Machine;
use options::{Benchmark, CommandLine, Options};
use progress::Progress;
use results::{AbsentEntry, Entry, Method, Results, SCHEMA};
use rounds::Rounds;
use scenario::{Item, Scenario, reference};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Instant, SystemTime, UNIX_EPOCH};
use trial::Length;

fn main() -> ExitCode {
    let (benchmark, options) = CommandLine::read();
    let result = leftovers::clear_on_signals()
        .map_err(|error| format!("cannot listen to signals: {error}"))
        .and_then(|()| measure(benchmark, &options));
    leftovers::clear();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            eprintln!("measure: {message}");
            ExitCode::FAILURE
        }
    }
}

fn measure(benchmark: Benchmark, options: &Options) -> Result<(), String> {
    let started = Instant::now();
    let (contenders, absent) = contenders(benchmark, options)?;
    if options.list {
        list(&contenders, &absent);
        return Ok(());
    }
    let directory = options.out.clone().map_or_else(default_directory, Ok)?;
    report::prepare(benchmark.name(), &directory)?;
    let cpus = Cpus::choose()?;
    let extent = Extent::new(load::connections_possible()?, options.quick);
    let length = Length { warm_up: options.warm_up(), measured: options.measured() };
    let rounds = Rounds { contenders: &contenders, cpus, length };

    let lists = match benchmark {
        Benchmark::ConnectionFlood => benchmarks::connection_flood(extent),
        Benchmark::Echo => benchmarks::echo(extent, fixed_rate(&rounds)?),
        Benchmark::Idle => benchmarks::idle(extent),
        Benchmark::Datagrams => benchmarks::datagrams(extent),
    };
    let item = item(benchmark);
    let countable: Vec<_> = contenders.iter().filter(|contender| counts::can_count(contender, item)).collect();
    let (turns, gaps) = rounds.plan(&lists, options.rounds());
    let mut progress = Progress::new(turns.len() + countable.len());
    let mut outcomes = rounds.run(&turns, &mut progress);
    outcomes.gaps.splice(0..0, gaps);
    let mut counts = Vec::new();
    for contender in countable {
        progress.step(&format!("counts: {}", contender.name));
        counts.push(counts::count(contender, item, options.quick, cpus));
    }
    progress.finish();

    let results = Results {
        schema: SCHEMA,
        benchmark: benchmark.name().to_owned(),
        command_line: std::env::args().skip(1).collect(),
        started: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |now| now.saturating_sub(started.elapsed()).as_secs()),
        took_s: started.elapsed().as_secs_f64(),
        machine: Machine::describe(),
        method: Method {
            rounds: options.rounds(),
            measured_s: length.measured.as_secs_f64(),
            warm_up_s: length.warm_up.as_secs_f64(),
            server_cpu: cpus.server,
            load_cpu: cpus.load,
            cpus: cpus.describe(),
        },
        contenders: contenders.iter().map(entry).collect(),
        absent: absent.into_iter().map(|absent| AbsentEntry { name: absent.name, reason: absent.reason }).collect(),
        scenarios: lists.into_iter().flatten().collect(),
        trials: outcomes.trials,
        gaps: outcomes.gaps,
        counts,
    };
    let files: Vec<_> = report::write(&results, &directory)?.iter().map(|file| file.display().to_string()).collect();
    // Nobody may be reading any more.
    let _ = writeln!(std::io::stdout(), "\n{}", files.join("\n"));
    match results.those_that_failed().as_slice() {
        [] => Ok(()),
        names => Err(format!("could not be measured at all: {}", names.join(", "))),
    }
}

/// Those asked for that can do something in `benchmark`, and those they are held against in any case.
fn contenders(benchmark: Benchmark, options: &Options) -> Result<(Vec<Contender>, Vec<Absent>), String> {
    let scenarios = scenarios_of(benchmark);
    let transports: Vec<_> = scenarios.iter().map(|scenario| scenario.transport).collect();
    let mut only = options.only.clone();
    if !only.is_empty() {
        only.extend(transports.iter().map(|&transport| reference(transport).to_owned()));
    }
    let (mut contenders, absent) = contenders::find(&only, &options.servers, &transports)?;
    contenders.retain(|contender| scenarios.iter().any(|scenario| scenario.refusal(contender).is_none()));
    Ok((contenders, absent))
}

/// The smallest ones.
fn scenarios_of(benchmark: Benchmark) -> Vec<Scenario> {
    let extent = Extent::new(1_000, true);
    let lists = match benchmark {
        Benchmark::ConnectionFlood => benchmarks::connection_flood(extent),
        Benchmark::Echo => benchmarks::echo(extent, 1.0),
        Benchmark::Idle => benchmarks::idle(extent),
        Benchmark::Datagrams => benchmarks::datagrams(extent),
    };
    lists.into_iter().flatten().collect()
}

/// What system calls and instructions are counted for.
fn item(benchmark: Benchmark) -> Item {
    match benchmark {
        Benchmark::ConnectionFlood => Item::Connection,
        Benchmark::Echo => Item::Message,
        Benchmark::Idle => Item::IdleConnection,
        Benchmark::Datagrams => Item::Datagram,
    }
}

/// Half of what the reference can do here and now, in messages a second; a round figure.
fn fixed_rate(rounds: &Rounds<'_>) -> Result<f64, String> {
    let scenario = benchmarks::calibration();
    let name = reference(scenario.transport);
    let limit = rounds
        .contenders
        .iter()
        .find(|contender| contender.name == name)
        .ok_or_else(|| format!("{name}, which the fixed rate is derived from, is absent"))?;
    let mut progress = Progress::new(1);
    progress.step(&format!("{name}: its rate, half of which is the fixed rate"));
    let trial = rounds.single(limit, &scenario, &mut progress);
    progress.finish();
    let rate = figures::Figure::Rate.of(&trial?).unwrap_or(0.0);
    Ok(((rate / 2.0 / 1_000.0).round() * 1_000.0).max(1_000.0))
}

fn entry(contender: &Contender) -> Entry {
    let threads = match contender.threads {
        Threads::One => "one",
        Threads::Several => "several",
        Threads::PerClient => "per client",
    };
    Entry { name: contender.name.clone(), version: contender.version.clone(), threads: threads.to_owned() }
}

fn list(contenders: &[Contender], absent: &[Absent]) {
    for contender in contenders {
        println!("{:20}{}", contender.name, contender.version);
    }
    for absent in absent {
        println!("{:20}absent: {}", absent.name, absent.reason);
    }
}

/// `target/benchmarks`, whichever directory cargo's target is.
fn default_directory() -> Result<PathBuf, String> {
    Ok(target_directory()?.join("benchmarks"))
}

/// Cargo's, which this program is in.
fn target_directory() -> Result<PathBuf, String> {
    let program = std::env::current_exe().map_err(|error| format!("where is this program? {error}"))?;
    // target/release/measure
    Ok(program.ancestors().nth(2).unwrap_or(Path::new("target")).to_owned())
}
