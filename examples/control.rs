//! An echo server that its own user can control through a Unix socket.
//!
//! ```text
//! cargo run --example control
//! nc 127.0.0.1 9999                            # a client, in another terminal
//! nc -U control.sock                           # help lists the commands
//! echo list | nc -N -U control.sock
//! ```
//!
//! Two servers share a reactor, so a command to one server affects the other immediately and without a lock. Only the
//! owner can write to the socket's file. The credentials of any user who can bypass this, such as root, are checked.
//! Needs Unix.

#![cfg_attr(not(unix), allow(unused, reason = "there is nothing to run"))]

mod common;

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::ExitCode;

use socketserver::{
    Address, BaseServer, ConnectionId, Incoming, Next, Request, RequestHandler, Result, ServerId, TcpServer,
};
#[cfg(unix)]
use socketserver::{Credentials, UnixAddress, UnixOptions, UnixStreamServer};

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// The server of the control socket, and the id of the server that it controls.
struct Control {
    echo: ServerId,
}

#[cfg(unix)]
impl BaseServer for Control {
    fn verify_request(&mut self, request: &Incoming<'_>, _: &Address) -> bool {
        let Incoming::Stream(stream) = request else { return false };
        match stream.peer_credentials() {
            Ok(peer) if peer.uid == Credentials::own().uid => return true,
            Ok(peer) => log::warn!("refused to be controlled by user {} (process {:?})", peer.uid, peer.pid),
            Err(error) => log::warn!("refused to be controlled by an unknown user: {error}"),
        }
        false
    }
}

/// A client that gives commands.
struct Commander;

impl RequestHandler<Control> for Commander {
    fn handle(&mut self, request: &mut Request<'_, Control>) -> Result<Next> {
        while let Some(line) = request.input.read_line()? {
            let line = String::from_utf8_lossy(line).into_owned();
            let reply = match line.split_whitespace().collect::<Vec<_>>()[..] {
                [] => continue,
                ["help"] => HELP.to_owned(),
                ["stats"] => stats(request),
                ["list"] => list(request),
                ["kick", id] => kick(request, id),
                ["stop"] => {
                    request.others.request_shutdown();
                    "stopping\n".to_owned()
                }
                _ => "no such command: try help\n".to_owned(),
            };
            request.output.write_all(reply.as_bytes())?;
        }
        Ok(Next::Wait)
    }
}

const HELP: &str = "\
stats    show counters, of clients and of control connections together
list     show the number and the address of each client
kick N   close the connection of this client at once
stop     end the server; clients may finish
";

fn stats(request: &mut Request<'_, Control>) -> String {
    let stats = request.others.stats();
    format!(
        "clients {}\naccepted {}\nrefused {}\nbytes in {}\nbytes out {}\n",
        clients(request).len(),
        stats.accepted,
        stats.refused,
        stats.bytes_in,
        stats.bytes_out,
    )
}

fn list(request: &mut Request<'_, Control>) -> String {
    let clients = clients(request);
    let mut text = format!("{} clients\n", clients.len());
    for (id, address) in clients {
        let _ = writeln!(text, "{id} {address}"); // Writing to a string cannot fail.
    }
    text
}

fn kick(request: &mut Request<'_, Control>, number: &str) -> String {
    match clients(request).into_iter().find(|(id, _)| id.to_string() == number) {
        Some((id, address)) => {
            // Ends the connection immediately, even if there is unsent output. `close` would send the rest first.
            request.others.abort(id);
            log::info!("{address} was kicked out");
            format!("kicked {address}\n")
        }
        None => "no such client\n".to_owned(),
    }
}

fn clients(request: &mut Request<'_, Control>) -> Vec<(ConnectionId, Address)> {
    let echo = request.server.echo;
    let others = &request.others;
    let with_address = |id| Some((id, others.client_address(id)?));
    others.connections_of(echo).into_iter().filter_map(with_address).collect()
}

/// An echo server with a Unix socket for commands, which admits only the user that it runs as
///
/// Standard output gets two lines, "listening on ADDRESS" and "listening on unix stream PATH".
#[cfg(unix)]
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    /// Where to listen for commands: a path, or @NAME for an abstract name
    #[arg(long, value_name = "PATH", default_value = "control.sock")]
    control: UnixAddress,
    #[command(flatten)]
    options: common::Options,
}

#[cfg(unix)]
fn main() -> ExitCode {
    common::run(|args: Args| {
        let mut host = args.options.host()?;
        let echo = host.add(TcpServer::new(args.address, |_| Echo)?)?;
        let mut control = UnixStreamServer::unbound_with_server(Control { echo }, |_, _| Commander);
        let mut options = UnixOptions::default();
        options.mode = args.control.as_path().map(|_| 0o600); // An abstract name has no mode.
        control.server_bind_with(args.control, options)?;
        host.add(control.server_activate()?)?;
        host.serve()
    })
}

#[cfg(not(unix))]
fn main() {}
