//! The services of `examples/` beside the programs that people run today, under the load generators of their fields.
//!
//! `programs` says which servers there are, `loads` which work, `greedy` how long a polite client waits beside others,
//! and `tables` what is shown. All servers of a service run at the same time, and take turns: a server that is not
//! loaded does nothing. Each has one CPU and one thread.

mod greedy;
mod loads;
mod programs;
mod tables;

use crate::cpus::Cpus;
use crate::load;
use crate::options::Options;
use crate::process::{catch_signals, check_interrupt, output};
use crate::progress::Progress;
use crate::report::plots;
use crate::results;
use crate::server::Server;
use crate::trial::memory;
use clap::ValueEnum;
use greedy::Wait;
use loads::{Load, Sample};
use programs::Program;
use serde::Serialize;
use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;

/// What the servers of one group do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Service {
    /// Keys and values, with the protocol of Redis.
    Kv,
    /// Files, with HTTP/1.1.
    Web,
    /// Names, with DNS.
    Dns,
}

/// The whole file of results: the figures of each round, nothing averaged.
#[derive(Debug, Default, Serialize)]
struct Figures {
    /// What the figures belong to, in words.
    machine: Vec<String>,
    rounds: usize,
    /// Services, names and versions.
    programs: Vec<(String, String, String)>,
    /// Programs, and why they are not here.
    absent: Vec<(String, String)>,
    loads: Vec<Load>,
    samples: Vec<Sample>,
    idle: Vec<Idle>,
    waits: Vec<Wait>,
    /// What was tried and failed.
    failed: Vec<String>,
}

/// Memory of a server, bytes of heap and stacks.
#[derive(Debug, Serialize)]
struct Idle {
    program: String,
    service: Service,
    at_start: f64,
    /// For each client that has had one answer and is silent. `None` over UDP, which has no clients.
    each: Option<f64>,
}

/// Measures, prints tables, and writes `services.json` and `services.md`.
pub(crate) fn measure(options: &Options, chosen: &[Service]) -> Result<(), String> {
    let services: Vec<_> =
        Service::value_variants().iter().filter(|one| chosen.is_empty() || chosen.contains(one)).collect();
    if !options.servers.is_empty() {
        return Err("--server: a guest would have to speak the protocol of a service".to_owned());
    }
    catch_signals().map_err(|error| format!("cannot catch signals: {error}"))?;
    let directory = results::make_directory(options)?;
    let files = programs::files()?;
    if !options.list {
        eprintln!("building the examples");
        programs::build_examples()?;
    }
    let cpus = Cpus::choose()?;
    let machine = [results::describe_machine(load::connections_possible()?), vec![cpus.to_string()]].concat();
    let figures = Figures { machine, rounds: options.rounds(), ..Figures::default() };
    let mut measuring = Measuring { options, cpus, files, figures };
    for &&service in &services {
        measuring.service(service)?;
    }
    let figures = measuring.figures;
    if options.list {
        figures.programs.iter().for_each(|(service, name, version)| println!("{service:6}{name:16}{version}"));
        figures.absent.iter().for_each(|(name, reason)| println!("{name:22}absent: {reason}"));
        return Ok(());
    }
    write(&figures, &directory)?;
    if figures.failed.is_empty() { Ok(()) } else { Err(figures.failed.join("\n")) }
}

struct Measuring<'a> {
    options: &'a Options,
    cpus: Cpus,
    files: TempDir,
    figures: Figures,
}

impl Measuring<'_> {
    fn service(&mut self, service: Service) -> Result<(), String> {
        let (programs, absent) = programs::find(service, &self.options.only, &self.files);
        let loads = loads::of(service);
        let named =
            programs.iter().map(|program| (service.to_string(), program.name.to_owned(), program.version.clone()));
        self.figures.programs.extend(named);
        self.figures.absent.extend(absent);
        self.figures.loads.extend(loads.iter().cloned());
        if self.options.list {
            return Ok(());
        }
        let steps = programs.len() * (1 + loads.len() * self.options.rounds() + greedy::NUMBERS.len());
        let mut progress = Progress::new(steps);
        let mut running = Vec::new();
        for program in &programs {
            progress.step(&format!("{}: memory", program.name));
            let started = program.start(self.cpus);
            let measured =
                started.and_then(|server| Ok((idle(service, program, &server, self.options.quick)?, server)));
            if let Some((idle, server)) = self.note(&progress, program, "memory", measured)? {
                self.figures.idle.push(idle);
                running.push((program, server));
            }
        }
        for round in 1..=self.options.rounds() {
            for load in &loads {
                for (program, server) in &mut running {
                    progress.step(&format!("round {round}: {}: {}", program.name, load.title));
                    let sample = load.run(server, self.options.measured(), self.files.path());
                    let sample = sample.map_err(|reason| server.explain(reason));
                    if let Some(sample) = self.note(&progress, program, &load.title, sample)? {
                        self.figures.samples.push(Sample { program: program.name.to_owned(), round, ..sample });
                    }
                }
                // Each round and load begins with another one.
                let by = running.len().min(1);
                running.rotate_left(by);
            }
        }
        for (program, server) in &mut running {
            for number in greedy::NUMBERS {
                let title = format!("a polite client beside {number} greedy ones");
                progress.step(&format!("{}: {title}", program.name));
                let wait = greedy::wait(service, server.address, number, self.options.measured());
                let wait = wait.map_err(|reason| server.explain(reason));
                if let Some(wait) = self.note(&progress, program, &title, wait)? {
                    self.figures.waits.push(Wait { program: program.name.to_owned(), ..wait });
                }
            }
            server.end()?;
        }
        Ok(())
    }

    /// A failure becomes a line of the results. Fails once a signal has asked this program to end.
    fn note<T>(
        &mut self,
        progress: &Progress,
        program: &Program,
        what: &str,
        result: Result<T, String>,
    ) -> Result<Option<T>, String> {
        check_interrupt()?;
        result.map(Some).or_else(|reason| {
            let failure = format!("{}: {what}: {reason}", program.name);
            progress.say(&format!("failed: {failure}"));
            self.figures.failed.push(failure);
            Ok(None)
        })
    }
}

/// Opens connections that get one answer each, and reads how much memory the server has for each.
fn idle(service: Service, program: &Program, server: &Server, quick: bool) -> Result<Idle, String> {
    let clients = if quick { 500 } else { 5_000 };
    let at_start = memory(server)?;
    let request = service.polite_request();
    let gather = |number: usize| -> Result<Vec<TcpStream>, String> {
        let clients = (0..number).map(|_| {
            let mut client = TcpStream::connect(server.address)?;
            client.set_read_timeout(Some(Duration::from_secs(10)))?;
            client.write_all(&request)?;
            match client.read(&mut [0; 4_096])? {
                0 => Err(io::ErrorKind::UnexpectedEof.into()),
                _ => Ok(client),
            }
        });
        clients.collect::<io::Result<_>>().map_err(|error| format!("an idle client: {error}"))
    };
    let each = match service {
        Service::Dns => None,
        _ => {
            drop(gather(clients / 10)?);
            let before = memory(server)?;
            let open = gather(clients)?;
            let after = memory(server)?;
            drop(open);
            Some((after - before) / clients as f64)
        }
    };
    Ok(Idle { program: program.name.to_owned(), service, at_start, each })
}

fn write(figures: &Figures, directory: &Path) -> Result<(), String> {
    let text = tables::markdown(figures);
    let json = serde_json::to_string_pretty(figures).map_err(|error| error.to_string())?;
    for (name, content) in [("services.md", &text), ("services.json", &json)] {
        let file = directory.join(name);
        std::fs::write(&file, content).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    }
    let ratio = |load: &Load| tables::ratio(figures, load, "socketserver").map(|ratio| ratio.median);
    let named = |load: &Load| Some((format!("{} {}", load.service, load.key), ratio(load)?));
    let bars: Vec<_> = figures.loads.iter().filter_map(named).collect();
    let bars: Vec<_> = bars.iter().map(|(name, ratio)| (&**name, *ratio)).collect();
    let (file, title) =
        (directory.join("services.svg"), "server CPU for each request, × that of redis, nginx, unbound");
    plots::draw(&file, "socketserver's examples", title, &bars)
        .map_err(|error| format!("cannot write {}: {error}", file.display()))?;
    // A reader of standard output may have ended by now.
    let _ = writeln!(io::stdout(), "{text}\n{}", directory.join("services.json").display());
    Ok(())
}

impl fmt::Display for Service {
    /// As on the command line, and the name of the example.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_possible_value().map_or(Ok(()), |value| f.write_str(value.get_name()))
    }
}

impl Service {
    /// A small request over TCP, whose answer is small too.
    fn polite_request(self) -> Vec<u8> {
        match self {
            Service::Kv => b"*2\r\n$3\r\nGET\r\n$5\r\nhello\r\n".to_vec(),
            Service::Web => b"GET /files/small HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(),
            Service::Dns => {
                let mut query = b"\x00\x07\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00".to_vec();
                ["www", "example", "com", ""].iter().for_each(|label| {
                    query.push(label.len() as u8);
                    query.extend(label.as_bytes());
                });
                query.extend(b"\x00\x01\x00\x01");
                [&(query.len() as u16).to_be_bytes()[..], &query].concat()
            }
        }
    }
}

/// The version that a program writes with these arguments, or what brings the program.
fn version(words: &[&str], package: &str) -> Result<String, String> {
    let text = output(words).map_err(|error| format!("{error}; Debian: {package}"))?;
    let is_version = |word: &&str| word.starts_with(|c: char| c.is_ascii_digit()) && word.contains('.');
    let version = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '.').find(is_version);
    Ok(format!("{package} {}", version.unwrap_or("of unknown version")))
}
