//! Options and errors that several kinds of sockets have in common.

use std::io;

use socket2::SockRef;

use crate::error::{Error, Result};

/// `SO_REUSEADDR` and `SO_REUSEPORT`. On Windows the former lets any program take the port, and is not set.
pub(super) fn set_sharing(socket: &SockRef<'_>, reuse_address: bool, reuse_port: bool) -> io::Result<()> {
    if cfg!(not(windows)) {
        socket.set_reuse_address(reuse_address)?;
    }
    if reuse_port { super::socket::set_reuse_port(socket) } else { Ok(()) }
}

/// Returns whether an error of accepting or receiving concerns one peer only, or means that the call was interrupted.
/// The next attempt may succeed. accept(2): "Linux accept() passes already-pending network errors on the new socket as
/// an error code from accept()". It says to treat them like EAGAIN by retrying. Receiving may report ICMP errors of an
/// earlier datagram. PermissionDenied comes from a firewall. Windows returns NotConnected for a client that has gone
/// before it is accepted.
pub(super) fn is_of_one_peer(error: &io::Error) -> bool {
    use io::ErrorKind as Kind;
    match error.kind() {
        Kind::Interrupted
        | Kind::ConnectionAborted
        | Kind::ConnectionReset
        | Kind::ConnectionRefused
        | Kind::NotConnected
        | Kind::PermissionDenied
        | Kind::TimedOut
        | Kind::HostUnreachable
        | Kind::NetworkUnreachable
        | Kind::NetworkDown => true,
        // These have no kind of their own.
        #[cfg(any(target_os = "linux", target_os = "android"))]
        _ => matches!(error.raw_os_error(), Some(libc::ENONET | libc::EPROTO | libc::ENOPROTOOPT | libc::EHOSTDOWN)),
        #[cfg(not(any(target_os = "linux", target_os = "android")))]
        _ => false,
    }
}

/// The system takes the size of a buffer as an int, and would cut a larger one to its lowest 32 bits.
pub(super) fn check_buffers(receive: Option<usize>, send: Option<usize>) -> Result<()> {
    for (name, bytes) in [("receive_buffer_bytes", receive), ("send_buffer_bytes", send)] {
        if let Some(bytes) = bytes.filter(|&bytes| i32::try_from(bytes).is_err()) {
            return Err(Error::setting(name, bytes, "a buffer has at most 2,147,483,647 bytes"));
        }
    }
    Ok(())
}

/// `SO_RCVBUF` and `SO_SNDBUF`.
pub(super) fn set_buffers(socket: &SockRef<'_>, receive: Option<usize>, send: Option<usize>) -> io::Result<()> {
    if let Some(bytes) = receive {
        socket.set_recv_buffer_size(bytes)?;
    }
    if let Some(bytes) = send {
        socket.set_send_buffer_size(bytes)?;
    }
    Ok(())
}

/// Makes the next close of a TCP socket drop unsent output and send RST.
pub(crate) fn reset_on_close<'a, S>(socket: &'a S)
where
    socket2::SockRef<'a>: From<&'a S>,
{
    // An error means that the connection is gone already, so the option is not needed.
    let _ = socket2::SockRef::from(socket).set_linger(Some(std::time::Duration::ZERO));
}
