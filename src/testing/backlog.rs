//! A scripted listener: clients that have connected and wait to be accepted.

use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex};

use mio::Token;

use super::call::{Call, Outcome};
use super::peer::Peer;
use super::world::{World, lock};
use crate::address::Address;
use crate::net::readiness::Readiness;
use crate::net::scripted::{ScriptedListener, ScriptedStream};

/// The waiting clients of one listener.
#[derive(Debug, Default)]
pub(crate) struct Backlog {
    token: Option<Token>,
    waiting: VecDeque<(Box<dyn ScriptedStream>, Peer)>,
    /// The server knows that no client waits, so a new one causes an event.
    drained: bool,
    closed: bool,
}

impl Backlog {
    /// A client connects. If the listener is closed, the client is refused.
    pub(crate) fn arrive(&mut self, world: &World, stream: Box<dyn ScriptedStream>, peer: Peer) {
        if self.closed {
            return peer.turn_away();
        }
        self.waiting.push_back((stream, peer));
        if self.drained {
            self.event(world);
        }
    }

    /// The listener's token if a client waits there.
    pub(crate) fn waited_for(&self) -> Option<Token> {
        self.token.filter(|_| !self.waiting.is_empty())
    }

    /// The server learns that no client waits. A client that waits anyway arrives just after that.
    fn drained(&mut self, world: &World) -> io::Error {
        self.drained = true;
        if !self.waiting.is_empty() {
            self.event(world);
        }
        io::ErrorKind::WouldBlock.into()
    }

    fn event(&mut self, world: &World) {
        self.drained = false;
        if let Some(token) = self.token {
            world.event(token, Readiness::READABLE);
        }
    }
}

/// The server's end. Dropping it is close(2), and refuses waiting clients.
#[derive(Debug)]
pub(crate) struct BacklogListener {
    world: Arc<World>,
    backlog: Arc<Mutex<Backlog>>,
    address: Address,
}

impl BacklogListener {
    pub(crate) fn new(world: Arc<World>, backlog: Arc<Mutex<Backlog>>, address: Address) -> Self {
        BacklogListener { world, backlog, address }
    }
}

impl ScriptedListener for BacklogListener {
    fn register(&mut self, token: Token) -> io::Result<()> {
        self.world.call(Call::Register, Some(&self.address)).into_result()?;
        let mut backlog = lock(&self.backlog);
        backlog.token = Some(token);
        backlog.drained(&self.world);
        Ok(())
    }

    fn accept(&mut self) -> io::Result<(Box<dyn ScriptedStream>, Address)> {
        let outcome = self.world.call(Call::Accept, Some(&self.address));
        let mut backlog = lock(&self.backlog);
        match outcome {
            Outcome::Interrupted => return Err(io::ErrorKind::Interrupted.into()),
            Outcome::WouldBlock | Outcome::AtMost(0) => return Err(backlog.drained(&self.world)),
            Outcome::Fail(error) => {
                if error.kind() == io::ErrorKind::ConnectionAborted
                    && let Some((_, peer)) = backlog.waiting.pop_front()
                {
                    peer.turn_away();
                }
                return Err(error);
            }
            Outcome::AtMost(_) | Outcome::Proceed => {}
        }
        match backlog.waiting.pop_front() {
            Some((stream, peer)) => Ok((stream, peer.address().clone())),
            None => Err(backlog.drained(&self.world)),
        }
    }
}

impl Drop for BacklogListener {
    fn drop(&mut self) {
        let mut backlog = lock(&self.backlog);
        backlog.closed = true;
        backlog.waiting.drain(..).for_each(|(_, peer)| peer.turn_away());
    }
}
