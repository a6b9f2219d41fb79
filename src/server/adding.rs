//! Adds a server to a reactor.

use super::Server;
use super::hooks::BaseServer;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::net::family::Family;
use crate::reactor::Reactor;

impl Reactor {
    /// Adds a server with everything that it was given before: its limits and timers, and the work submitted through
    /// its handles. The handles and the server's id stay valid.
    ///
    /// A server that has served on its own reactor keeps its sockets and the clients in their backlogs. Its open
    /// connections end first, as in [`server_close`](Self::server_close): connections are aborted, and threads and
    /// programs are waited for. After a stop or a close it is bound to its addresses again. Servers that a closure has
    /// added to its loop are closed. If it watched for signals, this reactor watches for them instead.
    ///
    /// # Errors
    /// [`Error::Full`] if there are 256 servers (16 on 32-bit systems) that are not closed; [`Error::Gone`] if this
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
            #[cfg(feature = "signals")]
            if own.watches_signals() {
                self.shutdown_on_signals()?;
            }
            let moving = own.take_out(parked.id).ok_or(Error::Gone)?;
            own.lead_to(self);
            parked.put_back(moving.host, moving.limits, moving.timers);
            sockets = moving.sockets;
        }
        parked.enter(self, false);
        sockets.extend(activated);
        self.open(parked.id, sockets).inspect_err(|_| self.server_close(parked.id))?;
        Ok(parked.id)
    }
}
