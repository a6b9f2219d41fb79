//! A second server of streams, which serves while the others drain: its peers get back what they send, whatever becomes of
//! the server of the plan, and until nothing is left to drain.

use std::collections::BTreeMap;
use std::io::Write;
use std::net::SocketAddr;

use socketserver::testing::{Network, Peer};
use socketserver::{Address, EndReason, Limits, Next, Request, RequestHandler, Result, ServerId};

use crate::ledger::{Books, Ledger};
use crate::plan::{Faults, Plan};
use crate::records::bytes_of;

/// The server, and its peers by their numbers.
pub(crate) struct Page {
    server: Option<ServerId>,
    visitors: BTreeMap<usize, Visitor>,
    pub(crate) bytes_sent: u64,
    pub(crate) bytes_received: u64,
}

struct Visitor {
    peer: Peer,
    sent: u64,
    received: u64,
    has_ended: bool,
}

/// Sends back what comes.
struct Echo {
    books: Books,
    address: Address,
    /// It may find that the selector has no room for it.
    may_fail: bool,
}

/// What the books know of a visitor.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Visit {
    Served,
    Over(EndReason),
}

impl RequestHandler for Echo {
    fn setup(&mut self, _: &mut Request<'_>) -> Result<Next> {
        let before = self.books.open().visits.insert(self.address.clone(), Visit::Served);
        self.books.expect(before.is_none(), || format!("{} is set up twice", self.address));
        Ok(Next::Wait)
    }

    fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
        let what = if self.books.open().shut_down_at.is_some() { "visit during a stop" } else { "visit" };
        *self.books.open().calls.entry(what.to_owned()).or_default() += 1;
        request.output.write_all(request.input.take_all())?;
        Ok(Next::Wait)
    }

    fn drain(&mut self, _: &mut Request<'_>) -> Result<Next> {
        self.books.expect(false, || format!("drain of {}, which is served while others drain", self.address));
        Ok(Next::Wait)
    }

    fn finish(&mut self, request: &mut Request<'_>, why: EndReason) {
        let now = request.others.now();
        let mut ledger = self.books.open();
        let before = ledger.visits.insert(self.address.clone(), Visit::Over(why));
        ledger.ends.push(why);
        let right = match why {
            EndReason::Stopped => ledger.has_drained(),
            // What a turn could not send then is reset, and all when the grace is over.
            EndReason::StopAborted => {
                ledger.has_drained() || ledger.shut_down_at.is_some_and(|since| now >= since + ledger.drain_grace)
            }
            EndReason::Error => self.may_fail,
            _ => matches!(why, EndReason::PeerClosed | EndReason::Reset),
        };
        drop(ledger);
        self.books
            .expect(before == Some(Visit::Served), || format!("{} is finished, and was {before:?}", self.address));
        self.books.expect(right, || format!("{}, which is served while others drain, ends with {why:?}", self.address));
    }
}

impl Ledger {
    /// Returns whether the reactor was told to stop, and none of the others is left.
    fn has_drained(&self) -> bool {
        self.shut_down_at.is_some() && !self.accounts.iter().any(|account| account.open && account.finished.is_none())
    }
}

impl Page {
    pub(crate) fn new(plan: &Plan, network: &mut Network, books: &Books) -> Self {
        let server = plan.page.then(|| {
            let mut limits = Limits::default();
            (limits.serve_while_draining, limits.connections_max) = (true, Some(usize::MAX));
            (limits.idle_timeout, limits.read_timeout, limits.write_timeout) = (None, None, None);
            limits.accepts_per_turn = plan.limits.accepts_per_turn;
            let (made, may_fail) = (books.clone(), plan.faults.not_registered > 0.0);
            let make =
                move |_: &mut (), address: &Address| Echo { books: made.clone(), address: address.clone(), may_fail };
            network.serve((), make, limits).expect("no call fails yet")
        });
        Page { server, visitors: BTreeMap::new(), bytes_sent: 0, bytes_received: 0 }
    }

    /// A visitor comes, sends so many bytes, or ends if there are none.
    pub(crate) fn visit(&mut self, network: &mut Network, number: usize, bytes: usize) {
        let Some(server) = self.server else { return };
        let address = SocketAddr::from(([192, 0, 2, number as u8], 1_000));
        let new = || Visitor { peer: network.connect_from(server, address), sent: 0, received: 0, has_ended: false };
        let visitor = self.visitors.entry(number).or_insert_with(new);
        if visitor.has_ended || visitor.peer.is_socket_closed() {
            return;
        }
        visitor.peer.send(&bytes_of(number, visitor.sent, bytes));
        (visitor.sent, self.bytes_sent) = (visitor.sent + bytes as u64, self.bytes_sent + bytes as u64);
        if bytes == 0 {
            visitor.peer.send_eof();
            visitor.has_ended = true;
        }
    }

    pub(crate) fn end_visits(&mut self, network: &mut Network) {
        for number in self.visitors.keys().copied().collect::<Vec<_>>() {
            self.visit(network, number, 0);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.visitors.len()
    }

    /// Visitors receive what they have sent.
    pub(crate) fn look(&mut self) -> std::result::Result<(), String> {
        for (&number, visitor) in &mut self.visitors {
            let bytes = visitor.peer.take_received();
            self.bytes_received += bytes.len() as u64;
            let right = bytes_of(number, visitor.received, bytes.len()) == bytes;
            visitor.received += bytes.len() as u64;
            if !right || visitor.received > visitor.sent {
                return Err(format!("visitor {number} receives other bytes than it has sent"));
            }
        }
        Ok(())
    }

    /// The reactor rests: whoever is a visitor has its answer, unless nothing is left to drain.
    pub(crate) fn check_nobody_waits(&mut self, books: &Books) {
        self.look().unwrap_or_else(|error| panic!("{error}"));
        let ledger = books.open();
        if ledger.has_drained() {
            return;
        }
        for (number, visitor) in &self.visitors {
            let visit = ledger.visits.get(visitor.peer.address());
            let is_served = visit == Some(&Visit::Served) && !visitor.peer.is_broken();
            let (received, sent) = (visitor.received, visitor.sent);
            assert!(!is_served || received == sent, "visitor {number} has {received} of the {sent} bytes it has sent");
        }
    }

    /// All visitors have ended, and faults have ceased.
    pub(crate) fn judge(&self, ledger: &Ledger, faults: &Faults) -> std::result::Result<(), String> {
        let lost = faults.aborted_in_backlog + faults.not_registered > 0.0 || ledger.shut_down_early;
        for (number, visitor) in &self.visitors {
            match ledger.visits.get(visitor.peer.address()) {
                None if !lost => return Err(format!("visitor {number} has connected and was never served")),
                Some(Visit::Served) => return Err(format!("visitor {number} was set up, and never finished")),
                Some(Visit::Over(EndReason::PeerClosed)) if visitor.received != visitor.sent => {
                    return Err(format!("visitor {number} has ended, and lacks bytes"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

pub(crate) const VISITORS: usize = 8;
