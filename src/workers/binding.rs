//! A server of any kind that is not bound yet.

use crate::handler::RequestHandler;
use crate::net::family::Family;
use crate::server::hooks::BaseServer;
use crate::server::unbound::Unbound;

/// An [`Unbound`] server of any kind. Implemented here only.
///
/// ```
/// use socketserver::{AnyUnbound, Result, UdpOptions, Worker, family::Udp};
///
/// /// Adds a UDP socket to a server of any kind, for all workers.
/// fn add_udp(worker: &mut Worker, server: &mut impl AnyUnbound) -> Result<()> {
///     worker.server_bind_as::<Udp>(server, "127.0.0.1:0", UdpOptions::default())
/// }
/// ```
pub trait AnyUnbound: sealed::Bind {}

impl<F: Family, S: BaseServer, H: RequestHandler<S>> AnyUnbound for Unbound<F, S, H> {}

/// What workers do with it, without its types.
pub(super) mod sealed {
    use crate::error::Result;
    use crate::handler::RequestHandler;
    use crate::ids::ServerId;
    use crate::net::Socket;
    use crate::net::family::{Family, ServerAddress};
    use crate::net::site::Site;
    use crate::server::hooks::BaseServer;
    #[cfg(unix)]
    use crate::server::inherited::{InheritedSockets, SocketName};
    use crate::server::unbound::Unbound;

    /// Sockets of a server that others serve too.
    pub struct Taken(pub(crate) Vec<(Socket, Site)>);

    /// The names under which sockets were asked for.
    #[cfg(all(unix, feature = "restart"))]
    pub struct Names(pub(crate) Vec<crate::reactor::served::Named>);

    pub trait Bind {
        #[doc(hidden)]
        fn bind<G: Family>(&mut self, address: impl ServerAddress<G::Address>, options: G::Options) -> Result<()>;
        #[cfg(unix)]
        #[doc(hidden)]
        fn inherit<G: Family>(
            &mut self,
            sockets: &mut InheritedSockets,
            which: SocketName<'_>,
            address: impl ServerAddress<G::Address>,
            options: G::Options,
        ) -> Result<()>;
        #[doc(hidden)]
        fn adopt_socket<G: Family>(&mut self, socket: Socket, options: G::Options) -> Result<()>;
        #[doc(hidden)]
        fn count(&self) -> usize;
        #[doc(hidden)]
        fn take(&mut self, count: usize) -> Taken;
        #[doc(hidden)]
        fn duplicates(&self, count: usize) -> Result<Taken>;
        #[cfg(all(unix, feature = "restart"))]
        #[doc(hidden)]
        fn take_names(&mut self) -> Names;
        #[doc(hidden)]
        fn server_id(&self) -> ServerId;
    }

    impl<F: Family, S: BaseServer, H: RequestHandler<S>> Bind for Unbound<F, S, H> {
        fn bind<G: Family>(&mut self, address: impl ServerAddress<G::Address>, options: G::Options) -> Result<()> {
            self.server_bind_as::<G>(address, options)
        }

        #[cfg(unix)]
        fn inherit<G: Family>(
            &mut self,
            sockets: &mut InheritedSockets,
            which: SocketName<'_>,
            address: impl ServerAddress<G::Address>,
            options: G::Options,
        ) -> Result<()> {
            self.inherit_or_bind_as::<G>(sockets, which, address, options)
        }

        fn adopt_socket<G: Family>(&mut self, socket: Socket, options: G::Options) -> Result<()> {
            self.adopt_socket::<G>(socket, options)
        }

        fn count(&self) -> usize {
            self.server_addresses().len()
        }

        fn take(&mut self, count: usize) -> Taken {
            Taken(self.take_bound(count))
        }

        fn duplicates(&self, count: usize) -> Result<Taken> {
            self.duplicates(count).map(Taken)
        }

        #[cfg(all(unix, feature = "restart"))]
        fn take_names(&mut self) -> Names {
            Names(self.take_names())
        }

        fn server_id(&self) -> ServerId {
            self.id()
        }
    }
}
