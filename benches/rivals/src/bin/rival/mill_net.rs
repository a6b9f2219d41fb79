//! mill-net: a handler for all connections, over mill-io's event loop.
//!
//! The loop is the one that calls the handler on its own thread; the default one hands each event to a pool of threads.
//! mill-net has TCP only, and makes its listener itself.
//!
//! When a client ends its side, mill-net closes the connection and discards what it could not send until then. Nothing
//! tells the handler when all has been sent. So this rival does the whole job only for clients that wait for their
//! answers before they end.

use crate::Served;
use crate::job::Job;
use mill_io::EventLoop;
use mill_net::errors::Result;
use mill_net::tcp::{ConnectionId, NetworkHandler, SendError, ServerContext, TcpServer, TcpServerConfig};
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Taken from the kernel at once; mill-io's own default.
const EVENTS: usize = 1_024;
/// How often the loop wakes up though nothing happened; mill-io's own default.
const TIMEOUT_MS: u64 = 150;

pub(crate) fn tcp(at: SocketAddr, job: Job) -> Served {
    serve(at, job).map_err(|error| error.to_string().into())
}

fn serve(at: SocketAddr, job: Job) -> Result<()> {
    let event_loop = Arc::new(EventLoop::new_low_latency(EVENTS, TIMEOUT_MS)?);
    // No rival sends probes to clients that are silent, which mill-net does by default.
    let config = TcpServerConfig::builder().address(at).no_delay(true).keep_alive(None).build();
    let server = Arc::new(TcpServer::new(config, Echo { job, refused: Mutex::default() })?);
    server.start(&event_loop, event_loop.alloc_token())?;
    loop {
        match event_loop.run() {
            // A signal, or a tracer that attaches itself, interrupts the wait, which mill-io takes for a failure.
            Err(error) if error.downcast_ref().is_some_and(is_interruption) => {}
            result => return result,
        }
    }
}

fn is_interruption(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::Interrupted
}

struct Echo {
    job: Job,
    /// What a connection did not take, because too much waits there already. It is not read until that has changed.
    refused: Mutex<HashMap<ConnectionId, Vec<u8>>>,
}

impl Echo {
    fn refused(&self) -> MutexGuard<'_, HashMap<ConnectionId, Vec<u8>>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl NetworkHandler for Echo {
    fn on_data(&self, ctx: &ServerContext, id: ConnectionId, data: &[u8]) -> Result<()> {
        let Some(sender) = ctx.sender(id) else { return Ok(()) };
        match sender.send(data) {
            Ok(()) if self.job == Job::EchoOnce => sender.close(),
            Ok(()) => {}
            Err(SendError::Backpressure) => {
                self.refused().insert(id, data.to_vec());
                sender.pause_reads();
            }
            Err(error) => return Err(error.into()),
        }
        Ok(())
    }

    fn on_drained(&self, ctx: &ServerContext, id: ConnectionId) -> Result<()> {
        let Some(sender) = ctx.sender(id) else { return Ok(()) };
        if let Some(data) = self.refused().remove(&id) {
            sender.send(&data)?;
        }
        sender.resume_reads();
        Ok(())
    }

    fn on_disconnect(&self, _: &ServerContext, id: ConnectionId) -> Result<()> {
        self.refused().remove(&id);
        Ok(())
    }
}
