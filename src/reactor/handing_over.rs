//! Sockets of a server that another process is given.

use std::io;
use std::os::fd::OwnedFd;

use super::Reactor;
use super::slots::Contents;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::ServerId;

impl Reactor {
    /// Returns a duplicate of the socket of a server at this address, one of
    /// [`server_addresses`](Self::server_addresses): for a successor that takes the clients in its backlog, or for
    /// another process that serves beside this one. Both accept clients from then on, or receive datagrams. The
    /// duplicate is close-on-exec. The server is not changed; see [`hand_over`](Self::hand_over). On Unix.
    ///
    /// With the feature `batch`, on Linux, a UDP socket may have `UDP_GRO` on, if one peer has sent many datagrams at a time
    /// before this call. A program that reads the duplicate must then divide messages that the kernel has joined, as a
    /// server with this feature does. It is not switched on after this call.
    ///
    /// # Errors
    /// [`Error::Gone`] if the server has no socket at this address, perhaps because it is closed or stopping;
    /// [`Error::Reactor`] if the process has no descriptors left.
    ///
    /// Source: `socket.dup` of Python's `server.socket`.
    ///
    /// ```
    /// # use socketserver::{NoHandler, Reactor, TcpServer};
    /// let mut reactor = Reactor::new()?;
    /// let server = TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?;
    /// let address = server.server_address().into();
    /// let id = reactor.add(server)?;
    /// let duplicate = std::net::TcpListener::from(reactor.duplicate_socket(id, &address)?);
    /// assert_eq!(duplicate.local_addr()?.port(), address.port().unwrap());
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn duplicate_socket(&mut self, server: ServerId, address: &Address) -> Result<OwnedFd> {
        let duplicate = match self.socket_at(server, address).ok_or(Error::Gone)? {
            Contents::Listener(listening) => listening.listener.as_ref().map(|listener| listener.duplicate()),
            Contents::Endpoint(endpoint) => Some(endpoint.socket.duplicate()),
            _ => None,
        };
        let failed = |source| Error::Reactor { doing: "duplicate the socket", source };
        duplicate.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())).map_err(failed)
    }

    /// Leaves the file of a Unix socket to another process that has a [duplicate](Self::duplicate_socket) of the socket:
    /// it is not removed when this server closes. Call this when the successor serves, because until then a client that
    /// connects needs the file. The successor sets
    /// [`UnixOptions::adopt_path`](crate::UnixOptions::adopt_path). Nothing else changes: this server accepts clients
    /// until it stops. For sockets without a file, this does nothing. On Unix.
    ///
    /// # Errors
    /// [`Error::Gone`] as for [`duplicate_socket`](Self::duplicate_socket).
    ///
    /// ```
    /// # use socketserver::{NoHandler, Reactor, UnixStreamServer};
    /// let path = std::env::temp_dir().join(format!("handed-over-{}", std::process::id()));
    /// let mut reactor = Reactor::new()?;
    /// let server = UnixStreamServer::new(&path, |_client_address| NoHandler)?;
    /// let address = server.server_address().into();
    /// let id = reactor.add(server)?;
    /// let _for_a_successor = reactor.duplicate_socket(id, &address)?;
    /// reactor.hand_over(id, &address)?;
    /// drop(reactor);
    /// assert!(path.exists());
    /// # std::fs::remove_file(&path)?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn hand_over(&mut self, server: ServerId, address: &Address) -> Result<()> {
        match self.socket_at(server, address).ok_or(Error::Gone)? {
            Contents::Listener(listening) => {
                listening.listener.iter_mut().for_each(|listener| listener.leave_file());
            }
            Contents::Endpoint(endpoint) => endpoint.socket.leave_file(),
            _ => {}
        }
        Ok(())
    }

    /// The slot of a server's socket.
    fn socket_at(&mut self, server: ServerId, address: &Address) -> Option<&mut Contents> {
        let server = self.core.server(server)?;
        let keys = &self.core.served[usize::from(server)].listeners;
        let key = *keys.iter().find(|&&key| self.core.slots.bound(key) == Some(address))?;
        self.core.slots.get(key)?.contents()
    }
}
