//! One server under measurement: a process of its own, on the server's CPU, at a port of its own.

use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::Job;
use crate::process::{Process, ask_until};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// Runs until it is dropped or told to end.
pub(crate) struct Server {
    process: Process,
    clock: ClockId,
    pub(crate) address: SocketAddr,
}

/// For starting and ending, which take long under a tool.
const PATIENCE: Duration = Duration::from_secs(30);

impl Server {
    /// Starts it and waits until it serves. If there is a `tool`, which is a program with its own arguments, that is
    /// started and starts the server.
    pub(crate) fn start(tool: &[String], contender: &Contender, job: Job, cpus: Cpus) -> Result<Server, String> {
        let address = free_address(job == Job::Datagrams).map_err(|error| format!("no free port: {error}"))?;
        let words = [tool, &contender.command(job, address)].concat();
        Server::spawn(&contender.name, &words, address, cpus, |address| answers(address, job).unwrap_or(false))
    }

    /// Starts a program that is told to serve `address`, and waits until it does.
    pub(crate) fn spawn(
        name: &str,
        words: &[String],
        address: SocketAddr,
        cpus: Cpus,
        answers: impl Fn(SocketAddr) -> bool,
    ) -> Result<Server, String> {
        let process = cpus.on_server(|| Process::start(name, words))??;
        let clock = clock_getcpuclockid(process.pid()).map_err(|errno| format!("no CPU clock of {name}: {errno}"))?;
        let mut server = Server { process, clock, address };
        let serves = ask_until(PATIENCE, || {
            server.process.check()?;
            Ok(answers(address).then_some(()))
        });
        serves?.map(|()| server).ok_or_else(|| format!("{name} does not serve {address}"))
    }

    /// Why its clients met `error`: its own last words, if it has ended or is about to.
    pub(crate) fn explain(&mut self, error: String) -> String {
        match self.process.wait(Duration::from_secs(1)) {
            Ok(Some(_)) => self.process.check().err().unwrap_or(error),
            _ => error,
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// CPU time of the process with all its threads, without its children.
    pub(crate) fn cpu(&self) -> Duration {
        clock_gettime(self.clock).map(Duration::from).unwrap_or_default()
    }

    /// Nanoseconds of CPU time of each thread, by its id.
    pub(crate) fn threads_cpu(&self) -> BTreeMap<i32, u64> {
        let tasks = procfs::process::Process::new(self.pid().as_raw()).and_then(|process| process.tasks());
        let tasks = tasks.into_iter().flatten().flatten();
        tasks.filter_map(|task| Some((task.tid, task.schedstat().ok()?.sum_exec_runtime))).collect()
    }

    /// Asks it to end, and waits until it has.
    pub(crate) fn end(&mut self) -> Result<(), String> {
        self.process.end(Signal::SIGTERM, PATIENCE)
    }
}

/// A port that is free, below those that the kernel gives to sockets that name none: so no other program has it by
/// chance when the server binds it.
pub(crate) fn free_address(is_udp: bool) -> io::Result<SocketAddr> {
    static ATTEMPTS: AtomicU32 = AtomicU32::new(0);
    loop {
        let attempt = ATTEMPTS.fetch_add(1, Ordering::Relaxed);
        let port = 20_000 + (std::process::id().wrapping_mul(97) + attempt) % 12_000;
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port as u16));
        let bound = if is_udp { UdpSocket::bind(address).map(drop) } else { TcpListener::bind(address).map(drop) };
        match bound {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            result => return result.map(|()| address),
        }
    }
}

/// Returns whether a connection can be made, or a datagram comes back.
fn answers(address: SocketAddr, job: Job) -> io::Result<bool> {
    if job == Job::Datagrams {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(50)))?;
        socket.connect(address)?;
        socket.send(b"?")?;
        return socket.recv(&mut [0; 16]).map(|_| true);
    }
    TcpStream::connect_timeout(&address, Duration::from_millis(500)).map(|_| true)
}
