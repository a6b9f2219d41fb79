//! The argument of a blocking handler.

use std::fmt;
use std::marker::PhantomData;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::files::{BlockingReader, BlockingWriter};
use super::socket::BlockingSocket;
use super::stop::Stop;
use crate::address::Address;
use crate::error::{Error, Result};
use crate::ids::{ConnectionId, ServerId};
use crate::net::Header;
use crate::reactor::handle::Handle;

/// The origin of a request: the reactor's data about it.
pub(crate) struct Origin {
    /// Its id, which is known when it has its slot.
    pub(crate) id: ConnectionId,
    pub(crate) socket: BlockingSocket,
    pub(crate) client_address: Address,
    pub(crate) local_address: Option<Address>,
    #[cfg_attr(not(all(unix, feature = "proxy-protocol")), expect(dead_code, reason = "it is nothing"))]
    pub(crate) header: Header,
    /// Access to the reactor.
    pub(crate) handle: Handle,
    pub(crate) server: ServerId,
}

/// One request on a thread: its input and output as files, and access to its server.
///
/// `rfile` and `wfile` are fields, so one can be used while the other is borrowed. They share the one descriptor of the
/// socket, which is closed when the request is over.
///
/// Source: `self` of a Python request handler, with its `request`, `rfile`, `wfile`, `client_address` and `server`.
///
/// ```
/// use socketserver::{BaseServer, BlockingRequest, Result, StreamRequestHandler, ThreadingTcpServer};
/// use std::io::{BufRead as _, Write as _};
///
/// struct Scores { best: u32 }
/// impl BaseServer for Scores {}
///
/// fn keep(request: &mut BlockingRequest<Scores>) -> Result<()> {
///     let mut line = String::new();
///     request.rfile.read_line(&mut line)?;
///     let score: u32 = line.trim().parse()?;
///     let best = request.server(move |scores| {
///         scores.best = scores.best.max(score);
///         scores.best
///     })?;
///     writeln!(request.wfile, "{}: the best is {best}", request.client_address())?;
///     Ok(())
/// }
/// let handler = |_: &mut Scores, _: &_| StreamRequestHandler::new(keep);
/// let server = ThreadingTcpServer::with_server("127.0.0.1:0", Scores { best: 0 }, handler)?;
/// # Ok::<(), socketserver::Error>(())
/// ```
///
/// `S` is the type of the server's value, which implements [`BaseServer`](crate::BaseServer). The compiler refuses
/// another type:
///
/// ```compile_fail,E0631
/// # use socketserver::{BlockingRequest, Result};
/// # struct Scores { best: u32 }
/// fn keep(request: &mut BlockingRequest<Scores>) -> Result<()> {
///     request.server(|best: &mut u32| *best += 1)
/// }
/// ```
pub struct BlockingRequest<S = ()> {
    /// The input of the client: Python's `rfile`.
    pub rfile: BlockingReader,
    /// The output to the client: Python's `wfile`.
    pub wfile: BlockingWriter,
    pub(super) origin: Origin,
    pub(super) stop: Stop,
    pub(super) value: PhantomData<fn(&mut S)>,
}

impl<S> BlockingRequest<S> {
    /// Returns this request's id, which [`Others::connections`](crate::Others::connections) lists. Other code can
    /// [close](crate::Others::close) the request with it, but cannot [send](crate::Others::send) to it.
    pub fn id(&self) -> ConnectionId {
        self.origin.id
    }

    /// Returns the client's address.
    pub fn client_address(&self) -> Address {
        self.origin.client_address.clone()
    }

    /// Returns the address of our end of the connection, or the address to which a datagram was sent. `None` if it is
    /// unknown.
    pub fn local_address(&self) -> Option<Address> {
        self.origin.local_address.clone()
    }

    /// Returns the header with which a proxy has begun the connection: see
    /// [`ProxyProtocol`](crate::ProxyProtocol). `None` if there was none. Feature `proxy-protocol`.
    #[cfg(all(unix, feature = "proxy-protocol"))]
    pub fn proxy_header(&self) -> Option<&crate::net::ProxyHeader> {
        self.origin.header.as_deref()
    }

    /// Returns the socket: Python's `self.request`.
    pub fn socket(&self) -> &BlockingSocket {
        &self.origin.socket
    }

    /// Runs a closure with the server's value on the reactor's thread, and returns its result. This is Python's
    /// `self.server`, but without a lock: the reactor runs one closure at a time, between its callbacks. The closure
    /// must not block, because all clients would have to wait.
    ///
    /// # Errors
    /// [`Error::Gone`] if the request was ended, the server is closed, or the reactor is gone: the closure then never runs.
    /// [`Error::Full`] if
    /// [`ReactorConfig::messages_max`](crate::ReactorConfig) messages wait; [`Error::Panicked`] if the closure
    /// panicked.
    pub fn server<R: Send + 'static>(&self, run: impl FnOnce(&mut S) -> R + Send + 'static) -> Result<R>
    where
        S: 'static,
    {
        let (question, result) = (Arc::new(Mutex::new(Some(run))), Arc::new(Mutex::new(None)));
        let answer = Answer { result: Arc::clone(&result), stop: self.stop.clone() };
        let (id, asked) = (self.origin.server, Arc::clone(&question));
        self.origin.handle.run(move |reactor| {
            // Locked until it is answered. A thread that stops waiting takes the question back, or finds the answer.
            let mut asked = lock(&asked);
            if let Some(run) = asked.take() {
                answer.give(reactor.ask(id, run));
            }
        })?;
        let answered = || lock(&result).take();
        self.stop.wait(answered).unwrap_or_else(|| {
            let _taken_back = lock(&question).take();
            answered().unwrap_or(Err(Error::Gone))
        })
    }

    /// Returns whether a stop of the reactor was requested. A handler that serves one client for a long time should then
    /// send its last answer, for example with `Connection: close`, and return.
    ///
    /// Source: none in Python, where `shutdown` does not tell the handlers.
    pub fn is_stopping(&self) -> bool {
        self.stop.ended().is_some() || self.origin.handle.shutdown_handle().is_requested()
    }

    /// Returns a handle of the reactor, for messages to its connections and for stopping it.
    pub fn handle(&self) -> Handle {
        self.origin.handle.clone()
    }

    /// Returns the id of the server.
    pub fn server_id(&self) -> ServerId {
        self.origin.server
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread waits for this. Dropping it without an answer also ends the wait.
struct Answer<R> {
    result: Arc<Mutex<Option<Result<R>>>>,
    stop: Stop,
}

impl<R> Answer<R> {
    fn give(&self, result: Result<R>) {
        lock(&self.result).get_or_insert(result);
        self.stop.wake();
    }
}

impl<R> Drop for Answer<R> {
    fn drop(&mut self) {
        self.give(Err(Error::Gone));
    }
}

impl<S> fmt::Debug for BlockingRequest<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BlockingRequest")
            .field("client_address", &self.origin.client_address)
            .field("request", &self.origin.socket)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::panic::resume_unwind;

    use super::*;
    use crate::blocking::StreamRequestHandler;
    use crate::blocking::serve_on::Work;
    use crate::blocking::tests::{Served, origin, pair, rest, serve};
    use crate::reactor::Reactor;
    use crate::reactor::entries::{Ended, Stopper as _};

    #[test]
    fn a_thread_calls_a_closure_with_the_server_s_value() {
        struct Counter(u32);
        impl crate::BaseServer for Counter {}
        struct Idle;
        impl crate::RequestHandler<Counter> for Idle {
            fn handle(&mut self, _: &mut crate::Request<'_, Counter>) -> Result<crate::Next> {
                Ok(crate::Next::Wait)
            }
        }
        let mut reactor = Reactor::new().unwrap();
        let server = crate::TcpServer::with_server("127.0.0.1:0", Counter(41), |_, _| Idle).unwrap();
        let server = reactor.add(server).unwrap();
        let (socket, mut peer) = pair();
        let origin = Origin { handle: reactor.handle(), server, ..origin(socket) };
        let handler = StreamRequestHandler::new(|request| {
            let count = request.server(|counter: &mut Counter| {
                counter.0 += 1;
                counter.0
            })?;
            let panicked = request.server(|_: &mut Counter| resume_unwind(Box::new("scripted")));
            assert!(matches!(panicked, Err(Error::Panicked { .. })));
            write!(request.wfile, "{count} {}", request.server_id() == request.origin.server)?;
            request.handle().shutdown_handle().shutdown();
            Ok(())
        });
        let served = Served::begin(Work::Handler(Box::new(handler)), origin);
        reactor.serve_forever().unwrap();
        assert_eq!(rest(&mut peer), "42 true");
        served.result().unwrap();
        assert_eq!(reactor.stats().panics, 1);
    }

    #[test]
    fn a_thread_does_not_wait_for_a_reactor_that_is_gone_or_for_ever() {
        let ask = || StreamRequestHandler::new(|request| request.server(|(): &mut ()| ()));
        let (served, _peer) = serve(ask());
        assert!(matches!(served.result(), Err(Error::Gone)));

        // One that does not turn: the closure waits until it goes, or until the request is ended.
        for ended in [false, true] {
            let reactor = Reactor::new().unwrap();
            let (socket, _peer) = pair();
            let origin = Origin { handle: reactor.handle(), ..origin(socket) };
            let served = Served::begin(Work::Handler(Box::new(ask())), origin);
            assert!(served.is_running());
            if ended {
                served.stop.end(Ended::Closed)
            } else {
                drop(reactor)
            }
            assert!(matches!(served.result(), Err(Error::Gone)));
        }
    }
}
