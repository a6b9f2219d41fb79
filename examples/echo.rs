//! Sends back every byte, and every datagram.
//!
//! ```text
//! cargo run --example echo                     # or: ... echo -- 127.0.0.1:0 --timeout 30 --log-level debug
//! nc 127.0.0.1 9999                            # type; Ctrl-D half-closes, and the rest is still echoed
//! head -c 100M /dev/zero | nc -N 127.0.0.1 9999 | wc -c
//!
//! cargo run --example echo -- 127.0.0.1:9999 --udp 127.0.0.1:9999 --unix /tmp/echo --unix-datagram @echo
//! nc -u 127.0.0.1 9999                         # each line is a datagram
//! nc -U /tmp/echo
//! socat - ABSTRACT-SENDTO:echo,bind=/tmp/me    # a datagram is answered only if its sender has a name
//!
//! cargo run --example echo -- --self-signed   # under TLS: TCP and Unix streams
//! openssl s_client -quiet -connect localhost:9999
//!
//! systemd-socket-activate -l 9999 --fdname=echo target/debug/examples/echo
//! systemd-socket-activate -l 9999 -a target/debug/examples/echo   # one process for each client
//! ```
//!
//! A supervisor may open the sockets, all with the name `echo`. They replace the addresses of the arguments.
//!
//! Ctrl-C ends the server. Active connections have up to `--grace` seconds to receive their remaining bytes.
//!
//! One handler serves all kinds of sockets, on one thread. A datagram with the forged address of another echo server
//! makes the two answer each other forever. RFC 862 has this flaw, so use this server only in your own network.

mod common;

use std::io::Write;
use std::process::ExitCode;

#[cfg(unix)]
use socketserver::{InheritedSockets, Server, TlsAcceptor, UnixAddress, UnixOptions, family};
use socketserver::{Next, Request, RequestHandler, Result, TcpOptions, TcpServer, UdpServer};

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// Sends back every byte and every datagram
///
/// Standard output gets a line for each socket, "listening on ADDRESS" for TCP, otherwise "listening on udp ADDRESS",
/// "listening on unix stream PATH" or "listening on unix datagram PATH", in this order.
#[derive(clap::Parser)]
struct Args {
    /// Where to listen for TCP connections; port 0 lets the system choose [default: 127.0.0.1:9999, or none if an option
    /// asks for another kind of socket]
    #[arg(value_name = "ADDR")]
    address: Option<String>,
    /// Where to receive UDP datagrams, of up to 65,507 bytes; port 0 lets the system choose
    #[arg(long, value_name = "ADDR")]
    udp: Option<String>,
    /// Where to listen for connections of Unix sockets: a path, or @NAME for an abstract name
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    unix: Option<UnixAddress>,
    /// Where to receive datagrams of Unix sockets, of up to 65,535 bytes: a path, or @NAME for an abstract name
    #[cfg(unix)]
    #[arg(long, value_name = "PATH")]
    unix_datagram: Option<UnixAddress>,
    /// Permissions of the files of Unix sockets, for example 600 [default: 777 without the bits of the umask]
    #[cfg(unix)]
    #[arg(long, value_name = "OCTAL", value_parser = mode)]
    mode: Option<u32>,
    #[command(flatten)]
    tls: common::tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(serve)
}

fn serve(args: Args) -> Result<()> {
    let others = args.udp.is_some();
    #[cfg(unix)]
    let others = others || args.unix.is_some() || args.unix_datagram.is_some();
    let address = args.address.or((!others).then(|| "127.0.0.1:9999".to_owned()));

    let acceptor = args.tls.acceptor()?;
    #[cfg(unix)]
    let mut inherited = InheritedSockets::from_env()?;
    #[cfg(unix)]
    if let Some(client) = inherited.take_connection() {
        return TcpServer::unbound(|_| Echo).serve_connection(client);
    }
    let mut host = args.options.host()?;
    if let Some(address) = address {
        let mut options = TcpOptions::default();
        options.tls = acceptor.clone();
        let mut server = TcpServer::unbound(|_| Echo);
        #[cfg(unix)]
        server.inherit_or_bind_with(&mut inherited, "echo", address, options)?;
        #[cfg(not(unix))]
        server.server_bind_with(address, options)?;
        host.add(server.server_activate()?)?;
    }
    if let Some(address) = args.udp {
        let mut server = UdpServer::unbound(|_| Echo);
        server.limits.max_packet_size = DATAGRAM_BYTES_MAX;
        #[cfg(unix)]
        server.inherit_or_bind(&mut inherited, "echo", address)?;
        #[cfg(not(unix))]
        server.server_bind(address)?;
        host.add(server.server_activate()?)?;
    }
    #[cfg(unix)]
    {
        if let Some(path) = args.unix {
            host.add(at_path::<family::UnixStream>(&mut inherited, path, args.mode, acceptor)?)?;
        }
        if let Some(path) = args.unix_datagram {
            host.add(at_path::<family::UnixDatagram>(&mut inherited, path, args.mode, None)?)?;
        }
        inherited.all_taken()?;
    }
    host.serve()
}

/// Creates a server for either kind of Unix socket.
#[cfg(unix)]
fn at_path<F>(
    inherited: &mut InheritedSockets,
    path: UnixAddress,
    mode: Option<u32>,
    tls: Option<TlsAcceptor>,
) -> Result<Server<F, (), Echo>>
where
    F: family::Family<Options = UnixOptions, Address = UnixAddress>,
{
    let mut options = UnixOptions::default();
    options.mode = mode;
    options.tls = tls;
    let mut server = Server::unbound(|_| Echo);
    server.limits.max_packet_size = DATAGRAM_BYTES_MAX;
    server.inherit_or_bind_as::<F>(inherited, "echo", path, options)?;
    server.server_activate()
}

/// Parses permission bits from the command line.
#[cfg(unix)]
fn mode(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).map_err(|_| "not an octal number")?;
    if mode <= 0o777 { Ok(mode) } else { Err("more than 777".into()) }
}

/// Room for the longest datagram of UDP.
const DATAGRAM_BYTES_MAX: usize = 65_535;
