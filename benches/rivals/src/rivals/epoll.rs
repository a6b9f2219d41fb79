//! The reference for streams: an epoll loop that does nothing but echo. It has no limits, no timers, one buffer for all
//! connections, and makes no system call that is not needed.
//!
//! Edge-triggered, which spares the kernel from looking at each socket again after it was served. A read that does not
//! fill the buffer has taken all there was, and whatever comes later, the end of input too, is a new event. What was
//! there before the event was reported is told by its flags. So nothing is read until `EAGAIN`.

use super::{Served, listen};
use crate::job::Job;
use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::fd::{AsFd, OwnedFd};
use rustix::io::{Errno, read, write};
use rustix::net::{SocketFlags, accept_with};
use slab::Slab;
use std::io;
use std::net::TcpListener;

/// Taken from the kernel at once.
const EVENTS: usize = 1_024;
const BUFFER_BYTES: usize = 256 << 10;
/// Accepted before connections that are open get their turn again.
const ACCEPTS: usize = 32;
/// The listener's number; connections have those of their slots.
const LISTENER: u64 = u64::MAX;

/// While a connection has nothing left to send.
const READING: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(EventFlags::ET);
/// While it has: it is not read then, so that at most one buffer waits.
const WRITING: EventFlags = EventFlags::OUT.union(EventFlags::ET);
/// The end of input is there, or an error: read on until it shows.
const ENDED: EventFlags = EventFlags::RDHUP.union(EventFlags::HUP).union(EventFlags::ERR);

pub(crate) fn streams(listener: TcpListener, job: Job) -> Served {
    let listener = OwnedFd::from(listener);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    // Level-triggered: clients that are left waiting are an event of the next turn.
    epoll::add(&epoll, &listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut server = Server { epoll, job, connections: Slab::new(), buffer: vec![0; BUFFER_BYTES] };
    let mut events = Vec::with_capacity(EVENTS);
    loop {
        events.clear();
        match epoll::wait(&server.epoll, spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        for event in &events {
            match event.data.u64() {
                LISTENER => server.accept(&listener),
                slot => server.ready(slot as usize, event.flags),
            }
        }
    }
}

struct Server {
    epoll: OwnedFd,
    job: Job,
    connections: Slab<Connection>,
    buffer: Vec<u8>,
}

struct Connection {
    socket: OwnedFd,
    /// What the socket did not take.
    unsent: Vec<u8>,
}

/// What a connection waits for next.
enum Wait {
    Input,
    Output,
    /// Nothing: it is over.
    Never,
}

impl Server {
    fn accept(&mut self, listener: &OwnedFd) {
        for _ in 0..ACCEPTS {
            let socket = match accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
                Ok(socket) => socket,
                Err(Errno::AGAIN) => return,
                Err(errno) => return listen::wait_after(&io::Error::from(errno)),
            };
            let slot = self.connections.vacant_entry();
            // Without an event it would never be served: dropped, and so closed, if the kernel has no memory for it.
            if epoll::add(&self.epoll, &socket, EventData::new_u64(slot.key() as u64), READING).is_ok() {
                slot.insert(Connection { socket, unsent: Vec::new() });
            }
        }
    }

    /// At most one event for each connection comes at a time, so the slot is still that connection's.
    fn ready(&mut self, slot: usize, flags: EventFlags) {
        let connection = &mut self.connections[slot];
        let was_writing = !connection.unsent.is_empty();
        let wait = if was_writing {
            connection.send_rest(self.job)
        } else {
            connection.echo(&mut self.buffer, flags.intersects(ENDED), self.job)
        };
        let wanted = match wait {
            Wait::Input if was_writing => READING,
            Wait::Output if !was_writing => WRITING,
            Wait::Input | Wait::Output => return,
            Wait::Never => {
                // Closing the descriptor takes it out of the set.
                self.connections.remove(slot);
                return;
            }
        };
        // Tells at once what is ready already.
        if epoll::modify(&self.epoll, &connection.socket, EventData::new_u64(slot as u64), wanted).is_err() {
            self.connections.remove(slot);
        }
    }
}

impl Connection {
    /// Sends back what is there. `ended` says that the end of input is there as well.
    fn echo(&mut self, buffer: &mut [u8], ended: bool, job: Job) -> Wait {
        loop {
            let length = match read(&self.socket, &mut *buffer) {
                Ok(0) => return Wait::Never,
                Ok(length) => length,
                Err(Errno::AGAIN) => return Wait::Input,
                Err(Errno::INTR) => continue,
                Err(_) => return Wait::Never,
            };
            let input = &buffer[..length];
            let Ok(sent) = send(&self.socket, input) else { return Wait::Never };
            if sent < length {
                self.unsent = input[sent..].to_vec();
                return Wait::Output;
            }
            if job == Job::EchoOnce {
                return Wait::Never;
            }
            if length < buffer.len() && !ended {
                return Wait::Input;
            }
        }
    }

    fn send_rest(&mut self, job: Job) -> Wait {
        let Ok(sent) = send(&self.socket, &self.unsent) else { return Wait::Never };
        if sent < self.unsent.len() {
            self.unsent.drain(..sent);
            return Wait::Output;
        }
        self.unsent = Vec::new();
        if job == Job::EchoOnce { Wait::Never } else { Wait::Input }
    }
}

/// How much the socket takes now.
fn send(socket: impl AsFd, bytes: &[u8]) -> Result<usize, Errno> {
    match write(socket, bytes) {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        result => result,
    }
}
