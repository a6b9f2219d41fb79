//! The pair of sockets through which a predecessor and its successor speak.
//!
//! Either may be built with another version of this crate, so the words stay as they are. The first is the version.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::logging::note;
use crate::net::clock::Clock;
use crate::net::owned_file::FileId;
use crate::timers::nanos;

/// The name of the successor's end among its sockets. It is the last.
pub(crate) const NAME: &str = "socketserver-restart";

const VERSION: &str = "1";
const READY: u8 = b'R';
const GO: u8 = b'G';
const TAKEN_BACK: u8 = b'X';

/// What a successor is told at its start.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Heritage {
    /// The positions of the Unix sockets whose files it owns from now on, and these files.
    pub(crate) files: Vec<(usize, FileId)>,
    /// The working directory in which the first process began.
    pub(crate) directory: PathBuf,
}

/// The predecessor's end.
pub(crate) struct Successor(UnixStream);

impl Successor {
    /// Returns both ends.
    pub(crate) fn link(heritage: &Heritage) -> io::Result<(Self, OwnedFd)> {
        let (mut own, other) = UnixStream::pair()?;
        own.write_all(&heritage.encode())?; // It is much shorter than the buffer of a socket.
        Ok((Successor(own), other.into()))
    }

    /// Waits until it is ready. Returns whether it is; otherwise it has closed its end, or was taken back.
    ///
    /// # Errors
    /// [`io::ErrorKind::WouldBlock`] or [`io::ErrorKind::TimedOut`] if it takes longer.
    pub(crate) fn wait(&self, limit: Duration) -> io::Result<bool> {
        let (clock, mut said) = (Clock::new(), [0]);
        let end = clock.now().saturating_add(nanos(limit));
        loop {
            let left = Duration::from_nanos(end.saturating_sub(clock.now()));
            self.0.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            return match (&self.0).read(&mut said) {
                // A signal, also SIGCONT, interrupts a read that has a time limit: signal(7).
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(false), // It has not read everything.
                read => Ok(read? == 1 && said == [READY]),
            };
        }
    }

    /// Lets it serve.
    ///
    /// # Errors
    /// If it has ended.
    pub(crate) fn go(&self) -> io::Result<()> {
        (&self.0).write_all(&[GO])
    }

    /// Lets it end, and ends [`wait`](Self::wait). It does nothing after [`go`](Self::go).
    pub(crate) fn take_back(&self) {
        let _ = (&self.0).write_all(&[TAKEN_BACK]); // If it has ended, there is nothing to take back.
        let _ = self.0.shutdown(Shutdown::Both);
    }
}

static PREDECESSOR: Mutex<Predecessor> = Mutex::new(Predecessor::None);

/// What this process knows of its predecessor.
enum Predecessor {
    /// There is none, or this process has taken over.
    None,
    /// It waits until the first reactor of this process serves.
    Waits(UnixStream),
    /// It continues to serve, and this process must not.
    Continues,
}

/// This process is a successor. Returns what its predecessor has told it.
///
/// # Errors
/// If the predecessor cannot be understood.
pub(crate) fn meet_predecessor(end: OwnedFd) -> io::Result<Heritage> {
    let mut link = UnixStream::from(end);
    link.set_nonblocking(false)?;
    let mut words = Vec::new();
    while words.iter().filter(|&&byte| byte == 0).count() < 3 {
        let mut byte = [0];
        link.read_exact(&mut byte)?;
        words.extend(byte);
    }
    #[cfg(any(target_os = "linux", target_os = "android"))]
    has_started_this(&link)?;
    *PREDECESSOR.lock().unwrap_or_else(PoisonError::into_inner) = Predecessor::Waits(link);
    Heritage::decode(&words)
}

/// Checks that the predecessor has started this process itself. Otherwise it knows, and tells the supervisor, the number
/// of another process, to which it then leaves the service, and which gets the signals.
///
/// # Errors
/// If it has not, and lives.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn has_started_this(link: &UnixStream) -> io::Result<()> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};

    let parent = std::os::unix::process::parent_id();
    let predecessor = getsockopt(link, PeerCredentials)?.pid();
    if i32::try_from(parent).is_ok_and(|parent| parent == predecessor) {
        return Ok(());
    }
    // Its end is closed before its children get another parent.
    link.set_nonblocking(true)?;
    let has_ended = (&*link).read(&mut [0]).is_ok_and(|read| read == 0);
    link.set_nonblocking(false)?;
    if has_ended {
        return Ok(());
    }
    let own = std::process::id();
    Err(io::Error::other(format!(
        "process {parent} has started process {own}, but the predecessor has started process {parent} to serve: a script \
         must start the program with `exec`"
    )))
}

/// Returns whether a predecessor waits until this process is ready.
pub(crate) fn is_awaited() -> bool {
    matches!(*PREDECESSOR.lock().unwrap_or_else(PoisonError::into_inner), Predecessor::Waits(_))
}

/// A reactor is about to serve. The first one of a successor waits until the predecessor lets it. The others wait for it.
///
/// # Errors
/// If the predecessor has taken the restart back.
pub(crate) fn take_over() -> io::Result<()> {
    PREDECESSOR.lock().unwrap_or_else(PoisonError::into_inner).take_over()
}

impl Predecessor {
    fn take_over(&mut self) -> io::Result<()> {
        if let Predecessor::Waits(link) = self {
            let mut said = [0];
            let _ = link.write_all(&[READY]); // It fails if the predecessor has closed its end, whatever it has said before.
            *self = match link.read_exact(&mut said) {
                Ok(()) if said == [GO] => Predecessor::None,
                Ok(()) => Predecessor::Continues,
                Err(_) => {
                    note!(Warn, "the predecessor has ended during the restart: this process serves");
                    Predecessor::None
                }
            };
        }
        match self {
            Predecessor::Continues => Err(io::Error::other("the predecessor has taken the restart back")),
            _ => Ok(()),
        }
    }
}

impl Heritage {
    fn encode(&self) -> Vec<u8> {
        let numbers = self.files.iter().flat_map(|&(position, (device, inode))| [position as u64, device, inode]);
        let files = numbers.map(|number| number.to_string()).collect::<Vec<_>>().join(",");
        let words = [VERSION.as_bytes(), files.as_bytes(), self.directory.as_os_str().as_bytes()];
        words.into_iter().flat_map(|word| word.iter().copied().chain([0])).collect()
    }

    fn decode(bytes: &[u8]) -> io::Result<Self> {
        let wrong = || io::Error::new(io::ErrorKind::InvalidData, "the predecessor speaks another version");
        let words: Vec<_> = bytes.split(|&byte| byte == 0).collect();
        let &[version, files, directory, _] = &words[..] else { return Err(wrong()) };
        if version != VERSION.as_bytes() {
            return Err(wrong());
        }
        let numbers = std::str::from_utf8(files).map_err(|_| wrong())?.split(',').filter(|number| !number.is_empty());
        let numbers = numbers.map(|number| number.parse().map_err(|_| wrong())).collect::<io::Result<Vec<u64>>>()?;
        let (files, []) = numbers.as_chunks::<3>() else { return Err(wrong()) };
        let files = files.iter().map(|&[position, device, inode]| (position as usize, (device, inode))).collect();
        Ok(Heritage { files, directory: OsString::from_vec(directory.to_vec()).into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_heritage_arrives_as_it_was_sent() {
        for (files, directory) in [(vec![], "/"), (vec![(0, (1, u64::MAX)), (12, (0, 2))], "/a b\n")] {
            let heritage = Heritage { files, directory: directory.into() };
            assert_eq!(Heritage::decode(&heritage.encode()).unwrap(), heritage);
        }
    }

    #[test]
    fn another_version_is_refused() {
        for other in ["2\0\0/\0", "1\0x\0/\0", "1\x000,1\0/\0", "1\0\0", ""] {
            Heritage::decode(other.as_bytes()).unwrap_err();
        }
    }

    #[test]
    fn a_successor_that_is_taken_back_does_not_serve() {
        let heritage = Heritage { files: vec![(1, (2, 3))], directory: "/".into() };
        let (successor, end) = Successor::link(&heritage).unwrap();
        let mut end = UnixStream::from(end);
        let mut told = vec![0; heritage.encode().len()];
        end.read_exact(&mut told).unwrap();
        assert_eq!(Heritage::decode(&told).unwrap(), heritage);
        successor.take_back();
        let mut predecessor = Predecessor::Waits(end);
        predecessor.take_over().unwrap_err();
        predecessor.take_over().unwrap_err(); // Nor does another reactor of this process.
    }

    #[test]
    fn a_successor_that_is_late_gone_or_taken_back_is_not_ready() {
        let heritage = Heritage { files: vec![], directory: "/".into() };
        let (successor, end) = Successor::link(&heritage).unwrap();
        let late = successor.wait(Duration::ZERO).unwrap_err().kind();
        assert!(matches!(late, io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut), "{late:?}");
        drop(end);
        assert!(!successor.wait(Duration::from_secs(60)).unwrap());
        successor.go().unwrap_err();
        let (successor, _end) = Successor::link(&heritage).unwrap();
        successor.take_back();
        assert!(!successor.wait(Duration::from_secs(60)).unwrap());
    }
}
