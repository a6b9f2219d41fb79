//! One server under measure: a process of its own, on the server's CPU, at an address that nobody else uses.

use crate::contenders::Contender;
use crate::cpus::Cpus;
use crate::job::{Address, Job, Transport};
use crate::leftovers::{Process, Scratch};
use crate::tools;
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// Runs until it is dropped or told to end.
pub(crate) struct Server {
    name: String,
    process: Process,
    clock: ClockId,
    pub(crate) address: Address,
    /// Of `address`, if it is one of a Unix socket.
    _socket: Option<Scratch>,
    /// What it writes to its standard error.
    errors: Scratch,
}

impl Server {
    /// Starts it and waits until it serves.
    pub(crate) fn start(contender: &Contender, job: Job, transport: Transport, cpus: Cpus) -> Result<Server, String> {
        Server::start_as(contender, job, transport, cpus, |command| command, Duration::from_secs(10))
    }

    /// Starts what `wrap` makes of its command.
    pub(crate) fn start_as(
        contender: &Contender,
        job: Job,
        transport: Transport,
        cpus: Cpus,
        wrap: impl FnOnce(Command) -> Command,
        patience: Duration,
    ) -> Result<Server, String> {
        let name = contender.name.clone();
        let socket = (transport == Transport::Unix).then(|| Scratch::new("socket")).transpose()?;
        let address = match &socket {
            Some(socket) => Address::Unix(socket.path().to_owned()),
            None => free_address(transport)?,
        };
        let errors = Scratch::new("stderr")?;
        let file = errors.create()?;
        let command = wrap(contender.command(job, &address));
        let process = cpus
            .as_server(|| Process::start(&command, Stdio::null(), file.into()))?
            .map_err(|error| format!("cannot start {name}: {error}"))?;
        let clock = clock_getcpuclockid(process.pid()).map_err(|errno| format!("no CPU clock of {name}: {errno}"))?;
        let mut server = Server { name, process, clock, address, _socket: socket, errors };
        server.wait_until_it_serves(patience)?;
        Ok(server)
    }

    fn wait_until_it_serves(&mut self, patience: Duration) -> Result<(), String> {
        let deadline = Instant::now() + patience;
        while !answers(&self.address) {
            self.check()?;
            if Instant::now() >= deadline {
                return Err(format!("{} does not serve {} after {} s", self.name, self.address, patience.as_secs()));
            }
            thread::sleep(Duration::from_millis(2));
        }
        self.check()
    }

    /// An error, with its last words, if it has ended.
    pub(crate) fn check(&mut self) -> Result<(), String> {
        match self.process.status() {
            None => Ok(()),
            Some(status) => Err(tools::describe(&self.name, status, &self.errors.read().unwrap_or_default())),
        }
    }

    /// Why its clients met `error`: its own last words, if it has ended or is about to.
    pub(crate) fn explain(&mut self, error: String) -> String {
        match self.process.wait(Duration::from_millis(100)) {
            None => error,
            Some(_) => self.check().err().unwrap_or(error),
        }
    }

    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// CPU time of the process with all its threads, children not included.
    pub(crate) fn cpu(&self) -> Duration {
        clock_gettime(self.clock).map(Duration::from).unwrap_or_default()
    }

    /// Asks it to end, and waits until it has, its connections closed by the kernel.
    pub(crate) fn end(mut self, patience: Duration) -> Result<(), String> {
        match self.process.end(Signal::SIGTERM, patience) {
            Some(_) => Ok(()),
            None => Err(format!("{} did not end within {} s of SIGTERM", self.name, patience.as_secs())),
        }
    }
}

/// A port that nobody had a moment ago.
fn free_address(transport: Transport) -> Result<Address, String> {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let address = match transport {
        Transport::Udp => UdpSocket::bind(any).and_then(|socket| socket.local_addr()).map(Address::Udp),
        _ => TcpListener::bind(any).and_then(|socket| socket.local_addr()).map(Address::Tcp),
    };
    address.map_err(|error| format!("no free port at {}: {error}", any.ip()))
}

/// Whether somebody takes a connection there, or sends a datagram back.
fn answers(address: &Address) -> bool {
    match address {
        // A port of the range that connects choose from may be given to this very connect, which then meets itself.
        Address::Tcp(address) => TcpStream::connect_timeout(address, Duration::from_millis(500))
            .is_ok_and(|stream| stream.local_addr().is_ok_and(|local| local != *address)),
        Address::Unix(path) => UnixStream::connect(path).is_ok(),
        Address::Udp(address) => UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).is_ok_and(|socket| {
            let asked = socket.set_read_timeout(Some(Duration::from_millis(50))).is_ok()
                && socket.connect(address).is_ok()
                && socket.send(b"?").is_ok();
            asked && socket.recv(&mut [0; 16]).is_ok()
        }),
    }
}
