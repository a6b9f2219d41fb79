//! A server as the loop sees it.

use std::any::Any;
use std::io;

use super::core::Core;
use super::handle::Message;
use crate::address::Address;
use crate::connection::budget::Budget;
use crate::connection::deadlines::Due;
use crate::error::Result;
use crate::ids::SlotId;
use crate::lifecycle::EndReason;
use crate::net::packet::Packet;
use crate::net::{Socket, Stream};

/// The buffers that all connections share, so that an idle one owns none.
pub(crate) struct Scratch {
    /// What is read lands here.
    pub(crate) input: Box<[u8]>,
    /// What a callback writes is gathered here.
    pub(crate) output: Vec<u8>,
    /// Where in `input` the datagrams of the last receive lie.
    pub(crate) packets: Vec<Packet>,
    /// What the connection that is being served may still do.
    pub(crate) budget: Budget,
}

/// A server as the loop sees it, whatever its state and handler types: one dynamic call for all that is ready, none
/// for each byte.
pub(crate) trait Hosted: Send {
    /// Lets each of its connections at the head of `batch` do what is due, within its budget. Returns how many it were:
    /// the first that is something else, or somebody else's, ends it.
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, batch: &[SlotId]) -> usize;
    /// Accepts what waits at a listener, within its budget.
    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// Receives what waits at a datagram socket, within its budget, and sends what there is to send.
    fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// Takes a connection in: verified, given a handler, set up.
    fn admit(&mut self, core: &mut Core, scratch: &mut Scratch, stream: Stream, from: Address) -> io::Result<()>;
    /// A limit of a connection has passed.
    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due);
    /// An outbound connection could not be established.
    fn on_connect_failed(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, error: io::Error);
    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64);
    fn on_message(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, message: Result<Message>);
    /// A request of this client that was served elsewhere is over, perhaps because it was ended.
    fn on_over(&mut self, core: &mut Core, client: &Address, ended: Option<EndReason>, result: Result<()>);
    fn on_server_timer(&mut self, core: &mut Core, tag: u64);
    fn on_server_message(&mut self, core: &mut Core, message: Message);
    fn service_actions(&mut self, core: &mut Core);
    fn handle_timeout(&mut self, core: &mut Core);
    /// Fails with [`Error::Panicked`](crate::Error::Panicked) if the hook panics.
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> Result<io::Result<()>>;
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> Result<io::Result<()>>;
    /// Calls the hook, once after each time that the server was bound. Returns whether it panicked, which is logged.
    fn server_close(&mut self) -> bool;
    /// It has a socket that no hook has bound.
    fn set_open(&mut self);
    /// Whether it was closed, and not bound since.
    fn is_closed(&self) -> bool;
    /// Drops what is the user's, each by itself. Returns how many panics that cost.
    fn dissolve(self: Box<Self>) -> u64;
    fn set_number(&mut self, number: u16);
    /// The user's server value.
    fn state(&mut self) -> &mut dyn Any;
    /// The server as it is, for those that know its types.
    fn host(&mut self) -> &mut dyn Any;
}
