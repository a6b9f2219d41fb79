//! A program that serves a request, as inetd(8) runs one.
//!
//! The job's thread starts the program and waits for it. Therefore the reactor waits for neither, and no exit status is
//! left to collect. The standard library cannot wait on one thread while another thread kills. shared_child can,
//! through waitid(2), which keeps the process number from being reused before we are done with it.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use shared_child::SharedChild;

use super::request::Origin;
use super::socket::BlockingSocket;
use super::stop::{End, Stop};
use crate::backoff::Backoff;
use crate::error::{Error, Result, reason};
use crate::logging::note_fault;
use crate::net::packet::PAYLOAD_MAX;

/// Runs the command, with the request as its standard input and output, until it has ended.
pub(super) fn run(command: Box<Command>, origin: Origin, stop: &Stop) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let client = origin.client_address.clone();
    let status = if origin.socket.is_datagram() {
        serve_datagram(command, &origin, stop)?
    } else {
        serve_stream(command, origin.socket, stop)?
    };
    if let Some(status) = status
        && !status.success()
    {
        // As under inetd, a failure is the program's concern. A client may cause it, so the log line is throttled.
        note_fault!(Debug, "{program} for {client}: {status}");
    }
    Ok(())
}

/// A process that the program has left behind may keep the client, as under inetd. In this way a daemon takes over a
/// client.
fn serve_stream(command: Box<Command>, socket: BlockingSocket, stop: &Stop) -> Result<Option<ExitStatus>> {
    socket.set_blocking()?;
    let stdio = socket.as_fd().expect("a stream has a descriptor");
    let child = Arc::new(start(command, stop, |command| Running::spawn(command, stdio, None))?);
    drop(socket); // Only the program has it now. When the program closes it, the client sees the end.
    stop.aim(&(Arc::clone(&child) as Arc<dyn End>));
    Ok(child.wait()?)
}

/// The program gets one end of a pair of sockets instead of pipes. Shutting it down from here ends the conversation
/// even if a process that the program has started still holds it open.
fn serve_datagram(command: Box<Command>, origin: &Origin, stop: &Stop) -> Result<Option<ExitStatus>> {
    let (child, theirs) = start(command, stop, |command| {
        let (ours, theirs) = UnixStream::pair()?;
        Running::spawn(command, theirs.as_fd(), Some(ours)).map(|child| (Arc::new(child), theirs))
    })?;
    stop.aim(&(Arc::clone(&child) as Arc<dyn End>));
    let (status, reply) = child.converse(origin.socket.packet(), &theirs)?;
    let failed = status.is_some_and(|status| !status.success());
    if !failed && !reply.is_empty() && stop.ended().is_none() {
        origin.socket.send_to(&reply, &origin.client_address)?;
    }
    Ok(status)
}

/// A running program.
struct Running {
    process: SharedChild,
    /// Our end of its standard input and output, unless that is the client itself.
    ours: Option<UnixStream>,
    /// It has ended, so its process number may have been reused.
    over: AtomicBool,
}

impl Running {
    /// The program leads a process group of its own. Therefore the processes that it has started can be ended with it,
    /// and a Ctrl-C for the server does not reach it. It has copies of the socket's descriptor as its descriptors 0 and
    /// 1. All our other descriptors close on exec, like all descriptors of the standard library and of mio.
    fn spawn(command: &mut Command, stdio: BorrowedFd<'_>, ours: Option<UnixStream>) -> io::Result<Self> {
        let (input, output) = (stdio.try_clone_to_owned()?, stdio.try_clone_to_owned()?);
        let spawned = SharedChild::spawn(command.stdin(input).stdout(output).process_group(0));
        command.stdin(Stdio::null()).stdout(Stdio::null()); // This closes the copies.
        Ok(Running { process: spawned?, ours, over: AtomicBool::new(false) })
    }

    /// Waits until it has ended. `None`: it has ended, but the system does not return its status, waitpid(2), because
    /// SIGCHLD is ignored, perhaps by our parent, or because other code in this process has waited before.
    fn wait(&self) -> io::Result<Option<ExitStatus>> {
        let status = match self.process.wait() {
            Err(error) if error.raw_os_error() == Some(Errno::ECHILD as i32) => Ok(None),
            status => status.map(Some),
        };
        self.over.store(true, Ordering::Relaxed);
        status
    }

    /// Gives the program its input, reads its output, and waits for its end. All of this happens at the same time. A
    /// program may write before it has read everything, and neither side has room for all of it. And a process that the
    /// program has started may hold `theirs` open for long after it.
    fn converse(&self, packet: &[u8], theirs: &UnixStream) -> Result<(Option<ExitStatus>, Vec<u8>)> {
        let mut ours = self.ours.as_ref().expect("a datagram is not given to the program itself");
        std::thread::scope(|scope| {
            let feed = move || {
                // A program need not read its input.
                let _ = ours.write_all(packet);
                let _ = ours.shutdown(Shutdown::Write);
            };
            let read = move || {
                let mut reply = Vec::new();
                let read = ours.take(PAYLOAD_MAX as u64 + 1).read_to_end(&mut reply);
                match read {
                    Ok(_) if reply.len() > PAYLOAD_MAX => {
                        self.end();
                        Err(Error::other(format!("a program's reply is longer than {PAYLOAD_MAX} bytes")))
                    }
                    // It left its input unread when it ended. Its output came before this.
                    Err(error) if error.kind() != io::ErrorKind::ConnectionReset => Err(error.into()),
                    _ => Ok(reply),
                }
            };
            let thread = |name: &str| std::thread::Builder::new().name(format!("socketserver-{name}"));
            let fed = thread("feed").spawn_scoped(scope, feed);
            let reading = thread("read").spawn_scoped(scope, read);
            if fed.is_err() || reading.is_err() {
                self.end();
            }
            let status = self.wait();
            // Its output comes before this end, and both threads wait no longer than this one.
            let _ = theirs.shutdown(Shutdown::Both);
            let (_, reading) = (fed?, reading?);
            Ok((status?, reading.join().expect("reading does not panic")?))
        })
    }
}

impl End for Running {
    /// Sends SIGKILL to it and to the processes that it has started. A pipeline that lived on would keep the client's
    /// connection open.
    fn end(&self) {
        if !self.over.load(Ordering::Relaxed) {
            // An error means that no process is left, or that a program has changed its user.
            let group = Pid::from_raw(self.process.id().cast_signed());
            let _ = killpg(group, Signal::SIGKILL);
            let _ = self.process.kill();
        }
        if let Some(ours) = &self.ours {
            let _ = ours.shutdown(Shutdown::Both); // An error means that it is shut down already.
        }
    }
}

/// Starts a program. While descriptors, memory or processes have run out, it tries again until the request is ended.
/// Other requests free their resources, and an admitted client should not lose its turn. A failed attempt must hold
/// nothing, or requests would wait for each other.
fn start<T>(
    mut command: Box<Command>,
    stop: &Stop,
    mut attempt: impl FnMut(&mut Command) -> io::Result<T>,
) -> Result<T> {
    let program = command.get_program().to_string_lossy().into_owned();
    let mut backoff = Backoff::default();
    loop {
        let source = match attempt(&mut command) {
            Ok(started) => return Ok(started),
            Err(source) => source,
        };
        if is_shortage(&source) && backoff == Backoff::default() {
            note_fault!(Warn, "cannot run {program} yet: {}", reason(&source));
        }
        if !is_shortage(&source) || stop.ended_within(backoff.pause()) {
            return Err(Error::Spawn { program, source });
        }
    }
}

fn is_shortage(error: &io::Error) -> bool {
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or(0));
    matches!(errno, Errno::EMFILE | Errno::ENFILE | Errno::ENOMEM | Errno::ENOBUFS | Errno::EAGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::blocking::serve_on::Work;
    use crate::blocking::tests::{MOMENT, PATIENCE, Served, client, datagram, is_timed_out, origin, pair, rest};
    use crate::reactor::entries::{Ended, Stopper as _};

    fn shell(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    fn begin(command: Command, socket: impl Into<BlockingSocket>) -> Served {
        Served::begin(Work::<()>::Child(Box::new(command)), origin(socket))
    }

    #[test]
    fn processes_that_a_program_has_started_are_killed_with_it() {
        let (socket, mut peer) = pair();
        let served = begin(shell("sleep 1000 & echo ready; wait"), socket);
        let mut ready = [0; 6];
        peer.read_exact(&mut ready).unwrap();
        served.stop.end(Ended::Closed);
        assert_eq!(rest(&mut peer), "", "nothing holds the connection open");
        let _ = served.result();
    }

    #[test]
    fn the_client_is_the_program_s_input_and_output() {
        let (socket, mut peer) = pair();
        socket.set_nonblocking(true).unwrap(); // As it comes from the reactor.
        let served = begin(Command::new("cat"), socket);
        peer.write_all(b"hello").unwrap();
        let mut echo = [0; 5];
        peer.read_exact(&mut echo).unwrap();
        assert!(served.is_running());
        peer.shutdown(Shutdown::Write).unwrap();
        assert_eq!((&echo, rest(&mut peer).as_str()), (b"hello", ""));
        served.result().unwrap();
    }

    #[test]
    fn a_unix_socket_is_handed_over_as_well() {
        let (socket, mut peer) = UnixStream::pair().unwrap();
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        let served = begin(Command::new("cat"), socket);
        peer.write_all(b"hello").unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        let mut echo = String::new();
        peer.read_to_string(&mut echo).unwrap();
        assert_eq!(echo, "hello");
        served.result().unwrap();
    }

    #[test]
    fn the_client_sees_the_end_when_the_program_closes_it() {
        let (socket, mut peer) = pair();
        let served = begin(shell("echo bye; exec <&- >&-; exec sleep 1000"), socket);
        assert_eq!(rest(&mut peer), "bye\n");
        assert!(served.is_running());
        served.stop.end(Ended::Closed);
        served.result().unwrap();
    }

    #[test]
    fn a_program_that_does_not_end_is_killed() {
        for why in [Ended::Closed, Ended::TimedOut(MOMENT)] {
            let (socket, mut peer) = pair();
            let served = begin(shell("echo ready; exec sleep 1000"), socket);
            peer.read_exact(&mut [0; 6]).unwrap();
            served.stop.end(why);
            let result = served.result();
            assert_eq!(is_timed_out(&result), why != Ended::Closed);
            assert_eq!(result.is_ok(), why == Ended::Closed);
            assert_eq!(rest(&mut peer), "");
        }
    }

    #[test]
    fn a_stop_while_the_program_is_being_started_is_not_lost() {
        for _ in 0..20 {
            let (socket, _peer) = pair();
            let served = begin(shell("exec sleep 1000"), socket);
            served.stop.end(Ended::TimedOut(MOMENT));
            assert!(is_timed_out(&served.result()));
        }
    }

    #[test]
    fn a_status_other_than_0_is_no_error() {
        let (socket, mut peer) = pair();
        begin(shell("echo no; exit 3"), socket).result().unwrap();
        assert_eq!(rest(&mut peer), "no\n");
    }

    #[test]
    fn an_error_names_the_program_that_cannot_be_run() {
        let (socket, mut peer) = pair();
        let error = begin(Command::new("/no/such"), socket).result().unwrap_err();
        assert_eq!(format!("{error:#}"), "cannot run /no/such: no such file or directory");
        assert_eq!(rest(&mut peer), "");
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_program_has_no_descriptor_of_ours_but_the_client() {
        use std::os::fd::AsRawFd as _;
        let (socket, mut peer) = pair();
        let (ours, _also) = UnixStream::pair().unwrap();
        let script =
            format!("[ ! -e /proc/$$/fd/{} ] && [ /proc/$$/fd/0 -ef /proc/$$/fd/1 ] && echo good", ours.as_raw_fd());
        begin(shell(&script), socket).result().unwrap();
        assert_eq!(rest(&mut peer), "good\n");
    }

    #[test]
    fn a_packet_is_the_program_s_input_and_its_output_the_reply() {
        let largest = vec![b'x'; PAYLOAD_MAX];
        for packet in [b"hello\n", &largest[..]] {
            let (socket, replies) = datagram(packet);
            begin(Command::new("cat"), socket).result().unwrap();
            assert_eq!(replies.iter().collect::<Vec<_>>(), [(client(), packet.to_vec())]);
        }
    }

    #[test]
    fn a_program_may_leave_the_packet_unread() {
        let (socket, replies) = datagram(b"who cares");
        begin(shell("echo me"), socket).result().unwrap();
        assert_eq!(replies.iter().collect::<Vec<_>>(), [(client(), b"me\n".to_vec())]);
    }

    #[test]
    fn nothing_is_sent_for_a_program_that_fails_or_says_nothing() {
        for script in ["echo half; exit 1", "cat >/dev/null"] {
            let (socket, replies) = datagram(b"hello");
            begin(shell(script), socket).result().unwrap();
            assert!(replies.recv().is_err());
        }
    }

    #[test]
    fn a_reply_that_no_datagram_holds_is_an_error_and_ends_the_program() {
        let (socket, replies) = datagram(b"hello");
        let result = begin(shell("exec cat /dev/zero"), socket).result();
        assert_eq!(result.unwrap_err().to_string(), "a program's reply is longer than 65507 bytes");
        assert!(replies.recv().is_err());
    }

    #[test]
    fn a_process_that_a_program_leaves_behind_does_not_delay_its_answer() {
        for (script, reply) in [("sleep 20 & echo answer", &b"answer\n"[..]), ("sleep 20 <&0 & exec cat", b"hello")] {
            let (socket, replies) = datagram(b"hello");
            begin(shell(script), socket).result().unwrap();
            assert_eq!(replies.iter().collect::<Vec<_>>(), [(client(), reply.to_vec())]);
        }
    }

    #[test]
    fn a_process_that_a_program_leaves_behind_keeps_the_client_of_a_stream() {
        let (socket, mut peer) = pair();
        // The shell gives a command in the background another standard input.
        let script = "exec 3<&0; { read line; echo \"behind: $line\"; } <&3 & exit 0";
        begin(shell(script), socket).result().unwrap();
        peer.write_all(b"hello\n").unwrap();
        assert_eq!(rest(&mut peer), "behind: hello\n");
    }

    #[test]
    fn a_conversation_ends_with_the_request_even_if_another_process_holds_it_open() {
        let (socket, replies) = datagram(b"hello");
        let served = begin(shell("sleep 20 & wait"), socket);
        assert!(served.is_running());
        served.stop.end(Ended::TimedOut(MOMENT));
        assert!(is_timed_out(&served.result()));
        assert!(replies.recv().is_err());
    }
}
