//! Connects each client to another server, with a connection for each client.
//!
//! ```text
//! cargo run --example echo                                        # in another terminal
//! cargo run --example proxy -- 127.0.0.1:8888 localhost:9999
//! head -c 100M /dev/zero | nc -N 127.0.0.1 8888 | wc -c
//! ```
//!
//! With `--tls CERT KEY` it terminates TLS: clients speak TLS to it, and it speaks to the upstream server without. With
//! `--upstream-tls NAME --upstream-ca FILE` it starts TLS: the other way round. Both together are possible.
//!
//! Both directions have backpressure: an end is not read while the other end is slower, so a pair holds at most a few
//! hundred KiB. The end of one direction (FIN) is forwarded by itself, and the other direction continues. A reset is
//! forwarded as a reset, so that an incomplete transfer never looks complete.

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use socketserver::{
    BaseServer, ConnectionId, Delivery, EndReason, Error, Next, Request, RequestHandler, Result, TcpOptions, TcpServer,
    Timeout, TlsConnector,
};

/// The upstream server, and the pairs of connections.
struct Proxy {
    /// The addresses of the upstream server, in the order of attempts.
    upstream: Vec<SocketAddr>,
    /// The upstream server is spoken to under TLS.
    connector: Option<TlsConnector>,
    /// The other end of each connection. An entry is removed with its connection.
    peers: HashMap<ConnectionId, ConnectionId>,
    /// The time that a silent pair has for an answer when the proxy stops.
    silence: Duration,
    /// The proxy is stopping, so a silent pair counts as finished.
    stopping: bool,
}

impl BaseServer for Proxy {}

/// One end of a pair.
enum End {
    Client,
    /// The index of the upstream address to which this end belongs.
    Upstream(usize),
}

impl RequestHandler<Proxy> for End {
    fn setup(&mut self, request: &mut Request<'_, Proxy>) -> Result<Next> {
        // A client may send everything before it reads, so each direction waits only for its own receiver.
        request.set_full_duplex(true);
        match self {
            End::Client => {
                // Do not read from the client before the upstream connection is established.
                request.pause_reading();
                connect(request, request.id(), 0)?;
            }
            End::Upstream(_) => request.others.resume_reading(peer(request)),
        }
        Ok(Next::Wait)
    }

    fn connect_failed(&mut self, request: &mut Request<'_, Proxy>, _: &Error) {
        let (End::Upstream(failed), Some(client)) = (self, request.server.peers.remove(&request.id())) else {
            return;
        };
        // The library has logged the failed address and the reason.
        if connect(request, client, *failed + 1).is_err() {
            request.others.close(client);
        }
    }

    fn handle(&mut self, request: &mut Request<'_, Proxy>) -> Result<Next> {
        let bytes = request.input.take_all();
        match request.others.send(peer(request), bytes) {
            Delivery::Queued => {}
            Delivery::Full => request.pause_reading(),
            // These bytes are lost, so tell the sender by a reset.
            _ => return Ok(Next::Abort),
        }
        Ok(Next::Wait)
    }

    fn writable(&mut self, request: &mut Request<'_, Proxy>) -> Result<Next> {
        request.others.resume_reading(peer(request));
        Ok(Next::Wait)
    }

    fn eof(&mut self, request: &mut Request<'_, Proxy>) -> Result<Next> {
        request.others.shutdown_write(peer(request));
        Ok(Next::Wait) // The other direction has not ended yet.
    }

    fn timed_out(&mut self, request: &mut Request<'_, Proxy>, timeout: Timeout) -> Result<Next> {
        match timeout {
            // This end is not read because its peer is slow. The write timeout limits how slow it may be.
            Timeout::Idle if request.others.send(peer(request), b"") == Delivery::Full => Ok(Next::Wait),
            Timeout::Idle if request.server.stopping => Ok(Next::Close),
            // The end may have stopped in the middle of an answer.
            _ => Ok(Next::Abort),
        }
    }

    /// A silent pair may be waiting for an answer, and the proxy cannot tell. It therefore continues until it has been
    /// silent for longer than an answer should take, or until the grace period is over.
    fn drain(&mut self, request: &mut Request<'_, Proxy>) -> Result<Next> {
        request.server.stopping = true;
        request.set_timeout(Timeout::Idle, Some(request.server.silence));
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_, Proxy>, why: EndReason) {
        if let Some(peer) = request.server.peers.remove(&request.id()) {
            match why {
                // Both directions have ended. The other end may still have output to send.
                EndReason::PeerClosed => {}
                EndReason::Timeout(Timeout::Idle) if request.server.stopping => request.others.close(peer),
                _ => request.others.abort(peer),
            }
        }
    }
}

/// The other end of this connection, from `connect` to `finish`. If it has gone, operations on it have no effect.
fn peer(request: &Request<'_, Proxy>) -> ConnectionId {
    request.server.peers[&request.id()]
}

/// Starts a connection to the upstream server for a client, at the first address, starting with index `first`, that
/// does not fail immediately.
fn connect(request: &mut Request<'_, Proxy>, client: ConnectionId, first: usize) -> Result<()> {
    let mut failed = Error::Gone;
    for number in first..request.server.upstream.len() {
        let (address, end) = (request.server.upstream[number], End::Upstream(number));
        let connected = match &request.server.connector {
            None => request.others.connect(address, end),
            Some(connector) => request.others.connect_tls(address, connector, end),
        };
        match connected {
            Ok(upstream) => {
                request.server.peers.insert(client, upstream);
                request.server.peers.insert(upstream, client);
                return Ok(());
            }
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Connects each client to another server
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    listen: String,
    /// The server to connect clients to; a name is resolved once, at the start
    upstream: String,
    /// Speak TLS to that server, whose certificate must have this name
    #[arg(long, value_name = "NAME", requires = "upstream_ca")]
    upstream_tls: Option<String>,
    /// The certificates of the authorities that are trusted for that (PEM)
    #[arg(long, value_name = "FILE", requires = "upstream_tls")]
    upstream_ca: Option<PathBuf>,
    /// How long a pair may be silent before it is ended when the proxy stops, because an answer may be on its way
    #[arg(long, value_name = "SECONDS", default_value = "2", value_parser = common::seconds)]
    silence: Duration,
    #[command(flatten)]
    tls: common::tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let upstream = common::resolve(&args.upstream)?;
        let connector = match (&args.upstream_ca, &args.upstream_tls) {
            (Some(authorities), Some(name)) => Some(common::tls::connector(authorities, name)?),
            _ => None,
        };
        let mut options = TcpOptions::default();
        options.tls = args.tls.acceptor()?;
        let proxy = Proxy { upstream, connector, peers: HashMap::new(), silence: args.silence, stopping: false };
        let mut server = TcpServer::unbound_with_server(proxy, |_, _| End::Client);
        server.server_bind_with(args.listen, options)?;
        args.options.serve(server.server_activate()?)
    })
}
