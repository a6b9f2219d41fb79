//! Taking a server into a reactor.

use super::Server;
use super::hooks::BaseServer;
use crate::error::{Error, Result};
use crate::handler::RequestHandler;
use crate::ids::ServerId;
use crate::net::family::Family;
use crate::reactor::Reactor;
use crate::reactor::handle::Command;

impl Reactor {
    /// Takes a server in. Its own reactor is given up: servers that were added to that are closed, and handles must be taken
    /// from this one. What was given to the server's own handle is not lost: its timers, messages, closures and a stop
    /// come to this reactor. If that one watched for signals, this one does from now on.
    ///
    /// A server that has served already brings its sockets, and the clients that wait there. What it has open ends first,
    /// as in [`server_close`](Self::server_close): connections are aborted, threads and programs are waited for. After a
    /// stop it is bound to its addresses again.
    ///
    /// # Errors
    /// [`Error::Full`] if there are 256 servers (16 where pointers have 32 bits) that are not closed; [`Error::Gone`] if
    /// this reactor is being dropped, or another was put in the place of the server's own; [`Error::Setting`], and those of
    /// [`Server::server_bind`] and [`Server::server_activate`]. The server is closed then, and dropped.
    pub fn add<F: Family, S: BaseServer, H: RequestHandler<S>>(
        &mut self,
        server: impl Into<Server<F, S, H>>,
    ) -> Result<ServerId> {
        let mut server = server.into();
        self.admits_server()?;
        server.get_sockets()?;
        #[cfg(feature = "signals")]
        if server.reactor.watches_signals() {
            self.shutdown_on_signals()?;
        }
        let Server { reactor: mut own, id: old, limits, activated, .. } = server;
        let moving = own.take_out(old).ok_or(Error::Gone)?;
        let id = self.host(moving.host, limits)?;
        for socket in moving.sockets.into_iter().chain(activated) {
            if let Err(error) = self.open(id, socket) {
                self.server_close(id);
                return Err(error);
            }
        }
        moving.timers.into_iter().for_each(|(tag, after, every)| self.arm_server_timer(id, tag, after, every));
        let commands = own.take_commands().into_iter().map(|command| match command {
            Command::ServerMessage(of, message) if of == old => Command::ServerMessage(id, message),
            command => command,
        });
        commands.for_each(|command| self.core.shared.take_over(command));
        own.core.shared.pass_request(&self.core.shared);
        Ok(id)
    }
}
