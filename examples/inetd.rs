//! Serves each client with a program, as inetd(8) does. The client is the program's standard input and output.
//!
//! ```text
//! cargo run --example inetd -- 127.0.0.1:9999 cat
//! cargo run --example inetd -- 127.0.0.1:9999 sh -c 'echo "hello $TCPREMOTEIP, how are you?"; read answer; date'
//! nc 127.0.0.1 9999
//!
//! cargo run --example inetd -- --udp 127.0.0.1:9999 rev
//! nc -u 127.0.0.1 9999                         # each line is sent as a datagram and starts rev once
//! ```
//!
//! The program's environment describes the client, as with tcpsvd(8) and udpsvd(8): `PROTO` is `TCP` or `UDP`, and
//! `TCPREMOTEIP`, `TCPREMOTEPORT` or `UDPREMOTEIP`, `UDPREMOTEPORT` are the client's address. The program inherits the
//! server's standard error. Ctrl-C in a terminal does not reach the programs, because they have their own process
//! groups. Ctrl-C and SIGTERM give them `--grace` seconds to end, and then they are killed. Needs Unix.

#![cfg_attr(not(unix), allow(unused, reason = "there is nothing to run"))]

mod common;

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{Command, ExitCode};
use std::time::Duration;

#[cfg(unix)]
use socketserver::ForkingMixIn;
use socketserver::{Address, Result, family, family::Family};

/// Serves each client with a program
#[derive(clap::Parser)]
struct Args {
    /// Serve datagrams: each one is the input of a program, whose output is the answer
    #[arg(long)]
    udp: bool,
    /// Run at most this many programs at a time; other clients wait
    #[arg(long, value_name = "N", default_value = "40", value_parser = common::count, allow_negative_numbers = true)]
    max_children: std::num::NonZeroUsize,
    /// Kill a program that takes longer, including the time its client waited for it; 0 for never (--timeout has no effect
    /// on programs)
    #[arg(long, value_name = "SECONDS", default_value = "300", value_parser = common::seconds)]
    #[arg(allow_negative_numbers = true)]
    child_timeout: Duration,
    #[command(flatten)]
    options: common::Options,
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR")]
    address: String,
    /// The program and its arguments
    #[arg(value_name = "COMMAND", required = true, trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<OsString>,
}

#[cfg(unix)]
fn main() -> ExitCode {
    common::run(|args: Args| if args.udp { serve::<family::Udp>(args) } else { serve::<family::Tcp>(args) })
}

#[cfg(unix)]
fn serve<F: Family<Address = SocketAddr>>(args: Args) -> Result<()> {
    let program = args.command;
    let command = move |client: &Address| {
        let mut command = Command::new(&program[0]);
        command.args(&program[1..]).env("PROTO", F::NAME);
        if let Some(client) = client.as_inet() {
            command.env(format!("{}REMOTEIP", F::NAME), client.ip().to_string());
            command.env(format!("{}REMOTEPORT", F::NAME), client.port().to_string());
        }
        command
    };
    let mut server = ForkingMixIn::<F>::unbound(command);
    server.limits.max_children = args.max_children.get();
    server.limits.max_packet_size = 65_535; // The longest datagram of UDP.
    server.limits.child_timeout = common::unless_zero(args.child_timeout);
    server.server_bind(args.address)?;
    args.options.serve(server.server_activate()?)
}

#[cfg(not(unix))]
fn main() {}
