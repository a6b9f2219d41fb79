//! Commands of other threads: messages, closures, and ends of requests that they serve.

use std::any::Any;

use super::Reactor;
use super::handle::{Command, Handle, Message};
use crate::address::Address;
use crate::error::Result;
use crate::ids::{ConnectionId, ServerId};
use crate::logging::note_fault;
use crate::net::Stream;
use crate::panics::catch;

impl Reactor {
    pub(super) fn has_commands(&self) -> bool {
        self.core.shared.is_pending() || !self.taken.is_empty()
    }

    /// Carries out the commands of other threads: messages, closures, results of jobs, datagrams, and ends of requests.
    pub(super) fn commands(&mut self) {
        if self.taken.is_empty() {
            self.taken = self.core.shared.take(self.core.config.messages_per_turn).into();
        }
        let slice = self.part_of_turn();
        while let Some(command) = self.taken.pop_front() {
            self.scratch.budget.turn.waiting = self.taken.len() + 1;
            match command {
                Command::Message(id, message) => self.deliver(id, Ok(message)),
                Command::Offloaded(id, result) => {
                    self.core.slots.find(id).into_iter().for_each(|(_, connection)| connection.state.end_job());
                    self.deliver(id, result);
                }
                Command::Over(id, result) => self.over(id, result),
                Command::Datagram(socket, route, to, bytes) => match self.core.slots.named(socket).is_some() {
                    true => _ = self.core.send_datagram(route, &to, &bytes),
                    false => self.core.stats.datagrams_failed += 1,
                },
                Command::ServerMessage(id, message) => match self.core.open_server(id) {
                    Some(server) => self.servers[usize::from(server)].on_server_message(&mut self.core, message),
                    None => self.core.refuse(message),
                },
                Command::Run(job) => {
                    if let Err(panic) = catch(|| job(self)) {
                        self.core.stats.panics += 1;
                        note_fault!(Error, "a closure submitted to the reactor {panic}");
                    }
                }
            }
            if slice.is_over(&self.scratch.budget.turn) {
                break;
            }
        }
    }

    pub(super) fn deliver(&mut self, id: ConnectionId, message: Result<Message>) {
        match self.core.slots.find(id) {
            Some((server, _)) => {
                self.servers[usize::from(server)].on_message(&mut self.core, &mut self.scratch, id.slot.key, message);
            }
            None => {
                if self.core.slots.is_elsewhere(id) {
                    note_fault!(Warn, "a message for connection {id} is dropped: a request on a thread takes none");
                }
                self.core.refuse(message);
            }
        }
    }

    /// A request that was served elsewhere is over.
    pub(super) fn over(&mut self, id: ConnectionId, result: Result<()>) {
        let Some(slot) = self.core.slots.named(id) else { return };
        let server = usize::from(slot.server);
        if let Some(elsewhere) = slot.elsewhere() {
            let (address, ended) = (elsewhere.address.clone(), elsewhere.ended);
            self.servers[server].on_over(&mut self.core, &address, ended, result);
            self.core.dead.push(id.slot.key);
        }
    }
}

impl Handle {
    /// Runs `job` on the reactor's thread, between the service of two turns. It must not block. If it panics, the panic is
    /// logged and counted in [`Stats::panics`](crate::Stats), and the reactor continues.
    ///
    /// # Errors
    /// The same as for [`send`](Self::send).
    pub fn run(&self, job: impl FnOnce(&mut Reactor) + Send + 'static) -> Result<()> {
        self.submit(job, true)
    }

    /// Like [`run`](Self::run), for an order of a callback or hook, which is never refused.
    pub(crate) fn run_next(&self, job: impl FnOnce(&mut Reactor) + Send + 'static) {
        let _ = self.submit(job, false); // A reactor that is gone needs none.
    }

    /// Like [`run`](Self::run). A job that is not `bounded` is accepted even if the queue is full.
    pub(crate) fn submit(&self, job: impl FnOnce(&mut Reactor) + Send + 'static, bounded: bool) -> Result<()> {
        let job = |reactor: &mut dyn Any| job(reactor.downcast_mut().expect("a closure is given its reactor"));
        self.shared.submit(Command::Run(Box::new(job)), bounded)
    }

    /// Passes a connection to a server of the reactor: see [`Reactor::admit`]. If that fails, the error is logged and
    /// counted in [`Stats::accept_errors`](crate::Stats), and the connection is closed.
    ///
    /// # Errors
    /// The same as for [`send`](Self::send). The connection is closed then.
    ///
    /// ```
    /// # use socketserver::{NoHandler, Reactor, TcpServer};
    /// use socketserver::Stream;
    /// use std::net::{TcpListener, TcpStream};
    ///
    /// let mut reactor = Reactor::new()?;
    /// let server = reactor.add_unbound(TcpServer::unbound(|_| NoHandler))?;
    /// let handle = reactor.handle();
    /// let listener = TcpListener::bind("127.0.0.1:0")?;
    /// let client = TcpStream::connect(listener.local_addr()?)?;
    /// let thread = std::thread::spawn(move || {
    ///     let (stream, client_address) = Stream::from_socket(listener.accept()?.0)?;
    ///     handle.admit(server, stream, client_address)
    /// });
    /// reactor.poll(None)?;
    /// thread.join().unwrap()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn admit(&self, server: ServerId, stream: Stream, client_address: Address) -> Result<()> {
        self.run(move |reactor| {
            let client = client_address.clone();
            if let Err(error) = reactor.admit(server, stream, client_address) {
                reactor.core.stats.accept_errors += 1;
                note_fault!(Warn, "{client} is not served: {error:#}");
            }
        })
    }
}
