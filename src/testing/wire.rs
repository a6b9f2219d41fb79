//! Scripted datagrams: received ones come in order, and sent ones fit until the script decides otherwise.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use mio::Token;

use super::call::{Call, Outcome};
use super::world::{World, lock};
use crate::address::Address;
use crate::net::readiness::Readiness;
use crate::net::scripted::ScriptedDatagrams;

/// Scripted datagrams, with both ends.
#[derive(Debug, Default)]
pub(crate) struct Wire {
    token: Option<Token>,
    arriving: VecDeque<(Address, Vec<u8>)>,
    pub(crate) sent: Vec<(Address, Vec<u8>)>,
    /// There is no room to send.
    full: bool,
    /// The server wants an event when there is room.
    pub(crate) watches_room: bool,
}

impl Wire {
    #[cfg(test)]
    pub(crate) fn set_full(&mut self, world: &World, full: bool) {
        self.full = full;
        if !full && self.watches_room {
            self.event(world, Readiness::WRITABLE);
        }
    }

    /// The socket's token if something has arrived that was not received.
    pub(crate) fn waited_for(&self) -> Option<Token> {
        self.token.filter(|_| !self.arriving.is_empty())
    }

    fn event(&mut self, world: &World, readiness: u8) {
        if let Some(token) = self.token {
            world.event(token, readiness);
        }
    }

    pub(crate) fn arrive(&mut self, world: &World, from: Address, packet: Vec<u8>) {
        self.arriving.push_back((from, packet));
        self.event(world, Readiness::READABLE);
    }
}

/// The server's end.
#[derive(Debug)]
pub(crate) struct WireSocket {
    world: Arc<World>,
    wire: Arc<Mutex<Wire>>,
}

impl WireSocket {
    pub(crate) fn new(world: Arc<World>, wire: Arc<Mutex<Wire>>) -> Self {
        WireSocket { world, wire }
    }

    /// Asks how a call ends. If a call is made to wait, its event is announced immediately.
    fn call(&self, call: Call, to: Option<&Address>) -> io::Result<()> {
        match self.world.call(call, to) {
            Outcome::Interrupted => Err(io::ErrorKind::Interrupted.into()),
            Outcome::WouldBlock | Outcome::AtMost(0) => {
                lock(&self.wire).event(&self.world, Readiness::READABLE | Readiness::WRITABLE);
                Err(io::ErrorKind::WouldBlock.into())
            }
            outcome => outcome.into_result(),
        }
    }
}

impl ScriptedDatagrams for WireSocket {
    fn register(&mut self, token: Token) {
        lock(&self.wire).token = Some(token);
    }

    fn watch_room(&mut self, on: bool) {
        lock(&self.wire).watches_room = on;
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Address)> {
        self.call(Call::Receive, None)?;
        let (from, packet) = lock(&self.wire).arriving.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        let n = packet.len().min(buffer.len());
        buffer[..n].copy_from_slice(&packet[..n]);
        Ok((n, from))
    }

    fn send(&mut self, bytes: &[u8], to: &Address) -> io::Result<usize> {
        self.call(Call::Send, Some(to))?;
        let mut wire = lock(&self.wire);
        if wire.full {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        wire.sent.push((to.clone(), bytes.to_vec()));
        Ok(bytes.len())
    }
}
