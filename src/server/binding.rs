//! How a server comes by its sockets: bound, made to listen, or adopted.

use std::io;

use super::Server;
use super::hooks::BaseServer;
use crate::address::Address;
use crate::error::{Error, Result, reason};
use crate::handler::RequestHandler;
use crate::logging::note;
use crate::net::family::{Family, ServerAddress};

impl<F: Family, S: BaseServer, H: RequestHandler<S>> Server<F, S, H> {
    /// Binds a socket to each address that `address` stands for: `localhost`, for example, is often one of IPv6 and one of
    /// IPv4. If its port is 0, all get the same one. An address that the resolver knows and this machine does not have is
    /// passed over, with a warning in the log, as long as another can be bound.
    ///
    /// # Errors
    /// [`Error::Resolve`] if there is no such address, or none of the wanted family; [`Error::Setting`] if an option
    /// cannot be honoured; [`Error::Bind`] with the address that cannot be bound. Then none is.
    ///
    /// Source: `server_bind`, which binds the first address of IPv4 only; the hook of that name is called with each
    /// socket.
    pub fn server_bind(&mut self, address: impl ServerAddress<F::Domain>) -> Result<()> {
        let unresolved = |source| Error::Resolve { address: address.text(), source };
        let mut addresses = Vec::new();
        for found in address.to_addresses().map_err(unresolved)? {
            // A hosts file may name one twice.
            if F::admits(&self.options, &found) && !addresses.contains(&found) {
                addresses.push(found);
            }
        }
        if addresses.is_empty() {
            return Err(unresolved(io::Error::other("no address of the wanted family")));
        }
        let before = self.bound.len();
        let mut tries = PORT_TRIES;
        loop {
            let result = self.bind_all(&addresses);
            if result.is_err() {
                self.bound.truncate(before);
            }
            tries -= 1;
            match result {
                // The port that the system has chosen for one address is taken at another.
                Err(Error::Bind { address, source })
                    if source.kind() == io::ErrorKind::AddrInUse && !addresses.contains(&address) && tries > 0 => {}
                result => return result,
            }
        }
    }

    /// Binds each of these addresses, those without a port to the first port that the system chooses.
    pub(super) fn bind_all(&mut self, addresses: &[Address]) -> Result<()> {
        let (before, mut port, mut passed_over) = (self.bound.len(), None, None);
        for address in addresses {
            match self.bind(&port.map_or_else(|| address.clone(), |port| address.clone().with_port(port))) {
                Ok(()) if address.port() == Some(0) => port = self.bound.last().and_then(|(_, bound)| bound.port()),
                Ok(()) => {}
                Err(Error::Bind { address, source }) if addresses.len() > 1 && is_not_here(&source) => {
                    note!(Warn, "{address} is not served: {source}");
                    passed_over = Some(Error::Bind { address, source });
                }
                Err(error) => return Err(error),
            }
        }
        passed_over.filter(|_| self.bound.len() == before).map_or(Ok(()), Err)
    }

    pub(super) fn bind(&mut self, address: &Address) -> Result<()> {
        F::check(&self.options)?;
        let failed = |source| Error::Bind { address: address.clone(), source };
        let socket = F::open(&self.options, address).map_err(failed)?;
        self.reactor.await_closed(self.id); // The hooks of a close under way come first.
        self.reactor.hosted(self.id)?.server_bind(&socket, address)?.map_err(failed)?;
        let address = socket.local_address().map_err(failed)?;
        self.reactor.reopen(self.id);
        self.bound.push((socket, address));
        self.applied = self.options.clone();
        Ok(())
    }

    /// Refuses changes of the options that came too late for the sockets there are, except for one that may change.
    pub(super) fn check_late(&self, may_change: &str) -> Result<()> {
        let mut changed = F::changed(&self.options, &self.applied).into_iter().filter(|(name, _)| *name != may_change);
        let reason = "it was changed after the socket was bound";
        changed.next().map_or(Ok(()), |setting| Err(Error::Setting { settings: vec![setting], reason }))
    }

    /// Makes what is bound listen: from now on clients can connect, and wait in the backlog until the server serves.
    ///
    /// # Errors
    /// [`Error::Listen`], [`Error::NotBound`]; [`Error::Setting`] if options were changed that count when the socket is
    /// bound.
    ///
    /// Source: `server_activate`; the hook of that name is called with each socket.
    pub fn server_activate(&mut self) -> Result<()> {
        if self.bound.is_empty() && self.activated.is_empty() {
            return Err(Error::NotBound);
        }
        self.check_late("request_queue_size")?;
        self.applied = self.options.clone();
        // One after the other: if one fails, those behind it stay bound.
        while !self.bound.is_empty() {
            let (socket, address) = self.bound.remove(0);
            let failed = |source| Error::Listen { address: address.clone(), source };
            let backlog = F::backlog(&self.options);
            self.reactor.hosted(self.id)?.server_activate(&socket, backlog)?.map_err(failed)?;
            self.activated.push(F::finish(socket, &self.options).map_err(failed)?);
            if !self.addresses.contains(&address) {
                self.addresses.push(address); // It may be there from before a shutdown.
            }
        }
        Ok(())
    }

    /// Serves by a socket that was bound, and made to listen, elsewhere: inherited, for example. It takes the place of
    /// [`server_bind`](Self::server_bind), and [`options`](Self::options) are set on it as far as they can be set on a bound
    /// socket, the backlog included; it keeps its `SO_REUSEADDR`, `SO_REUSEPORT` and `IPV6_V6ONLY`. The hook `server_bind`
    /// is not called. A path in the file system is not removed in the end.
    ///
    /// After a shutdown [`serve_forever`](Self::serve_forever) binds the address itself. Where something else has the
    /// socket open still, that fails, and another has to be adopted first.
    ///
    /// # Errors
    /// [`Error::Reactor`] if it is no listening socket of the server's family; for datagrams, no bound one.
    /// [`Error::Setting`] if an option cannot be honoured.
    pub fn adopt(&mut self, socket: F::Adopted) -> Result<()> {
        F::check(&self.options)?;
        let failed = |source| Error::Reactor { doing: "adopt the socket", source };
        let socket = F::adopt(&self.options, socket).map_err(failed)?;
        let address = socket.local_address().map_err(failed)?;
        if !F::admits(&self.options, &address) {
            return Err(failed(io::Error::new(io::ErrorKind::InvalidInput, "its address is not of the wanted family")));
        }
        self.reactor.reopen(self.id);
        self.adopted.push(address.clone());
        self.bound.push((socket, address));
        self.applied = self.options.clone();
        Ok(())
    }

    /// Says of an address that cannot be bound again that its socket was not ours.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Bind { address, source } if self.adopted.contains(&address) => {
                let text =
                    format!("{}; its socket was adopted and may be open elsewhere: adopt it again", reason(&source));
                Error::Bind { address, source: io::Error::new(source.kind(), text) }
            }
            error => error,
        }
    }

    /// Sees to it that it has sockets to serve by: those that are bound, or else those of its addresses.
    pub(super) fn get_sockets(&mut self) -> Result<()> {
        self.reactor.await_closed(self.id);
        if self.reactor.is_closed(self.id) {
            // By its id, or by a closure: what was bound before that is closed as well.
            self.addresses.extend(self.bound.drain(..).map(|(_, address)| address));
            self.activated.clear();
        }
        if !self.bound.is_empty() {
            self.server_activate()?;
        }
        if self.activated.is_empty() && self.reactor.server_addresses(self.id).is_empty() {
            let addresses = std::mem::take(&mut self.addresses); // Activation adds them again.
            let bound = addresses.iter().try_for_each(|address| self.bind(address));
            if let Err(error) = bound.and_then(|()| self.server_activate()) {
                (self.bound, self.activated, self.addresses) = (Vec::new(), Vec::new(), addresses);
                return Err(self.explain(error));
            }
        }
        self.check_late("")
    }
}

/// How often another port is tried that is free at all addresses of a name.
const PORT_TRIES: u32 = 32;

/// Whether a bind failed because this machine has no such address, or no such family at all.
fn is_not_here(error: &io::Error) -> bool {
    const EAFNOSUPPORT: i32 = match () {
        () if cfg!(any(target_os = "linux", target_os = "android")) => 97,
        () if cfg!(windows) => 10_047,
        () => 47,
    };
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(EAFNOSUPPORT)
}
