//! This crate.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;

use rustls::ServerConfig;
use socketserver::{
    Limits, Next, Reactor, Request, RequestHandler, Result, ServerId, TcpOptions, TcpServer, TlsAcceptor,
};

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

pub(crate) fn serve(address: SocketAddr, tls: Option<Arc<ServerConfig>>) {
    let mut reactor = Reactor::new().expect("a reactor");
    add_echo(&mut reactor, address, tls);
    reactor.serve_forever().expect("it serves");
}

pub(crate) fn add_echo(reactor: &mut Reactor, address: SocketAddr, tls: Option<Arc<ServerConfig>>) -> ServerId {
    let mut options = TcpOptions::default();
    options.tls = tls.map(TlsAcceptor::new);
    let mut unbound = TcpServer::unbound(|_| Echo);
    unbound.server_bind_with(address, options).expect("the port is free");
    // The clients that are measured have come to stay.
    let mut limits = Limits::default();
    limits.handshake_timeout = None;
    limits.idle_timeout = None;
    unbound.limits = limits;
    reactor.add(unbound.server_activate().expect("it listens")).expect("there is room")
}
