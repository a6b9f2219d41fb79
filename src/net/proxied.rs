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
        let found = match receive(self.descriptor()?, &mut bytes, MsgFlags::MSG_PEEK) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
            found => found?,
        };
        Ok(parse(&bytes[..found]))
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

fn receive(descriptor: BorrowedFd<'_>, bytes: &mut [u8], flags: MsgFlags) -> io::Result<usize> {
    loop {
        match recv(descriptor.as_raw_fd(), bytes, flags) {
            Err(nix::errno::Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}
