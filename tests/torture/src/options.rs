//! The command line.

use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use crate::trials::Trial;

/// Tries to break an echo server, and reports whether it did
///
/// Without an address it starts an echo server of this crate, and tries that. A server is tried with connections or with
/// datagrams, and each trial is for one of these. Beside it two canaries have to be answered all the time: one client that
/// stays, and one that is new each time. A datagram may be lost, and is then sent again; the answer may not be wrong.
///
/// Status: 0 if the server passed, 1 if it failed, 2 for wrong usage, 130 if interrupted.
#[derive(clap::Parser)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct Options {
    /// The server: HOST:PORT, udp:HOST:PORT, unix:PATH or unix-datagram:PATH; tls:HOST:PORT and tls:unix:PATH under TLS
    #[arg(value_name = "ADDR")]
    pub(crate) address: Option<String>,
    /// Try an echo server of this crate, in a process of its own; this is the default without ADDR
    #[arg(long, value_name = "KIND", num_args = 0..=1, conflicts_with_all = ["address", "pid"])]
    #[arg(default_value = "tcp", default_missing_value = "tcp")]
    pub(crate) serve: Kind,
    /// Allow a server on another machine; only with the consent of its owner
    #[arg(long)]
    pub(crate) allow_remote: bool,
    /// TLS: the server's certificate has to be signed by one of those in this file, in PEM, and be for its host's name
    /// (localhost for a Unix socket) [default: any certificate will do]
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Clients at once; floods and idle crowds have ten times as many, as far as descriptors allow
    #[arg(long, value_name = "N", default_value = "100", value_parser = count)]
    pub(crate) clients: NonZeroUsize,
    /// Repeat the trials until this much time has passed, for example 30s or 20m [default: one round]
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    pub(crate) duration: Option<Duration>,
    /// How long the server may take for anything, for example 500ms
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = humantime::parse_duration)]
    pub(crate) patience: Duration,
    /// Repeat what was done with this seed, though not its timing [default: a new seed]
    #[arg(long, value_name = "SEED")]
    pub(crate) seed: Option<u64>,
    /// Only this trial; may be given more than once
    #[arg(long, value_name = "TRIAL")]
    only: Vec<Trial>,
    /// All trials but this one; may be given more than once
    #[arg(long, value_name = "TRIAL", conflicts_with = "only")]
    skip: Vec<Trial>,
    /// Linux: the process of the server, to watch its memory and descriptors
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

#[derive(clap::Subcommand)]
pub(crate) enum Command {
    /// Be the server that is tried, until standard input ends
    #[command(hide = true)]
    EchoServer { kind: Kind },
}

/// The sockets of a server of this crate.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Kind {
    /// Connections
    Tcp,
    /// Connections under TLS, with a certificate that it makes itself
    Tls,
    /// Datagrams, with a session for each of a few clients at a time
    Udp,
}

impl Options {
    /// The trials of a round, in their order, for a server of connections or of datagrams.
    pub(crate) fn trials(&self, for_datagrams: bool) -> Vec<Trial> {
        let all = <Trial as clap::ValueEnum>::value_variants().iter().copied();
        let wanted = |trial: &Trial| (self.only.is_empty() || self.only.contains(trial)) && !self.skip.contains(trial);
        all.filter(|trial| trial.is_for_datagrams() == for_datagrams).filter(wanted).collect()
    }
}

fn count(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "not a whole number, 1 or more")
}
