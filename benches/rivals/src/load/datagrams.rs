//! Datagrams, several in one system call, so that it is the server that is measured.
//!
//! A datagram begins with its number, which no other datagram has, and goes on with bytes that depend on the number. So
//! each one is verified by itself, in whatever order they come back.

use super::socket::Dialer;
use super::tally::{Fault, Tally};
use super::{Clients, Load, pattern};
use mio::event::Event;
use mio::unix::SourceFd;
use mio::{Interest, Registry, Token};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, MultiHeaders, SockaddrStorage, recvmmsg, sendmmsg};
use socket2::{Socket, Type};
use std::collections::{HashMap, HashSet};
use std::io::{IoSlice, IoSliceMut};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

/// So many clients, each with a socket of its own.
pub(crate) struct Senders {
    senders: Vec<Sender>,
    depth: usize,
    message_bytes: usize,
    /// Datagrams so far.
    numbers: u64,
    errors_in_a_row: usize,
    outbox: MultiHeaders<SockaddrStorage>,
    inbox: MultiHeaders<SockaddrStorage>,
    /// Room for a batch, and one byte more for each datagram, so that one that is too long is noticed.
    buffer: Vec<u8>,
}

struct Sender {
    socket: Socket,
    /// By number, when it was sent.
    under_way: HashMap<u64, Instant>,
    /// Datagrams that count as lost and may still come.
    lost: HashSet<u64>,
}

/// Datagrams sent or received in one system call at most.
const BATCH: usize = 32;

/// Length of a datagram's number.
const NUMBER_BYTES: usize = size_of::<u64>();

/// A datagram that is not back by then is lost. On this machine only a full socket loses any.
const LOST: Duration = Duration::from_secs(1);

/// So many errors of sockets without an answer in between mean that nothing listens.
const ERRORS_MAX: usize = 20;

impl Load<Senders> {
    /// `senders`, each of which keeps `depth` datagrams under way. Lost ones are replaced.
    ///
    /// # Errors
    ///
    /// The sockets cannot be made, or `message_bytes` is too short for a number.
    pub(crate) fn datagrams(
        address: SocketAddr,
        senders: usize,
        depth: usize,
        message_bytes: usize,
    ) -> Result<Self, String> {
        if message_bytes < NUMBER_BYTES {
            return Err(format!("a datagram has {NUMBER_BYTES} bytes at least"));
        }
        let mut dialer = Dialer::new(address, Type::DGRAM)?;
        let mut open = || {
            let socket = dialer.dial()?;
            // As much as the system allows, which may be less than is asked for: nothing is to be lost here.
            socket.set_recv_buffer_size(depth * (message_bytes + 1024))?;
            std::io::Result::Ok(Sender { socket, under_way: HashMap::new(), lost: HashSet::new() })
        };
        let senders = (0..senders).map(|_| open()).collect::<Result<Vec<_>, _>>();
        let clients = Senders {
            senders: senders.map_err(|error| format!("{address}: {error}"))?,
            depth,
            message_bytes,
            numbers: 0,
            errors_in_a_row: 0,
            outbox: MultiHeaders::preallocate(BATCH, None),
            inbox: MultiHeaders::preallocate(BATCH, None),
            buffer: vec![0; BATCH * (message_bytes + 1)],
        };
        let load = Load::new(address, clients)?;
        for (index, sender) in load.clients.senders.iter().enumerate() {
            let fd = sender.socket.as_raw_fd();
            let interest = Interest::READABLE | Interest::WRITABLE;
            let registered = load.poll.registry().register(&mut SourceFd(&fd), Token(index), interest);
            registered.map_err(|error| format!("{address}: {error}"))?;
        }
        Ok(load)
    }
}

impl Senders {
    /// Sends as many datagrams as there is room for, and as the run and the socket allow.
    fn send(&mut self, index: usize, tally: &mut Tally) -> Result<(), String> {
        loop {
            let Sender { socket, under_way, .. } = &mut self.senders[index];
            let count = tally.take(self.depth.saturating_sub(under_way.len()).min(BATCH) as u64) as usize;
            if count == 0 {
                return Ok(());
            }
            let numbers: [u64; BATCH] = std::array::from_fn(|place| self.numbers + place as u64);
            let heads = numbers.map(u64::to_le_bytes);
            let slices: [_; BATCH] = std::array::from_fn(|place| {
                let body = pattern::slice(numbers[place], 0, (self.message_bytes - NUMBER_BYTES) as u64);
                [IoSlice::new(&heads[place]), IoSlice::new(body)]
            });
            let (now, flags) = (Instant::now(), MsgFlags::MSG_DONTWAIT);
            let addresses = [None; BATCH];
            let sent = sendmmsg(socket.as_raw_fd(), &mut self.outbox, &slices[..count], &addresses[..count], [], flags)
                .map(Iterator::count);
            let taken = sent.unwrap_or(0);
            under_way.extend(numbers[..taken].iter().map(|&number| (number, now)));
            self.numbers += taken as u64;
            tally.put_back((count - taken) as u64);
            match sent {
                Ok(_) if taken == count => {}
                // The rest waits until the socket is writable, or for the next sweep.
                Ok(_) => return Ok(()),
                Err(errno) => return self.error(errno, tally),
            }
        }
    }

    /// Takes what has come back, and sends as much again.
    fn receive(&mut self, index: usize, tally: &mut Tally) -> Result<(), String> {
        let room = self.message_bytes + 1;
        loop {
            let mut buffer = std::mem::take(&mut self.buffer);
            let mut slices: Vec<_> = buffer.chunks_exact_mut(room).map(|chunk| [IoSliceMut::new(chunk)]).collect();
            let mut lengths = Vec::with_capacity(BATCH);
            let (socket, flags) = (self.senders[index].socket.as_raw_fd(), MsgFlags::MSG_DONTWAIT);
            let received = recvmmsg(socket, &mut self.inbox, slices.iter_mut(), flags, None)
                .map(|messages| lengths.extend(messages.map(|message| message.bytes)));
            for (datagram, length) in buffer.chunks_exact(room).zip(&lengths) {
                self.accept(index, &datagram[..*length], tally);
            }
            self.buffer = buffer;
            match received {
                Ok(()) => self.send(index, tally)?,
                Err(Errno::EAGAIN) => return Ok(()),
                Err(errno) => return self.error(errno, tally),
            }
            // Fewer than there was room for: the socket is empty.
            if lengths.len() < BATCH {
                return Ok(());
            }
        }
    }

    /// Verifies one datagram.
    fn accept(&mut self, index: usize, datagram: &[u8], tally: &mut Tally) {
        let Sender { under_way, lost, .. } = &mut self.senders[index];
        let Some((head, body)) = datagram.split_first_chunk::<NUMBER_BYTES>() else {
            return tally.failed(&Fault::WrongBytes(datagram.len() as u64), 0);
        };
        let number = u64::from_le_bytes(*head);
        let changed = if datagram.len() == self.message_bytes {
            pattern::differences(body, pattern::slice(number, 0, body.len() as u64))
        } else {
            datagram.len().abs_diff(self.message_bytes) as u64
        };
        if changed > 0 {
            tally.failed(&Fault::WrongBytes(changed), 0);
        } else if under_way.remove(&number).is_some() {
            self.errors_in_a_row = 0;
            tally.echoed(1);
        } else if !lost.remove(&number) {
            // It has come before, or another client has sent it.
            tally.failed(&Fault::WrongBytes(datagram.len() as u64), 0);
        }
    }

    /// A system call has failed, perhaps because of what was sent earlier: nothing listens there.
    fn error(&mut self, errno: Errno, tally: &mut Tally) -> Result<(), String> {
        if matches!(errno, Errno::EAGAIN | Errno::EINTR | Errno::ENOBUFS) {
            return Ok(());
        }
        tally.failed(&Fault::Broken(errno.into()), 0);
        self.errors_in_a_row += 1;
        if self.errors_in_a_row < ERRORS_MAX { Ok(()) } else { Err(tally.describe("nothing listens")) }
    }
}

impl Clients for Senders {
    const SWEEP_EVERY: Duration = Duration::from_millis(50);

    fn fill(&mut self, _: &Registry, tally: &mut Tally) -> Result<(), String> {
        (0..self.senders.len()).try_for_each(|index| self.send(index, tally))
    }

    fn ready(&mut self, event: &Event, _: &Registry, tally: &mut Tally) -> Result<(), String> {
        let index = event.token().0;
        if event.is_readable() || event.is_error() { self.receive(index, tally) } else { self.send(index, tally) }
    }

    fn sweep(&mut self, now: Instant, _: &Registry, tally: &mut Tally) -> Result<(), String> {
        for index in 0..self.senders.len() {
            let Sender { under_way, lost, .. } = &mut self.senders[index];
            under_way.retain(|&number, sent_at| {
                let is_lost = now.saturating_duration_since(*sent_at) >= LOST;
                if is_lost {
                    lost.insert(number);
                    tally.failed(&Fault::Silent, 1);
                }
                !is_lost
            });
            self.send(index, tally)?;
        }
        Ok(())
    }

    fn under_way(&self) -> u64 {
        self.senders.iter().map(|sender| sender.under_way.len() as u64).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Failures, Load, Outcome, Until, testing};

    fn run(answers: impl FnMut(&[u8]) -> Vec<Vec<u8>> + Send + 'static) -> (Outcome, Failures) {
        let mut load = Load::datagrams(testing::datagram_server(answers), 3, 5, 100).unwrap();
        load.run(Until::Count(20)).unwrap();
        let outcome = load.run(Until::Count(500)).unwrap();
        (outcome, load.failures().clone())
    }

    #[test]
    fn all_come_back() {
        let (outcome, failures) = run(|datagram| vec![datagram.to_vec()]);
        assert_eq!(failures.first, None);
        assert_eq!(outcome.done, 500);
    }

    #[test]
    fn lost_ones_are_counted_and_replaced() {
        let mut count = 0;
        let (outcome, failures) = run(move |datagram| {
            count += 1;
            if count % 100 == 0 { vec![] } else { vec![datagram.to_vec()] }
        });
        assert!(failures.silent >= 5, "{failures:?}");
        assert_eq!((failures.broken, failures.wrong_bytes), (0, 0), "{failures:?}");
        assert!(outcome.done <= 496, "{}", outcome.done);
    }

    #[test]
    fn changed_cut_longer_doubled_and_foreign_ones_are_noticed() {
        type Answer = fn(&[u8]) -> Vec<u8>;
        let wrong: [Answer; 5] = [
            |datagram| [&datagram[..99], &[datagram[99] ^ 1]].concat(),
            |datagram| datagram[..99].to_vec(),
            |datagram| [datagram, b"!"].concat(),
            |datagram| datagram.to_vec(),
            |datagram| [&[datagram[0] ^ 1], &datagram[1..]].concat(),
        ];
        for answer in wrong {
            let (_, failures) = run(move |datagram| vec![answer(datagram), datagram.to_vec()]);
            assert!(failures.wrong_bytes >= 400, "{failures:?}");
        }
    }

    #[test]
    fn nobody_there_is_an_error_after_some_attempts() {
        let free = testing::nobody();
        let mut load = Load::datagrams(free, 3, 5, 100).unwrap();
        let error = load.run(Until::Count(500)).unwrap_err();
        assert!(error.contains("refused") && error.contains(&free.to_string()), "{error}");
    }
}
