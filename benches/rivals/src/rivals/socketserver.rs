//! This crate, as its README shows it: default limits, timeouts on.

use super::Served;
use crate::job::Job;
use socketserver::{Next, Request, RequestHandler, Result, Spread, TcpServer, UdpServer, Workers, WorkersConfig};
use std::io::Write;
use std::net::SocketAddr;

pub(crate) fn streams(at: SocketAddr, job: Job) -> Served {
    if job == Job::EchoOnce {
        TcpServer::new(at, |_| EchoOnce)?.serve_forever()?;
    } else {
        TcpServer::new(at, |_| Echo)?.serve_forever()?;
    }
    Ok(())
}

pub(crate) fn datagrams(at: SocketAddr) -> Served {
    UdpServer::new(at, |_| Echo)?.serve_forever()?;
    Ok(())
}

pub(crate) fn workers(at: SocketAddr, threads: usize, spread: Spread) -> Served {
    let mut config = WorkersConfig::default();
    config.spread = spread;
    let workers = Workers::with_config(threads, config, move |worker| {
        let mut server = TcpServer::unbound(|_| Echo);
        worker.server_bind(&mut server, at)?;
        worker.add(server)
    })?;
    Ok(workers.serve_forever()?)
}

struct Echo;

impl RequestHandler for Echo {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }
}

struct EchoOnce;

impl RequestHandler for EchoOnce {
    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Close)
    }
}
