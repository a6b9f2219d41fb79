//! The clients that are there, all on one thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::fmt::{self, Display};
use std::io;
use std::time::{Duration, Instant};

use mio::event::Event;
use mio::{Events, Interest, Poll, Token};
use slab::Slab;

use crate::client::{Answers, Client, Step};
use crate::failure::Failure;
use crate::figures::Figures;

pub(crate) struct Crowd {
    poll: Poll,
    events: Events,
    buffer: Vec<u8>,
    members: Slab<Member>,
    /// How many there are of each role.
    counts: [usize; 3],
    ready: Vec<usize>,
    /// Which member may have to be called when. An entry can be older than its member: that call has no effect.
    wakes: BinaryHeap<Reverse<(Instant, usize)>>,
    pub(crate) figures: Figures,
}

struct Member {
    name: Name,
    client: Box<dyn Client>,
    ready: bool,
    /// When it will be called.
    wake: Option<Instant>,
}

/// Which client it is.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    pub(crate) role: Role,
    pub(crate) number: u64,
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Role {
    /// Does what the trial is about.
    Trial,
    /// Asks all the time, on one connection or from one socket.
    Canary,
    /// Connects, asks and ends.
    Newcomer,
}

impl Crowd {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Crowd {
            poll: Poll::new()?,
            events: Events::with_capacity(1024),
            buffer: vec![0; 256 << 10],
            members: Slab::new(),
            counts: [0; 3],
            ready: Vec::new(),
            wakes: BinaryHeap::new(),
            figures: Figures::new(),
        })
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn count(&self, role: Role) -> usize {
        self.counts[role as usize]
    }

    pub(crate) fn add(&mut self, name: Name, mut client: Box<dyn Client>) -> io::Result<()> {
        let entry = self.members.vacant_entry();
        let key = entry.key();
        let interest = Interest::READABLE | Interest::WRITABLE;
        self.poll.registry().register(client.source(), Token(key), interest)?;
        entry.insert(Member { name, client, ready: false, wake: None });
        self.counts[name.role as usize] += 1;
        self.figures.clients += 1;
        self.make_ready(key);
        Ok(())
    }

    /// Those of this role ask for nothing more.
    pub(crate) fn retire(&mut self, role: Role) {
        let of_role = self.members.iter_mut().filter(|(_, member)| member.name.role == role);
        let retired = of_role.filter_map(|(key, member)| member.client.retire().then_some(key));
        for key in retired.collect::<Vec<_>>() {
            self.make_ready(key);
        }
    }

    /// Waits for events, at most so long, and lets everyone do what there is to do.
    pub(crate) fn turn(&mut self, wait_max: Duration) -> io::Result<()> {
        let begun = Instant::now();
        let wait = match self.wakes.peek() {
            _ if !self.ready.is_empty() => Duration::ZERO,
            Some(Reverse((time, _))) => time.saturating_duration_since(begun).min(wait_max),
            None => wait_max,
        };
        match self.poll.poll(&mut self.events, Some(wait)) {
            // A signal; the caller looks for it.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(()),
            polled => polled?,
        }
        let events = std::mem::replace(&mut self.events, Events::with_capacity(0));
        events.iter().for_each(|event| self.note(event));
        self.events = events;

        let now = Instant::now();
        while let Some(&Reverse((time, key))) = self.wakes.peek()
            && time <= now
        {
            self.wakes.pop();
            self.make_ready(key);
        }
        for key in std::mem::take(&mut self.ready) {
            self.advance(key, now);
        }

        // What we were late by ourselves, or the machine was, is not to be blamed on the server.
        let late = begun.elapsed().saturating_sub(wait);
        if late > LATE {
            self.members.iter_mut().for_each(|(_, member)| member.client.activity().excuse(late));
        }
        Ok(())
    }

    fn note(&mut self, event: &Event) {
        let Token(key) = event.token();
        if let Some(Member { client, .. }) = self.members.get_mut(key) {
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            client.activity().on_event(readable, writable);
            self.make_ready(key);
        }
    }

    fn make_ready(&mut self, key: usize) {
        if let Some(member) = self.members.get_mut(key)
            && !std::mem::replace(&mut member.ready, true)
        {
            self.ready.push(key);
        }
    }

    fn advance(&mut self, key: usize, now: Instant) {
        let member = &mut self.members[key];
        member.ready = false;
        let mut answers = Answers::default();
        let step = member.client.advance(now, &mut self.buffer, &mut answers);
        self.figures.answered += answers.bytes;
        self.figures.resets += answers.resets;
        self.figures.unanswered += answers.unanswered;
        if let Some(took) = answers.took
            && member.name.role != Role::Trial
        {
            self.figures.answer(took);
        }
        match step {
            Ok(Step::Wait(wake)) => {
                if member.wake.is_none_or(|earlier| wake < earlier || earlier <= now) {
                    member.wake = Some(wake);
                    self.wakes.push(Reverse((wake, key)));
                }
            }
            Ok(Step::Again) => self.make_ready(key),
            Ok(Step::Done) => self.remove(key),
            Err(failure) => {
                let complaint = self.complaint(key, &failure);
                self.figures.fail(complaint);
                self.remove(key);
            }
        }
    }

    fn remove(&mut self, key: usize) {
        let member = self.members.remove(key);
        self.counts[member.name.role as usize] -= 1;
    }

    /// The member, what happened to it, and where the wrong bytes come from.
    fn complaint(&self, key: usize, failure: &Failure) -> String {
        let complaint = format!("{}: {failure}", self.members[key].name);
        let (Failure::Wrong { seen, .. } | Failure::Unasked { seen, .. } | Failure::Foreign { seen, .. }) = failure
        else {
            return complaint;
        };
        let found = |(other, member): (usize, &Member)| {
            let position = member.client.position_of(seen)?;
            let whose = if other == key { "its own".to_owned() } else { format!("that of {}", member.name) };
            Some(format!("{whose}, byte {position}"))
        };
        match self.members.iter().find_map(found) {
            Some(origin) => format!("{complaint}, which is {origin}"),
            None => complaint,
        }
    }
}

impl Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.role {
            Role::Trial => write!(f, "client {}", self.number),
            Role::Canary => f.write_str("canary"),
            Role::Newcomer => write!(f, "newcomer {}", self.number),
        }
    }
}

/// A turn is late that takes so much longer than it was to wait.
const LATE: Duration = Duration::from_millis(500);
