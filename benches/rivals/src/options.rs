//! The command line.

use crate::job::Job;
use crate::rivals::Rival;
use crate::services::Service;
use clap::{Args, Parser};
use serde::Serialize;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// Measures this crate and its rivals, all at the same work, on this machine and over loopback only.
#[derive(Parser)]
#[command(disable_help_subcommand = true)]
pub(crate) enum CommandLine {
    /// Connections that come, echo one message and go, as fast as possible
    #[command(name = "connection_flood")]
    ConnectionFlood(Options),
    /// Messages there and back over connections that stay
    Echo(Options),
    /// What connections cost that stay and are silent
    Idle(Options),
    /// Datagrams there and back
    Datagrams(Options),
    /// Servers with several threads: what a message and a connection cost, and how even the threads are
    Cores(Options),
    /// The services among the examples, beside the programs that people run today
    Services {
        #[command(flatten)]
        options: Options,
        /// Only these services [default: all]
        #[arg(long = "service", value_name = "SERVICE,...", value_delimiter = ',')]
        services: Vec<Service>,
    },
    /// Serve the files of a directory with hyper, until a signal comes
    #[command(hide = true, name = "serve-files")]
    ServeFiles { address: SocketAddr, directory: PathBuf },
    /// Be one of the servers that are measured, until a signal comes
    #[command(hide = true)]
    Serve {
        rival: Rival,
        job: Job,
        address: SocketAddr,
        /// Of a server with several
        #[arg(long, default_value_t = 1)]
        threads: usize,
    },
}

/// What is measured. Each has its own tables, plots and file of results.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Benchmark {
    ConnectionFlood,
    Echo,
    Idle,
    Datagrams,
    Cores,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Options {
    /// One short round of few scenarios: shows that everything works, not how fast
    #[arg(long)]
    pub(crate) quick: bool,

    /// Only these contenders, and those that they are compared with
    #[arg(long, value_name = "NAME,...", value_delimiter = ',')]
    pub(crate) only: Vec<String>,

    /// One more contender: a shell command that echoes over TCP at {addr}, or does the {job} that stands in it: echo,
    /// echo-once (answers and closes), datagrams (over UDP)
    #[arg(long = "server", value_name = "NAME='CMD {addr}'", value_parser = named_command)]
    pub(crate) servers: Vec<(String, String)>,

    /// How often each figure is taken [default: 3, with --quick 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,

    /// How long each figure is measured [default: 0.8, with --quick 0.15]
    #[arg(long, value_name = "S", value_parser = seconds)]
    seconds: Option<Duration>,

    /// Show which contenders would be measured, and why others are absent; measure nothing
    #[arg(long)]
    pub(crate) list: bool,

    /// Where results and plots are written [default: target/benchmarks]
    #[arg(long, value_name = "DIR")]
    pub(crate) out: Option<PathBuf>,
}

impl Benchmark {
    /// As on the command line, and in the names of files.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Benchmark::ConnectionFlood => "connection_flood",
            Benchmark::Echo => "echo",
            Benchmark::Idle => "idle",
            Benchmark::Datagrams => "datagrams",
            Benchmark::Cores => "cores",
        }
    }
}

impl Options {
    pub(crate) fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 1 } else { 3 }) as usize
    }

    pub(crate) fn measured(&self) -> Duration {
        self.seconds.unwrap_or(Duration::from_millis(if self.quick { 150 } else { 800 }))
    }
}

fn named_command(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, command)) if !name.is_empty() && !name.contains(char::is_whitespace) => {
            Ok((name.to_owned(), command.to_owned()))
        }
        _ => Err("expected NAME='CMD {addr}'".to_owned()),
    }
}

fn seconds(text: &str) -> Result<Duration, String> {
    match text.parse() {
        Ok(seconds) if (0.05..=60.0).contains(&seconds) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("expected seconds from 0.05 to 60".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quick_changes_only_what_was_not_asked_for() {
        let options = |words: &[&str]| match CommandLine::try_parse_from([&["rivals", "echo"], words].concat()) {
            Ok(CommandLine::Echo(options)) => options,
            _ => panic!("not understood"),
        };
        assert_eq!((options(&[]).rounds(), options(&[]).measured()), (3, Duration::from_millis(800)));
        assert_eq!(options(&["--quick"]).rounds(), 1);
        let both = options(&["--quick", "--rounds=5", "--seconds=2", "--only=a,b"]);
        assert_eq!((both.rounds(), both.measured()), (5, Duration::from_secs(2)));
        assert_eq!(both.only, ["a", "b"]);
    }
}
