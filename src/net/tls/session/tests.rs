//! Sessions at both ends of a pipe in memory, against rustls' own buffered client.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Read, Write};
use std::sync::LazyLock;

use rustls::client::ClientConnection;
use rustls::pki_types::PrivateKeyDer;
use rustls::{AlertDescription, RootCertStore};

use super::*;
use crate::net::layered::{BUFFER_BYTES_MIN, Layered, Received};

/// What has arrived at a socket, in pieces, and what was sent.
#[derive(Debug, Default)]
struct Socket {
    arrived: VecDeque<Vec<u8>>,
    sent: Vec<u8>,
    /// How much more it takes.
    room: Option<usize>,
    at_end: bool,
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(piece) = self.arrived.front_mut() else {
            return if self.at_end { Ok(0) } else { Err(io::ErrorKind::WouldBlock.into()) };
        };
        let n = piece.len().min(buffer.len());
        buffer[..n].copy_from_slice(&piece[..n]);
        piece.drain(..n);
        if piece.is_empty() {
            self.arrived.pop_front();
        }
        Ok(n)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let n = bytes.len().min(self.room.unwrap_or(usize::MAX));
        self.room = self.room.map(|room| room - n);
        self.sent.extend_from_slice(&bytes[..n]);
        if n == 0 && !bytes.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(n) }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

static CONFIGS: LazyLock<(Arc<ServerConfig>, Arc<ClientConfig>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let server = ServerConfig::builder().with_no_client_auth();
    let server = server.with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let client = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    (server_name::noting(&server), Arc::new(client))
});

/// A session and its peer.
struct Pair {
    server: Layered<Socket, Session>,
    client: ClientConnection,
    buffer: Vec<u8>,
    opened: Vec<u8>,
    piece: usize,
}

impl Pair {
    fn new(piece: usize) -> Self {
        let (server, client) = &*CONFIGS;
        let start = Arc::new(Side::Server(ServerStart { config: server.clone(), suppress_ragged_eofs: false }));
        let name = ServerName::try_from("localhost").unwrap();
        Pair {
            server: Layered::new(Socket::default(), start, 0, 0),
            client: ClientConnection::new(client.clone(), name).unwrap(),
            buffer: vec![0; BUFFER_BYTES_MIN],
            opened: Vec::new(),
            piece,
        }
    }

    fn connected(piece: usize) -> Self {
        let mut pair = Pair::new(piece);
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.exchange();
        }
        pair
    }

    /// The client's bytes, on their way.
    fn say(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        while self.client.wants_write() {
            self.client.write_tls(&mut wire).unwrap();
        }
        wire
    }

    fn deliver(&mut self, wire: &[u8]) {
        self.server.socket.arrived.extend(wire.chunks(self.piece).map(<[u8]>::to_vec));
    }

    /// Reads everything that has arrived. Returns what was neither bytes nor nothing.
    fn read(&mut self) -> Option<Received> {
        loop {
            match self.server.read(&mut self.buffer, usize::MAX, 1) {
                Ok(Received::Bytes { plain, .. }) => self.opened.extend_from_slice(&self.buffer[..plain]),
                Ok(other) => return Some(other),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// What the server has sent arrives at the client. Returns its plaintext.
    fn hear(&mut self) -> Result<Vec<u8>, rustls::Error> {
        self.server.flush().unwrap();
        let wire = std::mem::take(&mut self.server.socket.sent);
        let (mut rest, mut plain) = (&wire[..], Vec::new());
        while !rest.is_empty() {
            self.client.read_tls(&mut rest).unwrap();
            let state = self.client.process_new_packets()?;
            let from = plain.len();
            plain.resize(from + state.plaintext_bytes_to_read(), 0);
            self.client.reader().read_exact(&mut plain[from..]).unwrap();
        }
        Ok(plain)
    }

    fn exchange(&mut self) {
        let wire = self.say();
        self.deliver(&wire);
        let ended = self.read();
        assert!(ended.is_none(), "{ended:?}");
        self.hear().unwrap();
    }
}

fn write(layered: &mut Layered<Socket, Session>, bytes: &[u8]) -> io::Result<usize> {
    layered.write(&[IoSlice::new(bytes)])
}

#[test]
fn bytes_pass_in_both_directions_however_the_wire_is_cut() {
    for piece in [1, 5, 64, 1_000, usize::MAX] {
        let mut pair = Pair::connected(piece);
        assert_eq!(pair.server.layer().unwrap().server_name(), Some("localhost"));
        let much: Vec<u8> = (0..40_000u32).map(|byte| (byte >> 3) as u8).collect();
        pair.client.writer().write_all(&much).unwrap();
        pair.exchange();
        assert!(pair.opened == much, "in pieces of {piece}");
        assert_eq!(write(&mut pair.server, &much).unwrap(), much.len());
        assert!(pair.hear().unwrap() == much);
        assert!(!pair.server.has_carried() && !pair.server.has_sealed());
    }
}

/// Splits a record of the handshake.
fn in_small_records(wire: &[u8], size: usize) -> Vec<u8> {
    let mut records = Vec::new();
    let mut rest = wire;
    while !rest.is_empty() {
        let length = usize::from(u16::from_be_bytes([rest[3], rest[4]]));
        for part in rest[5..5 + length].chunks(size) {
            records.extend_from_slice(&rest[..3]);
            records.extend_from_slice(&(part.len() as u16).to_be_bytes());
            records.extend_from_slice(part);
        }
        rest = &rest[5 + length..];
    }
    records
}

#[test]
fn a_hello_in_small_records_is_carried_as_the_session_left_it() {
    for (size, piece) in [(64, usize::MAX), (64, 1), (64, 69), (1, 1), (1, 6), (1, usize::MAX)] {
        let mut pair = Pair::new(piece);
        let hello = pair.say();
        pair.deliver(&in_small_records(&hello, size));
        assert!(pair.read().is_none());
        while pair.client.is_handshaking() || pair.server.is_handshaking() {
            pair.hear().unwrap();
            pair.exchange();
        }
    }
}

#[test]
fn half_a_hello_and_then_our_end_does_not_panic() {
    let mut pair = Pair::new(usize::MAX);
    let hello = in_small_records(&pair.say(), 64);
    pair.deliver(&hello[..200]);
    assert!(pair.read().is_none() && pair.server.has_carried());
    assert_eq!(write(&mut pair.server, b"early").unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert!(pair.server.close(0).unwrap());
    assert!(pair.server.socket.sent.is_empty());
}

#[test]
fn what_was_carried_is_there_when_something_is_sealed() {
    let mut pair = Pair::connected(usize::MAX);
    pair.client.writer().write_all(b"question").unwrap();
    let wire = pair.say();
    pair.deliver(&wire[..10]);
    assert!(pair.read().is_none() && pair.server.has_carried());
    assert_eq!(write(&mut pair.server, b"answer").unwrap(), 6);
    assert_eq!(pair.hear().unwrap(), b"answer");
    pair.deliver(&wire[10..]);
    assert!(pair.read().is_none());
    assert_eq!(pair.opened, b"question");
}

#[test]
fn garbage_gets_exactly_one_alert() {
    for garbage in
        [&b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..], &[0x16, 3, 1, 0, 4, 99, 0, 0, 0][..], &[0xff; 600]]
    {
        for piece in [1, usize::MAX] {
            let mut pair = Pair::new(piece);
            pair.deliver(garbage);
            let ended = pair.read();
            assert!(matches!(ended, Some(Received::Failed(_))), "{ended:?}");
            pair.deliver(garbage);
            let _ = pair.read();
            assert!(pair.server.close(0).unwrap() && pair.server.flush().unwrap());
            let sent = &pair.server.socket.sent;
            assert_eq!((sent.len(), sent[0], sent[5]), (7, 21, 2), "{sent:?}");
        }
    }
}

#[test]
fn what_is_wrong_after_our_close_notify_is_not_answered() {
    for update in [false, true] {
        let mut pair = Pair::connected(usize::MAX);
        assert!(pair.server.close(0).unwrap());
        assert_eq!(pair.hear().unwrap(), b"");
        if update {
            pair.client.refresh_traffic_keys().unwrap();
        }
        let wire = [pair.say(), vec![0xff; 600]].concat();
        pair.deliver(&wire);
        assert!(matches!(pair.read(), Some(Received::Failed(_))));
        assert!(pair.server.flush().unwrap() && !pair.server.keeps());
        assert!(pair.server.socket.sent.is_empty(), "something follows `close_notify`");
    }
}

#[test]
fn a_changed_record_gets_one_alert_after_the_good_ones_were_opened() {
    let mut pair = Pair::connected(usize::MAX);
    pair.client.writer().write_all(b"good").unwrap();
    let mut wire = pair.say();
    pair.client.writer().write_all(b"changed").unwrap();
    let mut changed = pair.say();
    *changed.last_mut().unwrap() ^= 1;
    wire.extend_from_slice(&changed);
    pair.deliver(&wire);
    assert!(matches!(pair.read(), Some(Received::Failed(_))));
    assert_eq!(pair.opened, b"good");
    assert!(pair.server.close(0).unwrap());
    assert_eq!(pair.hear().unwrap_err(), rustls::Error::AlertReceived(AlertDescription::BadRecordMac));
    assert_eq!(write(&mut pair.server, b"late").unwrap_err().kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_long_hello_in_tiny_records_is_refused_before_it_is_all_carried() {
    let mut pair = Pair::new(16 * 1024);
    // A hello of 65,000 bytes, of which each byte comes with a header.
    let mut hello = vec![0x16, 3, 1, 0, 4, 1, 0, 0xfd, 0xe8];
    hello.extend([0x16, 3, 1, 0, 1, 0].repeat(65_000));
    pair.deliver(&hello);
    assert!(matches!(pair.read(), Some(Received::Failed(_))));
    assert!(pair.server.socket.arrived.len() > 10, "it read nearly all of it");
}

#[test]
fn ciphertext_is_at_most_64_kib_ahead_of_the_socket_and_no_byte_is_sealed_twice() {
    let much: Vec<u8> = (0..300_000u32).map(|byte| (byte >> 2) as u8).collect();
    let mut pair = Pair::connected(usize::MAX);
    let (mut from, mut heard, mut rooms) = (0, Vec::new(), [0, 1, 100, 20_000, 0, 70_000, 3].iter().cycle());
    while from < much.len() {
        pair.server.socket.room = rooms.next().copied();
        match write(&mut pair.server, &much[from..much.len().min(from + 100_000)]) {
            Ok(taken) => from += taken,
            Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
        }
        assert!(pair.server.sealed_len() <= 65 * 1024, "{}", pair.server.sealed_len());
        let wire = std::mem::take(&mut pair.server.socket.sent);
        let mut rest = &wire[..];
        while !rest.is_empty() {
            pair.client.read_tls(&mut rest).unwrap();
            let state = pair.client.process_new_packets().unwrap();
            let before = heard.len();
            heard.resize(before + state.plaintext_bytes_to_read(), 0);
            pair.client.reader().read_exact(&mut heard[before..]).unwrap();
        }
    }
    assert!(!pair.server.has_sealed(), "all plaintext was reported, and some ciphertext is left");
    assert!(heard == much);
}

#[test]
fn small_pieces_share_a_record() {
    let mut pair = Pair::connected(usize::MAX);
    let pieces = vec![b"0123456789".to_vec(); 100];
    let slices: Vec<_> = pieces.iter().map(|piece| IoSlice::new(piece)).collect();
    assert_eq!(pair.server.write(&slices).unwrap(), 1_000);
    assert!(pair.server.socket.sent.len() < 1_040);
    assert_eq!(pair.hear().unwrap(), pieces.concat());
}

#[test]
fn the_answer_to_a_key_update_comes_before_later_data() {
    let mut pair = Pair::connected(usize::MAX);
    for round in 0..50 {
        pair.client.refresh_traffic_keys().unwrap();
        pair.client.writer().write_all(b"question").unwrap();
        pair.exchange();
        write(&mut pair.server, b"answer").unwrap();
        assert_eq!(pair.hear().unwrap(), b"answer", "round {round}");
    }
    assert_eq!(pair.opened, b"question".repeat(50));
}

#[test]
fn nothing_is_carried_after_the_end() {
    let mut pair = Pair::connected(usize::MAX);
    pair.client.writer().write_all(b"last").unwrap();
    pair.client.send_close_notify();
    let wire = [pair.say(), vec![0xff; 10_000]].concat();
    pair.deliver(&wire);
    assert!(matches!(pair.read(), Some(Received::Closed)));
    assert_eq!(pair.opened, b"last");
    assert!(!pair.server.has_carried());
    assert_eq!(write(&mut pair.server, b"answer").unwrap(), 6);
    assert_eq!(pair.hear().unwrap(), b"answer");
    assert!(pair.server.close(0).unwrap());
    assert_eq!(pair.hear().unwrap(), b"");
}

#[test]
fn the_end_of_the_socket_alone_is_no_end() {
    let mut pair = Pair::connected(usize::MAX);
    pair.client.writer().write_all(b"half a li").unwrap();
    let wire = pair.say();
    pair.deliver(&wire);
    pair.server.socket.at_end = true;
    assert!(matches!(pair.read(), Some(Received::Truncated)));
    assert!(pair.server.is_at_end());
}

#[test]
fn our_client_speaks_first_and_checks_the_name() {
    for (name, expected) in [("localhost", true), ("example.org", false)] {
        let (server, client) = &*CONFIGS;
        let start =
            Arc::new(Side::Client(ClientStart { config: client.clone(), name: ServerName::try_from(name).unwrap() }));
        let mut ours = Layered::<_, Session>::new(Socket::default(), start, 0, 0);
        let mut theirs = rustls::ServerConnection::new(server.clone()).unwrap();
        let mut buffer = vec![0; BUFFER_BYTES_MIN];
        ours.speak().unwrap();
        let mut failed = None;
        while ours.is_handshaking() && failed.is_none() {
            ours.flush().unwrap();
            let wire = std::mem::take(&mut ours.socket.sent);
            theirs.read_tls(&mut &wire[..]).unwrap();
            theirs.process_new_packets().unwrap();
            let mut wire = Vec::new();
            while theirs.wants_write() {
                theirs.write_tls(&mut wire).unwrap();
            }
            ours.socket.arrived.push_back(wire);
            for _ in 0..2 {
                match ours.read(&mut buffer, usize::MAX, 0) {
                    Ok(Received::Failed(error)) => failed = Some(error.to_string()),
                    Ok(Received::Bytes { .. }) => {}
                    Ok(other) => panic!("{other:?}"),
                    Err(error) => assert_eq!(error.kind(), io::ErrorKind::WouldBlock),
                }
            }
        }
        assert_eq!(failed.is_none(), expected, "{failed:?}");
        assert!(failed.is_none_or(|failed| failed.contains("not valid for name")));
    }
}
