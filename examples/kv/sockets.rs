//! The options of the service, and the sockets of each worker.

use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use socketserver::{Error, InheritedSockets, Keepalive, Limits, ProxyProtocol, ReactorConfig, Result, TcpOptions};
use socketserver::{TcpServer, TlsAcceptor, UnixAddress, UnixOptions, Workers, WorkersConfig, family};

use super::clients::{Client, Store};
use super::{common, protocol};

/// Keys and values, for redis-cli and other clients of Redis
#[derive(clap::Parser)]
#[command(args_override_self = true)]
pub(crate) struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:6380")]
    address: String,
    /// An additional path to listen on, or @NAME for an abstract name
    #[arg(long, value_name = "PATH")]
    unix: Option<UnixAddress>,
    /// With --tls or --self-signed: the additional address to listen on for TLS
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:6390", requires = "TlsOptions")]
    tls_address: String,
    #[command(flatten)]
    tls: common::tls::TlsOptions,
    /// Take the client's address from the PROXY protocol, which this proxy must speak; several can be given
    #[arg(long, value_name = "IP")]
    proxy: Vec<IpAddr>,
    /// How many threads serve; each knows its own clients only, for CLIENT and for the number that PUBLISH returns
    #[arg(long, value_name = "N", default_value = "1", value_parser = common::count)]
    pub(crate) workers: NonZeroUsize,
    /// A file with more options, each on a line as --name=value; SIGHUP reads the limits in it again
    #[arg(long, value_name = "FILE")]
    options_file: Option<std::path::PathBuf>,
    /// How many bytes may wait for a client before it is dropped
    #[arg(long, value_name = "BYTES", default_value = "67108864")]
    pub(crate) output: usize,
    /// The same for a client that has subscribed to channels
    #[arg(long, value_name = "BYTES", default_value = "33554432")]
    pub(crate) subscriber_output: usize,
    /// How many bytes of all clients may wait, or have arrived of requests that are not complete; then those clients
    /// are dropped that have the most. Each worker has an equal part
    #[arg(long, value_name = "BYTES", default_value = "268435456")]
    buffers: usize,
    /// How much memory this process may need, without these; then nothing more is stored
    #[arg(long, value_name = "BYTES", default_value = "1073741824")]
    pub(crate) data: usize,
    #[command(flatten)]
    options: common::Options,
}

impl Args {
    /// Reads the options of the command line, and then those of the file.
    pub(crate) fn read() -> Result<Self> {
        let args: Self = clap::Parser::try_parse().map_err(Error::other)?;
        let Some(path) = &args.options_file else { return Ok(args) };
        let in_file = |error: &dyn std::fmt::Display| Error::from(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| in_file(&error))?;
        let lines = text.lines().filter(|line| !line.trim().is_empty()).map(Into::into);
        clap::Parser::try_parse_from(std::env::args_os().chain(lines)).map_err(|error| in_file(&error))
    }

    pub(crate) fn limits(&self) -> Limits {
        let mut limits = Limits::default();
        self.options.limit(&mut limits);
        limits.output_bytes_max = self.output;
        limits.input_bytes_max = 2 * protocol::WORD_BYTES_MAX;
        limits
    }

    /// The settings of each reactor.
    pub(crate) fn config(&self) -> ReactorConfig {
        let mut config = self.options.config();
        config.buffered_bytes_max = Some(self.buffers / self.workers);
        config
    }

    fn tcp(&self, tls: Option<TlsAcceptor>) -> TcpOptions {
        let mut tcp = TcpOptions::default();
        tcp.keepalive = Some(Keepalive { idle: Duration::from_secs(300), interval: Duration::from_secs(60) });
        tcp.proxy_protocol = (!self.proxy.is_empty()).then(|| ProxyProtocol::trusting(self.proxy.iter().copied()));
        tcp.tls = tls;
        tcp
    }
}

pub(crate) fn main() -> ExitCode {
    common::run(|_: Args| {
        let args = Arc::new(Args::read()?);
        let mut sockets = InheritedSockets::from_env()?;
        let mut config = WorkersConfig::default();
        config.reactor = args.config();
        let (count, options, tls) = (args.workers.get(), args.options.clone(), args.tls.acceptor()?);
        let data = Arc::default();
        let mut workers = Workers::with_config(count, config, move |worker| {
            let (workers, data, channels) = (worker.workers(), Arc::clone(&data), Default::default());
            let store = Store { workers, worker: worker.number(), data, channels, args: Arc::clone(&args) };
            let mut server = TcpServer::unbound_with_server(store, |_, _| Client::default());
            server.limits = args.limits();
            worker.inherit_or_bind_with(&mut server, &mut sockets, "kv", &args.address[..], args.tcp(None))?;
            if let Some(tls) = &tls {
                let (address, tcp) = (&args.tls_address[..], args.tcp(Some(tls.clone())));
                worker.inherit_or_bind_with(&mut server, &mut sockets, "kv-tls", address, tcp)?;
            }
            if let Some(path) = args.unix.clone() {
                let options = UnixOptions::default();
                worker.inherit_or_bind_as::<family::UnixStream>(&mut server, &mut sockets, "kv-unix", path, options)?;
            }
            let id = worker.add(server)?;
            worker.reactor().set_interval(id, 0, Duration::from_millis(100));
            if worker.number() == 0 {
                if let Some(address) = &args.options.admin {
                    let workers = worker.workers();
                    let mut pages = common::admin::server(move || Ok((workers.stats()?, workers.inspect()?)));
                    worker.inherit_or_bind(&mut pages, &mut sockets, "kv-admin", &address[..])?;
                    worker.add(pages)?;
                }
                std::mem::take(&mut sockets).all_taken()?;
            }
            Ok(())
        })?;
        workers.shutdown_on_signals()?;
        workers.reload_on_signal()?;
        workers.restart_on_signal()?;
        workers.notify_supervisor()?;
        options.announce(workers.server_addresses().into_iter().map(|address| match address.as_unix() {
            Some(path) => format!("unix stream {path}"),
            None => address.to_string(),
        }));
        workers.serve_forever()
    })
}
