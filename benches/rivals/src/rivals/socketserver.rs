//! This crate, as its README shows it: default limits, timeouts on.

use super::Served;
use crate::job::Job;
use socketserver::{Next, Request, RequestHandler, Result, TcpServer, UdpServer};
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
