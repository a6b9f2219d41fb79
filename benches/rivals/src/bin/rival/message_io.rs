//! message-io: one callback for all events of the network.
//!
//! It makes its listeners itself: with a backlog of 1,024, and without `TCP_NODELAY`, which it has no option for. A
//! send returns when the socket has taken everything; while a client does not read, it tries again and again, and
//! nobody else is served. It has no Unix sockets.

use crate::Served;
use crate::job::Job;
use message_io::network::{NetEvent, Transport};
use message_io::node;
use std::net::SocketAddr;

pub(crate) fn tcp(at: SocketAddr, job: Job) -> Served {
    serve(Transport::Tcp, at, job)
}

pub(crate) fn udp(at: SocketAddr) -> Served {
    serve(Transport::Udp, at, Job::Echo)
}

fn serve(transport: Transport, at: SocketAddr, job: Job) -> Served {
    let (handler, listener) = node::split::<()>();
    let network = handler.network();
    network.listen(transport, at)?;
    listener.for_each(move |event| {
        // Connections come and go without anything to be done.
        if let NetEvent::Message(endpoint, data) = event.network() {
            handler.network().send(endpoint, data);
            if job == Job::EchoOnce {
                handler.network().remove(endpoint.resource_id());
            }
        }
    });
    Ok(())
}
