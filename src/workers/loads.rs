//! What the acceptors know of a worker: its connections, and how many more it takes.

use crate::ids::ServerId;
use crate::reactor::Reactor;
use crate::reactor::handle::Handle;

/// The account of one worker. A worker that has ended has an empty one.
#[derive(Default)]
pub(super) struct Load {
    /// Its connections when it last reported.
    active: usize,
    servers: Vec<Account>,
}

/// The account of one of its servers.
struct Account {
    server: ServerId,
    handle: Handle,
    report: Report,
    /// Connections that were handed to it and that are not in its report yet.
    underway: usize,
}

/// What a worker reports of a server.
#[derive(Default)]
pub(super) struct Report {
    /// The connections of the whole worker.
    active: usize,
    /// How many more connections the server takes.
    room: usize,
    /// The connections of other servers count for the same limit.
    shares: bool,
    /// It serves [while others drain](crate::Limits::serve_while_draining).
    lasts: bool,
}

impl Report {
    /// `None` if the server takes no connections any more.
    pub(super) fn of(reactor: &mut Reactor, server: ServerId) -> Option<Self> {
        reactor.is_open(server).then(|| Report {
            active: reactor.core.stats.active as usize,
            room: reactor.room(server),
            shares: reactor.shares_descriptors(server),
            lasts: reactor.limits(server).is_some_and(|limits| limits.serve_while_draining),
        })
    }

    pub(super) fn has_room(&self) -> bool {
        self.room > 0
    }
}

impl Load {
    pub(super) fn add(&mut self, handle: Handle, server: ServerId) {
        if self.account(server).is_none() {
            self.servers.push(Account { server, handle, report: Report::default(), underway: 0 });
        }
    }

    pub(super) fn remove(&mut self, server: ServerId) {
        self.servers.retain(|account| account.server != server);
    }

    /// How many connections it has, or will have.
    pub(super) fn connections(&self) -> usize {
        self.active + self.underway()
    }

    fn underway(&self) -> usize {
        self.servers.iter().map(|account| account.underway).sum()
    }

    pub(super) fn has(&self, server: ServerId) -> bool {
        self.account(server).is_some()
    }

    pub(super) fn takes_more(&self, server: ServerId) -> bool {
        self.account(server).is_some_and(|account| {
            let underway = if account.report.shares { self.underway() } else { account.underway };
            account.report.room > underway
        })
    }

    pub(super) fn lasts(&self, server: ServerId) -> bool {
        self.account(server).is_some_and(|account| account.report.lasts)
    }

    /// A connection is handed to the server. Returns the handle of its reactor.
    pub(super) fn begin(&mut self, server: ServerId) -> Option<Handle> {
        let account = self.account_mut(server)?;
        account.underway += 1;
        Some(account.handle.clone())
    }

    /// A connection has arrived, or comes back.
    pub(super) fn end(&mut self, server: ServerId) {
        if let Some(account) = self.account_mut(server) {
            account.underway -= 1;
        }
    }

    /// A server reports, or takes no connections any more.
    pub(super) fn update(&mut self, server: ServerId, report: Option<Report>) {
        match (report, self.account_mut(server)) {
            (Some(report), Some(account)) => {
                let active = report.active;
                account.report = report;
                self.active = active;
            }
            (None, Some(_)) => self.remove(server),
            (_, None) => {}
        }
    }

    fn account(&self, server: ServerId) -> Option<&Account> {
        self.servers.iter().find(|account| account.server == server)
    }

    fn account_mut(&mut self, server: ServerId) -> Option<&mut Account> {
        self.servers.iter_mut().find(|account| account.server == server)
    }
}
