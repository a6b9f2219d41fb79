//! Traps of TLS: of the protocol, of rustls' unbuffered sessions, and of peers that mean harm.

use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use rustls::{AlertDescription, ProtocolVersion};
use socketserver::testing::{Client, Script, Tls, check_chunking};
use socketserver::{EndReason, Limits, Next, Request, Timeout, TlsAcceptor};

use crate::common::tls::{LOCALHOST, TLS12, TLS13, VERSIONS, acceptor, client_config, server_config};
use crate::common::{Call, echo, probe, usual};

fn echoing() -> impl socketserver::RequestHandler {
    probe(|call, request| echo(&call, request))
}

fn tls() -> Tls {
    Tls::new(&acceptor(), client_config(&VERSIONS), "localhost").unwrap()
}

#[test]
fn the_same_handler_serves_tls_of_both_versions() {
    for version in VERSIONS {
        let tls = Tls::new(&acceptor(), client_config(&[version]), "localhost").unwrap();
        let mut client = Client::new_tls(echoing(), &tls);
        client.feed(b"hel");
        client.feed(b"lo");
        assert_eq!(client.sent(), b"hello");
        client.feed_eof();
        assert!(client.tls().unwrap().is_closed());
        assert_eq!(client.transcript(), ["setup", "handle 3", "handle 2", "eof", "finish peer closed"]);
        assert!(!client.is_reset());
        let stats = client.stats();
        assert_eq!((stats.handshakes, stats.handshakes_completed, stats.handshakes_failed), (1, 1, 0));
        assert_eq!((stats.bytes_in, stats.bytes_out), (5, 5));
    }
}

#[test]
fn the_wire_may_be_cut_anywhere() {
    let lines = |call: Call, request: &mut Request<'_>| {
        if matches!(call, Call::Handle) {
            while let Some(line) = request.input.read_line()? {
                request.output.write_all(&line.to_ascii_uppercase())?;
            }
            return Ok(Next::Wait);
        }
        usual(&call, request)
    };
    for piece in [1, 7, 64, 1_000] {
        let tls = tls().pieces(piece);
        check_chunking(b"one\ntwo\nthree", || Client::new_tls(probe(lines), &tls));
    }
}

#[test]
fn much_data_passes_in_both_directions() {
    let much: Vec<u8> = (0..3_000_000u32).map(|byte| (byte * 7 >> 3) as u8).collect();
    for piece in [usize::MAX, 1_448] {
        let mut client = Client::new_tls(echoing(), &tls().pieces(piece));
        client.feed(&much);
        assert!(client.sent() == much);
        client.feed_eof();
        assert_eq!(client.finished(), Some(EndReason::PeerClosed));
    }
}
