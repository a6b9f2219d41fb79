//! This crate, as its README shows it: default limits, timeouts on.

use crate::Served;
use crate::job::Job;
use socketserver::{Next, Request, RequestHandler, Result, TcpServer, UdpServer, UnixStreamServer};
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

pub(crate) fn tcp(at: SocketAddr, job: Job) -> Served {
    match job {
        Job::Echo => TcpServer::new(at, |_| Echo)?.serve_forever()?,
        Job::EchoOnce => TcpServer::new(at, |_| EchoOnce)?.serve_forever()?,
    }
    Ok(())
}

pub(crate) fn unix(at: &Path, job: Job) -> Served {
    match job {
        Job::Echo => UnixStreamServer::new(at, |_| Echo)?.serve_forever()?,
        Job::EchoOnce => UnixStreamServer::new(at, |_| EchoOnce)?.serve_forever()?,
    }
    Ok(())
}

pub(crate) fn udp(at: SocketAddr) -> Served {
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
