//! The path of a Unix socket. bind(2) creates a file and never removes it. Before binding we must distinguish a live
//! server, the file of a dead one, and an unrelated file. When we close, we must remove our own file, and only that.

use std::fs::{self, File, Metadata, Permissions, TryLockError};
use std::io::{self, ErrorKind};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::path::{self, Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use socket2::SockRef;

use super::owned_file::{FileId, OwnedFile};

/// Any process that can read the directory can lock it, so the wait for the lock is bounded: these tries take about two
/// seconds. Tries are counted, not timed, because the reactor's clock is not running yet. A stray unpark shortens one
/// pause.
const LOCK_TRIES: u32 = 1_000;
const LOCK_PAUSE: Duration = Duration::from_millis(2);

/// This process is the successor of another one, which serves until this one does, and has the adopted files until then.
static LEFT_TO_PREDECESSOR: AtomicBool = AtomicBool::new(false);

#[cfg(feature = "restart")]
pub(crate) fn leave_to_predecessor(is_left: bool) {
    LEFT_TO_PREDECESSOR.store(is_left, Ordering::Relaxed);
}

/// The file of a bound socket. Dropping this removes the file if it is still ours.
///
/// It must be dropped before the socket. While the socket is open, the kernel holds the inode, so no other file can
/// have its number, and no other server considers the path stale.
#[derive(Debug)]
pub(crate) struct BoundPath {
    path: PathBuf,
    /// Another process removes it.
    is_left: bool,
    /// Another process has bound it.
    is_adopted: bool,
    file: FileId,
}

/// Makes `path` free for a socket, lets `bind` bind it there, and gives the file its `mode`.
///
/// A socket file without a bound socket is replaced. If a socket is bound to it, it stays, and bind(2) returns the
/// error. Any other file stays as well. If several servers start at the same time, one succeeds, because they lock the
/// directory in turn. The lock needs no file, so it leaves none. If the directory cannot be locked, because it may not
/// be read or the filesystem has no flock(2), this continues without the lock. bind(2) still lets only one server have
/// a free path, but two that find the same stale file might both believe that they have replaced it. On a network
/// filesystem the socket of another machine looks stale.
///
/// `mode` is `0o777` at most; `None` leaves it to the umask. On Linux the file never has more permissions than `mode`.
/// On other systems it has those of the umask until bind(2) has returned. No client can connect in that time, because
/// the socket does not listen yet, but a datagram could be sent to it.
///
/// # Errors
/// [`ErrorKind::InvalidInput`] if the path does not fit a socket address or the mode is too large,
/// [`ErrorKind::AlreadyExists`] if there is a file that is not a socket, [`ErrorKind::AddrInUse`] if a live socket has
/// the path, [`ErrorKind::ResourceBusy`] if another process keeps the directory locked; otherwise errors of the system.
/// Nothing of ours is then left at the path.
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
    // Locked until the socket is bound, even if the path is free: bind(2) creates the file first and attaches the
    // socket to it afterwards. A probe in between would find a stale file.
    let _locked = lock_directory(&absolute)?;
    clear(path, &absolute)?;
    let result = bind();
    // The hook is user code. It may have failed after bind(2), or not have called it. The socket knows.
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
    /// Records the file of the socket.
    fn new(path: PathBuf) -> io::Result<Self> {
        let found = fs::symlink_metadata(&path)?;
        if !found.file_type().is_socket() {
            return Err(replaced());
        }
        Ok(BoundPath { path, is_left: false, is_adopted: false, file: id_of(&found) })
    }

    /// The file of a socket that another process has bound there and left to us.
    ///
    /// # Errors
    /// If there is no socket now.
    pub(super) fn adopted(path: &Path) -> io::Result<Self> {
        let mut bound = BoundPath::new(path::absolute(path)?)?;
        bound.is_adopted = true;
        Ok(bound)
    }

    fn is(&self, found: &Metadata) -> bool {
        id_of(found) == self.file
    }

    /// Restores the bits that the umask removed. They are added last, so that the file never has too many. Changing the
    /// umask instead would change it for the files of all other threads. `owner` is our user.
    ///
    /// chmod(2) follows symbolic links, and a socket cannot be opened for fchmod(2). So the file must keep its name:
    /// either only we can rename on the path, or the file itself is held.
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
            // O_PATH holds the file even if its name changes, and /proc gives access to it. The standard library on
            // musl does not pass the flag on, and it has another number on alpha, parisc and sparc. There a socket
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
            // Other systems cannot hold the file. If others may rename it, one of them could be faster.
            is_due(fs::symlink_metadata(&way)?)?;
        }
        fs::set_permissions(way, Permissions::from_mode(mode))
    }
}

/// Returns whether only `owner` and root can replace files in `directory`, or a directory on the path to it. The path
/// has no symbolic links.
fn is_guarded(directory: &Path, owner: u32) -> io::Result<bool> {
    for directory in directory.ancestors() {
        let found = fs::symlink_metadata(directory)?;
        // A file in a sticky directory can be renamed by its owner, the owner of the directory, and root.
        let is_shared = found.mode() & 0o022 != 0 && found.mode() & 0o1000 == 0;
        if is_shared || ![0, owner].contains(&found.uid()) {
            return Ok(false);
        }
    }
    Ok(true)
}

impl OwnedFile for BoundPath {
    fn leave(&mut self) {
        self.is_left = true;
    }

    fn id(&self) -> FileId {
        self.file
    }
}

impl Drop for BoundPath {
    fn drop(&mut self) {
        if self.is_left || self.is_adopted && LEFT_TO_PREDECESSOR.load(Ordering::Relaxed) {
            return;
        }
        // A server that starts finds our socket live, so it does not act between our check and the removal, unless the
        // socket was closed first. The lock covers that case, but it is not worth waiting for.
        let directory = open_directory(&self.path);
        let _ = directory.as_ref().map(File::try_lock);
        if fs::symlink_metadata(&self.path).is_ok_and(|found| self.is(&found)) {
            // If it cannot be removed, the next server will find it stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Returns whether this file is at the path.
#[cfg(feature = "restart")]
pub(super) fn has(path: &Path, file: FileId) -> bool {
    fs::symlink_metadata(path).is_ok_and(|found| id_of(&found) == file)
}

fn id_of(found: &Metadata) -> FileId {
    (found.dev(), found.ino())
}

/// The probe is a datagram socket, regardless of the kind of the bound socket. It never waits, and leaves no stray
/// connection with a stream server. It distinguishes a server that does not listen yet from a dead one, which would
/// both refuse a stream socket.
fn probe(path: &Path) -> io::Result<()> {
    UnixDatagram::unbound()?.connect(path)
}

fn replaced() -> io::Error {
    io::Error::other("its file was replaced by another")
}

/// Refuses invalid arguments before anything is touched.
fn check(path: &Path, mode: Option<u32>) -> io::Result<()> {
    let invalid = |text: String| Err(io::Error::new(ErrorKind::InvalidInput, text));
    let bytes = path.as_os_str().as_bytes();
    // An empty path would not be an error, but an address without a name.
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
        // Most likely it was written in decimal: 660 is 0o1224.
        Some(mode @ 0o1000..) => invalid(format!("the mode {mode:#o} is more than 0o777")),
        _ => Ok(()),
    }
}

/// Removes from the socket the bits that its file must not have: unix(7), bind(2) applies the umask to the mode of the
/// socket. Returns the user that opened it.
fn narrow(socket: BorrowedFd<'_>, mode: u32) -> io::Result<u32> {
    let descriptor = File::from(socket.try_clone_to_owned()?);
    match descriptor.set_permissions(Permissions::from_mode(mode)) {
        // Other systems have no mode for a socket, and return EINVAL.
        Err(_) if cfg!(not(any(target_os = "linux", target_os = "android"))) => {}
        result => result?,
    }
    Ok(descriptor.metadata()?.uid())
}

/// The directory of `path`. The dot excludes a file that is not a directory: opening a fifo would wait for its writer.
fn open_directory(path: &Path) -> io::Result<File> {
    File::open(path.with_file_name("."))
}

/// Locks the directory of `path` until the file is dropped. `None` if it cannot be locked at all.
fn lock_directory(path: &Path) -> io::Result<Option<File>> {
    let directory = match open_directory(path) {
        // bind(2) needs permission only to search the directory and to write to it.
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

/// Removes a socket file without a bound socket, and refuses other files.
fn clear(path: &Path, absolute: &Path) -> io::Result<()> {
    // The full path is checked, so that nothing is bound that could not be removed. The address needs the path that
    // fits.
    let kind = match fs::symlink_metadata(absolute) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        found => found?.file_type(),
    };
    if !kind.is_socket() {
        let what = if kind.is_symlink() {
            "a symbolic link"
        } else if kind.is_dir() {
            "a directory"
        } else if kind.is_file() {
            "a regular file"
        } else {
            "a fifo or a device"
        };
        return Err(io::Error::new(ErrorKind::AlreadyExists, format!("it exists and is {what}, not a socket")));
    }
    match probe(path) {
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(absolute),
        // We may not write to it, so we cannot know. The error kind is not enough, because EPERM has the same.
        Err(error) if error.raw_os_error() == Some(libc::EACCES) => Err(error),
        // It is live: a datagram socket, one with its own peer (EPERM), or one of another type (EPROTOTYPE). Or it is
        // gone by now (ENOENT). bind(2) finds out, and returns the right error.
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests;
