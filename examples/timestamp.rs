//! Answers with the received bytes in brackets and the time of day: `[hello] Mon Nov 23 03:16:05 2026`.
//!
//! ```text
//! cargo run --example timestamp
//! cargo run --example client                   # type lines; an empty one ends it
//! printf hello | nc -N 127.0.0.1 9999
//! cargo run --example timestamp -- --self-signed   # under TLS
//! ```
//!
//! This protocol has no messages, and its answers have no newlines. Bytes that arrive at the same time get a single
//! answer. With `--log-level debug` the server logs what it receives.

mod common;

use std::io::Write;
use std::process::ExitCode;

use socketserver::{Next, Request, RequestHandler, Result, TcpOptions, TcpServer};

struct Timestamp;

impl RequestHandler for Timestamp {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let data = request.input.take_all();
        log::debug!("{}: {}", request.client_address(), String::from_utf8_lossy(data));
        request.output.write_all(b"[")?;
        request.output.write_all(data)?;
        write!(request.output, "] {}", ctime())?;
        Ok(Next::Wait)
    }
}

/// The local time in the format of Python's `time.ctime()`, and of C's without its newline.
fn ctime() -> impl std::fmt::Display {
    chrono::Local::now().format("%a %b %e %H:%M:%S %Y")
}

/// Answers all input with the time of day
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    #[command(flatten)]
    tls: common::tls::TlsOptions,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let mut options = TcpOptions::default();
        options.tls = args.tls.acceptor()?;
        let mut server = TcpServer::unbound(|_| Timestamp);
        server.server_bind_with(args.address, options)?;
        args.options.serve(server.server_activate()?)
    })
}
