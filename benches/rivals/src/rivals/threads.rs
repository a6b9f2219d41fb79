//! The standard library's way: a thread for each connection, and blocking calls.

use super::{Served, listen};
use crate::job::Job;
use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

pub(crate) fn streams(listener: &TcpListener, job: Job) -> Served {
    listener.set_nonblocking(false)?;
    loop {
        let started = listener.accept().and_then(|(stream, _)| thread::Builder::new().spawn(move || echo(stream, job)));
        if let Err(error) = started {
            listen::wait_after(&error);
        }
    }
}

/// The result is ignored: a connection that fails is closed.
fn echo(mut stream: TcpStream, job: Job) -> io::Result<()> {
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
