//! Tries to break an echo server, of this crate or any other.
//!
//! ```text
//! cargo run --release -p torture                               # against a server of its own
//! cargo run --release -p torture -- 127.0.0.1:9999             # against yours
//! cargo run --release -p torture -- unix:/tmp/echo --only integrity --clients 1000
//! cargo run --release -p torture -- tls:localhost:9999           # or tls:unix:PATH
//! cargo run --release -p torture -- udp:127.0.0.1:9999         # or unix-datagram:PATH
//! cargo run --release -p torture -- 127.0.0.1:9999 --duration 20m --pid PID
//! ```
//!
//! One thread, on mio and rustls: nothing of the crate under test is used to judge it. Every trial (`trials`) is a number of
//! connections that each follow a plan (`plan`, `connection`), or of peers with datagrams (`exchange`, `peer`), and all of
//! them are told by the bytes they send (`pattern`). What a run does is settled by `--seed`; how the clients meet is up to
//! the machine.
//!
//! With `--pid` it fails as well if the server has not as many descriptors after all clients have gone as before the
//! first one came, or if its memory grows, as `growth` defines it.

#![allow(clippy::disallowed_methods, reason = "it waits for a server in another process, on the machine's clock")]

mod authority;
mod client;
mod connection;
mod crowd;
mod datagram;
mod descriptors;
mod exchange;
mod failure;
mod figures;
mod growth;
mod interrupt;
mod options;
mod pattern;
mod peer;
mod plan;
mod progress;
mod report;
mod rounds;
mod run;
mod secured;
mod server;
mod stream;
mod target;
mod trials;
mod wait;
mod watch;

use std::fmt::Display;
use std::io::{Write, stderr, stdout};
use std::process::ExitCode;

use clap::Parser;

use crate::interrupt::{INTERRUPTED, Interrupt};
use crate::options::{Command, Options};
use crate::report::Report;
use crate::rounds::Rounds;
use crate::server::Server;
use crate::target::Target;
use crate::trials::Scale;
use crate::watch::Watch;

fn main() -> ExitCode {
    let options = Options::parse();
    let result = match options.command {
        Some(Command::EchoServer { kind }) => {
            server::serve(kind).map(|()| ExitCode::SUCCESS).map_err(Refusal::cannot("serve"))
        }
        None => torture(&options),
    };
    result.unwrap_or_else(|Refusal { status, why }| {
        let _ = writeln!(stderr(), "error: {why}");
        ExitCode::from(status)
    })
}

fn torture(options: &Options) -> Result<ExitCode, Refusal> {
    let interrupt = &Interrupt::listen().map_err(Refusal::cannot("listen to signals"))?;
    let server = match options.address {
        Some(_) => None,
        None => Some(Server::start(options.serve).map_err(Refusal::cannot("start a server"))?),
    };
    let address = server.as_ref().map(|server| &server.address).or(options.address.as_ref());
    let address = address.map_or("", String::as_str);
    let mut target = Target::parse(address, options.allow_remote, options.ca.as_deref()).map_err(Refusal::usage)?;
    let own = server.as_ref().filter(|_| cfg!(target_os = "linux")).map(Server::pid);
    let trials = options.trials(target.is_for_datagrams());
    if trials.is_empty() {
        return Err(Refusal::usage(format!("none of the trials that are left is for {target}")));
    }
    let watch = options.pid.or(own).map(Watch::start).transpose().map_err(Refusal::usage)?;
    target.reach(options.patience).map_err(Refusal::failure)?;
    let probed = run::probe(&mut target, options.patience);
    let target = &target;
    probed.map_err(|why| Refusal::failure(format!("{target} is no echo server: {why}")))?;

    let seed = options.seed.unwrap_or_else(|| fastrand::u64(..));
    say(&format!("torturing {target}, --seed {seed}\n"));
    let scale = Scale { clients: options.clients.get(), clients_max: descriptors::connections_possible() };
    let Options { duration, patience, .. } = *options;
    let rounds = Rounds { target, trials, scale, duration, patience, seed, interrupt };
    let mut report = Report::new(watch);
    rounds.execute(&mut report).map_err(Refusal::cannot("go on"))?;

    let interrupted = interrupt.is_requested();
    if !interrupted
        && report.complaints.is_empty()
        && let Some(watch) = &mut report.watch
    {
        report.complaints = watch.finish(patience).unwrap_or_else(|why| vec![why]);
    }
    if let Some(server) = server {
        report.complaints.extend(server.stop(patience).err());
    }
    let (verdict, status) = match report.passed() {
        _ if interrupted => ("interrupted", INTERRUPTED),
        true => ("passed", 0),
        false => ("FAILED", FAILED),
    };
    say(&format!("{report}{verdict}, rounds: {}, --seed {seed}\n", report.rounds));
    Ok(ExitCode::from(status))
}

/// Why there was nothing to report.
struct Refusal {
    status: u8,
    why: String,
}

impl Refusal {
    fn usage(why: String) -> Self {
        Refusal { status: USAGE, why }
    }

    fn failure(why: String) -> Self {
        Refusal { status: FAILED, why }
    }

    fn cannot<E: Display>(what: &str) -> impl FnOnce(E) -> Self {
        move |error| Refusal::failure(format!("cannot {what}: {error}"))
    }
}

/// Ignores errors: a caller that does not read the text still gets the status.
fn say(text: &str) {
    let _ = stdout().write_all(text.as_bytes());
}

/// The server did something wrong, or there is none.
const FAILED: u8 = 1;

/// As clap has it.
const USAGE: u8 = 2;
