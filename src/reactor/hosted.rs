//! The loop's view of a server.

use std::any::Any;
use std::io;
use std::ops::Range;

use super::core::Core;
use super::handle::Message;
use crate::address::Address;
use crate::connection::Connection;
use crate::connection::budget::Budget;
use crate::connection::deadlines::Due;
use crate::error::Result;
use crate::ids::SlotId;
use crate::lifecycle::EndReason;
use crate::net::datagram::DatagramSocket;
use crate::net::packet::Packet;
use crate::net::{ExpectedHeader, Socket, Stream};

/// The buffers that all connections share, so that an idle one owns none.
pub(crate) struct Scratch {
    /// Received bytes.
    pub(crate) input: Box<[u8]>,
    /// The gathered output of a callback.
    pub(crate) output: Vec<u8>,
    /// The places in `input` of the datagrams of the last receive.
    pub(crate) packets: Vec<Packet>,
    /// What a request of a single datagram needs, kept for the next one.
    pub(crate) single: Option<Box<Connection>>,
    /// The rest of the budget of the connection that is being served.
    pub(crate) budget: Budget,
}

/// The loop's view of a server of any state and handler type. One dynamic call serves all ready connections.
pub(crate) trait Hosted: Send {
    /// Lets each of its connections at the head of `batch`, but only a few, do its due steps, within its budget. Returns
    /// their number. An entry that is not a connection of this server ends the run.
    fn service(&mut self, core: &mut Core, scratch: &mut Scratch, batch: &[SlotId]) -> usize;
    /// Accepts waiting clients of a listener, within its budget.
    fn accept(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// Starts receiving datagrams by a socket.
    fn receive_from(&mut self, core: &mut Core, socket: DatagramSocket) -> Result<()>;
    /// Receives waiting datagrams of a socket, within its budget, and sends the ready ones.
    fn receive(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// A datagram for the outbound session in this slot: this part of the read buffer.
    fn on_datagram(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, packet: Range<usize>);
    /// Admits a connection: reads this header, calls the hooks, makes its handler, and calls `setup`.
    fn admit(
        &mut self,
        core: &mut Core,
        scratch: &mut Scratch,
        stream: Stream,
        from: Address,
        header: &ExpectedHeader,
    ) -> io::Result<()>;
    /// More of the header of a proxy may have arrived.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    fn on_header(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// The header of a proxy is not complete in time.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    fn on_header_late(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32);
    /// A time limit of a connection has expired.
    fn on_due(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, due: Due);
    /// An outbound connection could not be established.
    fn on_connect_failed(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, error: io::Error);
    fn on_timer(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, tag: u64);
    fn on_message(&mut self, core: &mut Core, scratch: &mut Scratch, key: u32, message: Result<Message>);
    /// A request of this client that was served elsewhere is over. It may have been ended.
    fn on_over(&mut self, core: &mut Core, client: &Address, ended: Option<EndReason>, result: Result<()>);
    fn on_server_timer(&mut self, core: &mut Core, tag: u64);
    fn on_server_message(&mut self, core: &mut Core, message: Message);
    fn service_actions(&mut self, core: &mut Core);
    fn handle_timeout(&mut self, core: &mut Core);
    /// A stop was requested.
    fn reload(&mut self, core: &mut Core);
    fn stopping(&mut self, core: &mut Core);
    /// Fails with [`Error::Panicked`](crate::Error::Panicked) if the hook panics.
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> Result<io::Result<()>>;
    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> Result<io::Result<()>>;
    /// Calls the hook, once for each time that the server was bound. Returns whether it panicked. A panic is logged.
    fn server_close(&mut self) -> bool;
    /// The server has a socket that no hook has bound.
    fn set_open(&mut self);
    /// Returns whether it was closed, and not bound since.
    fn is_closed(&self) -> bool;
    /// Drops all user values, each separately. Returns the number of panics.
    fn dissolve(self: Box<Self>) -> u64;
    fn set_number(&mut self, number: u16);
    /// The user's server value.
    fn state(&mut self) -> &mut dyn Any;
    /// The server itself, for code that knows its types.
    fn host(&mut self) -> &mut dyn Any;
}
