//! The socket of a request on a thread, as TLS sees it.

use std::io;

/// The socket below. Both calls wait.
pub(super) trait RawSocket {
    fn read_raw(&self, buffer: &mut [u8]) -> io::Result<usize>;
    /// Writes all of the bytes.
    fn write_raw(&self, bytes: &[u8]) -> io::Result<()>;
}
