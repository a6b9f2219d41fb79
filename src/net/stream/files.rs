//! A part of a file to a stream: with sendfile(2) to a bare socket, otherwise copied. And bytes that something follows.

#[cfg(all(feature = "sendfile", target_os = "linux"))]
use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::{self, Write as _};

#[cfg(target_os = "linux")]
use super::Kind;
use super::Stream;
use crate::net::file::Sink;
#[cfg(all(feature = "sendfile", target_os = "linux"))]
use crate::net::file::{Sent, send_file};

impl Sink for Stream {
    #[cfg(all(feature = "sendfile", target_os = "linux"))]
    fn write_file(&mut self, file: &File, offset: u64, most: usize) -> Sent {
        let sent = match &self.kind {
            Kind::Tcp(stream) => send_file(stream, file, offset, most),
            Kind::Unix(stream) => send_file(stream, file, offset, most),
            _ => None,
        };
        sent.map_or_else(|| self.copy_file(file, offset, most), Ok)
    }

    #[cfg(target_os = "linux")]
    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &self.kind {
            Kind::Tcp(stream) => {
                socket2::SockRef::from(stream).send_with_flags(bytes, libc::MSG_MORE | libc::MSG_NOSIGNAL)
            }
            _ => self.write(bytes),
        }
    }
}
