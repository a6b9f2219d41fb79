//! Sends back every byte.
//!
//! ```text
//! cargo run --example echo                     # or: ... echo -- 127.0.0.1:0 --timeout 30 --log-level debug
//! nc 127.0.0.1 9999                            # type; Ctrl-D half-closes, and the rest still comes back
//! head -c 100M /dev/zero | nc -N 127.0.0.1 9999 | wc -c
//! ```
//!
//! Ctrl-C ends it: connections in use get their bytes back first, at most `--grace` seconds long.

mod common;

use std::io::Write;
use std::process::ExitCode;

use socketserver::{Next, Request, RequestHandler, Result, TcpServer};

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

/// Sends back every byte
#[derive(clap::Parser)]
struct Args {
    /// Where to listen; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| args.options.serve(TcpServer::new(args.address, |_| Echo)?))
}
