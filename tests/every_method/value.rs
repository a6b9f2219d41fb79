//! The value of a server: hooks that call their arguments' methods in random order.

use std::io;
use std::net::Shutdown;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use fastrand::Rng;
use socketserver::{
    Address, BaseServer, EndReason, Error, Incoming, Listener, Message, Others, RequestHandler, ServeOn, Socket,
    Stream, TlsAcceptor,
};

use crate::chaos::Chaos;
use crate::ledger::Ledger;
use crate::meddling::meddle;
use crate::methods::{call, note};
use crate::secure::acceptor;
use crate::waiting::{datagram_handler, program, stream_handler};

/// Where its requests may be served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Places {
    Reactor,
    All,
}

pub(crate) struct Value {
    pub(crate) rng: Rng,
    pub(crate) ledger: Arc<Ledger>,
    places: Places,
    /// One hook in so many panics; 0 for none.
    rage: u32,
    /// Its hooks do nothing of their own.
    calm: bool,
    /// It puts TLS on every connection.
    secure: bool,
}

impl Value {
    pub(crate) fn new(ledger: &Arc<Ledger>, rng: &mut Rng, places: Places) -> Self {
        let rage = if rng.u32(..4) == 0 { 30 } else { 0 };
        Value { rng: rng.fork(), ledger: Arc::clone(ledger), places, rage, calm: false, secure: false }
    }

    /// A value whose hooks do what they do by default.
    pub(crate) fn calm(ledger: &Arc<Ledger>, rng: &mut Rng) -> Self {
        Value { rage: 0, calm: true, ..Value::new(ledger, rng, Places::Reactor) }
    }

    /// The same over TLS.
    pub(crate) fn secure(ledger: &Arc<Ledger>, rng: &mut Rng) -> Self {
        Value { secure: true, ..Value::calm(ledger, rng) }
    }

    fn hook(&mut self, name: &'static str) {
        note(name);
        if self.rage > 0 && self.rng.u32(..self.rage) == 0 {
            self.ledger.panic();
        }
    }
}

impl BaseServer for Value {
    fn server_bind(&mut self, socket: &Socket, address: &Address) -> io::Result<()> {
        note("BaseServer::server_bind");
        call!(Socket::bind(socket, address))
    }

    fn server_activate(&mut self, socket: &Socket, request_queue_size: i32) -> io::Result<()> {
        note("BaseServer::server_activate");
        call!(Socket::listen(socket, request_queue_size))
    }

    fn get_request(&mut self, listener: &mut Listener) -> io::Result<(Stream, Address)> {
        self.hook("BaseServer::get_request");
        let _ = call!(Listener::address(listener)).to_string();
        let (stream, address) = call!(Listener::accept(listener))?;
        match self.rng.u32(..30) {
            0 if !self.calm => Err(io::Error::other("scripted")),
            1 if !self.calm => Ok((call!(TlsAcceptor::wrap_socket(&acceptor(&mut self.rng), stream)), address)),
            _ if self.secure => Ok((acceptor(&mut self.rng).wrap_socket(stream), address)),
            _ => Ok((stream, address)),
        }
    }

    fn verify_request(&mut self, request: &Incoming<'_>, client_address: &Address) -> bool {
        self.hook("BaseServer::verify_request");
        let _ = (call!(Incoming::local_address(request)), client_address.to_string());
        if let Incoming::Stream(stream) = request {
            let is_unix = client_address.ip().is_none();
            let peer = call!(Stream::peer_credentials(stream));
            self.ledger.expect(call!(Stream::proxy_header(stream)).is_none(), "no client is a proxy");
            // A scripted stream has none.
            self.ledger.expect(is_unix || peer.is_err(), "only Unix sockets have credentials");
        }
        self.calm || self.rng.u32(..20) > 0
    }

    fn process_request(&mut self, request: &Incoming<'_>, _: &Address) -> ServeOn<Self> {
        self.hook("BaseServer::process_request");
        if self.places == Places::Reactor {
            return ServeOn::Reactor;
        }
        match (self.rng.u32(..12), request) {
            (0 | 1, Incoming::Stream(_)) => call!(ServeOn::thread(stream_handler(&mut self.rng, &self.ledger))),
            (0 | 1, _) => call!(ServeOn::thread(datagram_handler(&mut self.rng, &self.ledger))),
            (2, _) if self.rng.u32(..6) == 0 => call!(ServeOn::program(program(&mut self.rng))),
            _ => ServeOn::Reactor,
        }
    }

    fn finish_request(&mut self, _: &Address) -> Option<Box<dyn RequestHandler<Self>>> {
        self.hook("BaseServer::finish_request");
        match self.rng.u32(..6) {
            0 if !self.calm => Some(Box::new(Chaos::new(&self.ledger, &mut self.rng))),
            _ => None,
        }
    }

    fn shutdown_request(&mut self, request: &Stream, _: &Address) -> io::Result<()> {
        self.hook("BaseServer::shutdown_request");
        let _ = (call!(Stream::local_address(request)), call!(Stream::as_fd(request)).is_some());
        match self.rng.bool() {
            true => call!(Stream::shutdown(request, Shutdown::Write)),
            false => Ok(()),
        }
    }

    fn close_request(&mut self, _: &Address, why: EndReason) {
        self.ledger.closed.fetch_add(1, Ordering::SeqCst);
        if why == EndReason::Refused {
            self.ledger.refused.fetch_add(1, Ordering::SeqCst);
        }
        self.hook("BaseServer::close_request");
    }

    fn datagram_truncated(&mut self, packet: &[u8], _: &Address) -> bool {
        self.hook("BaseServer::datagram_truncated");
        !packet.is_empty() && self.rng.bool()
    }

    fn handle_error(&mut self, _: &Address, error: &Error) {
        let _ = format!("{error:#}");
        self.hook("BaseServer::handle_error");
    }

    fn handshake_failed(&mut self, _: &Address, error: &Error) {
        let documented = matches!(error, Error::Tls { .. } | Error::TimeLimit { .. });
        self.ledger.expect(documented, "a handshake fails with one of two errors");
        self.hook("BaseServer::handshake_failed");
    }

    fn handle_timeout(&mut self) {
        self.hook("BaseServer::handle_timeout");
    }

    fn stopping(&mut self, others: &mut Others<'_, Self>) {
        self.hook("BaseServer::stopping");
        self.ledger.expect(others.is_stopping(), "a hook that is called at a stop");
        if !self.calm {
            meddle(&mut self.rng, &self.ledger, others);
        }
    }

    fn reload(&mut self, others: &mut Others<'_, Self>) {
        self.hook("BaseServer::reload");
        if !self.calm {
            meddle(&mut self.rng, &self.ledger, others);
        }
    }

    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        self.hook("BaseServer::service_actions");
        if !self.calm && self.rng.u32(..20) == 0 {
            meddle(&mut self.rng, &self.ledger, others);
        }
    }

    fn timer(&mut self, others: &mut Others<'_, Self>, tag: u64) {
        self.ledger.expect(tag < 3, "the tag of a server's timer is one that was set");
        self.hook("BaseServer::timer");
        meddle(&mut self.rng, &self.ledger, others);
    }

    fn message(&mut self, others: &mut Others<'_, Self>, message: Message) {
        self.hook("BaseServer::message");
        // It was wrapped twice.
        let inner = message.downcast::<Message>().and_then(|message| message.downcast::<u8>());
        self.ledger.expect(inner.is_ok_and(|n| n == 7), "a server's message is what was sent");
        meddle(&mut self.rng, &self.ledger, others);
    }

    fn server_close(&mut self) {
        self.hook("BaseServer::server_close");
    }
}
