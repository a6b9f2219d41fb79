//! Sockets: the only folder that names mio's types and socket options.
//!
//! The rest of the crate sees a [`Stream`] that reads and writes, a [`Listener`] that accepts, a
//! [`DatagramSocket`](datagram::DatagramSocket) that receives and sends, and a [`Selector`](selector::Selector) that
//! reports readiness and time. It does not depend on the family of a socket, which only [`family`] knows. Each of these
//! has a scripted version without an operating system, so handlers are tested on the same loop that serves real
//! clients.

#[cfg(all(feature = "batch", target_os = "linux"))]
mod batch;
pub(crate) mod clock;
#[cfg(all(feature = "credentials", unix))]
mod credentials;
pub(crate) mod datagram;
pub mod family;
pub(crate) mod fault;
pub(crate) mod file;
mod from_socket;
#[cfg(unix)]
pub(crate) mod inherited;
#[cfg(feature = "tls")]
pub(crate) mod layer;
#[cfg(feature = "tls")]
pub(crate) mod layered;
mod listener;
mod options;
pub(crate) mod owned_file;
pub(crate) mod packet;
#[cfg(unix)]
pub(crate) mod path;
#[cfg(windows)]
pub(crate) mod patient;
#[cfg(all(unix, feature = "proxy-protocol"))]
mod proxied;
#[cfg(all(unix, feature = "proxy-protocol"))]
mod proxy_fault;
#[cfg(all(unix, feature = "proxy-protocol"))]
pub(crate) mod proxy_protocol;
pub(crate) mod readiness;
pub(crate) mod scripted;
#[cfg(feature = "tls")]
mod secured;
pub(crate) mod selector;
pub(crate) mod site;
mod socket;
mod stream;
mod tcp;
#[cfg(feature = "tls")]
pub(crate) mod tls;
mod udp;
#[cfg(unix)]
mod unix;
mod watched;

#[cfg(all(feature = "credentials", unix))]
pub use credentials::Credentials;
pub use listener::Listener;
pub(crate) use listener::{AcceptFault, ExpectedHeader};
#[cfg(feature = "tls")]
pub(crate) use options::reset_on_close;
#[cfg(all(unix, feature = "proxy-protocol"))]
pub use proxy_protocol::{ProxyHeader, ProxyProtocol};
pub use socket::Socket;
pub use stream::Stream;
#[cfg(feature = "tls")]
pub(crate) use stream::{Detached, Secured};
pub(crate) use stream::{Header, StdStream};
pub use tcp::{AddressFamily, Keepalive, TcpOptions};
#[cfg(feature = "tls")]
pub use tls::{TlsAcceptor, TlsConnector, TlsSession};
pub use udp::{MulticastGroup, MulticastInterface, UdpOptions};
#[cfg(unix)]
pub use unix::UnixOptions;
