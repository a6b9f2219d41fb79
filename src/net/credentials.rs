//! The credentials of the process at the other end of a Unix socket, through nix.

use std::io;
use std::os::fd::BorrowedFd;

/// The process that connected to a Unix socket, as the kernel knows it: [`Stream::peer_credentials`](crate::Stream).
///
/// They are from the time of connect(2). The process may have ended since, and its number may have been reused. User
/// and group stay correct. Feature `credentials`.
///
/// Source: unix(7), `SO_PEERCRED`; getpeereid(3) on other systems. In Python `self.request.getsockopt(SOL_SOCKET,
/// SO_PEERCRED, 12)`.
///
/// ```
/// use socketserver::{Address, BaseServer, Credentials, Incoming};
///
/// /// Serves only its own user.
/// struct Private;
/// impl BaseServer for Private {
///     fn verify_request(&mut self, request: &Incoming<'_>, _client_address: &Address) -> bool {
///         let Incoming::Stream(stream) = request else { return false };
///         stream.peer_credentials().is_ok_and(|peer| peer.uid == Credentials::own().uid)
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Credentials {
    /// Its process. `None` if the system does not report it.
    pub pid: Option<i32>,
    /// Its effective user.
    pub uid: u32,
    /// Its effective group.
    pub gid: u32,
}

impl Credentials {
    /// Returns the credentials that a peer of this process would see now.
    ///
    /// Source: `os.geteuid` and its siblings.
    pub fn own() -> Self {
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        Credentials { pid: i32::try_from(std::process::id()).ok(), uid: uid.as_raw(), gid: gid.as_raw() }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let peer = nix::sys::socket::getsockopt(&socket, nix::sys::socket::sockopt::PeerCredentials)?;
    Ok(Credentials { pid: Some(peer.pid()), uid: peer.uid(), gid: peer.gid() })
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(super) fn peer_credentials(socket: BorrowedFd<'_>) -> io::Result<Credentials> {
    let (uid, gid) = nix::unistd::getpeereid(socket)?;
    Ok(Credentials { pid: None, uid: uid.as_raw(), gid: gid.as_raw() })
}
