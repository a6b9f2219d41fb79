//! Sends lines to a server, and prints its answer to each. Intended for the example `timestamp`, but also works with
//! `echo`.
//!
//! ```text
//! cargo run --example timestamp                # in another terminal
//! cargo run --example client
//! printf 'hello\nworld\n' | cargo run --example client
//! ```
//!
//! It waits for only one thing at a time, so it uses blocking calls. The server's protocol does not mark the end of an
//! answer, so the result of one read counts as the answer.

mod common;

use std::error::Error;
use std::io::{BufRead, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::process::ExitCode;
use std::time::Duration;

/// Sends each line of standard input to a server and prints the answer, until a line is empty
#[derive(clap::Parser)]
struct Args {
    /// The server: a host and a port
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    /// How long to wait for an answer; 0 means no limit
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = common::seconds)]
    #[arg(allow_negative_numbers = true)]
    timeout: Duration,
}

fn main() -> ExitCode {
    common::run(talk)
}

fn talk(Args { address, timeout }: Args) -> Result<(), Box<dyn Error>> {
    let shown = common::printable(&address);
    let addresses = common::resolve(&address)?;
    let mut server =
        TcpStream::connect(&addresses[..]).map_err(|error| format!("cannot connect to {shown}: {}", reason(error)))?;
    let timeout = Some(timeout).filter(|timeout| !timeout.is_zero());
    server.set_read_timeout(timeout)?;
    server.set_write_timeout(timeout)?;

    let (mut lines, mut reply) = (std::io::stdin().lock(), vec![0; 64 * 1024]);
    loop {
        let mut line = Vec::new();
        lines.read_until(b'\n', &mut line).map_err(|error| format!("cannot read a line: {}", reason(error)))?;
        let line = line.trim_ascii_end();
        if line.is_empty() {
            return Ok(());
        }
        let lost = |error| format!("lost {shown}: {}", reason(error));
        server.write_all(line).map_err(lost)?;
        let n = server.read(&mut reply).map_err(lost)?;
        if n == 0 {
            return Err(format!("lost {shown}: it closed the connection").into());
        }
        let reply = common::printable(&String::from_utf8_lossy(&reply[..n]));
        let written = writeln!(std::io::stdout(), "server: {reply}");
        written.map_err(|error| format!("cannot write the answer: {}", reason(error)))?;
    }
}

/// The system error as plain text.
fn reason(error: std::io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        _ => socketserver::Error::from(error).to_string(),
    }
}
