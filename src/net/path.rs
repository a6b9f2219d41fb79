//! The path of a Unix socket: bind(2) makes a file and nobody removes it. So what lies there must be told apart (a live
//! server, what a dead one left, something else entirely), and what we made must go when we close, but only that.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{self, Path, PathBuf};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

/// Anyone who can read the directory can lock it, so waiting for the lock has an end: these make about two seconds.
/// Tries are counted, not timed, because the reactor's clock is not running yet; a stray unpark shortens one pause.
const LOCK_TRIES: u32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// The file of a bound socket. Dropping it removes the file if it is still ours.
///
/// It must go before the socket: as long as that is open, the kernel holds the inode, so no other file can have its
/// number, and no other server takes the path for stale.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    device: u64,
    inode: u64,
}

/// Clears the way for a socket at `path`, lets `bind` bind it there, and gives the file its `mode`.
///
/// A socket file that nobody is bound to is replaced; one that is in use stays, and bind(2) says so; anything else that
/// has this name stays as well. Of several servers that start at once one succeeds, because they lock the directory
/// in turn. No file is needed for that, hence none is left. Where the directory cannot be locked, because it may not be
/// read or the filesystem has no flock(2), it goes unlocked: bind(2) still lets only one have a free path, but two that
/// find the same stale file might both believe they replaced it. On a network filesystem the socket of another machine
/// looks stale.
///
/// `mode` is `0o777` at most; `None` leaves it to the umask. On Linux the file is at no time wider than `mode`.
/// Elsewhere it has what the umask leaves until bind(2) has returned: nobody can connect in between, since the socket
/// does not listen yet, but a datagram socket could be sent to.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if the path fits no socket address or the mode is too large,
/// [`ErrorKind::AlreadyExists`] if there is something that is not a socket, [`ErrorKind::AddrInUse`] if a live socket
/// has the path, [`ErrorKind::ResourceBusy`] if somebody else keeps the directory locked; otherwise what the system
/// says. Nothing of ours is left at the path then.
pub(crate) fn bind_path(
    path: &Path,
    mode: Option<u32>,
    socket: BorrowedFd<'_>,
    bind: impl FnOnce() -> io::Result<()>,
) -> io::Result<BoundPath> {
    check(path, mode)?;
    // The process may change its directory before it closes the socket.
    let absolute = path::absolute(path)?;
    let owner = match mode {
        Some(mode) => narrow(socket, mode)?,
        None => 0,
    };
    // Locked until the socket is bound, even if the path is free: bind(2) makes the file first and attaches the socket
    // to it afterwards, and whoever probed in between would see a stale file.
    let _locked = lock_directory(&absolute)?;
    clear(path, &absolute)?;
    let result = bind();
    // The hook is anybody's code: it may have failed after bind(2), or not have called it. The socket knows.
    if SockRef::from(&socket).local_addr()?.as_pathname() != Some(path) {
        result?;
        return Err(io::Error::other("the socket was not bound to it"));
    }
    let bound = BoundPath::new(absolute)?;
    result?;
    if let Some(mode) = mode {
        let context = |error: io::Error| io::Error::new(error.kind(), format!("its mode cannot be set: {error}"));
        bound.widen(mode, owner).map_err(context)?;
    }
    Ok(bound)
}

impl BoundPath {
    /// Notes which file the socket has got.
    fn new(path: PathBuf) -> io::Result<Self> {
        let found = fs::symlink_metadata(&path)?;
        if !found.file_type().is_socket() {
            return Err(replaced());
        }
        Ok(BoundPath { path, device: found.dev(), inode: found.ino() })
    }

    fn is(&self, found: &Metadata) -> bool {
        (found.dev(), found.ino()) == (self.device, self.inode)
    }

    /// Gives back the bits that the umask took. They come last, so that the file is never wider than it shall be; to
    /// change the umask instead would change it for the files of all other threads. `owner` is the user we are.
    ///
    /// chmod(2) follows symbolic links, and a socket cannot be opened for fchmod(2). So the name has to stay what it is:
    /// because only we may rename on the way to it, or because the file itself is held.
    fn widen(&self, mode: u32, owner: u32) -> io::Result<()> {
        let is_due = |found: Metadata| match self.is(&found) {
            true => Ok(found.mode() & 0o777 != mode),
            false => Err(replaced()),
        };
        if !is_due(fs::symlink_metadata(&self.path)?)? {
            return Ok(());
        }
        let (Some(directory), Some(name)) = (self.path.parent(), self.path.file_name()) else { return Err(replaced()) };
        let directory = fs::canonicalize(directory)?;
        let mut way = directory.join(name);
        let held;
        if cfg!(any(target_os = "linux", target_os = "android")) && !is_guarded(&directory, owner)? {
            // O_PATH holds the file whatever becomes of its name, and /proc leads from there to it. The flag does not get
            // through the standard library of musl, and on alpha, parisc and sparc it has another number: there a socket
            // cannot be opened.
            const O_PATH: i32 = 0o10000000;
            let failed = |error| {
                let directory = directory.display();
                io::Error::other(format!("others may rename in {directory}, and the file cannot be held: {error}"))
            };
            held = fs::OpenOptions::new().read(true).custom_flags(O_PATH).open(&self.path).map_err(failed)?;
            way = format!("/proc/self/fd/{}", held.as_raw_fd()).into();
            is_due(fs::metadata(&way).map_err(failed)?)?;
        } else {
            // Other systems have nothing to hold it by: where others may rename, one of them could be quicker.
            is_due(fs::symlink_metadata(&way)?)?;
        }
        fs::set_permissions(way, Permissions::from_mode(mode))
    }
}

/// Whether only `owner` and root can exchange what lies in `directory`, or one of the directories on the way to it. It is
/// a path without symbolic links.
fn is_guarded(directory: &Path, owner: u32) -> io::Result<bool> {
    for directory in directory.ancestors() {
        let found = fs::symlink_metadata(directory)?;
        // What lies in a sticky directory can be renamed by its own user, the directory's, and root.
        let is_shared = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if is_shared || ![0, owner].contains(&found.uid()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        // A server that starts finds our socket live, so nobody of our kind gets between look and removal, unless the
        // socket was closed first. For that case there is the lock, but it is not worth waiting for.
        let directory = open_directory(&self.path);
        let _ = directory.as_ref().map(File::try_lock);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| self.is(&found)) {
            // If it cannot be removed, the next server will find it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

fn replaced() -> io::Error {
    io::Error::other("its file was replaced by another")
}

/// Says what is wrong with the arguments before anything is touched.
fn check(path: &Path, mode: Option<u32>) -> io::Result<()> {
    let invalid = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
    let bytes = path.as_os_str().as_bytes();
    // Empty would be no error but an address without a name.
    if bytes.is_empty() {
        return invalid("the path is empty".into());
    }
    if bytes.contains(&0) {
        return invalid("the path contains a NUL byte".into());
    }
    if SocketAddr::from_pathname(path).is_err() {
        let fits = |length: &usize| SocketAddr::from_pathname("x".repeat(*length)).is_ok();
        let most = (1..).take_while(fits).last().unwrap_or(0);
        return invalid(format!("the path is {} bytes long, at most {most} fit a socket address", bytes.len()));
    }
    match mode {
        // Most likely written in decimal: 660 is 0o1224.
        Some(mode @ 0o1000..) => invalid(format!("the mode {mode:#o} is more than 0o777")),
        _ => Ok(()),
    }
}

/// Takes from the socket what its file shall not have: unix(7), bind(2) applies the umask to the mode of the socket.
/// Returns the user that opened it.
fn narrow(socket: BorrowedFd<'_>, mode: u32) -> io::Result<u32> {
    let descriptor = File::from(socket.try_clone_to_owned()?);
    match descriptor.set_permissions(Permissions::from_mode(mode)) {
        // Other systems have no mode for a socket, and say EINVAL.
        Err(_) if cfg!(not(any(target_os = "linux", target_os = "android"))) => {}
        result => result?,
    }
    Ok(descriptor.metadata()?.uid())
}

/// The directory of `path`. The dot keeps out what is none: to open a fifo would wait for its writer.
fn open_directory(path: &Path) -> io::Result<File> {
    File::open(path.with_file_name("."))
}

/// Locks the directory of `path`, until the file is dropped; `None` if it cannot be locked at all.
fn lock_directory(path: &Path) -> io::Result<Option<File>> {
    let directory = match open_directory(path) {
        // To search a directory, and to write to it, is enough for bind(2).
        Err(error) if error.kind() == ErrorKind::PermissionDenied => return Ok(None),
        opened => opened?,
    };
    for _ in 0..LOCK_TRIES {
        match directory.try_lock() {
            Ok(()) => return Ok(Some(directory)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) => thread::park_timeout(LOCK_PAUSE),
        }
    }
    Err(io::Error::new(ErrorKind::ResourceBusy, "the directory is locked by another process"))
}

/// Removes a socket file that nobody is bound to, and refuses what is not a socket.
fn clear(path: &Path, absolute: &Path) -> io::Result<()> {
    // The long name, so that where it leads nowhere nothing is bound that could not be removed. The address needs the
    // one that fits.
    let kind = match fs::symlink_metadata(absolute) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?.file_type(),
    };
    if !kind.is_socket() {
        let what = match () {
            () if kind.is_symlink() => "a symbolic link",
            () if kind.is_dir() => "a directory",
            () if kind.is_file() => "a regular file",
            () => "a fifo or a device",
        };
        return Err(io::Error::new(ErrorKind::AlreadyExists, format!("it exists and is {what}, not a socket")));
    }
    // The probe is a datagram socket, whatever listens there: it never waits, a stream server is not left with a
    // connection that nobody is behind, and one that does not listen yet is told from a dead one, although a stream
    // socket would be refused by both.
    match UnixDatagram::unbound()?.connect(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(absolute),
        // We may not write to it, so we cannot know. The kind would not do: EPERM has the same.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Err(error),
        // Live: a datagram socket, one with a peer of its own (EPERM), or one of another type (EPROTOTYPE). Or gone in
        // the meantime (ENOENT). bind(2) knows, and has the right words for it.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
