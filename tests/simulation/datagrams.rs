//! The datagram server beside the others: what it answers is what was asked, and nobody else hears of it.

use std::collections::HashMap;
use std::io::Write;
use std::net::SocketAddr;
use std::time::Duration;

use socketserver::testing::Network;
use socketserver::{Address, EndReason, Limits, Next, Request, RequestHandler, Result, ServerId};

use crate::handlers::Site;
use crate::ledger::Books;
use crate::records::bytes_of;

/// What the peers of the datagram server have sent and not got back.
pub(crate) struct Correspondence {
    server: ServerId,
    /// It keeps sessions, a few.
    pub(crate) sessions: bool,
    /// Datagrams that were sent, their bytes, and those of the answers.
    pub(crate) sent: u64,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_answered: u64,
    /// By packet: who is to get it back.
    open: HashMap<Vec<u8>, Address>,
}

struct Answer {
    books: Books,
    finished: bool,
}

impl RequestHandler<Site> for Answer {
    fn handle(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        let finished = self.finished;
        self.books.expect(!finished, || "a datagram is handled after finish".to_owned());
        request.output.write_all(request.input.take_all())?;
        Ok(if self.books.open().rng.u8(..20) == 0 { Next::Close } else { Next::Wait })
    }

    fn finish(&mut self, _: &mut Request<'_, Site>, why: EndReason) {
        let finished = std::mem::replace(&mut self.finished, true);
        self.books.expect(!finished, || "finish of a datagram's handler is called twice".to_owned());
        let mut ledger = self.books.open();
        ledger.datagram_handlers -= 1;
        ledger.ends.push(why);
    }
}

impl Correspondence {
    pub(crate) fn new(network: &mut Network, books: &Books, limits: &Limits) -> Self {
        let mut limits = limits.clone();
        let sessions = books.open().rng.bool();
        limits.sessions_max = sessions.then_some(3);
        limits.idle_timeout.get_or_insert(Duration::from_secs(60)); // Nothing else ends a session.
        let made = books.clone();
        let server = network.serve_datagrams(
            Site(books.clone()),
            move |_, _| {
                made.open().datagram_handlers += 1;
                Answer { books: made.clone(), finished: false }
            },
            limits,
        );
        Correspondence {
            sessions,
            server: server.expect("no call fails yet"),
            sent: 0,
            bytes_sent: 0,
            bytes_answered: 0,
            open: HashMap::new(),
        }
    }

    pub(crate) fn server(&self) -> ServerId {
        self.server
    }

    /// One of a few peers sends a datagram that nobody has sent before.
    pub(crate) fn send(&mut self, network: &mut Network, peer: usize, bytes: usize) {
        let from: Address = SocketAddr::from(([198, 51, 100, peer as u8 % 8], 1_000)).into();
        let mut packet = self.sent.to_le_bytes().to_vec();
        packet.extend(bytes_of(peer, self.sent, bytes % 500));
        (self.sent, self.bytes_sent) = (self.sent + 1, self.bytes_sent + packet.len() as u64);
        network.send_datagram(self.server, &from, &packet);
        self.open.insert(packet, from);
    }

    /// Datagrams that were not answered, if none may be refused for want of a session.
    pub(crate) fn unanswered(&self) -> u64 {
        if self.sessions { 0 } else { self.open.len() as u64 }
    }

    /// Each answer is one that is owed, to the one that it is owed to.
    pub(crate) fn look(&mut self, network: &mut Network) -> std::result::Result<(), String> {
        for (to, packet) in network.received_datagrams(self.server) {
            self.bytes_answered += packet.len() as u64;
            match self.open.remove(&packet) {
                Some(from) if from == to => {}
                Some(from) => return Err(format!("what {from} has asked is answered to {to}")),
                None => return Err(format!("{to} is sent {} bytes that it has not asked for, or again", packet.len())),
            }
        }
        Ok(())
    }
}
