//! Connections from proxies whose header has not arrived completely (feature `proxy-protocol`). Each has a slot, counts
//! as a connection, and waits only until its timer fires.

use std::io;

use super::core::Core;
use super::entries::{Alarm, Heading};
use super::slots::Contents;
use crate::address::Address;
use crate::net::{ProxyProtocol, Stream};
use crate::timers::{NO_TIMER, nanos};

impl Core {
    /// Waits for the rest of a header.
    ///
    /// # Errors
    /// The error from epoll_ctl(2). The connection is dropped then.
    pub(crate) fn await_header(
        &mut self,
        server: u16,
        mut stream: Stream,
        proxy: Address,
        protocol: ProxyProtocol,
    ) -> io::Result<()> {
        let late = self.now.saturating_add(nanos(protocol.timeout));
        let heading = Heading { stream: None, proxy, protocol, timer: NO_TIMER, ended: false };
        let key = self.slots.insert(server, Contents::Heading(Box::new(heading)));
        if let Err(error) = self.selector.register(&mut stream, self.slots.token(key)) {
            self.slots.remove(key);
            return Err(error);
        }
        let timer = self.timers.arm(late, Alarm::Header(key));
        let heading = self.slots.heading(key).expect("just inserted");
        (heading.stream, heading.timer) = (Some(stream), timer);
        let served = &mut self.served[usize::from(server)];
        served.active += 1;
        served.headings += 1;
        self.stats.active += 1;
        self.stats.active_max = self.stats.active_max.max(self.stats.active);
        Ok(())
    }

    /// Takes the connection of a proxy, whose slot is then freed. `None` if it was taken before.
    pub(crate) fn take_heading(&mut self, key: u32) -> Option<(Stream, Address)> {
        let server = self.slots.get(key)?.server;
        let heading = self.slots.heading(key)?;
        let mut stream = heading.stream.take()?;
        let (proxy, timer) = (heading.proxy.clone(), std::mem::replace(&mut heading.timer, NO_TIMER));
        if timer != NO_TIMER {
            self.timers.cancel(timer);
        }
        self.selector.deregister(&mut stream);
        self.served[usize::from(server)].headings -= 1;
        self.dead.push(key);
        Some((stream, proxy))
    }

    /// Closes connections without a header, of one server or of all.
    pub(super) fn end_headings(&mut self, server: Option<u16>) {
        for key in self.slots.headings(server) {
            self.stats.refused += u64::from(self.take_heading(key).is_some());
        }
    }

    /// Its slot was freed.
    pub(super) fn forget_heading(&mut self, server: u16) {
        self.served[usize::from(server)].active -= 1;
        self.stats.active -= 1;
    }
}
