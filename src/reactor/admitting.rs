//! Connections that did not come from one of the reactor's listeners.

use super::Reactor;
use super::served::Life;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ServerId;
use crate::net::{ExpectedHeader, Stream};
use crate::timers::nanos;

impl Reactor {
    /// Serves a connection that was accepted elsewhere, with a server of this reactor: [`Stream::from_socket`] makes the
    /// arguments. From here on it is like any other connection: the hooks are called from
    /// [`verify_request`](crate::BaseServer::verify_request) on, and it counts for the limits and the statistics. It
    /// need not be of the server's own kind. The server may have no sockets at all: see
    /// [`add_unbound`](Self::add_unbound).
    ///
    /// Its first callbacks run before this returns. [`Handle::admit`](crate::Handle::admit) does this from other
    /// threads.
    ///
    /// # Errors
    /// [`Error::Full`] if the server has [`connections_max`](crate::Limits::connections_max) connections, because a
    /// connection has no backlog to wait in; [`Error::Gone`] if there is no such server, or it is closed or stopped;
    /// [`Error::Reactor`] if it cannot be handed to a thread. The connection is closed then.
    ///
    /// ```
    /// use socketserver::{Next, Reactor, Request, RequestHandler, Result, Stream, TcpServer};
    /// use std::io::{Read as _, Write as _};
    /// use std::net::{TcpListener, TcpStream};
    ///
    /// struct Greet;
    /// impl RequestHandler for Greet {
    ///     fn setup(&mut self, request: &mut Request<'_>) -> Result<Next> {
    ///         request.output.write_all(b"hello")?;
    ///         Ok(Next::Close)
    ///     }
    ///     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Close) }
    /// }
    /// let mut reactor = Reactor::new()?;
    /// let id = reactor.add_unbound(TcpServer::unbound(|_client_address| Greet))?;
    ///
    /// // Accepted by code that is not of this crate.
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let mut client = TcpStream::connect(listener.local_addr()?)?;
    /// let (stream, client_address) = Stream::from_socket(listener.accept()?.0)?;
    ///
    /// reactor.admit(id, stream, client_address)?;
    /// let mut text = String::new();
    /// client.read_to_string(&mut text)?;
    /// assert_eq!(text, "hello");
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn admit(&mut self, server: ServerId, stream: Stream, client_address: Address) -> Result<()> {
        let number = self.core.open_server(server).filter(|_| self.is_open(server)).ok_or(Error::Gone)?;
        self.core.may_accept(number); // Finds out whether a limit is reached.
        if self.core.is_capped(number) {
            let max = self.core.served[usize::from(number)].limits.connections_max;
            return Err(Error::Full { queue: "connection", max: max.unwrap_or(self.core.connections_max) });
        }
        if !self.turning {
            self.core.now = self.core.selector.now(); // The last turn may have been long ago.
            let turn = &mut self.scratch.budget.turn;
            turn.begin(self.core.now, nanos(self.core.config.turn_length));
        }
        let failed = |source| Error::Reactor { doing: "admit the connection", source };
        let admitted = self.admit_any(server, stream, client_address, &ExpectedHeader::default()).map_err(failed);
        if !self.turning {
            self.reap(); // The connection may have ended. No event would tell the next turn.
        }
        admitted
    }

    /// How many connections a server may be given now.
    pub(crate) fn room(&mut self, server: ServerId) -> usize {
        let open = self.core.open_server(server).filter(|_| self.is_open(server));
        open.map_or(0, |number| self.core.room(number))
    }

    /// Returns whether a server may be given connections, whatever its limits are.
    pub(crate) fn is_open(&self, server: ServerId) -> bool {
        let open = self.core.open_server(server);
        open.is_some_and(|number| self.core.served[usize::from(number)].life == (Life::Open { stopped: false }))
    }

    /// Returns whether the connections of a server count for the limit that servers share.
    pub(crate) fn shares_descriptors(&self, server: ServerId) -> bool {
        let open = self.core.open_server(server);
        open.is_some_and(|number| self.core.served[usize::from(number)].shares_descriptors())
    }
}
