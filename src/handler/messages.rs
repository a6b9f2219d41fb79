//! Messages of protocols that are spoken over streams and over datagrams alike, and answers that are given later.

use std::io::Write as _;

use super::others::Others;
use super::request::Request;
use crate::address::Address;
use crate::connection::Delivery;
use crate::connection::frames::Prefix;
use crate::error::Result;
use crate::ids::ConnectionId;
use crate::net::packet::Route;

/// Where a request came from, to answer it after its callback has returned: [`Request::origin`]. For a connection this is
/// its id. For a datagram it is the sender, and the socket of ours to which the datagram was sent, because a client ignores
/// an answer from another address.
///
/// This server answers over UDP or TCP, as it was asked. Its answers come from somewhere else:
///
/// ```
/// use socketserver::{BaseServer, Message, Next, Origin, Others, Prefix, Request, RequestHandler, Result};
///
/// struct Oracle { asked: Vec<Origin> }
/// impl BaseServer for Oracle {
///     fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
///         let Ok(answer) = message.downcast::<String>() else { return };
///         for client in self.asked.drain(..) {
///             let _ = others.answer_message(&client, Prefix::U16Be, answer.as_bytes()); // Or it has gone.
///         }
///     }
/// }
///
/// struct Client;
/// impl RequestHandler<Oracle> for Client {
///     fn handle(&mut self, request: &mut Request<'_, Oracle>) -> Result<Next> {
///         while let Some(_question) = request.read_message(Prefix::U16Be)? {
///             let client = request.origin();
///             request.server.asked.push(client);
///         }
///         Ok(Next::Wait)
///     }
/// }
/// ```
#[derive(Clone, Debug)]
pub struct Origin {
    id: ConnectionId,
    /// Of a datagram: the id of our socket, the route through it, and the sender.
    datagram: Option<(ConnectionId, Route, Address)>,
}

impl Origin {
    /// Returns the id of the request. A single datagram has one that names nothing afterwards.
    pub fn id(&self) -> ConnectionId {
        self.id
    }
}

impl<'a, S> Request<'a, S> {
    /// Returns where this request came from, to answer it later with [`Others::answer`] or
    /// [`Others::answer_message`].
    pub fn origin(&self) -> Origin {
        let slots = &self.others.core.slots;
        let route = self.output.route().filter(|route| slots.bound(route.endpoint).is_some());
        let datagram = route.map(|route| (slots.id(route.endpoint), route, self.state.address.clone()));
        Origin { id: self.id(), datagram }
    }

    /// Consumes a message and returns it, or `None` until it is complete. On a stream, a message is a frame with its length
    /// in front ([`read_frame`](crate::Input::read_frame)). A datagram is one message, without a length. So one handler
    /// serves a protocol over both, for example DNS (RFC 1035, section 4.2). An empty datagram is no message.
    ///
    /// # Errors
    /// The same as for [`read_frame`](crate::Input::read_frame), on a stream.
    pub fn read_message(&mut self, prefix: Prefix) -> Result<Option<&'a [u8]>> {
        match self.is_datagram() {
            true => Ok(Some(self.input.take_all()).filter(|message| !message.is_empty())),
            false => self.input.read_frame(prefix),
        }
    }

    /// Queues a message: on a stream with its length in front ([`write_frame`](crate::Output::write_frame)), and otherwise
    /// as a datagram. What one callback writes is one datagram, so write one message in each callback there.
    ///
    /// # Errors
    /// The same as for [`write_frame`](crate::Output::write_frame), and for a datagram as for
    /// [`write`](crate::Output#method.write).
    pub fn write_message(&mut self, prefix: Prefix, message: &[u8]) -> Result<()> {
        match self.is_datagram() {
            true => Ok(self.output.write_all(message)?),
            false => self.output.write_frame(prefix, message),
        }
    }
}

impl<S> Others<'_, S> {
    /// Queues bytes for the sender of a request. On a connection this is [`send`](Self::send). The sender of a datagram gets
    /// a datagram, through the socket at which the request arrived.
    pub fn answer(&mut self, to: &Origin, bytes: &[u8]) -> Delivery {
        let Some((socket, route, address)) = &to.datagram else { return self.send(to.id, bytes) };
        match self.core.slots.named(*socket).is_some() {
            true => self.core.send_datagram(*route, address, bytes),
            false => Delivery::Gone,
        }
    }

    /// Like [`answer`](Self::answer), with the length in front for a connection: see
    /// [`Request::write_message`]. Returns [`Delivery::Refused`] if the length does not fit the prefix.
    pub fn answer_message(&mut self, to: &Origin, prefix: Prefix, message: &[u8]) -> Delivery {
        if to.datagram.is_some() {
            return self.answer(to, message);
        }
        match prefix.framed(message) {
            Ok(frame) => self.answer(to, &frame),
            Err(_) => Delivery::Refused,
        }
    }
}
