//! Serves a request on a thread.

use std::fmt::Debug;
use std::io;
use std::marker::PhantomData;
use std::net::Shutdown;
use std::sync::Arc;

use super::files::{BlockingReader, BlockingWriter};
use super::handler::BlockingHandler;
use super::request::BlockingRequest;
use super::serve_on::{HandOver, OnThread, Sender, ServeOn, Taken, TakenRequest, Work};
use super::socket::BlockingSocket;
use super::stop::Stop;
use crate::error::{Error, Result};
use crate::lifecycle::{EndReason, Timeout};
use crate::limits::READ_BUFFER_BYTES_MAX;
use crate::panics::{catch, drop_caught};
use crate::reactor::core::Core;
use crate::reactor::elsewhere::Place;
use crate::reactor::entries::Ended;

pub(crate) use super::request::Origin;

impl<S: 'static> ServeOn<S> {
    /// Serves the request on a thread, with a handler that may block.
    pub fn thread(handler: impl BlockingHandler<S>) -> Self {
        ServeOn::Thread(OnThread { handler: Box::new(handler), send })
    }

    /// `None`: the reactor serves it.
    pub(crate) fn into_work(self) -> Option<(Work<S>, Sender<S>)> {
        match self {
            ServeOn::Reactor => None,
            ServeOn::Thread(OnThread { handler, send }) => Some((Work::Handler(handler), send)),
            #[cfg(all(unix, feature = "children"))]
            ServeOn::Program(command) => Some((Work::Child(command), send)),
            ServeOn::Worker(HandOver(pass, send)) => Some((Work::HandOver(pass), send)),
        }
    }
}

/// Only a connection is passed to another reactor, and by what has accepted it.
pub(crate) fn send_nowhere<S>(_: Work<S>, _: &mut Core, _: Taken) -> Result<()> {
    Err(Error::Gone)
}

/// Sends a request to a thread.
///
/// # Errors
/// The same as for [`Core::serve_elsewhere`].
fn send<S: 'static>(work: Work<S>, core: &mut Core, taken: Taken) -> Result<()> {
    let Taken { server, request, client_address, local_address, header } = taken;
    let place = match work {
        Work::Handler(_) => Place::Threads,
        #[cfg(all(unix, feature = "children"))]
        Work::Child(_) => Place::Programs,
        Work::HandOver(_) => return Err(Error::Gone),
    };
    let served = &core.served[usize::from(server)];
    let (id, limits) = (served.id, Arc::clone(&served.limits));
    let is_datagram = matches!(request, TakenRequest::Datagram(..));
    let socket = match request {
        TakenRequest::Stream(stream) => BlockingSocket::stream(stream, core.selector.clock(), limits),
        #[cfg(feature = "tls")]
        TakenRequest::Secured(stream, tls, plain) => {
            BlockingSocket::secured(stream, *tls, plain, core.selector.clock(), limits)
        }
        TakenRequest::Datagram(packet, send) => BlockingSocket::datagram(packet, client_address.clone(), limits, send),
    };
    let (stop, handle) = (socket.stop(), core.handle());
    let stopper = Box::new(stop.clone());
    let address = client_address.clone();
    core.serve_elsewhere(server, place, (address, is_datagram), stopper, move |request| {
        let origin = Origin { id: request, socket, client_address, local_address, header, handle, server: id };
        run(work, origin, &stop)
    })
}

/// Serves a request on the calling thread until it is over and closed. Never panics. The stop belongs to the socket,
/// and the reactor has it as well.
///
/// # Errors
/// The error or the panic of the handler, or the error that kept its output or its program from running;
/// [`Error::TimeLimit`] if the request was ended for that, whatever the handler returns; [`Error::Gone`] if it was
/// ended before it began.
pub(crate) fn run<S: 'static>(work: Work<S>, origin: Origin, stop: &Stop) -> Result<()> {
    let result = match work {
        work if stop.ended().is_some() => {
            drop_caught(work);
            Err(Error::Gone)
        }
        Work::Handler(handler) => call(handler, origin, stop),
        #[cfg(all(unix, feature = "children"))]
        Work::Child(command) => attempt(|| super::child::run(command, origin, stop)),
        Work::HandOver(_) => Err(Error::Gone),
    };
    match stop.ended() {
        Some(Ended::TimedOut(max)) => {
            drop_caught(result); // It may hold a user value.
            Err(Error::TimeLimit { why: EndReason::ChildTimeout, setting: "child_timeout", max })
        }
        _ => result,
    }
}

/// Python's `finish_request` and `shutdown_request`, in the order of `ThreadingMixIn.process_request_thread`.
fn call<S: 'static>(mut handler: Box<dyn BlockingHandler<S>>, origin: Origin, stop: &Stop) -> Result<()> {
    let result = attempt(|| BlockingRequest::open(&*handler, origin, stop)).and_then(|mut request| {
        let result = attempt(|| handler.setup(&mut request)).and_then(|()| {
            let handled = attempt(|| handler.handle(&mut request));
            let finished = catch(|| handler.finish(&mut request));
            handled.and(finished)
        });
        #[cfg(feature = "tls")]
        note_failure(&request.origin, &result);
        let closed = request.close();
        result.and(closed)
    });
    result.and(catch(|| drop(handler)))
}

/// Logs what the peer has done wrong under TLS. The handler has passed the error on.
#[cfg(feature = "tls")]
fn note_failure(origin: &Origin, result: &Result<()>) {
    use crate::logging::note_fault;
    use crate::net::tls::words::{Ends, Explained};

    if let Err(Error::Tls { source, .. }) = result
        && source.kind() == io::ErrorKind::InvalidData
    {
        let ends = Ends(&origin.client_address, origin.local_address.clone());
        note_fault!(Debug, "{ends}: TLS failed: {}", Explained(source));
    }
}

/// Runs user code that may fail.
fn attempt<T>(run: impl FnOnce() -> Result<T>) -> Result<T> {
    catch(run).and_then(|result| result)
}

impl<S: 'static> BlockingRequest<S> {
    fn open(handler: &dyn BlockingHandler<S>, origin: Origin, stop: &Stop) -> Result<Self> {
        let socket = &origin.socket;
        socket.set_blocking()?;
        #[cfg(feature = "tls")]
        socket.begin_tls();
        let both = handler.timeout();
        let times = [
            (Timeout::Read, "read_timeout", handler.read_timeout()),
            (Timeout::Write, "write_timeout", handler.write_timeout()),
        ];
        for (which, own, time) in times {
            if let Some(max) = time {
                let setting = if time == both { "timeout" } else { own };
                let set = socket.descriptor().set_time(which, setting, time);
                set.map_err(|error| refused(setting, max, error, "a datagram is not waited for"))?;
            }
        }
        if handler.disable_nagle_algorithm() {
            let set = socket.set_nodelay();
            set.map_err(|error| refused("disable_nagle_algorithm", true, error, "only TCP has that"))?;
        }
        let (rbufsize, wbufsize) = (handler.rbufsize(), handler.wbufsize());
        for (name, bytes) in [("rbufsize", rbufsize), ("wbufsize", wbufsize)] {
            if bytes > READ_BUFFER_BYTES_MAX {
                return Err(Error::setting(name, bytes, "it must be 1,073,741,824 (1 GiB) at most"));
            }
        }
        let rfile = BlockingReader::new(socket, rbufsize);
        let wfile = BlockingWriter::new(socket, wbufsize);
        Ok(BlockingRequest { rfile, wfile, origin, stop: stop.clone(), value: PhantomData })
    }

    /// Sends the rest and ends our direction. The descriptor is closed when this returns.
    fn close(mut self) -> Result<()> {
        use std::io::Write as _;
        let socket = &self.origin.socket;
        if socket.is_datagram() {
            return match self.wfile.into_packet() {
                Some(packet) if self.stop.ended().is_none() => {
                    socket.send_to(&packet, &self.origin.client_address).map_err(Error::from)
                }
                _ => Ok(()),
            };
        }
        let flushed = self.wfile.flush();
        #[cfg(feature = "tls")]
        if socket.descriptor().is_cut() {
            socket.descriptor().reset_on_close();
            return Ok(flushed?);
        }
        // Bytes that cannot be sent are not tried again when the buffer is dropped.
        let how = if flushed.is_ok() { Shutdown::Write } else { Shutdown::Both };
        let _ = socket.shutdown(how); // An error means that the connection is gone.
        #[cfg(feature = "tls")]
        if flushed.is_ok() {
            socket.descriptor().linger();
        }
        Ok(flushed?)
    }
}

/// An attribute of a handler could not be set, for example because this kind of socket does not have it.
fn refused(name: &'static str, value: impl Debug, error: io::Error, reason: &'static str) -> Error {
    if error.kind() == io::ErrorKind::Unsupported { Error::setting(name, value, reason) } else { error.into() }
}

#[cfg(test)]
mod tests;
