//! Adds up numbers, with a handler that blocks as in Python. A second port shows the state of the server.
//!
//! ```text
//! cargo run --example blocking
//! nc 127.0.0.1 9999                            # one number per line; an empty line asks for the sum
//! nc 127.0.0.1 9998 </dev/null                 # the number of sums so far, and the largest
//! ```
//!
//! One server listens on both ports and decides for each client where to serve it. Each adder runs on its own thread:
//! it waits for the next line in the middle of a loop, whereas a handler on the reactor would have to return and
//! remember its position. It accesses the server's value by sending a closure to the reactor. The reactor serves
//! clients of the second port, and answers immediately even while all threads are busy.

mod common;

use std::io::{BufRead, ErrorKind, Read, Write};
use std::num::NonZeroUsize;
use std::process::ExitCode;
use std::time::Duration;

use socketserver::{
    Address, BaseServer, BlockingHandler, BlockingRequest, Incoming, Next, Request, RequestHandler, Result, ServeOn,
    TcpServer,
};

/// The state that all requests share.
struct Sums {
    /// Clients of this port get the following summary.
    summary_port: Option<u16>,
    finished: u64,
    largest: Option<i64>,
    /// How long an adder waits for a line.
    patience: Option<Duration>,
}

impl BaseServer for Sums {
    fn process_request(&mut self, request: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        match request {
            Incoming::Stream(stream) if stream.local_address().and_then(|at| at.port()) == self.summary_port => {
                ServeOn::Reactor
            }
            _ => ServeOn::thread(Adder { patience: self.patience }),
        }
    }
}

/// Runs on a thread, and may block.
struct Adder {
    patience: Option<Duration>,
}

impl BlockingHandler<Sums> for Adder {
    fn handle(&mut self, request: &mut BlockingRequest<Sums>) -> Result<()> {
        let mut sum = 0_i64;
        let mut line = Vec::new();
        loop {
            line.clear();
            match request.rfile.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', &mut line) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::TimedOut => {
                    return Ok(request.wfile.write_all(b"too slow\n")?);
                }
                Err(error) => return Err(error.into()),
            }
            let text = line.trim_ascii();
            if text.is_empty() {
                break;
            }
            let number = std::str::from_utf8(text).ok().and_then(|text| text.parse().ok());
            match number.and_then(|number| sum.checked_add(number)) {
                Some(more) => sum = more,
                None => writeln!(request.wfile, "not a number, or too large; the sum is still {sum}")?,
            }
        }
        let finished = request.server(move |server| {
            server.finished += 1;
            server.largest = server.largest.max(Some(sum));
            server.finished
        })?;
        writeln!(request.wfile, "{sum} (sum number {finished})")?;
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        self.patience
    }
}

/// Runs on the reactor, and never blocks.
struct Summary;

impl RequestHandler<Sums> for Summary {
    fn setup(&mut self, request: &mut Request<'_, Sums>) -> Result<Next> {
        let adding = request.others.connections().len();
        let Sums { finished, largest, .. } = *request.server;
        let largest = largest.map_or("none".to_owned(), |largest| largest.to_string());
        writeln!(request.output, "{finished} sums, the largest {largest}; {adding} clients")?;
        Ok(Next::Close)
    }

    fn handle(&mut self, _: &mut Request<'_, Sums>) -> Result<Next> {
        Ok(Next::Close)
    }
}

/// No valid number is longer than this, and lines that never end must be limited.
const LINE_BYTES_MAX: u64 = 100;

/// Adds up the numbers of each client on a thread, and gives a summary from the reactor
///
/// Standard output gets two lines, "listening on ADDRESS" for numbers and the same for the summary.
#[derive(clap::Parser)]
struct Args {
    /// Where to listen for numbers; port 0 lets the system choose
    #[arg(value_name = "ADDR", default_value = "127.0.0.1:9999")]
    address: String,
    /// Where to listen for clients that want the summary
    #[arg(value_name = "SUMMARY_ADDR", default_value = "127.0.0.1:9998")]
    summary: String,
    /// Serve at most this many adding clients at a time; other clients wait for a thread
    #[arg(long, value_name = "N", default_value = "64", value_parser = common::count, allow_negative_numbers = true)]
    max_threads: NonZeroUsize,
    #[command(flatten)]
    options: common::Options,
}

fn main() -> ExitCode {
    common::run(|args: Args| {
        let sums = Sums { summary_port: None, finished: 0, largest: None, patience: args.options.timeout() };
        let mut server = TcpServer::unbound_with_server(sums, |_, _| Summary);
        server.limits.max_threads = args.max_threads.get();
        server.server_bind(args.address)?;
        server.server_bind(args.summary)?;
        server.server_mut().summary_port = server.server_addresses()[1].port();
        args.options.serve(server.server_activate()?)
    })
}
