//! The servers that are written in Rust, each as the documentation of its library leads its users to write it.
//!
//! One file is one rival; `listen` is what they share. `rivals serve NAME JOB ADDRESS` runs one of them until a signal
//! ends it.

mod calloop;
mod epoll;
mod hyper;
mod listen;
mod mio;
mod recv_from;
mod socketserver;
mod threads;
mod tokio;

use crate::job::Job;
use ::socketserver::Spread;
use clap::ValueEnum;
use std::error::Error;
use std::net::SocketAddr;

pub(crate) use hyper::files as serve_files;

/// Which server. Their words are the names of the contenders.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rival {
    Epoll,
    #[value(name = "recv_from")]
    RecvFrom,
    Mio,
    Socketserver,
    /// This crate with several workers, whose clients the kernel spreads.
    Workers,
    /// The same with an acceptor.
    Handed,
    Calloop,
    Tokio,
    /// Its multi-threaded runtime.
    TokioThreads,
    Threads,
}

/// A server returns only if it cannot go on.
type Served = Result<(), Box<dyn Error + Send + Sync>>;

pub(crate) fn serve(rival: Rival, job: Job, at: SocketAddr, threads: usize) -> Served {
    match (rival, job) {
        (Rival::RecvFrom, Job::Datagrams) => recv_from::datagrams(&listen::datagrams(at)?),
        (Rival::Mio, Job::Datagrams) => mio::datagrams(listen::datagrams(at)?),
        (Rival::Socketserver, Job::Datagrams) => socketserver::datagrams(at),
        (Rival::Calloop, Job::Datagrams) => calloop::datagrams(listen::datagrams(at)?),
        (Rival::Tokio, Job::Datagrams) => tokio::datagrams(listen::datagrams(at)?),
        (Rival::Workers, Job::Echo) => socketserver::workers(at, threads, Spread::Kernel),
        (Rival::Handed, Job::Echo) => socketserver::workers(at, threads, Spread::Handed),
        (Rival::TokioThreads, Job::Echo) => tokio::echo_on_threads(listen::streams(at)?, threads),
        (_, Job::Datagrams) | (Rival::RecvFrom | Rival::Workers | Rival::Handed | Rival::TokioThreads, _) => {
            Err("it does not do this job".into())
        }
        (Rival::Epoll, _) => epoll::streams(listen::streams(at)?, job),
        (Rival::Mio, _) => mio::streams(listen::streams(at)?, job),
        (Rival::Socketserver, _) => socketserver::streams(at, job),
        (Rival::Calloop, _) => calloop::streams(listen::streams(at)?, job),
        (Rival::Tokio, _) => tokio::streams(listen::streams(at)?, job),
        (Rival::Threads, _) => threads::streams(&listen::streams(at)?, job),
    }
}
