//! One scripted connection: its input, its output, and its events.
//!
//! It guarantees no more than the edge-triggered contract: it causes an event when it becomes ready, and none before
//! the server has found it not ready.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use mio::Token;

use super::call::{Call, Outcome};
use super::world::{World, lock};
use crate::address::Address;
use crate::net::readiness::Readiness;
use crate::net::scripted::ScriptedStream;

/// One scripted connection, with both ends.
#[derive(Debug)]
pub(crate) struct Pipe {
    token: Option<Token>,
    connect: Connect,
    /// Input that the server will read, in this order.
    arriving: VecDeque<Arrival>,
    /// A Unix stream: each piece ends a read, like a message with ancillary data, and no event reports the next.
    cuts_reads_short: bool,
    /// The server knows that there is nothing to read, so new input causes an event.
    drained: bool,
    /// An event has reported the end of the client's direction. There will be no other.
    end_told: bool,
    /// Output of the server that the client has not taken.
    pub(crate) sent: Vec<u8>,
    /// The limits of the next writes. Later writes take as much as the window allows.
    short_writes: VecDeque<usize>,
    /// Room for output at the client's side, in bytes.
    window: usize,
    /// The server knows that there is no room.
    blocked: bool,
    /// The server has ended its direction.
    pub(crate) fin: bool,
    /// The server has reset the connection, or closed it with unread input.
    pub(crate) reset: bool,
    /// The server's socket is closed.
    pub(crate) closed: bool,
    /// A call was made to fail.
    pub(crate) broken: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    Bytes(Vec<u8>),
    WouldBlock,
    Eof,
    Reset,
}

/// The state of an outbound connection of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Connect {
    Pending,
    Established,
    Refused,
}

impl Pipe {
    pub(crate) fn new(connect: Connect, cuts_reads_short: bool) -> Self {
        Pipe {
            token: None,
            connect,
            arriving: VecDeque::new(),
            cuts_reads_short,
            drained: true,
            end_told: false,
            sent: Vec::new(),
            short_writes: VecDeque::new(),
            window: usize::MAX,
            blocked: false,
            fin: false,
            reset: false,
            closed: false,
            broken: false,
        }
    }

    // Actions of the client.

    pub(crate) fn arrive(&mut self, world: &World, arrival: Arrival) {
        if self.closed {
            self.reset = true; // Nothing will read it.
        }
        if self.closed || self.broken {
            return;
        }
        let ends = matches!(arrival, Arrival::Eof | Arrival::Reset);
        self.arriving.push_back(arrival);
        // The end causes an event even while bytes wait.
        if self.drained || (ends && self.end().is_some()) {
            self.readable(world);
        }
    }

    pub(crate) fn short_write(&mut self, bytes: usize) {
        self.short_writes.push_back(bytes);
    }

    /// Sets the room at the client's side, in bytes.
    pub(crate) fn set_window(&mut self, world: &World, bytes: usize) {
        self.window = bytes;
        if bytes > 0 && std::mem::take(&mut self.blocked) {
            self.event(world, Readiness::WRITABLE);
        }
    }

    pub(crate) fn connected(&mut self, world: &World, connect: Connect) {
        self.connect = connect;
        let refused = Readiness::READABLE | Readiness::READ_TO_END | Readiness::HUNG_UP;
        self.event(world, Readiness::WRITABLE | if connect == Connect::Refused { refused } else { 0 });
    }

    /// Causes a spurious event.
    pub(crate) fn spurious(&self, world: &World) {
        self.event(world, Readiness::READABLE | Readiness::WRITABLE);
    }

    // Queries.

    pub(crate) fn token(&self) -> Option<Token> {
        self.token
    }

    /// The number of bytes that the server has not read.
    pub(crate) fn unread(&self) -> usize {
        let bytes =
            self.arriving.iter().map(|arrival| if let Arrival::Bytes(bytes) = arrival { bytes.len() } else { 0 });
        bytes.sum()
    }

    /// Returns whether a read would find bytes, the end or an error.
    pub(crate) fn is_readable(&self) -> bool {
        !self.arriving.is_empty()
    }

    pub(crate) fn is_writable(&self) -> bool {
        self.window > 0
    }

    pub(crate) fn is_connecting(&self) -> bool {
        self.connect == Connect::Pending
    }

    /// The end of the client's direction, or of the connection, if it has come already.
    fn end(&self) -> Option<&Arrival> {
        let arrived = self.arriving.iter().take_while(|arrival| !matches!(arrival, Arrival::WouldBlock));
        arrived.filter(|arrival| matches!(arrival, Arrival::Eof | Arrival::Reset)).last()
    }

    // Actions of the server.

    /// A registration reports what is ready already, as epoll(7) does.
    fn register(&mut self, world: &World, token: Token) {
        self.token = Some(token);
        match self.connect {
            Connect::Pending => {}
            connect => self.connected(world, connect),
        }
        if !self.arriving.is_empty() {
            self.readable(world);
        }
    }

    fn read(&mut self, world: &World, buffer: &mut [u8], outcome: Outcome) -> io::Result<usize> {
        let most = match outcome {
            Outcome::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Outcome::Fail(error) => return Err(self.fail(error)),
            Outcome::WouldBlock | Outcome::AtMost(0) => return Err(self.drained(world)),
            Outcome::AtMost(bytes) => bytes.min(buffer.len()),
            Outcome::Proceed => buffer.len(),
        };
        match self.arriving.front_mut() {
            None => Err(self.drained(world)),
            Some(Arrival::Eof) => Ok(0),
            Some(Arrival::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Arrival::WouldBlock) => {
                self.arriving.pop_front();
                Err(self.drained(world))
            }
            Some(Arrival::Bytes(bytes)) => {
                let n = bytes.len().min(most);
                buffer[..n].copy_from_slice(&bytes[..n]);
                if n < bytes.len() {
                    bytes.drain(..n);
                } else {
                    self.arriving.pop_front();
                }
                if n < buffer.len() && !self.cuts_reads_short {
                    self.drained = true; // A short read means the same as a refusal.
                    match self.arriving.front() {
                        None => {}
                        Some(Arrival::Eof | Arrival::Reset) if self.end_told => {}
                        Some(_) => self.readable(world),
                    }
                }
                Ok(n)
            }
        }
    }

    /// The server learns that there is nothing to read. Input that is there anyway arrives just after that.
    fn drained(&mut self, world: &World) -> io::Error {
        self.drained = true;
        if !self.arriving.is_empty() {
            self.readable(world);
        }
        io::ErrorKind::WouldBlock.into()
    }

    fn readable(&mut self, world: &World) {
        self.drained = false;
        self.end_told = self.end().is_some();
        let end = match self.end() {
            Some(Arrival::Reset) => Readiness::READ_TO_END | Readiness::WRITABLE | Readiness::HUNG_UP,
            Some(_) if self.fin => Readiness::READ_TO_END | Readiness::WRITABLE | Readiness::HUNG_UP,
            Some(_) => Readiness::READ_TO_END,
            None => 0,
        };
        self.event(world, Readiness::READABLE | end);
    }

    fn event(&self, world: &World, readiness: u8) {
        if let Some(token) = self.token {
            world.event(token, readiness);
        }
    }

    /// The connection breaks during a call.
    fn fail(&mut self, error: io::Error) -> io::Error {
        self.broken = true;
        self.arriving.clear();
        self.arriving.push_back(Arrival::Reset);
        error
    }

    fn write(&mut self, world: &World, slices: &[IoSlice<'_>], outcome: Outcome) -> io::Result<usize> {
        if self.fin || matches!(self.end(), Some(Arrival::Reset)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut most = self.short_writes.pop_front();
        match outcome {
            Outcome::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Outcome::Fail(error) => return Err(self.fail(error)),
            Outcome::WouldBlock => most = Some(0),
            Outcome::AtMost(bytes) => most = Some(bytes),
            Outcome::Proceed => {}
        }
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let n = offered.min(self.window).min(most.unwrap_or(usize::MAX));
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        self.sent.extend(bytes.take(n));
        self.window -= n;
        if n < offered {
            self.blocked = true;
            if most.is_some() {
                self.set_window(world, self.window); // Room appears again at once.
            }
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(n)
    }

    fn shutdown(&mut self, world: &World, how: Shutdown) {
        self.fin |= how != Shutdown::Read;
        if self.end().is_some() {
            self.readable(world); // Both directions are over, which causes an event.
        }
    }

    fn close(&mut self) {
        self.closed = true;
        self.token = None;
        self.reset |= self.unread() > 0;
        self.arriving.clear();
    }
}

/// The server's end. Dropping it is close(2).
#[derive(Debug)]
pub(crate) struct PipeStream {
    world: Arc<World>,
    pipe: Arc<Mutex<Pipe>>,
    server: Address,
    client: Address,
}

impl PipeStream {
    pub(crate) fn new(world: Arc<World>, pipe: Arc<Mutex<Pipe>>, server: Address, client: Address) -> Self {
        PipeStream { world, pipe, server, client }
    }
}

impl ScriptedStream for PipeStream {
    fn register(&mut self, token: Token) -> io::Result<()> {
        self.world.call(Call::Register, Some(&self.client)).into_result()?;
        lock(&self.pipe).register(&self.world, token);
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let outcome = self.world.call(Call::Read, Some(&self.client));
        lock(&self.pipe).read(&self.world, buffer, outcome)
    }

    fn cuts_reads_short(&self) -> bool {
        cfg!(not(unix)) || lock(&self.pipe).cuts_reads_short
    }

    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let outcome = self.world.call(Call::Write, Some(&self.client));
        lock(&self.pipe).write(&self.world, slices, outcome)
    }

    fn connected(&self) -> io::Result<bool> {
        match lock(&self.pipe).connect {
            Connect::Pending => Ok(false),
            Connect::Established => Ok(true),
            Connect::Refused => Err(io::ErrorKind::ConnectionRefused.into()),
        }
    }

    fn local_address(&self) -> Address {
        self.server.clone()
    }

    fn shutdown(&self, how: Shutdown) {
        lock(&self.pipe).shutdown(&self.world, how);
    }

    fn reset_on_close(&self) {
        lock(&self.pipe).reset = true;
    }
}

impl Drop for PipeStream {
    fn drop(&mut self) {
        lock(&self.pipe).close();
    }
}
