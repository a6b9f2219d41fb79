//! A connection with no operating system behind it, for tests: bytes come from a script, time stands until moved.
//!
//! It keeps to the edge-triggered contract: an event when something arrives or room appears, none while it is there.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mio::Token;

use super::selector::Readiness;
use crate::address::Address;

/// What the scripted selector knows: the time, and what has become ready since it was last asked.
#[derive(Debug, Default)]
pub(crate) struct World {
    pub(crate) now: u64,
    pub(crate) ready: Vec<(Token, Readiness)>,
}

/// One scripted connection as both ends see it.
#[derive(Debug)]
pub(crate) struct Pipe {
    world: Arc<Mutex<World>>,
    token: Option<Token>,
    /// What the server will read, in this order.
    arriving: VecDeque<Arrival>,
    /// What the server has sent.
    pub(crate) sent: Vec<u8>,
    /// How much each coming write takes at most; afterwards as much as the window allows.
    short_writes: VecDeque<usize>,
    /// Bytes the client's side still has room for.
    window: usize,
    blocked: bool,
    /// The server has ended its direction.
    pub(crate) fin: bool,
    /// The server has sent RST.
    pub(crate) reset: bool,
    /// The server's socket is closed.
    pub(crate) closed: bool,
}

#[derive(Clone, Debug)]
pub(crate) enum Arrival {
    Bytes(Vec<u8>),
    WouldBlock,
    Eof,
    Reset,
}

impl Pipe {
    pub(crate) fn new(world: Arc<Mutex<World>>) -> Arc<Mutex<Self>> {
        Arc::new(Mutex::new(Pipe {
            world,
            token: None,
            arriving: VecDeque::new(),
            sent: Vec::new(),
            short_writes: VecDeque::new(),
            window: usize::MAX,
            blocked: false,
            fin: false,
            reset: false,
            closed: false,
        }))
    }

    pub(crate) fn arrive(&mut self, arrival: Arrival) {
        self.arriving.push_back(arrival);
        if self.arriving.len() == 1 {
            self.readable();
        }
    }

    pub(crate) fn short_write(&mut self, bytes: usize) {
        self.short_writes.push_back(bytes);
    }

    /// Sets how many more bytes the client has room for.
    pub(crate) fn set_window(&mut self, bytes: usize) {
        self.window = bytes;
        if bytes > 0 && std::mem::take(&mut self.blocked) {
            self.event(Readiness(Readiness::WRITABLE));
        }
    }

    fn readable(&mut self) {
        self.event(Readiness(match self.arriving.front() {
            Some(Arrival::Eof) => Readiness::READABLE | Readiness::READ_TO_END,
            Some(Arrival::Reset) => {
                Readiness::READABLE | Readiness::READ_TO_END | Readiness::WRITABLE | Readiness::HUNG_UP
            }
            _ => Readiness::READABLE,
        }));
    }

    fn event(&mut self, readiness: Readiness) {
        if let Some(token) = self.token {
            lock(&self.world).ready.push((token, readiness));
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.arriving.front_mut() {
            None => Err(io::ErrorKind::WouldBlock.into()),
            Some(Arrival::Eof) => Ok(0),
            Some(Arrival::Reset) => Err(io::ErrorKind::ConnectionReset.into()),
            Some(Arrival::WouldBlock) => {
                self.arriving.pop_front();
                self.arrive_next();
                Err(io::ErrorKind::WouldBlock.into())
            }
            Some(Arrival::Bytes(bytes)) => {
                let n = bytes.len().min(buffer.len());
                buffer[..n].copy_from_slice(&bytes[..n]);
                if n < bytes.len() {
                    bytes.drain(..n);
                } else {
                    // A short read: what the script has next arrives just after it.
                    self.arriving.pop_front();
                    self.arrive_next();
                }
                Ok(n)
            }
        }
    }

    fn arrive_next(&mut self) {
        if !self.arriving.is_empty() {
            self.readable();
        }
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.fin || matches!(self.arriving.front(), Some(Arrival::Reset)) {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let short = self.short_writes.pop_front();
        let n = bytes.len().min(self.window).min(short.unwrap_or(usize::MAX));
        self.sent.extend_from_slice(&bytes[..n]);
        self.window -= n;
        if n < bytes.len() {
            self.blocked = true;
            if short.is_some() {
                self.set_window(self.window); // Room appears again at once.
            }
            if n == 0 {
                return Err(io::ErrorKind::WouldBlock.into());
            }
        }
        Ok(n)
    }
}

/// The server's end. Dropping it is close(2).
#[derive(Debug)]
pub(crate) struct ScriptedStream {
    pipe: Arc<Mutex<Pipe>>,
}

impl ScriptedStream {
    pub(crate) fn new(pipe: Arc<Mutex<Pipe>>) -> Self {
        ScriptedStream { pipe }
    }

    /// A registration reports what is ready already, as epoll(7) does.
    pub(super) fn register(&mut self, token: Token) {
        let mut pipe = lock(&self.pipe);
        pipe.token = Some(token);
        pipe.event(Readiness(Readiness::WRITABLE));
        pipe.arrive_next();
    }

    pub(super) fn shutdown(&self, how: Shutdown) {
        lock(&self.pipe).fin |= how != Shutdown::Read;
    }

    pub(super) fn reset(&self) {
        lock(&self.pipe).reset = true;
    }
}

impl Read for ScriptedStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        lock(&self.pipe).read(buffer)
    }
}

impl Write for ScriptedStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        lock(&self.pipe).write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        lock(&self.pipe).write(&slices.iter().flat_map(|slice| slice.iter().copied()).collect::<Vec<_>>())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Drop for ScriptedStream {
    fn drop(&mut self) {
        let mut pipe = lock(&self.pipe);
        pipe.closed = true;
        pipe.token = None;
    }
}

/// The server's end of scripted datagrams: what arrives is in order, what is sent fits until the script says otherwise.
#[derive(Debug)]
pub(crate) struct ScriptedDatagrams {
    wire: Arc<Mutex<Wire>>,
}

/// Scripted datagrams as both ends see them.
#[derive(Debug)]
pub(crate) struct Wire {
    world: Arc<Mutex<World>>,
    token: Option<Token>,
    arriving: VecDeque<(Address, Vec<u8>)>,
    pub(crate) sent: Vec<(Address, Vec<u8>)>,
    /// There is no room to send.
    full: bool,
    /// The server wants to be told when there is.
    pub(crate) watches_room: bool,
}

impl Wire {
    pub(crate) fn new(world: Arc<Mutex<World>>) -> Arc<Mutex<Self>> {
        let (arriving, sent) = (VecDeque::new(), Vec::new());
        Arc::new(Mutex::new(Wire { world, token: None, arriving, sent, full: false, watches_room: false }))
    }

    #[cfg(test)]
    pub(crate) fn set_full(&mut self, full: bool) {
        self.full = full;
        if !full && self.watches_room {
            self.event(Readiness::WRITABLE);
        }
    }

    fn event(&mut self, readiness: u32) {
        if let Some(token) = self.token {
            lock(&self.world).ready.push((token, Readiness(readiness)));
        }
    }

    pub(crate) fn arrive(&mut self, from: Address, packet: Vec<u8>) {
        self.arriving.push_back((from, packet));
        self.event(Readiness::READABLE);
    }
}

impl ScriptedDatagrams {
    pub(crate) fn new(wire: Arc<Mutex<Wire>>) -> Self {
        ScriptedDatagrams { wire }
    }

    pub(super) fn register(&mut self, token: Token) {
        lock(&self.wire).token = Some(token);
    }

    pub(super) fn watch_room(&mut self, on: bool) {
        lock(&self.wire).watches_room = on;
    }

    /// Like recvfrom(2): what does not fit is cut off.
    pub(super) fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Address)> {
        let (from, packet) = lock(&self.wire).arriving.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let n = packet.len().min(buffer.len());
        buffer[..n].copy_from_slice(&packet[..n]);
        Ok((n, from))
    }

    pub(super) fn send(&mut self, bytes: &[u8], to: &Address) -> io::Result<usize> {
        let mut wire = lock(&self.wire);
        if wire.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.sent.push((to.clone(), bytes.to_vec()));
        Ok(bytes.len())
    }
}

/// The addresses of scripted connections are of the range kept for documentation (RFC 5737).
pub(crate) fn server_address() -> Address {
    std::net::SocketAddr::from(([192, 0, 2, 1], 9999)).into()
}

pub(crate) fn client_address() -> Address {
    std::net::SocketAddr::from(([192, 0, 2, 2], 50_000)).into()
}

/// A panic elsewhere is no reason for another one here.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
