//! A bare mio loop, as mio's own examples lead to: slots for tokens, and one buffer for all connections.
//!
//! mio asks for reading until it would block. On Linux a read that does not fill the buffer says the same, as tokio knows
//! too; one read more for each message would be wasted, and would let a client that is quick with its next message keep
//! all others waiting.

use super::{Served, listen};
use crate::job::Job;
use mio::net::{TcpListener, TcpStream, UdpSocket};
use mio::{Events, Interest, Poll, Registry, Token};
use slab::Slab;
use std::io::{self, ErrorKind, Read, Write};
use std::net;

/// Taken from the kernel at once.
const EVENTS: usize = 1_024;
/// Connections have the tokens of their slots.
const LISTENER: Token = Token(usize::MAX);

pub(crate) fn datagrams(socket: net::UdpSocket) -> Served {
    let mut socket = UdpSocket::from_std(socket);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut socket, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut buffer = vec![0; 64 << 10];
    loop {
        wait(&mut poll, &mut events)?;
        loop {
            match socket.recv_from(&mut buffer) {
                // Lost if there is no room for it, as datagrams are.
                Ok((length, peer)) => drop(socket.send_to(&buffer[..length], peer)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // About one peer, not about the socket.
                Err(_) => {}
            }
        }
    }
}

pub(crate) fn streams(listener: net::TcpListener, job: Job) -> Served {
    let mut listener = TcpListener::from_std(listener);
    let mut poll = Poll::new()?;
    poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
    let mut events = Events::with_capacity(EVENTS);
    let mut connections = Slab::new();
    let mut buffer = vec![0; 64 << 10];
    loop {
        wait(&mut poll, &mut events)?;
        for event in &events {
            if event.token() == LISTENER {
                accept(&mut listener, poll.registry(), &mut connections)?;
                continue;
            }
            let slot = event.token().0;
            // A connection has at most one event in a turn, so the slot is still its own.
            let Some(connection) = connections.get_mut(slot) else { continue };
            let ended = event.is_read_closed() || event.is_error();
            let served = connection.ready(poll.registry(), event.token(), &mut buffer, ended, job);
            if !matches!(served, Ok(true)) {
                let Connection { mut stream, .. } = connections.remove(slot);
                let _ = poll.registry().deregister(&mut stream);
            }
        }
    }
}

fn wait(poll: &mut Poll, events: &mut Events) -> io::Result<()> {
    match poll.poll(events, None) {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            events.clear();
            Ok(())
        }
        result => result,
    }
}

/// Takes all clients that wait.
fn accept(listener: &mut TcpListener, registry: &Registry, connections: &mut Slab<Connection>) -> io::Result<()> {
    loop {
        match listener.accept() {
            Ok((mut stream, _)) => {
                let slot = connections.vacant_entry();
                // A connection that cannot be registered is dropped, and so closed.
                if registry.register(&mut stream, Token(slot.key()), Interest::READABLE).is_ok() {
                    slot.insert(Connection { stream, unsent: Vec::new() });
                }
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => {
                listen::wait_after(&error);
                // Clients that still wait are then a new event.
                return registry.reregister(listener, LISTENER, Interest::READABLE);
            }
        }
    }
}

struct Connection {
    stream: TcpStream,
    /// What the stream did not take. While there is some, nothing is read, and the stream is registered for writing.
    unsent: Vec<u8>,
}

impl Connection {
    /// Does what can be done now; `false` says that the connection is over. `ended` says that the end of input is there as
    /// well, for which no other event comes.
    fn ready(
        &mut self,
        registry: &Registry,
        token: Token,
        buffer: &mut [u8],
        ended: bool,
        job: Job,
    ) -> io::Result<bool> {
        if !self.unsent.is_empty() {
            let sent = send(&mut self.stream, &self.unsent)?;
            self.unsent.drain(..sent);
            if !self.unsent.is_empty() {
                return Ok(true);
            }
            self.unsent = Vec::new();
            if job == Job::EchoOnce {
                return Ok(false);
            }
            registry.reregister(&mut self.stream, token, Interest::READABLE)?;
        }
        loop {
            let length = match self.stream.read(buffer) {
                Ok(0) => return Ok(false),
                Ok(length) => length,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(true),
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            let sent = send(&mut self.stream, &buffer[..length])?;
            if sent < length {
                self.unsent = buffer[sent..length].to_vec();
                registry.reregister(&mut self.stream, token, Interest::WRITABLE)?;
                return Ok(true);
            }
            if job == Job::EchoOnce {
                return Ok(false);
            }
            if length < buffer.len() && !ended {
                return Ok(true);
            }
        }
    }
}

/// Sends until the stream would block; says how much that was.
fn send(stream: &mut impl Write, bytes: &[u8]) -> io::Result<usize> {
    let mut sent = 0;
    while sent < bytes.len() {
        match stream.write(&bytes[sent..]) {
            Ok(length) => sent += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(sent)
}
