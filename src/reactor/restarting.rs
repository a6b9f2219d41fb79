//! Replaces the process by its next version: collects the sockets, waits on a thread for the successor, and leaves.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, PoisonError};
use std::thread;
use std::time::Duration;

use super::Reactor;
use super::core::Core;
use super::served::{Named, Passed, Restarting, Served};
use super::shutdown::stop::Stop;
use super::slots::Contents;
use crate::error::{Error, Result, reason};
use crate::ids::ServerId;
use crate::logging::note;
use crate::net::clock::Clock;
use crate::net::path::leave_to_predecessor;
use crate::restart::link::{self, Heritage, Successor};
use crate::restart::origin::{self, Origin};
use crate::restart::spawn::Process;

impl Reactor {
    /// Replaces this process by the next version of its program, without losing a client: starts the program again, with
    /// the sockets of this reactor, waits until it serves, and then stops as
    /// [`shutdown`](crate::ShutdownHandle::shutdown) does, so [`serve_forever`](Self::serve_forever) returns. Meanwhile
    /// this process serves as before. If the new one cannot be started, ends, or does not serve within
    /// [`ReactorConfig::restart_timeout`](crate::ReactorConfig), it is killed, and this process continues. The log, the
    /// supervisor's `STATUS=` and [`Inspection::failed_restart`](crate::Inspection) have the reason, and
    /// [`Stats::restarts_failed`](crate::Stats) counts it. If a stop is requested first, the restart is given up.
    ///
    /// Handlers call [`Others::restart`](crate::Others::restart), other threads [`Handle::run`](crate::Handle::run), and
    /// [`restart_on_signal`](Self::restart_on_signal) restarts on SIGUSR2.
    ///
    /// The sockets are those that the servers have taken with [`Unbound::inherit_or_bind`](crate::Unbound), under the same
    /// names and positions. The new process takes them in the same way, so it must call
    /// [`InheritedSockets::from_env`](crate::InheritedSockets::from_env) at its start. It is ready when its first reactor
    /// begins to serve. From then on this process accepts and receives nothing at these sockets. The file of a Unix socket
    /// belongs to the new process, if this one has bound it.
    ///
    /// The new process gets the arguments, working directory and path of the program that this process had when it called
    /// `from_env`. The path keeps its symbolic links. The environment is that of now. Standard input, output and error are
    /// inherited, other descriptors and blocked signals are not. A signal is ignored if it was when this process began. A
    /// realtime signal is ignored if this process ignores it now.
    ///
    /// A supervisor is told of the new process if [`notify_supervisor`](Self::notify_supervisor) was called. The drain
    /// begins without [`ReactorConfig::drain_delay`](crate::ReactorConfig), and no `STOPPING=1` is sent. A supervisor that
    /// stops the service signals this process too: with [`shutdown_on_signals`](Self::shutdown_on_signals) the drain goes
    /// on at the first signal, and the second one aborts the connections.
    ///
    /// On Linux, macOS, FreeBSD and NetBSD. It was tested on Linux only. Feature `restart`.
    ///
    /// # Errors
    /// [`Error::Reactor`] if a restart or a stop is under way, if no socket has a name, if a name contains `:`, `=` or a
    /// line break, if sockets have the same position or a position before them cannot be filled, if the program or the
    /// working directory could not be found when this process began, or if the system has no descriptors or threads left.
    /// Later failures are logged only.
    ///
    /// Source: none in Python; gunicorn and nginx do this on SIGUSR2.
    ///
    /// ```no_run
    /// use socketserver::{InheritedSockets, NoHandler, Reactor, TcpServer};
    ///
    /// let mut sockets = InheritedSockets::from_env()?;
    /// let mut server = TcpServer::unbound(|_client_address| NoHandler);
    /// server.inherit_or_bind(&mut sockets, "http", "0.0.0.0:80")?;
    /// sockets.all_taken()?;
    /// let mut reactor = Reactor::new()?;
    /// reactor.add(server.server_activate()?)?;
    /// let handle = reactor.handle();
    /// std::thread::spawn(move || {
    ///     // When a new version is installed:
    ///     handle.run(|reactor| reactor.restart().expect("no other restart is under way"))
    /// });
    /// reactor.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn restart(&mut self) -> Result<()> {
        self.core.restart().map_err(failed)
    }

    /// Lets SIGUSR2 [restart](Self::restart) the program, as long as the reactor lives. A second call does nothing. If it
    /// cannot restart, because a restart is under way for example, the log has a warning. A signal that was ignored when
    /// the process began stays ignored. Features `restart` and `signals`.
    ///
    /// # Errors
    /// [`Error::Reactor`] if the signal cannot be watched.
    ///
    /// ```
    /// # use socketserver::{InheritedSockets, NoHandler, Reactor, TcpServer};
    /// let mut sockets = InheritedSockets::from_env()?;
    /// let mut server = TcpServer::unbound(|_client_address| NoHandler);
    /// server.inherit_or_bind(&mut sockets, "http", "127.0.0.1:0")?;
    /// sockets.all_taken()?;
    /// let mut reactor = Reactor::new()?;
    /// reactor.add(server.server_activate()?)?;
    /// reactor.restart_on_signal()?;
    /// # reactor.shutdown_handle().shutdown();
    /// reactor.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    #[cfg(feature = "signals")]
    pub fn restart_on_signal(&mut self) -> Result<()> {
        self.watch_signals(&[super::signals::RESTARTING])
    }

    #[cfg(feature = "signals")]
    pub(super) fn restart_by_signal(&mut self) {
        if let Err(error) = self.restart() {
            note!(Warn, "{error:#}");
        }
    }

    /// In a successor: waits until its predecessor lets it serve.
    ///
    /// # Errors
    /// If the predecessor has taken the restart back. If this process was told to stop, because nothing would serve then.
    pub(crate) fn take_over(&mut self) -> Result<()> {
        if !link::is_awaited() {
            return Ok(());
        }
        #[cfg(feature = "signals")]
        self.core.hear_signals();
        let taken_over = match self.core.was_told_to_stop() {
            true => Err(io::Error::other("a stop was requested before this process replaced its predecessor")),
            false => link::take_over(),
        };
        taken_over.map_err(|source| Error::Reactor { doing: "serve", source })?;
        leave_to_predecessor(false);
        Ok(())
    }

    /// The attempt to start a successor is over.
    fn restarted(&mut self, result: Result<Process, String>) {
        let Some(restarting) = self.core.restarting.take() else { return };
        if restarting.is_given_up || self.core.was_told_to_stop() {
            note!(Info, "{GIVEN_UP}");
        } else if let Err(why) = result.and_then(|process| self.give_way(process, &restarting)) {
            // A signal that has ended the successor may have been sent to this process too, which reads it in the next
            // turn, after the commands.
            let failed = move |reactor: &mut Reactor| reactor.restart_failed(why);
            self.core.handle().run_next(move |reactor| reactor.core.handle().run_next(failed));
        }
    }

    pub(crate) fn restart_failed(&mut self, why: String) {
        if self.core.was_told_to_stop() {
            return note!(Info, "{GIVEN_UP}");
        }
        note!(Error, "the restart has failed: {why}; this process continues to serve");
        self.core.note_failed_restart(why);
    }

    /// The successor is ready: lets it serve, and stops.
    fn give_way(&mut self, process: Process, restarting: &Restarting) -> Result<(), String> {
        let id = process.id();
        #[cfg(feature = "sd-notify")]
        self.core.tell_main_process(id).map_err(|error| format!("the supervisor is not told of it: {error}"))?;
        if restarting.successor.go().is_err() {
            #[cfg(feature = "sd-notify")]
            let _ = self.core.tell_main_process(std::process::id()); // It may have learned otherwise by itself.
            return Err(format!("process {id} has ended: {}", process.end()));
        }
        process.release();
        #[cfg(feature = "sd-notify")]
        self.core.end_supervision();
        for (server, address) in &restarting.sockets {
            let _ = self.hand_over(*server, address); // A closed server has left no file.
        }
        self.core.kept_elsewhere.iter().for_each(|kept| kept.hand_over());
        note!(Info, "process {id} serves from now on");
        self.core.awaits_first_signal = true;
        self.leave();
        Ok(())
    }

    /// A successor serves, and has the sockets with names: accepts and receives nothing there any more, and stops.
    pub(crate) fn leave(&mut self) {
        for server in self.numbers() {
            self.core.unlisten_named(server);
        }
        self.core.is_replaced = true;
        self.core.shared.request_drain();
    }
}

const GIVEN_UP: &str = "the restart is given up, because a stop was requested";

impl Core {
    /// Restarts in the next turn.
    pub(crate) fn request_restart(&mut self) -> Result<()> {
        self.may_restart().map_err(failed)?;
        self.restart_requested = true;
        self.handle().run_next(|reactor| {
            reactor.core.restart_requested = false;
            if let Err(error) = reactor.restart() {
                note!(Error, "{error:#}");
            }
        });
        Ok(())
    }

    /// Returns whether a signal to stop is the first one after a successor has caused the stop that is under way.
    #[cfg(feature = "signals")]
    pub(super) fn take_first_signal(&mut self) -> bool {
        std::mem::take(&mut self.awaits_first_signal) && self.was_told_to_stop()
    }

    fn was_told_to_stop(&self) -> bool {
        !matches!(self.stop, Stop::No) || self.shared.drain_requested()
    }

    fn may_restart(&self) -> io::Result<()> {
        if self.restarting.is_some() || self.restart_requested {
            return Err(io::Error::other("a restart is under way"));
        }
        if self.was_told_to_stop() {
            return Err(io::Error::other("the reactor is stopping"));
        }
        Ok(())
    }

    fn note_failed_restart(&mut self, why: String) {
        #[cfg(feature = "sd-notify")]
        self.tell_failed_restart(&why);
        self.stats.restarts_failed += 1;
        self.kept_elsewhere.iter().for_each(|kept| kept.note_failure());
        *self.failed_restart.lock().unwrap_or_else(PoisonError::into_inner) = Some((Clock::new(), why));
    }

    fn restart(&mut self) -> io::Result<()> {
        self.may_restart()?;
        self.begin_restart().inspect_err(|error| self.note_failed_restart(reason(error)))
    }

    fn begin_restart(&mut self) -> io::Result<()> {
        let origin = origin::origin()?;
        let passed = self.sockets_to_pass()?;
        let positions = passed.iter().enumerate();
        let files = positions.filter_map(|(position, socket)| Some((position, socket.file?))).collect();
        let heritage = Heritage { files, directory: origin.directory.clone() };
        let (successor, end) = Successor::link(&heritage)?;
        let successor = Arc::new(successor);
        let own = passed.iter().filter_map(|socket| Some((socket.server?, socket.named.address.clone()))).collect();
        let mut sockets: Vec<_> = passed.into_iter().map(|socket| (socket.named.name, socket.duplicate)).collect();
        sockets.push((link::NAME.to_owned(), end));
        let (way_back, link, limit) = (self.handle(), Arc::clone(&successor), self.config.restart_timeout);
        thread::Builder::new().name("restart".to_owned()).spawn(move || {
            let result = start(origin, sockets, &link, limit);
            way_back.run_next(move |reactor| reactor.restarted(result));
        })?;
        note!(Info, "restarting: {} is started", origin.program.display());
        self.restarting = Some(Restarting { successor, sockets: own, is_given_up: false });
        Ok(())
    }

    /// More names of a server's sockets.
    pub(crate) fn name_sockets(&mut self, server: ServerId, named: &[Named]) {
        if let Some(server) = self.server(server) {
            self.served[usize::from(server)].named.extend_from_slice(named);
        }
    }

    /// Closes the listeners of a server that a successor has. It serves their clients, also those in the backlogs. The
    /// datagram sockets stay open only for what is still sent.
    fn unlisten_named(&mut self, server: u16) {
        let mut listeners = std::mem::take(&mut self.served[usize::from(server)].listeners);
        listeners.retain(|&key| {
            if !self.is_named(server, key) {
                return true;
            }
            let Some(endpoint) = self.slots.endpoint(key) else {
                self.unlisten_one(key);
                return false;
            };
            endpoint.receives_no_more = true;
            self.selector.deregister(&mut endpoint.socket);
            true
        });
        self.served[usize::from(server)].listeners = listeners;
    }

    /// Returns whether a successor serves all sockets of a server.
    pub(super) fn is_left_to_successor(&mut self, server: u16) -> bool {
        let Served { listeners, named, .. } = &self.served[usize::from(server)];
        self.is_replaced && !named.is_empty() && listeners.clone().into_iter().all(|key| self.is_named(server, key))
    }

    fn is_named(&mut self, server: u16, key: u32) -> bool {
        let is_datagrams = self.slots.endpoint(key).is_some();
        let named = &self.served[usize::from(server)].named;
        let Some(address) = self.slots.bound(key) else { return false };
        named.iter().any(|named| named.is_of(address, is_datagrams))
    }

    /// Duplicates of the sockets with names, in the order of their positions.
    fn sockets_to_pass(&mut self) -> io::Result<Vec<Passed>> {
        let mut all = self.kept_elsewhere.as_ref().map_or(Ok(Vec::new()), |kept| kept.sockets())?;
        let Core { served, slots, .. } = self;
        for (_, served) in served.iter() {
            for &key in &served.listeners {
                let address = slots.bound(key).cloned().ok_or(io::ErrorKind::ResourceBusy)?;
                let is_datagrams = slots.endpoint(key).is_some();
                let is_it = |named: &&Named| named.is_of(&address, is_datagrams);
                let Some(named) = served.named.iter().find(is_it) else { continue };
                let (duplicate, file) = match slots.get(key).and_then(|slot| slot.contents()) {
                    Some(Contents::Listener(listening)) => {
                        let listener = listening.listener.as_ref().ok_or(io::ErrorKind::ResourceBusy)?;
                        (listener.duplicate()?, listener.file())
                    }
                    Some(Contents::Endpoint(endpoint)) => (endpoint.socket.duplicate()?, endpoint.socket.file()),
                    _ => continue,
                };
                all.push(Passed { named: named.clone(), server: Some(served.id), duplicate, file });
            }
        }
        check_names(&all)?;
        in_order(all)
    }
}

fn check_names(all: &[Passed]) -> io::Result<()> {
    if all.is_empty() {
        let why = "no socket was taken with `inherit_or_bind`; for `Workers` there is `WorkersHandle::restart`";
        return Err(io::Error::other(why));
    }
    match all.iter().map(|socket| &socket.named.name).find(|name| name.contains([':', '=', '\n'])) {
        Some(name) => Err(io::Error::other(format!("{name:?} cannot be the name of a socket"))),
        None => Ok(()),
    }
}

/// Sorts them by position. Those without one fill the gaps, and the end.
fn in_order(all: Vec<Passed>) -> io::Result<Vec<Passed>> {
    let (mut placed, others): (Vec<_>, Vec<_>) = all.into_iter().partition(|passed| passed.named.position.is_some());
    placed.sort_by_key(|passed| passed.named.position);
    let (mut passed, mut others) = (Vec::new(), others.into_iter());
    for socket in placed {
        let position = socket.named.position.unwrap_or(0);
        passed.extend(others.by_ref().take(position - passed.len().min(position)));
        if passed.len() != position {
            return Err(io::Error::other(format!("no socket can have the position {}", passed.len())));
        }
        passed.push(socket);
    }
    passed.extend(others);
    Ok(passed)
}

fn failed(source: io::Error) -> Error {
    Error::Reactor { doing: "restart", source }
}

/// Starts a successor, and waits until it is ready. Otherwise it is killed.
fn start(
    origin: &Origin,
    sockets: Vec<(String, OwnedFd)>,
    successor: &Successor,
    limit: Duration,
) -> Result<Process, String> {
    let program = origin.program.display();
    let process =
        Process::start(origin, &sockets).map_err(|error| format!("cannot run {program}: {}", reason(&error)))?;
    drop(sockets); // Its end of the link, too: when it ends, the link does.
    let id = process.id();
    match successor.wait(limit) {
        Ok(true) => Ok(process),
        Ok(false) => Err(format!("process {id} has ended before it was ready: {}", process.end())),
        Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
            process.end();
            Err(format!("process {id} was not ready after {limit:?} (restart_timeout), and is killed"))
        }
        Err(error) => Err(format!("process {id} cannot be waited for: {}", reason(&error))),
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::{TcpListener, TcpStream, UdpSocket};

    use super::*;
    use crate::address::Address;
    use crate::handler::RequestHandler;
    use crate::handler::request::Request;
    use crate::lifecycle::Next;
    use crate::server::inherited::InheritedSockets;
    use crate::server::{TcpServer, UdpServer};

    /// Answers, and stays until the client ends.
    struct Stays;

    impl RequestHandler for Stays {
        fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
            request.output.write_all(request.input.take_all())?;
            Ok(Next::Wait)
        }

        fn drain(&mut self, _: &mut Request<'_>) -> Result<Next> {
            Ok(Next::Wait)
        }
    }

    fn serve(reactor: &mut Reactor, name: Option<&str>, lasts: bool) -> (ServerId, Address) {
        let mut server = TcpServer::unbound(|_| Stays);
        server.limits.serve_while_draining = lasts;
        match name {
            Some(name) => server.inherit_or_bind(&mut InheritedSockets::default(), name, "127.0.0.1:0").unwrap(),
            None => server.server_bind("127.0.0.1:0").unwrap(),
        }
        let id = reactor.add_unbound(server).unwrap();
        (id, reactor.server_addresses(id).remove(0))
    }

    fn connect(address: &Address) -> TcpStream {
        let client = TcpStream::connect(address.as_inet().unwrap()).unwrap();
        client.set_nonblocking(true).unwrap();
        client
    }

    fn ask(reactor: &mut Reactor, client: &mut TcpStream) {
        client.write_all(b"?").unwrap();
        while client.read(&mut [0]).is_err() {
            assert!(reactor.poll(Some(Duration::from_millis(10))).unwrap(), "it serves");
        }
    }

    #[test]
    fn a_restart_that_a_stop_has_ended_has_not_failed() {
        let mut reactor = Reactor::new().unwrap();
        serve(&mut reactor, Some("main"), false);
        for stops in [true, false] {
            let (successor, _end) = Successor::link(&Heritage { files: Vec::new(), directory: "/".into() }).unwrap();
            let (successor, sockets) = (Arc::new(successor), Vec::new());
            reactor.core.restarting = Some(Restarting { successor, sockets, is_given_up: false });
            if stops {
                reactor.shutdown_handle().shutdown();
                reactor.serve_forever().unwrap();
            }
            reactor.poll(Some(Duration::ZERO)).unwrap(); // It serves, perhaps again.
            reactor.restarted(Err("it has ended".to_owned()));
            for _ in 0..2 {
                reactor.poll(Some(Duration::ZERO)).unwrap();
            }
            let failed = reactor.inspect().failed_restart.map(|failed| failed.reason);
            assert_eq!((reactor.stats().restarts_failed, failed.is_some()), (u64::from(!stops), !stops));
            assert!(stops || failed.unwrap() == "it has ended");
        }
    }

    #[test]
    fn a_restart_that_cannot_begin_has_failed() {
        let mut reactor = Reactor::new().unwrap();
        serve(&mut reactor, None, false);
        let error = reactor.restart().unwrap_err().to_string();
        let reason = reactor.inspect().failed_restart.expect("it is seen").reason;
        assert!(reason.starts_with("no socket was taken") && error.starts_with("cannot restart"), "{reason}, {error}");
        assert_eq!(reactor.stats().restarts_failed, 1);
    }

    #[test]
    fn a_replaced_process_accepts_clients_only_at_sockets_that_its_successor_has_not() {
        for lasts in [false, true] {
            let mut reactor = Reactor::new().unwrap();
            let (named, address) = serve(&mut reactor, Some("main"), lasts);
            let (_, page) = serve(&mut reactor, None, true);
            let (_, other) = serve(&mut reactor, None, false);
            let successor = TcpListener::from(reactor.duplicate_socket(named, &address).unwrap());
            let mut staying = connect(&address);
            ask(&mut reactor, &mut staying);
            let (_waiting, mut waiting_elsewhere) = (connect(&address), connect(&other));
            reactor.leave();
            ask(&mut reactor, &mut waiting_elsewhere);
            ask(&mut reactor, &mut connect(&page));
            ask(&mut reactor, &mut staying);
            successor.accept().expect("the client in the backlog is left to it"); // It does not block.
            drop((staying, waiting_elsewhere));
            reactor.serve_forever().unwrap();
        }
    }

    #[test]
    fn a_replaced_process_receives_no_datagram_that_its_successor_can_receive() {
        let mut reactor = Reactor::new().unwrap();
        let mut server = UdpServer::unbound(|_| Stays);
        server.limits.sessions_max = Some(10);
        server.inherit_or_bind(&mut InheritedSockets::default(), "main", "127.0.0.1:0").unwrap();
        let id = reactor.add_unbound(server).unwrap();
        let address = reactor.server_addresses(id).remove(0);
        let successor = UdpSocket::from(reactor.duplicate_socket(id, &address).unwrap());
        let client = || {
            let client = UdpSocket::bind("127.0.0.1:0").unwrap();
            client.connect(address.as_inet().unwrap()).unwrap();
            client
        };
        let known = client();
        known.send(b"?").unwrap();
        while reactor.stats().datagrams_out == 0 {
            assert!(reactor.poll(Some(Duration::from_secs(10))).unwrap(), "it serves");
        }
        reactor.leave();
        for from in [known, client()] {
            from.send(b"?").unwrap();
            reactor.poll(Some(Duration::ZERO)).unwrap();
            let (_, sender) = successor.recv_from(&mut [0]).expect("it is left to the successor"); // It does not block.
            assert_eq!(sender, from.local_addr().unwrap());
        }
        reactor.serve_forever().unwrap();
    }
}
