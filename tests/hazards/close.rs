//! Closing, aborting and stopping from inside every callback; and what an error or a panic there does.

use std::io::{ErrorKind, Read, Write};
use std::time::Duration;

use socketserver::family::{Family, Tcp};
use socketserver::{Address, BaseServer, ConnectionId, EndReason, Error, Next, Request, Result, TcpServer, Timeout};

use crate::common::{
    Call, Journal, Kind, PATIENCE, Peer, SCRIPTED, echo, probe, serve, server_with, silence_scripted_panics, usual,
};

#[derive(Clone, Copy, Debug, PartialEq)]
enum Action {
    ReturnClose,
    ReturnAbort,
    CloseSelf,
    CloseOwnId,
    AbortSelf,
    AbortOwnId,
    ClosePeer,
    AbortPeer,
    Shutdown,
    Fail,
    Panic,
}

const ACTIONS: [Action; 11] = [
    Action::ReturnClose,
    Action::ReturnAbort,
    Action::CloseSelf,
    Action::CloseOwnId,
    Action::AbortSelf,
    Action::AbortOwnId,
    Action::ClosePeer,
    Action::AbortPeer,
    Action::Shutdown,
    Action::Fail,
    Action::Panic,
];

#[derive(Default)]
struct Table {
    /// The connection that was there before.
    bystander: Option<ConnectionId>,
    connected: usize,
    faults: Vec<String>,
}

impl BaseServer for Table {
    fn handle_error(&mut self, _: &Address, error: &Error) {
        self.faults.push(format!("{error:#}"));
    }
}

impl Action {
    fn perform(self, request: &mut Request<'_, Table>) -> Result<Next> {
        let bystander = request.server.bystander.expect("the bystander came first");
        let id = request.id();
        match self {
            Action::ReturnClose => return Ok(Next::Close),
            Action::ReturnAbort => return Ok(Next::Abort),
            Action::CloseSelf => request.close(),
            Action::AbortSelf => request.abort(),
            Action::CloseOwnId => request.others.close(id),
            Action::AbortOwnId => request.others.abort(id),
            Action::ClosePeer => request.others.close(bystander),
            Action::AbortPeer => request.others.abort(bystander),
            Action::Shutdown => request.others.request_shutdown(),
            Action::Fail => return Err(SCRIPTED.into()),
            Action::Panic => panic!("{}", SCRIPTED),
        }
        Ok(Next::Wait)
    }

    fn aborts(self) -> bool {
        matches!(self, Action::ReturnAbort | Action::AbortSelf | Action::AbortOwnId | Action::Panic)
    }

    fn ends_self(self) -> bool {
        self.aborts() || matches!(self, Action::ReturnClose | Action::CloseSelf | Action::CloseOwnId | Action::Fail)
    }
}

/// Lets a subject do every action in one callback, with a bystander connected, and checks what becomes of both.
fn in_each_way<F: Kind>(callback: &'static str) {
    for action in ACTIONS {
        in_one_way::<F>(callback, action);
    }
}

fn in_one_way<F: Kind>(callback: &'static str, action: Action) {
    silence_scripted_panics();
    let context = format!("{action:?} in {callback}");
    let journal = Journal::new();
    let notes = journal.clone();
    let mut server = server_with::<F, _, _>(Table::default(), move |table: &mut Table, _| {
        table.connected += 1;
        let who = if table.connected == 1 { "bystander" } else { "subject" };
        let notes = notes.clone();
        probe(move |call: Call, request: &mut Request<'_, Table>| {
            notes.note(format!("{who} {call}"));
            if who == "bystander" {
                request.server.bystander.get_or_insert(request.id());
                return echo(&call, request);
            }
            match (&call, callback) {
                (Call::Handle, "timeout") => request.set_timeout(Timeout::Idle, Some(Duration::from_millis(5))),
                (Call::Handle, "timer") => request.set_timer(7, Duration::from_millis(1)),
                (Call::Handle, "message") => request.others.handle().send(request.id(), "wake up")?,
                // More than the kernel's buffers hold, so that it becomes writable later.
                (Call::Handle, "writable") => {
                    request.output.write_all(&vec![0; 12 << 20])?;
                    notes.note("written");
                }
                (Call::Handle, "finish") => return Ok(Next::Close),
                _ => {}
            }
            if call.to_string().starts_with(callback) {
                notes.note(format!("acted in {callback}"));
                return action.perform(request);
            }
            echo(&call, request)
        })
    });
    let config = server.config().clone();
    server.set_config({
        let mut config = config;
        config.drain_quiet = Duration::from_millis(1);
        config.drain_grace = Duration::from_secs(1);
        config
    });
    let running = serve(server);

    let mut bystander = running.connect();
    bystander.echo("here");
    let mut subject = match Peer::try_connect(running.address.clone()) {
        Ok(subject) => subject,
        // The server was faster than connect(2), which then tells of the reset.
        Err(error) if callback == "setup" && action.aborts() => {
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset);
            return;
        }
        Err(error) => panic!("{context}: {error}"),
    };
    let mut seen = Ok(());
    match callback {
        "handle" | "finish" | "timeout" | "timer" | "message" => subject.send("go"),
        "writable" => {
            // It begins to read late: the server must have had to queue.
            subject.send("go");
            journal.wait("written");
            // The kernel tells of a reset once: if it is here, it is not told again below.
            seen = read_until_noted(&mut subject, &journal, "acted in writable");
        }
        "eof" => subject.half_close(),
        "drain" => {
            // The setup must have happened: a client that still waits is served, but its order is not ours to say.
            journal.wait("subject setup");
            running.stop.shutdown();
        }
        _ => {}
    }
    journal.wait(&format!("acted in {callback}"));

    // The others.
    match action {
        Action::ClosePeer if callback != "drain" => bystander.expect_eof(),
        Action::AbortPeer if callback != "drain" => drop(bystander.expect_abort::<F>()),
        Action::Shutdown => bystander.expect_eof(),
        _ if callback == "drain" => {}
        _ => bystander.echo("still here"),
    }
    // The client's view.
    if action.ends_self() || callback == "finish" {
        let (_, end) = subject.read_to_the_end();
        // What finish would return is not asked for.
        let aborts = action.aborts() && !(callback == "finish" && action == Action::ReturnAbort);
        // The peer of a Unix socket may see the end only.
        let told = F::NAME == Tcp::NAME || !aborts;
        assert!(!told || (seen.is_err() || end.is_err()) == aborts, "{context}: {end:?}");
    }
    drop((subject, bystander));
    let (stats, table) = running.stop_with_state();

    // Finish exactly once for each whose setup succeeded, for the right reason, and nothing after it.
    let lines = journal.lines();
    let ended = |who: &str| lines.iter().filter(|line| line.starts_with(&format!("{who} finish"))).count();
    assert_eq!(ended("bystander"), 1, "{context}: {lines:?}");
    let failed_setup = callback == "setup" && matches!(action, Action::Fail | Action::Panic);
    assert_eq!(ended("subject"), usize::from(!failed_setup), "{context}: {lines:?}");
    if !failed_setup {
        let last = lines.iter().rfind(|line| line.starts_with("subject")).unwrap();
        let why = reason(callback, action);
        assert!(why.is_none_or(|why| *last == format!("subject finish {why}")), "{context}: {why:?} {lines:?}");
        assert!(last.starts_with("subject finish"), "{context}: {lines:?}");
    }
    if matches!(action, Action::ClosePeer | Action::AbortPeer) && callback != "drain" {
        assert!(lines.iter().any(|line| line == "bystander finish evicted"), "{context}: {lines:?}");
    }
    let faults: &[&str] = match action {
        Action::Fail if callback != "finish" => &["scripted"],
        Action::Panic => &["panicked: scripted"],
        _ => &[],
    };
    assert_eq!(table.faults, faults, "{context}");
    assert_eq!(stats.panics, u64::from(action == Action::Panic), "{context}");
    assert_eq!(stats.active, 0, "{context}");
}

fn reason(callback: &str, action: Action) -> Option<EndReason> {
    Some(match (action, callback) {
        (_, "finish") => EndReason::Done,
        (Action::Fail, _) => EndReason::Error,
        (Action::Panic, _) => EndReason::Panicked,
        (Action::CloseSelf | Action::AbortSelf, _) => EndReason::Done,
        (Action::ReturnClose | Action::ReturnAbort, "eof") => EndReason::PeerClosed,
        (Action::ReturnClose | Action::ReturnAbort, "timeout") => EndReason::Timeout(Timeout::Idle),
        (Action::ReturnClose | Action::ReturnAbort, "drain") => EndReason::Stopped,
        (Action::ReturnClose | Action::ReturnAbort, _) => EndReason::Done,
        // It goes on, until the test drops its client or stops the server, whichever is noticed first.
        _ => return None,
    })
}

fn read_until_noted(peer: &mut Peer, journal: &Journal, line: &str) -> std::io::Result<()> {
    let mut buffer = vec![0; 64 << 10];
    peer.socket.set_read_timeout(Some(Duration::from_millis(10)))?; // The line may come when all is read.
    while journal.count(line) == 0 {
        match peer.socket.read(&mut buffer) {
            Ok(0) => break,
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    peer.socket.set_read_timeout(Some(PATIENCE))
}

#[test]
fn an_aborted_connection_is_gone_at_once() {
    let handler = |call: Call, request: &mut Request<'_>| {
        let Call::Handle = call else { return usual(&call, request) };
        if request.input.take_all() == b"out" {
            let others = request.others.connections();
            others.iter().for_each(|&id| request.others.abort(id));
            let left = request.others.connections();
            writeln!(request.output, "{} {}", others.len(), left.is_empty())?;
        } else {
            request.output.write_all(b"in\n")?;
        }
        Ok(Next::Wait)
    };
    let running = serve(TcpServer::new("127.0.0.1:0", move |_| probe(handler)).unwrap());
    let mut others: Vec<_> = (0..3).map(|_| running.connect()).collect();
    for other in &mut others {
        other.send("me too");
        assert_eq!(other.line(), "in");
    }
    let mut one = running.connect();
    one.send("out");
    assert_eq!(one.line(), "3 true");
    others.iter_mut().for_each(Peer::expect_reset);
    drop(one);
    running.stop();
}

macro_rules! callbacks {
    ($($test:ident: $callback:literal,)*) => {
        $(
        fn $test<F: Kind>() {
            in_each_way::<F>($callback);
        }
    )*
        over_streams! { $($test,)* }
    };
}

callbacks! {
    close_abort_stop_fail_and_panic_in_setup: "setup",
    close_abort_stop_fail_and_panic_in_handle: "handle",
    close_abort_stop_fail_and_panic_in_finish: "finish",
    close_abort_stop_fail_and_panic_in_writable: "writable",
    close_abort_stop_fail_and_panic_in_eof: "eof",
    close_abort_stop_fail_and_panic_in_timeout: "timeout",
    close_abort_stop_fail_and_panic_in_timer: "timer",
    close_abort_stop_fail_and_panic_in_message: "message",
    close_abort_stop_fail_and_panic_in_drain: "drain",
}
