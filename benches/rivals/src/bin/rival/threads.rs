//! The standard library alone: a thread for each connection, and blocking calls.

use crate::Served;
use crate::job::Job;
use crate::listen::{self, Accept};
use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::path::Path;
use std::thread;

pub(crate) fn tcp(at: SocketAddr, job: Job) -> Served {
    serve(&listen::tcp(at)?, job)
}

pub(crate) fn unix(at: &Path, job: Job) -> Served {
    serve(&listen::unix(at)?, job)
}

fn serve(listener: &impl Accept, job: Job) -> Served {
    loop {
        let started = listener.accept().and_then(|stream| thread::Builder::new().spawn(move || echo(stream, job)));
        if let Err(error) = started {
            listen::wait_after(&error);
        }
    }
}

/// Its result is nobody's: a connection that fails is closed.
fn echo(mut stream: impl Read + Write, job: Job) -> io::Result<()> {
    let mut buffer = [0; 8 << 10];
    loop {
        let length = stream.read(&mut buffer)?;
        if length == 0 {
            return Ok(());
        }
        stream.write_all(&buffer[..length])?;
        if job == Job::EchoOnce {
            return Ok(());
        }
    }
}
