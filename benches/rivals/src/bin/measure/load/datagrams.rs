//! Datagrams, several in one system call, so that it is the server that is measured.
//!
//! A datagram begins with its number, which tells who sent it, and goes on with bytes that depend on the number. So
//! each one is verified by itself, in whatever order they come back.

use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use rustix::io::Errno;
use rustix::net::sockopt;

use super::dialer::Dialer;
use super::pattern;
use super::poller::{Interest, Poller, Ready};
use super::quota::Quota;
use super::stages::{self, Clients};
use super::tally::{Fault, Tally};
use super::{Datagrams, Outcome, Watch, descriptors};

/// Datagrams sent or received in one system call at most.
const BATCH: usize = 32;

/// Length of a datagram's number.
const NUMBER_BYTES: usize = size_of::<u64>();

/// The longest that UDP can carry.
const DATAGRAM_BYTES_MAX: usize = 65_507;

/// A datagram not back by then is lost. On this machine only a full socket loses any, and a server that needs longer
/// for a socketful is stalled.
const LOST: Duration = Duration::from_millis(200);

/// So many errors of sockets without an answer in between are the end: nobody listens there.
const ERRORS_MAX: u64 = 20;

impl Datagrams {
    /// Sends datagrams for as long as asked. Lost ones are replaced.
    ///
    /// # Errors
    ///
    /// The length is not one of a datagram, or nobody listens.
    pub(crate) fn run(&self, watch: &mut dyn Watch) -> Result<Outcome, String> {
        if self.senders == 0 || self.depth == 0 {
            return Err("datagrams need senders, and one under way at least".to_owned());
        }
        if !(NUMBER_BYTES..=DATAGRAM_BYTES_MAX).contains(&self.message_bytes) {
            return Err(format!("a datagram has {NUMBER_BYTES} to {DATAGRAM_BYTES_MAX} bytes"));
        }
        descriptors::check(self.senders)?;
        stages::run(&mut Senders::new(self)?, &self.address, self.warm_up.into(), self.until.into(), watch)
    }
}

struct Senders<'a> {
    load: &'a Datagrams,
    poller: Poller,
    senders: Vec<Sender>,
    outbox: MultiHeaders<SockaddrStorage>,
    inbox: MultiHeaders<SockaddrStorage>,
    /// Room for a batch, and a byte more for each so that a datagram too long is noticed.
    buffer: Vec<u8>,
    under_way: u64,
    errors_in_a_row: u64,
}

struct Sender {
    socket: OwnedFd,
    places: Vec<Place>,
    /// Places without a datagram under way.
    free: Vec<usize>,
    /// Datagrams given up that may still come.
    lost: u64,
}

/// One of the datagrams that a sender has under way at a time.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Of the datagram that is under way, or was last.
    number: u64,
    sent_at: Option<Instant>,
}

impl<'a> Senders<'a> {
    fn new(load: &'a Datagrams) -> Result<Self, String> {
        let mut dialer = Dialer::new(&load.address)?;
        let poller = Poller::new().map_err(|errno| format!("epoll: {errno}"))?;
        let mut open = |sender: usize| -> rustix::io::Result<Sender> {
            let socket = dialer.socket()?;
            dialer.connect(&socket)?;
            // As much as the system allows, which need not be as much as is asked for: nothing shall be lost here.
            sockopt::set_socket_recv_buffer_size(&socket, load.depth * (load.message_bytes + 1024))?;
            poller.add(&socket, sender, Interest::Both)?;
            let places = (0..load.depth)
                .map(|place| Place { number: (place * load.senders + sender) as u64, sent_at: None })
                .collect();
            Ok(Sender { socket, places, free: (0..load.depth).collect(), lost: 0 })
        };
        let senders = (0..load.senders)
            .map(&mut open)
            .collect::<Result<_, _>>()
            .map_err(|errno| format!("{}: {errno}", load.address))?;
        Ok(Senders {
            load,
            poller,
            senders,
            outbox: MultiHeaders::preallocate(BATCH, None),
            inbox: MultiHeaders::preallocate(BATCH, None),
            buffer: vec![0; BATCH * (load.message_bytes + 1)],
            under_way: 0,
            errors_in_a_row: 0,
        })
    }

    /// Sends one datagram for each free place, as far as the quota and the socket allow.
    fn send(&mut self, sender: usize, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        // Numbers of one place are as far apart as there are places in all, so that the remainder tells the place.
        let places = (self.load.senders * self.load.depth) as u64;
        loop {
            let Sender { socket, places: own, free, .. } = &mut self.senders[sender];
            let count = quota.take(free.len().min(BATCH) as u64) as usize;
            if count == 0 {
                return Ok(());
            }
            let chosen = &free[free.len() - count..];
            let mut heads = [[0; NUMBER_BYTES]; BATCH];
            for (head, &place) in heads.iter_mut().zip(chosen) {
                *head = (own[place].number + places).to_le_bytes();
            }
            let body_bytes = self.load.message_bytes - NUMBER_BYTES;
            let slices: [_; BATCH] = std::array::from_fn(|index| {
                let number = u64::from_le_bytes(heads[index]);
                [IoSlice::new(&heads[index]), IoSlice::new(pattern::first(number, body_bytes))]
            });
            let now = Instant::now();
            let none = [None; BATCH];
            let sent = sendmmsg(
                socket.as_raw_fd(),
                &mut self.outbox,
                &slices[..count],
                &none[..count],
                [],
                MsgFlags::MSG_DONTWAIT,
            )
            .map(Iterator::count);
            let taken = sent.unwrap_or(0);
            for &place in &chosen[..taken] {
                own[place] = Place { number: own[place].number + places, sent_at: Some(now) };
            }
            free.drain(free.len() - count..free.len() - count + taken);
            self.under_way += taken as u64;
            quota.put_back((count - taken) as u64);
            match sent {
                Ok(_) if taken == count => {}
                // The rest has to wait until the socket is writable, or for the next sweep.
                Ok(_) => return Ok(()),
                Err(errno) => return self.error(Errno::from_raw_os_error(errno as i32), tally),
            }
        }
    }

    /// Takes what has come back to a sender.
    fn receive(&mut self, sender: usize, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        let room = self.load.message_bytes + 1;
        loop {
            let mut lengths = [0; BATCH];
            let mut chunks = self.buffer.chunks_exact_mut(room);
            let mut slices: [_; BATCH] = std::array::from_fn(|_| [IoSliceMut::new(chunks.next().unwrap_or_default())]);
            let socket = self.senders[sender].socket.as_raw_fd();
            let received =
                recvmmsg(socket, &mut self.inbox, slices.iter_mut(), MsgFlags::MSG_DONTWAIT, None).map(|messages| {
                    lengths.iter_mut().zip(messages).map(|(length, message)| *length = message.bytes).count()
                });
            let received = match received {
                Ok(received) => received,
                Err(nix::errno::Errno::EAGAIN) => return Ok(()),
                Err(errno) => return self.error(Errno::from_raw_os_error(errno as i32), tally),
            };
            let now = Instant::now();
            for (index, &length) in lengths[..received].iter().enumerate() {
                self.accept(sender, index * room, length, now, quota, tally);
            }
            self.send(sender, quota, tally)?;
            // Fewer than there was room for: the socket is empty.
            if received < BATCH {
                return Ok(());
            }
        }
    }

    /// Verifies the datagram at `start` of the buffer.
    fn accept(
        &mut self,
        sender: usize,
        start: usize,
        length: usize,
        now: Instant,
        quota: &mut Quota,
        tally: &mut Tally<'_>,
    ) {
        let datagram = &self.buffer[start..start + length];
        let Some((head, body)) = datagram.split_first_chunk::<NUMBER_BYTES>() else {
            return tally.failed(Fault::WrongBytes(length as u64), 1);
        };
        let number = u64::from_le_bytes(*head);
        let Sender { places, free, lost, .. } = &mut self.senders[sender];
        let (turn, of_sender) = (number / self.load.senders as u64, number % self.load.senders as u64);
        let index = (turn % self.load.depth as u64) as usize;
        let place = &mut places[index];
        let changed = if length == self.load.message_bytes {
            pattern::differences(body, pattern::first(number, body.len()))
        } else {
            length.abs_diff(self.load.message_bytes) as u64
        };
        if of_sender != sender as u64 || number > place.number {
            tally.failed(Fault::WrongBytes(length as u64), 1);
        } else if changed > 0 {
            tally.failed(Fault::WrongBytes(changed), 1);
        } else if let (Some(sent_at), true) = (place.sent_at, number == place.number) {
            place.sent_at = None;
            free.push(index);
            self.under_way -= 1;
            self.errors_in_a_row = 0;
            quota.ended(1);
            tally.echoed(length, now - sent_at);
        } else if *lost > 0 {
            // It was not lost, only late, and counted already.
            *lost -= 1;
        } else {
            // It has come before.
            tally.failed(Fault::WrongBytes(length as u64), 1);
        }
    }

    /// A system call failed, perhaps because of what was sent earlier: nobody listens there.
    fn error(&mut self, errno: Errno, tally: &mut Tally<'_>) -> Result<(), String> {
        if matches!(errno, Errno::AGAIN | Errno::INTR | Errno::NOBUFS) {
            return Ok(());
        }
        tally.failed(Fault::Broken(errno), 1);
        self.errors_in_a_row += 1;
        if self.errors_in_a_row < ERRORS_MAX { Ok(()) } else { Err(tally.first_failure()) }
    }
}

impl Clients for Senders<'_> {
    const SWEEP_EVERY: Duration = Duration::from_millis(50);

    fn fill(&mut self, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        (0..self.senders.len()).try_for_each(|sender| self.send(sender, quota, tally))
    }

    fn turn(&mut self, timeout: Duration, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        self.poller.wait(timeout).map_err(|errno| format!("epoll: {errno}"))?;
        for index in 0..self.poller.len() {
            let (sender, ready) = self.poller.event(index);
            let Ready { readable, writable, .. } = ready;
            if readable {
                self.receive(sender, quota, tally)?;
            } else if writable {
                self.send(sender, quota, tally)?;
            }
        }
        Ok(())
    }

    fn sweep(&mut self, now: Instant, quota: &mut Quota, tally: &mut Tally<'_>) -> Result<(), String> {
        for sender in 0..self.senders.len() {
            let Sender { places, free, lost, .. } = &mut self.senders[sender];
            for (index, place) in places.iter_mut().enumerate() {
                if place.sent_at.is_some_and(|sent_at| now.saturating_duration_since(sent_at) >= LOST) {
                    place.sent_at = None;
                    free.push(index);
                    *lost += 1;
                    self.under_way -= 1;
                    quota.ended(1);
                    tally.failed(Fault::Silent, 1);
                }
            }
            self.send(sender, quota, tally)?;
        }
        Ok(())
    }

    fn give_up(&mut self, tally: &mut Tally<'_>) {
        tally.failed(Fault::Silent, self.under_way);
        self.under_way = 0;
    }

    fn under_way(&self) -> u64 {
        self.under_way
    }
}

#[cfg(test)]
mod tests {
    use super::super::Until;
    use super::super::testing::{Seen, Server};
    use super::*;
    use crate::job::Address;

    fn datagrams(server: &Server) -> Datagrams {
        Datagrams {
            address: server.address().clone(),
            senders: 3,
            depth: 5,
            message_bytes: 100,
            warm_up: Until::Count(20),
            until: Until::Count(500),
        }
    }

    fn run(answers: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> Outcome {
        datagrams(&Server::datagrams(answers)).run(&mut Seen::default()).unwrap()
    }

    #[test]
    fn all_come_back() {
        let outcome = run(|datagram| vec![datagram.to_vec()]);
        assert_eq!(outcome.failures.first, None);
        assert_eq!((outcome.done, outcome.bytes, outcome.latency.len()), (500, 50_000, 500));
    }

    #[test]
    fn short_and_long_ones_come_back() {
        let server = Server::datagrams(|datagram| vec![datagram.to_vec()]);
        for message_bytes in [8, 9, 4096] {
            let outcome = Datagrams { message_bytes, ..datagrams(&server) }.run(&mut Seen::default()).unwrap();
            assert_eq!((outcome.done, outcome.failures.first), (500, None));
        }
        assert!(Datagrams { message_bytes: 7, ..datagrams(&server) }.run(&mut Seen::default()).is_err());
    }

    #[test]
    fn lost_ones_are_counted_and_replaced() {
        let mut count = 0;
        let outcome = run(move |datagram| {
            count += 1;
            if count % 100 == 0 { vec![] } else { vec![datagram.to_vec()] }
        });
        let failures = outcome.failures;
        assert!(failures.silent >= 5, "{failures:?}");
        assert_eq!((failures.broken, failures.wrong_bytes), (0, 0), "{failures:?}");
        assert!(outcome.done <= 496, "{}", outcome.done);
    }

    #[test]
    fn the_order_does_not_matter() {
        let mut held = None;
        let outcome = run(move |datagram| match held.replace(datagram.to_vec()) {
            None => vec![],
            Some(_) => vec![datagram.to_vec(), held.take().unwrap()],
        });
        // What is held back with nothing following is given up, what is swapped is not.
        assert_eq!(outcome.failures.broken, 0);
    }

    #[test]
    fn changed_cut_longer_doubled_and_foreign_ones_are_noticed() {
        let changed = run(|datagram| {
            let mut answer = datagram.to_vec();
            answer[99] ^= 1;
            vec![answer, datagram.to_vec()]
        });
        assert!(changed.failures.wrong_bytes >= 500, "{:?}", changed.failures);

        let cut = run(|datagram| vec![datagram[..99].to_vec(), datagram.to_vec()]);
        assert!(cut.failures.wrong_bytes >= 500, "{:?}", cut.failures);

        let longer = run(|datagram| vec![[datagram, b"!"].concat(), datagram.to_vec()]);
        assert!(longer.failures.wrong_bytes >= 500, "{:?}", longer.failures);

        let doubled = run(|datagram| vec![datagram.to_vec(), datagram.to_vec()]);
        assert!(doubled.failures.wrong_bytes >= 400, "{:?}", doubled.failures);

        let foreign = run(|datagram| {
            let mut answer = datagram.to_vec();
            answer[0] ^= 1;
            vec![answer, datagram.to_vec()]
        });
        assert!(foreign.failures.wrong_bytes >= 500, "{:?}", foreign.failures);
    }

    #[test]
    fn nobody_there_is_an_error_after_some_attempts() {
        let server = Server::datagrams(|_| vec![]);
        let Address::Tcp(free) = Server::nobody() else { unreachable!() };
        let nobody = Datagrams { address: Address::Udp(free), ..datagrams(&server) };
        let Err(error) = nobody.run(&mut Seen::default()) else { panic!("nobody has served this") };
        assert!(error.contains("refused") && error.contains(&free.to_string()), "{error}");
    }
}
