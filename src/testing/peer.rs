//! The other end of one connection of a simulated network.

use std::fmt;
use std::sync::{Arc, Mutex};

use super::pipe::{Arrival, Connect, Pipe, PipeStream};
use super::world::{World, lock, server_address};
use crate::address::Address;
use crate::net::scripted::ScriptedStream;

/// The other end of one connection of a [`Network`](super::Network): a client, or the target of an outbound connection
/// of a handler ([`Others::connect`](crate::Others::connect)).
///
/// A copy is the same peer. It may be moved to another thread, and used in [`on_call`](super::Network::on_call) to act
/// in the middle of a turn. The reactor sees its actions in the next turn.
///
/// ```
/// use socketserver::testing::Network;
/// use socketserver::Limits;
/// # use socketserver::{Next, Request, RequestHandler, Result};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
/// #         std::io::Write::write_all(&mut request.output, request.input.take_all())?;
/// #         Ok(Next::Wait)
/// #     }
/// # }
/// let mut network = Network::new();
/// let echo = network.serve((), |_, _| Echo, Limits::default())?;
/// let (ann, bob) = (network.connect(echo), network.connect(echo));
/// ann.send(b"one");
/// bob.send(b"two");
/// ann.send_eof();
/// network.run();
/// assert_eq!((ann.take_received(), bob.take_received()), (b"one".to_vec(), b"two".to_vec()));
/// assert!(ann.is_closed() && !bob.is_closed());
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
pub struct Peer {
    world: Arc<World>,
    pub(crate) pipe: Arc<Mutex<Pipe>>,
    address: Address,
}

impl Peer {
    /// A client, and the socket that a listener returns for it.
    pub(crate) fn client(world: &Arc<World>, server: u16, address: Address) -> (Self, Box<dyn ScriptedStream>) {
        Peer::new(world, Connect::Established, server_address(server), address)
    }

    /// The target of an outbound connection.
    pub(crate) fn connecting(world: &Arc<World>, address: Address) -> (Self, Box<dyn ScriptedStream>) {
        Peer::new(world, Connect::Pending, server_address(0), address)
    }

    fn new(world: &Arc<World>, connect: Connect, server: Address, address: Address) -> (Self, Box<dyn ScriptedStream>) {
        let cuts_reads_short = address.ip().is_none();
        let pipe = Arc::new(Mutex::new(Pipe::new(connect, cuts_reads_short)));
        let stream = PipeStream::new(Arc::clone(world), Arc::clone(&pipe), server, address.clone());
        (Peer { world: Arc::clone(world), pipe, address }, Box::new(stream))
    }

    /// It will not be accepted: a reset.
    pub(crate) fn turn_away(&self) {
        lock(&self.pipe).reset = true;
    }

    /// Returns the peer's address: a handler's [`client_address`](crate::Request::client_address).
    pub fn address(&self) -> &Address {
        &self.address
    }

    /// Establishes an outbound connection. It has no effect on a client, whose connection always is.
    pub fn establish(&self) {
        lock(&self.pipe).connected(&self.world, Connect::Established);
    }

    /// Refuses an outbound connection: ECONNREFUSED. Only for peers of [`called`](super::Network::called).
    pub fn refuse(&self) {
        lock(&self.pipe).connected(&self.world, Connect::Refused);
    }

    /// Returns whether this is the target of an outbound connection that is neither established nor refused.
    pub fn is_connecting(&self) -> bool {
        lock(&self.pipe).is_connecting()
    }

    /// Sends bytes, which arrive in one piece if the buffer that they are read into is large enough.
    pub fn send(&self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.arrive(Arrival::Bytes(bytes.to_vec()));
        }
    }

    /// Ends this direction (FIN). Bytes that are sent afterwards are not read.
    pub fn send_eof(&self) {
        self.arrive(Arrival::Eof);
    }

    /// Breaks the connection (RST). Bytes that were sent before may still be read.
    pub fn send_reset(&self) {
        self.arrive(Arrival::Reset);
    }

    pub(crate) fn arrive(&self, arrival: Arrival) {
        lock(&self.pipe).arrive(&self.world, arrival);
    }

    pub(crate) fn short_write(&self, bytes: usize) {
        lock(&self.pipe).short_write(bytes);
    }

    /// Causes an event that reports the socket as readable and writable, even if it is not.
    pub fn spurious_event(&self) {
        lock(&self.pipe).spurious(&self.world);
    }

    /// Sets how many more bytes this end takes before the server must wait. At first there is no limit.
    pub fn set_window(&self, bytes: usize) {
        lock(&self.pipe).set_window(&self.world, bytes);
    }

    /// Returns everything that the server has sent since the last call of this.
    pub fn take_received(&self) -> Vec<u8> {
        std::mem::take(&mut lock(&self.pipe).sent)
    }

    /// Returns whether the server has sent something that was not taken.
    pub fn has_received(&self) -> bool {
        !lock(&self.pipe).sent.is_empty()
    }

    /// Returns the number of sent bytes that the server has not read.
    pub fn unread(&self) -> usize {
        lock(&self.pipe).unread()
    }

    /// Returns whether the server has ended its direction: by FIN, RST or close.
    pub fn is_closed(&self) -> bool {
        let pipe = lock(&self.pipe);
        pipe.fin || pipe.reset || pipe.closed
    }

    /// Returns whether the server has closed its socket. After it has ended its direction it may
    /// [linger](crate::Limits::linger).
    pub fn is_socket_closed(&self) -> bool {
        lock(&self.pipe).closed
    }

    /// Returns whether the server has reset the connection, by an abort or because it closed with unread input.
    pub fn is_reset(&self) -> bool {
        lock(&self.pipe).reset
    }

    /// Returns whether a call on this connection was made to [fail](super::Outcome::Fail). Nothing passes in either
    /// direction then.
    pub fn is_broken(&self) -> bool {
        lock(&self.pipe).broken
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Peer").field(&self.address).finish()
    }
}
