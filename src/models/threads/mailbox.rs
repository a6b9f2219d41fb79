//! Every order in which the loop and other threads can run.
//!
//! The mailbox is the real one. The loop is [`Loop`], which sleeps and takes commands as the reactor does. If it sleeps
//! and nothing will wake it, loom reports a deadlock.

use std::io;
use std::sync::Arc;

use loom::sync::{Condvar, Mutex};
use loom::thread;

use super::orders::model;
use crate::reactor::mailbox::{Mailbox, Wake};

/// A waker that remembers a call, like an eventfd: it ends the current sleep or the next.
#[derive(Default)]
struct Bell {
    rung: Mutex<bool>,
    changed: Condvar,
}

impl Wake for Bell {
    fn wake(&self) -> io::Result<()> {
        *self.rung.lock().unwrap() = true;
        self.changed.notify_one();
        Ok(())
    }
}

impl Bell {
    fn wait(&self) {
        let mut rung = self.rung.lock().unwrap();
        while !*rung {
            rung = self.changed.wait(rung).unwrap();
        }
        *rung = false;
    }
}

/// The reactor's use of the mailbox.
struct Loop {
    mailbox: Arc<Mailbox<Command, Bell>>,
    bell: Arc<Bell>,
    most: usize,
    taken: Vec<u8>,
}

/// A numbered command that records when it is dropped.
struct Command(u8, Arc<std::sync::atomic::AtomicUsize>);

impl Drop for Command {
    fn drop(&mut self) {
        self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    }
}

impl Loop {
    fn new(max: usize, most: usize) -> Self {
        let bell = Arc::new(Bell::default());
        Loop { mailbox: Mailbox::new(&bell, max, 0), bell, most, taken: Vec::new() }
    }

    /// As `Reactor::turn`: it waits without a limit only if nothing is pending, and takes commands if something is. The
    /// stop request is checked afterwards, in each turn.
    fn turn(&mut self) {
        if !self.mailbox.is_pending() {
            self.bell.wait();
        }
        if self.mailbox.is_pending() {
            self.taken.extend(self.mailbox.take(self.most).iter().map(|command| command.0));
        }
    }

    /// As `Reactor::serve_forever`, without connections to wait for.
    fn serve(&mut self) {
        while !self.mailbox.drain_requested() {
            self.turn();
        }
        self.mailbox.clear_request();
    }

    /// Submits these commands from a thread of its own. Returns how many were accepted.
    fn submitter(&self, dropped: &Dropped, numbers: &'static [u8]) -> thread::JoinHandle<usize> {
        let (mailbox, dropped) = (Arc::clone(&self.mailbox), Arc::clone(&dropped.0));
        thread::spawn(move || {
            let commands = numbers.iter().map(|&number| Command(number, Arc::clone(&dropped)));
            commands.filter_map(|command| mailbox.submit(command, true).ok()).count()
        })
    }

    /// Like `submitter`, but through the mailbox of a server, which may not forward to this one yet.
    fn submitter_to(&self, server: &Arc<Mailbox<Command, Bell>>, dropped: &Dropped) -> thread::JoinHandle<usize> {
        let (server, dropped) = (Arc::clone(server), Arc::clone(&dropped.0));
        thread::spawn(move || {
            let commands = [2, 3].map(|number| Command(number, Arc::clone(&dropped)));
            commands.into_iter().filter_map(|command| server.submit(command, true).ok()).count()
        })
    }

    /// Requests a stop from a thread of its own.
    fn stopper(&self, request: fn(&Mailbox<Command, Bell>)) -> thread::JoinHandle<()> {
        let mailbox = Arc::clone(&self.mailbox);
        thread::spawn(move || request(&mailbox))
    }
}

#[derive(Default)]
struct Dropped(Arc<std::sync::atomic::AtomicUsize>);

impl Dropped {
    fn count(&self) -> usize {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }
}

fn join<T>(threads: [thread::JoinHandle<T>; 2]) -> [T; 2] {
    threads.map(|thread| thread.join().unwrap())
}

const MANY: usize = 10;

#[test]
fn a_command_of_any_thread_wakes_the_loop() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let submitters = [this.submitter(&dropped, &[1]), this.submitter(&dropped, &[2])];
        while this.taken.len() < 2 {
            this.turn();
        }
        this.taken.sort();
        assert_eq!(this.taken, [1, 2]);
        join(submitters);
    });
}

#[test]
fn commands_of_one_thread_come_in_order() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let submitter = this.submitter(&dropped, &[1, 2, 3]);
        while this.taken.len() < 3 {
            this.turn();
        }
        assert_eq!(this.taken, [1, 2, 3]);
        assert_eq!(submitter.join().unwrap(), 3);
    });
}

#[test]
fn commands_that_a_turn_leaves_are_taken_without_another_wake_up() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, 1), Dropped::default());
        let submitters = [this.submitter(&dropped, &[1, 2]), this.submitter(&dropped, &[3])];
        while this.taken.len() < 3 {
            this.turn();
        }
        this.taken.sort();
        assert_eq!(this.taken, [1, 2, 3]);
        join(submitters);
    });
}

#[test]
fn a_full_queue_refuses_one_of_two() {
    model(|| {
        let (mut this, dropped) = (Loop::new(1, MANY), Dropped::default());
        let submitters = [this.submitter(&dropped, &[1]), this.submitter(&dropped, &[2])];
        let admitted: usize = join(submitters).iter().sum();
        assert_eq!(admitted, 1);
        this.turn();
        assert_eq!(this.taken.len(), 1);
        assert_eq!(dropped.count(), 2);
    });
}

#[test]
fn a_stop_ends_the_loop_though_a_command_took_the_wake_up() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let submitter = this.submitter(&dropped, &[1]);
        let stopper = this.stopper(Mailbox::request_drain);
        this.serve();
        stopper.join().unwrap();
        submitter.join().unwrap();
    });
}

#[test]
fn a_stop_ends_a_loop_that_has_commands_left() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, 1), Dropped::default());
        let submitter = this.submitter(&dropped, &[1, 2]);
        let stopper = this.stopper(Mailbox::request_drain);
        this.serve();
        stopper.join().unwrap();
        submitter.join().unwrap();
    });
}

#[test]
fn a_stop_now_cuts_short_a_stop() {
    model(|| {
        let mut this = Loop::new(MANY, MANY);
        let stoppers = [this.stopper(Mailbox::request_drain), this.stopper(Mailbox::request_now)];
        while !this.mailbox.drain_requested() {
            this.turn();
        }
        while !this.mailbox.now_requested() {
            this.turn(); // It drains, and does not end.
        }
        join(stoppers);
    });
}

#[test]
fn stops_at_once_end_the_loop_once_and_a_later_one_ends_it_again() {
    model(|| {
        let mut this = Loop::new(MANY, MANY);
        let stoppers = [this.stopper(Mailbox::request_drain), this.stopper(Mailbox::request_now)];
        this.serve();
        // A request that comes while another is carried out may count for the next run or not.
        join(stoppers);
        this.mailbox.request_drain();
        this.serve();
        assert!(!this.mailbox.drain_requested());
    });
}

#[test]
fn a_command_of_a_reactor_that_goes_is_taken_refused_or_dropped() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let submitters = [this.submitter(&dropped, &[1]), this.submitter(&dropped, &[2])];
        if this.mailbox.is_pending() {
            this.turn();
        }
        this.mailbox.close();
        join(submitters);
        assert!(this.mailbox.lock().waiting.is_empty());
        assert_eq!(dropped.count(), 2, "no command is kept or dropped twice");
    });
}

#[test]
fn commands_for_a_server_that_a_reactor_is_taking_come_in_order_and_wake_the_loop() {
    model(|| {
        let (mut this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let server = Mailbox::of_server(MANY);
        server.submit(Command(1, Arc::clone(&dropped.0)), true).unwrap();
        let submitter = this.submitter_to(&server, &dropped);
        server.lead_to(&this.mailbox);
        while this.taken.len() < 3 {
            this.turn();
        }
        assert_eq!(this.taken, [1, 2, 3]);
        assert_eq!(submitter.join().unwrap(), 2);
    });
}

#[test]
fn a_stop_that_is_requested_while_a_reactor_takes_the_server_ends_its_loop() {
    model(|| {
        let mut this = Loop::new(MANY, MANY);
        let server = Mailbox::of_server(MANY);
        let asked = Arc::clone(&server);
        let stopper = thread::spawn(move || asked.request_drain());
        server.lead_to(&this.mailbox);
        this.serve();
        stopper.join().unwrap();
        assert!(!server.end().drain_requested(), "the stop was carried out");
    });
}

#[test]
fn a_stop_that_is_requested_while_a_server_moves_ends_one_of_the_loops() {
    model(|| {
        let (first, mut second) = (Loop::new(MANY, MANY), Loop::new(MANY, MANY));
        let server = Mailbox::of_server(MANY);
        server.lead_to(&first.mailbox);
        let asked = Arc::clone(&server);
        let stopper = thread::spawn(move || asked.request_now());
        first.mailbox.lead_to(&second.mailbox);
        server.lead_to(&second.mailbox);
        assert!(first.mailbox.close().is_empty());
        second.serve();
        stopper.join().unwrap();
    });
}

#[test]
fn a_command_for_a_server_that_goes_is_refused_or_dropped() {
    model(|| {
        let (this, dropped) = (Loop::new(MANY, MANY), Dropped::default());
        let server = Mailbox::of_server(MANY);
        let submitter = this.submitter_to(&server, &dropped);
        drop(server.close());
        submitter.join().unwrap();
        assert!(server.lock().waiting.is_empty());
        assert_eq!(dropped.count(), 2);
    });
}
