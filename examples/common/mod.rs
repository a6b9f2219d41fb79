//! Code that every example needs around its server: options, a log, signals, and messages for the terminal.
//!
//! Standard output and error may be closed, full, or a pipe that nothing reads. This must neither end the program nor
//! make it wait. So a thread writes all messages, and is left behind if it blocks. `println!` is not used, because it
//! panics or blocks then.

#![allow(dead_code, reason = "each example uses a part of it")]

pub(crate) mod admin;
pub(crate) mod metrics;
pub(crate) mod tls;

use std::fmt::Display;
use std::io::{self, Write};
use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use log::LevelFilter;
use simple_logger::SimpleLogger;
use socketserver::family::{self, Family};
use socketserver::logging::NonBlocking;
use socketserver::{
    Address, BaseServer, Error, Limits, Reactor, ReactorConfig, RequestHandler, Result, Server, ServerId, TcpServer,
    UdpOptions, Unbound,
};

/// The options of all servers.
#[derive(Clone, clap::Args)]
pub(crate) struct Options {
    /// Close a connection that neither sends nor receives for this long; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "600", value_parser = seconds, allow_negative_numbers = true)]
    timeout: Duration,
    /// Close a connection whose next message has begun but does not arrive completely for this long; 0 for never
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds, allow_negative_numbers = true)]
    message_timeout: Duration,
    /// Serve at most this many connections of each kind at a time, other clients wait [default: as many as the limit of
    /// descriptors allows]
    #[arg(long, value_name = "N", value_parser = count, allow_negative_numbers = true)]
    max_connections: Option<NonZeroUsize>,
    /// How long to serve on after SIGINT or SIGTERM before connections are asked to end, so that a load balancer notices
    #[arg(long, value_name = "SECONDS", default_value = "0", value_parser = seconds, allow_negative_numbers = true)]
    drain_delay: Duration,
    /// How long connections may continue then; a second signal ends them at once
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds, allow_negative_numbers = true)]
    grace: Duration,
    /// What is logged: off, error, warn, info, debug or trace [default: the value of RUST_LOG, or info]
    #[arg(long, value_name = "LEVEL", value_parser = level)]
    log_level: Option<LevelFilter>,
    /// An additional address for /ready, /metrics and an overview, in HTTP
    #[arg(long, value_name = "ADDR")]
    pub(crate) admin: Option<String>,
}

impl Options {
    /// Prints the addresses, and serves until SIGINT or SIGTERM.
    pub(crate) fn serve<F: Family, S: BaseServer, H: RequestHandler<S>>(&self, server: Server<F, S, H>) -> Result<()> {
        let mut host = self.host()?;
        host.add(server)?;
        host.serve()
    }

    /// Makes a reactor for several servers.
    pub(crate) fn host(&self) -> Result<Host<'_>> {
        let mut reactor = Reactor::with_config(self.config())?;
        reactor.shutdown_on_signals()?;
        Ok(Host { options: self, reactor, listening: Vec::new() })
    }

    /// The settings of a reactor.
    pub(crate) fn config(&self) -> ReactorConfig {
        let mut config = ReactorConfig::default();
        config.drain_delay = self.drain_delay;
        config.drain_grace = self.grace;
        config.turn_length = TURN_LENGTH;
        config
    }

    /// Sets the limits of a server that the options are about.
    pub(crate) fn limit(&self, limits: &mut Limits) {
        limits.idle_timeout = self.timeout();
        limits.read_timeout = self.message_timeout();
        limits.connections_max = self.max_connections.map(NonZeroUsize::get);
    }

    /// Prints the addresses, and starts to log. Not before: if an address is unavailable, only that error is printed.
    pub(crate) fn announce(&self, listening: impl Iterator<Item = String>) {
        start_log(self.log_level);
        let lines = listening.map(|address| format!("listening on {}\n", printable(&address)));
        say(io::stdout(), lines.collect());
    }

    pub(crate) fn message_timeout(&self) -> Option<Duration> {
        unless_zero(self.message_timeout)
    }

    pub(crate) fn timeout(&self) -> Option<Duration> {
        unless_zero(self.timeout)
    }
}

/// Several servers on one reactor.
pub(crate) struct Host<'a> {
    options: &'a Options,
    reactor: Reactor,
    /// What to print for each socket.
    listening: Vec<String>,
}

impl Host<'_> {
    /// Adds a bound server. The options overwrite its own limits.
    pub(crate) fn add<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        mut server: Server<F, S, H>,
    ) -> Result<ServerId> {
        let mut limits = server.limits().clone();
        self.options.limit(&mut limits);
        server.set_limits(limits)?;
        self.tell::<family::Tcp, _, _, _>(&server);
        self.tell::<family::Udp, _, _, _>(&server);
        #[cfg(unix)]
        self.tell::<family::UnixStream, _, _, _>(&server);
        #[cfg(unix)]
        self.tell::<family::UnixDatagram, _, _, _>(&server);
        self.reactor.add(server)
    }

    /// Remembers a server's sockets of one family, to print their addresses.
    fn tell<G: Family, F: Family, S: BaseServer, H: RequestHandler<S>>(&mut self, server: &Server<F, S, H>) {
        // The kind comes before the address, because a path can contain anything: "udp ", "unix stream ", ...
        let kind = if G::NAME == "TCP" { String::new() } else { G::NAME.to_lowercase() + " " };
        for address in server.server_addresses_as::<G>() {
            self.listening.push(format!("{kind}{address}"));
        }
    }

    /// Prints the addresses, and serves until SIGINT or SIGTERM.
    pub(crate) fn serve(mut self) -> Result<()> {
        if let Some(address) = &self.options.admin {
            let handle = self.reactor.handle();
            let mut pages = admin::server(move || admin::look_at(&handle));
            pages.server_bind(&address[..])?;
            self.listening.extend(pages.server_addresses().iter().map(ToString::to_string));
            self.reactor.add(pages.server_activate()?)?;
        }
        self.options.announce(self.listening.into_iter());
        self.reactor.serve_forever()
    }
}

/// Binds TCP, and then UDP to the same addresses. If the system chose the port, the same port may not be free for UDP.
/// In that case another port is tried.
pub(crate) fn bind_both<S: BaseServer, H: RequestHandler<S>>(
    address: &str,
    unbound: impl Fn() -> Unbound<family::Tcp, S, H>,
) -> Result<TcpServer<S, H>> {
    let may_choose = address.rsplit(':').next().is_some_and(|port| port.parse() == Ok(0_u16));
    // Keeps the failed sockets until a port is found, so that the system does not choose the same port again.
    let mut unfit = Vec::new();
    loop {
        let mut server = unbound();
        server.server_bind(address)?;
        let same: Vec<_> = server.server_addresses().iter().filter_map(Address::as_inet).collect();
        match server.server_bind_as::<family::Udp>(&same[..], UdpOptions::default()) {
            Ok(()) => return server.server_activate(),
            Err(Error::Bind { .. }) if may_choose && unfit.len() < TRIES_MAX => unfit.push(server),
            Err(error) => return Err(error),
        }
    }
}

/// Parses the arguments and runs the program. Status 2 for wrong usage; 1, and one line, for any other error.
pub(crate) fn run<A: clap::Parser, E: Display>(program: impl FnOnce(A) -> Result<(), E>) -> ExitCode {
    let _flush = FlushLog;
    let args = match A::try_parse() {
        Ok(args) => args,
        // For clap, --help is an error as well.
        Err(usage) => {
            let text = usage.render().to_string();
            let said = if usage.use_stderr() { say(io::stderr(), text) } else { say(io::stdout(), text) };
            let _ = said.recv_timeout(OUTPUT_WAIT);
            return ExitCode::from(u8::try_from(usage.exit_code()).unwrap_or(2));
        }
    };
    match program(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = say(io::stderr(), format!("error: {error:#}\n")).recv_timeout(OUTPUT_WAIT);
            ExitCode::FAILURE
        }
    }
}

/// The text with all characters escaped that could control the reader's terminal or forge a line: control characters,
/// line and paragraph separators, and marks that change the direction of writing.
pub(crate) fn printable(text: &str) -> String {
    let steers = |letter: char| {
        letter.is_control()
            || matches!(letter, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    let mut shown = String::with_capacity(text.len());
    for letter in text.chars() {
        if steers(letter) { shown.extend(letter.escape_default()) } else { shown.push(letter) }
    }
    shown
}

/// Parses a length of time from the command line.
pub(crate) fn seconds(text: &str) -> Result<Duration, &'static str> {
    match text.parse() {
        Ok(seconds @ 0.0..) => Duration::try_from_secs_f64(seconds).map_err(|_| "too many seconds"),
        _ => Err("not a number of seconds, 0 or more"),
    }
}

/// Parses a number of connections, threads or programs from the command line.
pub(crate) fn count(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "not a whole number, 1 or more")
}

/// Resolves a host and a port.
///
/// # Errors
/// An error of one line.
pub(crate) fn resolve(address: &str) -> Result<Vec<SocketAddr>, String> {
    let cannot = |why: &str| format!("cannot resolve {}: {why}", printable(address));
    match address.rsplit_once(':') {
        Some((_, port)) if port.parse::<u16>().is_ok() => {
            let resolved = address.to_socket_addrs().map(Iterator::collect);
            resolved.map_err(|error| cannot(&socketserver::Error::from(error).to_string()))
        }
        _ => Err(cannot("not a host and a port, as in localhost:80")),
    }
}

fn level(text: &str) -> Result<LevelFilter, &'static str> {
    text.parse().map_err(|_| "none of off, error, warn, info, debug and trace")
}

/// Converts a time limit from the command line, where 0 means none.
pub(crate) fn unless_zero(time: Duration) -> Option<Duration> {
    Some(time).filter(|time| !time.is_zero())
}

/// Log lines and panic messages go to standard error through a thread.
fn start_log(level: Option<LevelFilter>) {
    let logger = match level {
        Some(level) => SimpleLogger::new().with_level(level),
        None => SimpleLogger::new().with_level(LevelFilter::Info).env(),
    };
    let max = logger.max_level();
    // Without a thread nothing is logged, which is better than to block.
    if let Ok(logger) = NonBlocking::new(logger) {
        let _ = logger.init(max);
    }
}

/// Writes the text from a thread of its own, if it can. The returned channel is disconnected when this is done. Callers
/// need not wait for it.
fn say(mut to: impl Write + Send + 'static, text: String) -> Receiver<()> {
    let (writing, written) = channel();
    let write = move || {
        let _ = to.write_all(text.as_bytes()).and_then(|()| to.flush());
        drop(writing);
    };
    // Without a thread the text is lost, which is better than blocking.
    let _ = std::thread::Builder::new().spawn(write);
    written
}

/// Writes the last log lines when the program ends in any way, unless standard error blocks.
struct FlushLog;

impl Drop for FlushLog {
    fn drop(&mut self) {
        log::logger().flush();
    }
}

/// How many ports are tried.
const TRIES_MAX: usize = 32;
/// Short, so that a polite client waits little beside clients that ask for as much as they can.
const TURN_LENGTH: Duration = Duration::from_micros(200);
/// How long the end of the program waits for its last lines to be written.
const OUTPUT_WAIT: Duration = Duration::from_millis(200);
