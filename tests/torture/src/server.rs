//! An echo server of this crate in a process of its own, which does not outlive this one.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use clap::ValueEnum;
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use socketserver::family::Family;
use socketserver::{
    Error, Next, Reactor, Request, RequestHandler, Server as Serving, TcpOptions, TcpServer, TlsAcceptor, UdpServer,
};

use crate::options::Kind;
use crate::wait::wait_for;

/// The process that was started.
pub(crate) struct Server {
    process: Child,
    /// It serves until this is closed, in whatever way we end.
    lifeline: Option<ChildStdin>,
    pub(crate) address: String,
}

impl Server {
    pub(crate) fn start(kind: Kind) -> io::Result<Self> {
        let mut command = Command::new(std::env::current_exe()?);
        let kind = kind.to_possible_value().expect("all of them are possible");
        command.args(["echo-server", kind.get_name()]).stdin(Stdio::piped()).stdout(Stdio::piped());
        // Ctrl-C in a terminal is for us, and it has to go on until we are done.
        #[cfg(unix)]
        std::os::unix::process::CommandExt::process_group(&mut command, 0);
        let mut process = command.spawn()?;
        let (lifeline, output) = (process.stdin.take(), process.stdout.take().expect("it is piped"));
        let mut server = Server { process, lifeline, address: String::new() };
        if BufReader::new(output).read_line(&mut server.address)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        server.address.truncate(server.address.trim_end().len());
        Ok(server)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.id()
    }

    /// Ends it in good order, or tells why that is not possible.
    pub(crate) fn stop(mut self, patience: Duration) -> Result<(), String> {
        self.lifeline = None;
        // Its connections may take their time as well.
        match wait_for(GRACE + patience, || self.process.try_wait().transpose()) {
            Some(Ok(status)) if status.success() => Ok(()),
            Some(Ok(status)) => Err(format!("expected it to end in good order, seen: {status}")),
            Some(Err(error)) => Err(format!("cannot wait for it: {error}")),
            None => Err("expected it to end when told to, seen: it goes on".to_owned()),
        }
    }
}

/// One that does not end by itself is killed.
impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What the process does: says where it is, and serves.
pub(crate) fn serve(kind: Kind) -> socketserver::Result<()> {
    match kind {
        Kind::Tcp => serve_with("", TcpServer::new("127.0.0.1:0", |_| Echo)?),
        Kind::Tls => {
            let mut server = TcpServer::unbound(|_| Echo);
            let mut options = TcpOptions::default();
            options.tls = Some(TlsAcceptor::new(self_signed()?));
            server.server_bind_with("127.0.0.1:0", options)?;
            serve_with("tls:", server.server_activate()?)
        }
        Kind::Udp => {
            let mut server = UdpServer::unbound(|_| Echo);
            server.limits.sessions_max = Some(SESSIONS_MAX);
            server.limits.idle_timeout = Some(SESSION_TIMEOUT);
            server.server_bind("127.0.0.1:0")?;
            serve_with("udp:", server.server_activate()?)
        }
    }
}

/// It has all its descriptors when it says where it is: they are counted from then on.
fn serve_with<F: Family>(prefix: &str, server: Serving<F, (), Echo>) -> socketserver::Result<()> {
    let (mut reactor, address) = (Reactor::new()?, server.server_address());
    reactor.add(server)?;
    let stop = reactor.shutdown_handle();
    writeln!(io::stdout(), "{prefix}{address}")?;
    std::thread::spawn(move || {
        let _ = io::stdin().read_to_end(&mut Vec::new());
        stop.shutdown();
    });
    reactor.serve_forever()
}

fn self_signed() -> socketserver::Result<Arc<ServerConfig>> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).map_err(Error::other)?;
    let key = PrivateKeyDer::from(made.signing_key);
    let config = ServerConfig::builder().with_no_client_auth().with_single_cert(vec![made.cert.into()], key);
    config.map(Arc::new).map_err(Error::other)
}

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> socketserver::Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// Fewer than there are clients, so that some datagrams are refused, ...
const SESSIONS_MAX: usize = 32;

/// ... and a session ends soon enough for each client to have its turn.
const SESSION_TIMEOUT: Duration = Duration::from_millis(50);

/// How long a server goes on with its connections when it is told to stop.
const GRACE: Duration = Duration::from_secs(10);
