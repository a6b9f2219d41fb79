//! Puts TLS on sockets.

use super::stream::{Secured, Stream};
use super::tls::{TlsAcceptor, TlsSession};

impl TlsAcceptor {
    /// Puts TLS on an accepted socket, for the hook [`get_request`](crate::BaseServer::get_request). A socket that has
    /// TLS already stays as it is. The handshake takes place when the server serves the connection.
    ///
    /// Source: `ssl.SSLContext.wrap_socket` in an override of `get_request`.
    pub fn wrap_socket(&self, stream: Stream) -> Stream {
        let mut stream = stream;
        if stream.secured().is_none() && !stream.is_datagram() {
            stream.secure(self.start(), 0, 0);
        }
        stream
    }
}

impl Secured {
    pub(crate) fn is_resumed(&self) -> bool {
        self.layer().is_some_and(|session| TlsSession::new(session).is_resumed())
    }
}
