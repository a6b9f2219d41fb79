//! The datagrams, of a server of their own or of the one that has the connections: what is answered is what was asked, and
//! no other peer receives it.

use std::collections::HashMap;
use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use socketserver::testing::Network;
use socketserver::{Address, EndReason, Limits, Next, NoHandler, Request, RequestHandler, Result, ServerId};

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
    /// By packet: the address that is to get it back.
    open: HashMap<Vec<u8>, Address>,
}

/// Returns whether this is the address of a peer that sends datagrams.
pub(crate) fn is_correspondent(address: &Address) -> bool {
    address.as_inet().is_some_and(|address| address.ip() >= HOSTS[0] && address.ip() <= HOSTS[1])
}

const HOSTS: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 0)), IpAddr::V4(Ipv4Addr::new(198, 51, 100, 7))];

pub(crate) struct Answer {
    books: Books,
    finished: bool,
}

impl Answer {
    pub(crate) fn new(books: &Books) -> Box<Self> {
        books.open().datagram_handlers += 1;
        Box::new(Answer { books: books.clone(), finished: false })
    }
}

impl RequestHandler<Site> for Answer {
    fn setup(&mut self, request: &mut Request<'_, Site>) -> Result<Next> {
        self.books.open().sessions.insert(request.id());
        Ok(Next::Wait)
    }

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

/// Nothing but this ends a session.
pub(crate) fn limit_sessions(limits: &mut Limits) {
    limits.idle_timeout.get_or_insert(Duration::from_secs(60));
}

pub(crate) const SESSIONS_MAX: usize = 3;

impl Correspondence {
    /// With the server of the connections, if that has a datagram socket, or else with one of its own.
    pub(crate) fn new(network: &mut Network, books: &Books, limits: &Limits, mixed: Option<ServerId>) -> Self {
        let server = mixed.unwrap_or_else(|| {
            let mut limits = limits.clone();
            limit_sessions(&mut limits);
            limits.sessions_max = books.open().rng.bool().then_some(SESSIONS_MAX);
            let server = network.serve_datagrams(Site(books.clone()), |_, _| NoHandler, limits);
            server.expect("no call fails yet")
        });
        let sessions = network.limits(server).is_some_and(|limits| limits.sessions_max.is_some());
        Correspondence { sessions, server, sent: 0, bytes_sent: 0, bytes_answered: 0, open: HashMap::new() }
    }

    pub(crate) fn server(&self) -> ServerId {
        self.server
    }

    /// One of a few peers sends a datagram that was not sent before.
    pub(crate) fn send(&mut self, network: &mut Network, peer: usize, bytes: usize) {
        let from: Address = SocketAddr::from(([198, 51, 100, peer as u8 % 8], 1_000)).into();
        let mut packet = self.sent.to_le_bytes().to_vec();
        packet.extend(bytes_of(peer, self.sent, bytes % 500));
        (self.sent, self.bytes_sent) = (self.sent + 1, self.bytes_sent + packet.len() as u64);
        network.send_datagram(self.server, &from, &packet);
        self.open.insert(packet, from);
    }

    /// Datagrams that were not answered, if none may be refused because no session is free.
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
