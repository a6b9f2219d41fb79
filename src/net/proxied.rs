//! The header of a proxy at the beginning of a stream (feature `proxy-protocol`).

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use nix::sys::socket::{MsgFlags, recv};

use super::proxy_protocol::{HEADER_BYTES_MAX, Head, ProxyHeader, parse};
use super::stream::Stream;

impl Stream {
    /// Returns the header with which a proxy has begun the connection. `None` if there was none. Feature
    /// `proxy-protocol`.
    pub fn proxy_header(&self) -> Option<&ProxyHeader> {
        self.header.as_deref()
    }

    pub(crate) fn set_proxy_header(&mut self, header: ProxyHeader) {
        self.header = Some(Box::new(header));
    }

    /// Looks at the bytes that have arrived, and leaves them there, because a header is followed by those of the client.
    pub(crate) fn peek_header(&self) -> io::Result<Head> {
        let mut bytes = [0; HEADER_BYTES_MAX];
        Ok(parse(self.peek(&mut bytes)?))
    }

    /// The first bytes that have arrived, escaped, for a line of the log.
    pub(crate) fn first_bytes(&self) -> String {
        self.peek(&mut [0; SHOWN_BYTES_MAX]).map(|bytes| bytes.escape_ascii().to_string()).unwrap_or_default()
    }

    fn peek<'a>(&self, bytes: &'a mut [u8]) -> io::Result<&'a [u8]> {
        let found = match receive(self.descriptor()?, bytes, MsgFlags::MSG_PEEK) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            found => found?,
        };
        Ok(&bytes[..found])
    }

    /// Removes the header from the bytes that have arrived.
    pub(crate) fn skip_header(&self, length: usize) -> io::Result<()> {
        let mut bytes = [0; HEADER_BYTES_MAX];
        let mut left = length;
        while left > 0 {
            match receive(self.descriptor()?, &mut bytes[..left], MsgFlags::empty())? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => left -= read,
            }
        }
        Ok(())
    }

    fn descriptor(&self) -> io::Result<BorrowedFd<'_>> {
        self.as_fd().ok_or_else(|| io::ErrorKind::Unsupported.into())
    }
}

/// A header of version 1 with addresses of IPv4 fits.
const SHOWN_BYTES_MAX: usize = 64;

fn receive(descriptor: BorrowedFd<'_>, bytes: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(descriptor.as_raw_fd(), bytes, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
