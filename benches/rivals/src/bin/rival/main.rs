//! `rival NAME JOB TRANSPORT ADDRESS`: an echo server, made in one of several ways that are to be compared.
//!
//! All do the same job byte for byte, each the way its own documentation leads its users to. One file is one rival;
//! `listen` has what they share. It serves until a signal ends it.

mod calloop;
mod epoll;
mod job;
mod listen;
mod message_io;
mod mill_net;
mod mio;
mod recv_from;
mod socketserver;
mod threads;
mod tokio;

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};
use job::{Job, Transport};
use std::error::Error;
use std::fmt::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// A server returns only if it cannot go on.
type Served = Result<(), Box<dyn Error + Send + Sync>>;

/// One way to make a server, and the sockets that it can serve.
struct Rival {
    name: &'static str,
    /// The crate that it is made with; `-` is the standard library.
    made_with: &'static str,
    tcp: Option<fn(SocketAddr, Job) -> Served>,
    unix: Option<fn(&Path, Job) -> Served>,
    udp: Option<fn(SocketAddr) -> Served>,
}

const RIVALS: &[Rival] = &[
    SOCKETSERVER,
    Rival {
        name: "epoll",
        made_with: "rustix",
        tcp: Some(|at, job| epoll::tcp(at, job, 256 << 10)),
        unix: Some(|at, job| epoll::unix(at, job, 256 << 10)),
        udp: None,
    },
    Rival {
        name: "epoll-64k",
        made_with: "rustix",
        tcp: Some(|at, job| epoll::tcp(at, job, 64 << 10)),
        unix: Some(|at, job| epoll::unix(at, job, 64 << 10)),
        udp: None,
    },
    Rival { name: "recv_from", made_with: "-", tcp: None, unix: None, udp: Some(recv_from::udp) },
    Rival { name: "mio", made_with: "mio", tcp: Some(mio::tcp), unix: Some(mio::unix), udp: Some(mio::udp) },
    Rival { name: "threads", made_with: "-", tcp: Some(threads::tcp), unix: Some(threads::unix), udp: None },
    Rival {
        name: "tokio",
        made_with: "tokio",
        tcp: Some(|at, job| tokio::tcp(tokio::current_thread()?, at, job)),
        unix: Some(|at, job| tokio::unix(tokio::current_thread()?, at, job)),
        udp: Some(tokio::udp),
    },
    Rival {
        name: "tokio-mt",
        made_with: "tokio",
        tcp: Some(|at, job| tokio::tcp(tokio::multi_thread()?, at, job)),
        unix: Some(|at, job| tokio::unix(tokio::multi_thread()?, at, job)),
        udp: None,
    },
    Rival {
        name: "message-io",
        made_with: "message-io",
        tcp: Some(message_io::tcp),
        unix: None,
        udp: Some(message_io::udp),
    },
    Rival { name: "mill-net", made_with: "mill-net", tcp: Some(mill_net::tcp), unix: None, udp: None },
    Rival {
        name: "calloop",
        made_with: "calloop",
        tcp: Some(calloop::tcp),
        unix: Some(calloop::unix),
        udp: Some(calloop::udp),
    },
];

/// The crate's feature `batch` changes how datagrams are exchanged and nothing else. A program built with it is one
/// rival more, for datagrams alone; the crate without it needs a program that was built without it.
const SOCKETSERVER: Rival = if cfg!(feature = "batch") {
    Rival { name: "socketserver-batch", made_with: "socketserver", tcp: None, unix: None, udp: Some(socketserver::udp) }
} else {
    Rival {
        name: "socketserver",
        made_with: "socketserver",
        tcp: Some(socketserver::tcp),
        unix: Some(socketserver::unix),
        udp: Some(socketserver::udp),
    }
};

/// An echo server, made in one of several ways that are to be compared
#[derive(Parser)]
#[command(name = "rival")]
struct CommandLine {
    /// Print a line for each rival: its name, the crate that it is made with, and each TRANSPORT:JOB that it does, with
    /// tabs between the three
    #[arg(long, exclusive = true)]
    list: bool,
    /// Which rival: a name that --list prints
    #[arg(value_parser = find, required_unless_present = "list")]
    name: Option<&'static Rival>,
    /// What to do for each client
    #[arg(required_unless_present = "list")]
    job: Option<Job>,
    /// Over which kind of socket
    #[arg(required_unless_present = "list")]
    transport: Option<Transport>,
    /// IP:PORT, or for unix a path where nothing is yet
    #[arg(required_unless_present = "list")]
    address: Option<PathBuf>,
}

fn main() -> ExitCode {
    let CommandLine { name, job, transport, address, .. } = CommandLine::parse();
    let (Some(rival), Some(job), Some(transport), Some(address)) = (name, job, transport, address) else {
        print!("{}", list());
        return ExitCode::SUCCESS;
    };
    let Err(error) = rival.serve(job, transport, &address) else { return ExitCode::SUCCESS };
    eprintln!("rival: {} at {transport} {}: {error}", rival.name, address.display());
    ExitCode::FAILURE
}

fn list() -> String {
    let mut lines = String::new();
    for rival in RIVALS {
        let pairs: Vec<_> = rival.serves().map(|(transport, job)| format!("{transport}:{job}")).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(lines, "{}\t{}\t{}", rival.name, rival.made_with, pairs.join(" "));
    }
    lines
}

fn find(name: &str) -> Result<&'static Rival, String> {
    RIVALS.iter().find(|rival| rival.name == name).ok_or_else(|| "no rival has this name; --list prints them".into())
}

impl Rival {
    fn serves(&self) -> impl Iterator<Item = (Transport, Job)> {
        let jobs = |can: bool, transport, jobs: &'static [Job]| {
            jobs.iter().filter(move |_| can).map(move |&job| (transport, job))
        };
        jobs(self.tcp.is_some(), Transport::Tcp, &[Job::Echo, Job::EchoOnce])
            .chain(jobs(self.unix.is_some(), Transport::Unix, &[Job::Echo, Job::EchoOnce]))
            .chain(jobs(self.udp.is_some(), Transport::Udp, &[Job::Echo]))
    }

    fn serve(&self, job: Job, transport: Transport, address: &Path) -> Served {
        match (transport, job, self.tcp, self.unix, self.udp) {
            (Transport::Tcp, job, Some(tcp), _, _) => tcp(socket_address(address), job),
            (Transport::Unix, job, _, Some(unix), _) => unix(address, job),
            (Transport::Udp, Job::Echo, _, _, Some(udp)) => udp(socket_address(address)),
            _ => usage(ErrorKind::ArgumentConflict, format!("{} does not do {job} over {transport}", self.name)),
        }
    }
}

fn socket_address(text: &Path) -> SocketAddr {
    let parsed = text.to_str().and_then(|text| text.parse().ok());
    parsed.unwrap_or_else(|| usage(ErrorKind::ValueValidation, format!("{} is not an address IP:PORT", text.display())))
}

/// Ends the program as clap does when it is called wrongly.
fn usage(kind: ErrorKind, message: String) -> ! {
    CommandLine::command().error(kind, message).exit()
}
