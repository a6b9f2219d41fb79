//! Many clients that come to rest in the same situation, in a process of their own, so that their memory is not the
//! server's.

use std::io::{self, BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;

use clap::ValueEnum;
use rustls::ClientConfig;

use crate::certificate::Certificate;
use crate::client;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Situation {
    Silent,
    Handshake,
    Message,
    Mebibyte,
    Hello,
}

impl Situation {
    pub(crate) fn describe(self) -> &'static str {
        match self {
            Situation::Silent => "silent from the beginning",
            Situation::Handshake => "after the handshake",
            Situation::Message => "after a message of 64 bytes and its echo",
            Situation::Mebibyte => "after 1 MiB in each direction",
            Situation::Hello => "whose client stopped after its hello",
        }
    }
}

/// A process with clients at rest. They end when this is dropped.
pub(crate) struct Clients(Child);

impl Clients {
    /// Returns when they are all at rest.
    pub(crate) fn start(
        address: SocketAddr,
        number: usize,
        situation: Situation,
        certificate: &Certificate,
    ) -> Result<Self, String> {
        let mut command = Command::new(std::env::current_exe().expect("it is this program"));
        let situation = situation.to_possible_value().expect("all of them are possible");
        command.args(["clients", &address.to_string(), &number.to_string(), situation.get_name()]);
        command.arg(certificate.directory()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("cannot start clients: {error}"))?;
        let output = child.stdout.take().expect("it is piped");
        let clients = Clients(child);
        let mut line = String::new();
        match BufReader::new(output).read_line(&mut line) {
            Ok(_) if line == "at rest\n" => Ok(clients),
            _ => Err(format!("the {number} clients did not come to rest: {line}")),
        }
    }
}

impl Drop for Clients {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// The process: they stay until standard input ends.
pub(crate) fn run(address: SocketAddr, number: usize, situation: Situation, certificate: &Certificate) {
    rlimit::increase_nofile_limit(u64::MAX).expect("the system tells the limit");
    let config = certificate.client();
    let open: io::Result<Vec<TcpStream>> = (0..number).map(|_| one(address, situation, &config)).collect();
    match open {
        Ok(_open) => {
            println!("at rest");
            let _ = io::stdin().read(&mut [0]);
        }
        Err(error) => println!("{error}"),
    }
}

/// Only the socket is kept: the client has nothing more to say.
fn one(address: SocketAddr, situation: Situation, config: &Arc<ClientConfig>) -> io::Result<TcpStream> {
    match situation {
        Situation::Silent => client::socket(address),
        Situation::Hello => {
            let mut socket = client::socket(address)?;
            client::session(config).write_tls(&mut socket)?;
            // Until the server has answered.
            while socket.peek(&mut [0; 2_000])? < 500 {}
            Ok(socket)
        }
        _ => {
            let mut stream = client::connect(address, config)?;
            match situation {
                Situation::Message => client::exchange(&mut stream, 64)?,
                Situation::Mebibyte => (0..16).try_for_each(|_| client::exchange(&mut stream, 64 << 10))?,
                _ => {}
            }
            Ok(stream.into_parts().1)
        }
    }
}
