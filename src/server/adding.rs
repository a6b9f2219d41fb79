//! Adds a server to a reactor.

use super::Server;
use super::hooks::BaseServer;
use super::parked::Parked;
use super::unbound::Unbound;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::net::Stream;
use crate::net::family::{Bound, Family};
use crate::reactor::Reactor;

impl Reactor {
    /// Adds a server with everything that it was given before: its limits and timers, and the work submitted through
    /// its handles. The handles and the server's id stay valid.
    ///
    /// A server that has served on its own reactor keeps its sockets and the clients in their backlogs. Its open
    /// connections end first, as in [`server_close`](Self::server_close): connections are aborted, and threads and
    /// programs are waited for. After a stop or a close it is bound to its addresses again. Servers that a closure has
    /// added to its loop are closed. If it watched for signals or notified
    /// the supervisor, this reactor does so instead.
    ///
    /// # Errors
    /// [`Error::Full`] if there are 256 servers that are not closed; [`Error::Gone`] if this
    /// reactor is being dropped, or a closure has replaced the server's own; [`Error::Bind`] and [`Error::Listen`] if
    /// the server must be bound again. On an error, the server is closed and dropped.
    pub fn add<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        mut server: Server<F, S, H>,
    ) -> Result<ServerId> {
        self.admits_server()?;
        server.get_sockets()?;
        let Server { mut parked, own, activated, .. } = server;
        let mut sockets = Vec::new();
        if let Some(mut own) = own {
            #[cfg(all(unix, feature = "signals"))]
            self.watch_signals(&own.watched_signals())?;
            #[cfg(all(unix, feature = "sd-notify"))]
            self.take_supervision(&mut own);
            let moving = own.take_out(parked.id).ok_or(Error::Gone)?;
            own.lead_to(self);
            parked.put_back(moving.host, moving.limits, moving.timers);
            sockets = moving.sockets;
        }
        sockets.extend(activated);
        self.enter(parked, sockets)
    }

    /// Adds a server that need not have a socket of its own kind, or any. It serves the connections that it is given
    /// with [`admit`](Self::admit). Sockets that it is bound to start to listen.
    ///
    /// # Errors
    /// [`Error::Full`] and [`Error::Gone`] as for [`add`](Self::add); [`Error::Setting`] if its
    /// [`limits`](Unbound::limits) contradict each other; [`Error::Listen`]. On an error, the server is closed and
    /// dropped.
    pub fn add_unbound<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        unbound: Unbound<F, S, H>,
    ) -> Result<ServerId> {
        self.admits_server()?;
        let (parked, sockets, _) = unbound.activate()?;
        self.enter(parked, sockets)
    }

    fn enter(&mut self, mut parked: Parked, sockets: Vec<Bound>) -> Result<ServerId> {
        parked.enter(self, false);
        self.open(parked.id, sockets).inspect_err(|_| self.server_close(parked.id))?;
        Ok(parked.id)
    }
}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Unbound<F, S, H> {
    /// Serves one connection that was accepted elsewhere, and returns when it has ended, and what its handler has begun:
    /// outbound connections, threads and programs. For a program that is started for each client: by inetd(8), or by a
    /// socket unit of systemd with `Accept=yes`. The hooks are called as for an accepted connection. Sockets that the
    /// server is bound to listen meanwhile.
    ///
    /// This makes a reactor with default settings, and drops it and the server. For other settings, or to stop on
    /// signals, [add](Reactor::add_unbound) the server to a reactor, [`admit`](Reactor::admit) the connection, and
    /// [`poll`](Reactor::poll) while it is [active](crate::Stats::active).
    ///
    /// # Errors
    /// [`Error::Reactor`] if it is no connected stream socket, or the system has no descriptors left;
    /// [`Error::Setting`] if [`limits`](Self::limits) contradict each other; [`Error::Listen`].
    ///
    /// Source: `BaseServer.process_request` with a socket that Python's server has not accepted itself.
    ///
    /// ```no_run
    /// use socketserver::{Next, Request, RequestHandler, Result, TcpServer};
    /// # struct Echo;
    /// # impl RequestHandler for Echo {
    /// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
    /// # }
    /// # #[cfg(unix)]
    /// fn main() -> Result<()> {
    ///     use std::os::fd::AsFd;
    ///     // inetd: the client is standard input and standard output, which are now non-blocking.
    ///     let client = std::io::stdin().as_fd().try_clone_to_owned()?;
    ///     TcpServer::unbound(|_client_address| Echo).serve_connection(client)
    /// }
    /// # #[cfg(not(unix))]
    /// # fn main() {}
    /// ```
    pub fn serve_connection(self, connection: impl Into<socket2::Socket>) -> Result<()> {
        let failed = |source| Error::Reactor { doing: "serve the connection", source };
        let (stream, client_address) = Stream::from_socket(connection).map_err(failed)?;
        let mut reactor = Reactor::new()?;
        let server = reactor.add_unbound(self)?;
        reactor.admit(server, stream, client_address)?;
        while reactor.stats().active > 0 && reactor.poll(None)? {}
        Ok(())
    }
}
