//! Answers with the time of day, over TCP and UDP on one port number: RFC 867.
//!
//! ```text
//! cargo run --example daytime
//! nc 127.0.0.1 9999 </dev/null                 # connecting is enough to get an answer
//! echo | nc -u -w1 127.0.0.1 9999              # and so is any datagram, even an empty one
//! ```
//!
//! A datagram is a request that begins with `setup`, just like a connection. So one handler and one server are enough
//! for both.

mod common;

use std::io::Write;
use std::process::ExitCode;

use socketserver::{Next, Request, RequestHandler, Result, TcpServer};

struct Daytime;

impl RequestHandler for Daytime {
    /// Answers before anything is read.
    fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
        write!(request.output, "{}\r\n", chrono::Local::now().format("%A, %B %-d, %Y %H:%M:%S%:z"))?;
        Ok(Next::Close)
    }

    /// The client's input is not read.
    fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> {
        Ok(Next::Close)
    }
}

/// Tells the time of day over TCP and UDP (RFC 867)
///
/// Standard output gets two lines, "listening on ADDRESS" for TCP and "listening on udp ADDRESS".
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose one that is free for both
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| args.options.serve(common::bind_both(&args.address, || TcpServer::unbound(|_| Daytime))?))
}
