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

use socketserver::{Address, Error, Next, Request, RequestHandler, Result, TcpServer, UdpOptions, family};

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

/// Binds TCP, and then UDP to the same addresses. If the system chose the port, the same port may not be free for UDP.
/// In that case another port is tried.
fn bind(address: &str) -> Result<TcpServer<(), Daytime>> {
    let may_choose = address.rsplit(':').next().is_some_and(|port| port.parse() == Ok(0_u16));
    // Keeps the failed sockets until a port is found, so that the system does not choose the same port again.
    let mut unfit = Vec::new();
    loop {
        let mut server = TcpServer::unbound(|_| Daytime);
        server.server_bind(address)?;
        let same: Vec<_> = server.server_addresses().iter().filter_map(Address::as_inet).collect();
        match server.server_bind_as::<family::Udp>(&same[..], UdpOptions::default()) {
            Ok(()) => return server.server_activate(),
            Err(Error::Bind { .. }) if may_choose && unfit.len() < TRIES_MAX => unfit.push(server),
            Err(error) => return Err(error),
        }
    }
}

const TRIES_MAX: usize = 32;

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
    common::run(|args: Args| {
        let server = bind(&args.address)?;
        args.options.serve(server)
    })
}
