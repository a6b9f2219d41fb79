//! The servers that are part of this program, each in a process of its own.

mod socketserver;
mod tokio_rustls;

use std::net::SocketAddr;

use crate::certificate::Certificate;
use crate::raw;

#[derive(Clone, Copy, clap::ValueEnum)]
pub(crate) enum Kind {
    /// This crate without TLS: a server to compare with, and the echo behind a proxy.
    Plain,
    Socketserver,
    Raw,
    TokioRustls,
}

/// Serves until the process is killed.
pub(crate) fn serve(kind: Kind, address: SocketAddr, certificate: &Certificate) {
    match kind {
        Kind::Plain => socketserver::serve(address, None),
        Kind::Socketserver => socketserver::serve(address, Some(certificate.server())),
        Kind::Raw => raw::serve(address, &certificate.server()),
        Kind::TokioRustls => tokio_rustls::serve(address, certificate.server()),
    }
}

pub(crate) use socketserver::add_echo;
