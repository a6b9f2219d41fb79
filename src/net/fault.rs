//! What an error of a datagram socket means.

use std::io;

use super::options::is_of_one_peer;

/// The meaning of an error of receiving or sending a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DatagramFault {
    /// No datagram waits, or there is no room. An event will report a change.
    Blocked,
    /// It concerns one peer or one datagram: continue with the next.
    Skip,
    /// Memory has run out, or another temporary error: a timer tries again later.
    Pause,
}

impl DatagramFault {
    /// Returns how to treat an error of receiving. An unknown error might occur again immediately, and forever.
    pub(crate) fn of_receiving(error: &io::Error) -> Self {
        match error.raw_os_error() {
            _ if error.kind() == io::ErrorKind::WouldBlock => DatagramFault::Blocked,
            _ if is_of_one_peer(error) => DatagramFault::Skip,
            // EMSGSIZE: an earlier datagram was too long for its route.
            #[cfg(any(target_os = "linux", target_os = "android"))]
            Some(libc::EMSGSIZE) => DatagramFault::Skip,
            // The time to live of an earlier datagram was over.
            #[cfg(windows)]
            Some(WSAENETRESET) => DatagramFault::Skip,
            _ => DatagramFault::Pause,
        }
    }
}

/// The meaning of an error of sending.
impl From<&io::Error> for DatagramFault {
    fn from(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => DatagramFault::Blocked,
            io::ErrorKind::OutOfMemory => DatagramFault::Pause,
            _ => match error.raw_os_error() {
                // These have no kind of their own.
                #[cfg(any(target_os = "linux", target_os = "android"))]
                Some(libc::ENOBUFS | libc::ENFILE | libc::EMFILE) => DatagramFault::Pause,
                #[cfg(windows)]
                Some(WSAENOBUFS | WSAEMFILE) => DatagramFault::Pause,
                // ECONNREFUSED and similar: an earlier datagram had no receiver. EMSGSIZE, EACCES, ENETUNREACH, ENOENT:
                // this one cannot be delivered.
                _ => DatagramFault::Skip,
            },
        }
    }
}

#[cfg(windows)]
const WSAEMFILE: i32 = 10_024;
#[cfg(windows)]
const WSAENETRESET: i32 = 10_052;
#[cfg(windows)]
const WSAENOBUFS: i32 = 10_055;
