//! Starts the successor: posix_spawn(3), through nix. It gets the given sockets and standard input, output and error,
//! and no other descriptor below the limit of descriptors. No signal is blocked. Only those are ignored that this process
//! was started with, and realtime signals that it ignores now.
//!
//! On FreeBSD this needs fdescfs(5). On NetBSD the successor also gets other descriptors that are not close-on-exec.

use std::collections::BTreeSet;
use std::env;
use std::ffi::{CString, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;

use nix::errno::Errno;
use nix::spawn::{PosixSpawnAttr, PosixSpawnFileActions, PosixSpawnFlags, posix_spawn};
use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::origin::Origin;

/// The first descriptor of sd_listen_fds(3).
const FIRST: RawFd = 3;

/// The flag with which the successor gets only the descriptors that an action names.
#[cfg(target_vendor = "apple")]
const ONLY_NAMED: libc::c_int = libc::POSIX_SPAWN_CLOEXEC_DEFAULT;
#[cfg(not(target_vendor = "apple"))]
const ONLY_NAMED: libc::c_int = 0;

/// A process that this one has started. Dropping this kills it.
pub(crate) struct Process(Option<Pid>);

impl Process {
    /// Starts the program with these sockets, in this order, under these names.
    ///
    /// # Errors
    /// Errors of fork(2) and execve(2); [`io::ErrorKind::InvalidInput`] if an argument or a variable contains NUL.
    pub(crate) fn start(origin: &Origin, sockets: &[(String, OwnedFd)]) -> io::Result<Self> {
        let mut attributes = PosixSpawnAttr::init()?;
        let signals = PosixSpawnFlags::POSIX_SPAWN_SETSIGMASK | PosixSpawnFlags::POSIX_SPAWN_SETSIGDEF;
        attributes.set_flags(signals | PosixSpawnFlags::from_bits_retain(ONLY_NAMED))?;
        attributes.set_sigmask(&SigSet::empty())?;
        attributes.set_sigdefault(&defaults(origin.ignored))?;
        let actions = actions(&sockets.iter().map(|(_, socket)| socket.as_raw_fd()).collect::<Vec<_>>())?;
        let program = [origin.program.as_os_str().to_owned()];
        let arguments = texts(program.into_iter().chain(origin.arguments.iter().cloned()))?;
        let process = posix_spawn(&*origin.program, &actions, &attributes, &arguments, &environment(sockets)?)?;
        Ok(Process(Some(process)))
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.map_or(0, |process| process.as_raw().unsigned_abs())
    }

    /// Lets it live on.
    pub(crate) fn release(mut self) {
        self.0 = None;
    }

    /// Kills it, unless it has ended. Returns how it has ended.
    pub(crate) fn end(mut self) -> String {
        self.0.take().map_or_else(String::new, end)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.0.take().map(end);
    }
}

/// Kills it only as long as it is a child. The kernel frees the number of a child that has ended while SIGCHLD is ignored,
/// and another process may get it. It may still end between the two calls, and then its number is most likely free.
fn end(process: Pid) -> String {
    let mut options = Some(WaitPidFlag::WNOHANG);
    loop {
        return match waitpid(process, options) {
            Ok(WaitStatus::StillAlive) => {
                let _ = kill(process, Signal::SIGKILL);
                options = None;
                continue;
            }
            Ok(WaitStatus::Exited(_, status)) => format!("exit status {status}"),
            Ok(WaitStatus::Signaled(_, signal, _)) => format!("signal {signal}"),
            Err(Errno::EINTR) => continue,
            // A process that ignores SIGCHLD does not learn more.
            Ok(_) | Err(_) => "exit status unknown".to_owned(),
        };
    }
}

/// The signals that have their default effect: all but those that were ignored when this process was started, as
/// nohup(1) does. Rust's runtime ignores SIGPIPE itself. nix has no realtime signals, so execve(2) decides on them: a
/// signal that this process ignores stays ignored.
fn defaults(ignored: u64) -> SigSet {
    let is_default = |signal: &Signal| match *signal {
        Signal::SIGKILL | Signal::SIGSTOP => false, // Some systems refuse these two.
        Signal::SIGPIPE => true,
        signal => ignored & 1 << (signal as i32 - 1) == 0,
    };
    Signal::iterator().filter(is_default).collect()
}

/// The changes of descriptors: the sockets come to their places, and all others are closed.
fn actions(sockets: &[RawFd]) -> io::Result<PosixSpawnFileActions> {
    let mut actions = PosixSpawnFileActions::init()?;
    let end = FIRST + RawFd::try_from(sockets.len()).map_err(io::Error::other)?;
    // A socket that is in the place of another goes elsewhere first: to bring 5 and 3 to the places 3 and 4, the socket 3
    // is moved to 6, then 5 to 3, and 6 to 4.
    let mut free = (end..).filter(|place| !sockets.contains(place));
    let mut moved = Vec::new();
    for &socket in sockets {
        let place = if (FIRST..end).contains(&socket) { free.next().expect("numbers do not end") } else { socket };
        if place != socket {
            actions.add_dup2(socket, place)?;
        }
        moved.push(place);
    }
    for (place, &socket) in (FIRST..).zip(&moved) {
        actions.add_dup2(socket, place)?; // It is not close-on-exec.
    }
    let mut others = BTreeSet::from_iter(moved);
    if cfg!(target_vendor = "apple") {
        (0..FIRST).try_for_each(|standard| actions.add_dup2(standard, standard))?;
    } else if cfg!(not(target_os = "netbsd")) {
        // What this process has opened is close-on-exec, but what it was started with need not be. Another thread may
        // close one of them first. These systems ignore this, and NetBSD would not start the program.
        match fs::read_dir("/dev/fd") {
            Ok(open) => others.extend(open.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<RawFd>().ok())),
            // It is in a chroot(2), or has no descriptor left. A process is started with low numbers.
            Err(_) => others.extend(FIRST..1_024),
        }
    }
    for &other in others.range(end..) {
        match actions.add_close(other) {
            // It is above a limit that was lowered later, and posix_spawn(3) takes no such numbers.
            Err(Errno::EBADF) => {}
            added => added?,
        }
    }
    Ok(actions)
}

/// The environment of this process, in which the sockets are the given ones. Without `LISTEN_PID` and `WATCHDOG_PID`
/// they are for the process that reads this.
fn environment(sockets: &[(String, OwnedFd)]) -> io::Result<Vec<CString>> {
    const REPLACED: [&str; 5] = ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_FDS_FIRST_FD", "LISTEN_PID", "WATCHDOG_PID"];
    let names: Vec<_> = sockets.iter().map(|(name, _)| &**name).collect();
    let own = [("LISTEN_FDS", sockets.len().to_string()), ("LISTEN_FDNAMES", names.join(":"))];
    let own = own.map(|(name, value)| (OsString::from(name), OsString::from(value)));
    let kept = env::vars_os().filter(|(name, _)| REPLACED.iter().all(|replaced| name != replaced));
    texts(kept.chain(own).map(|(name, value)| {
        let mut variable = name;
        variable.push("=");
        variable.push(value);
        variable
    }))
}

fn texts(texts: impl Iterator<Item = OsString>) -> io::Result<Vec<CString>> {
    texts.map(|text| Ok(CString::new(text.into_vec())?)).collect()
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader, Write as _};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_that_is_no_child_is_not_killed() {
        let mut shell = Command::new("sh");
        shell.args(["-c", "exec 3<&0; cat <&3 & echo $!"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = shell.spawn().unwrap();
        let (mut input, mut output) = (shell.stdin.take().unwrap(), BufReader::new(shell.stdout.take().unwrap()));
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        // It is a child of the shell, as if this process ignored SIGCHLD, and another one had the number now.
        assert_eq!(end(Pid::from_raw(line.trim().parse().unwrap())), "exit status unknown");
        shell.wait().unwrap();
        let _ = input.write_all(b"lives\n");
        line.clear();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "lives\n");
    }
}
