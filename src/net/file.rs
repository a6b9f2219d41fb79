//! Sends a part of a file: with sendfile(2), or by reading it and writing what was read.

use std::fs::File;
use std::io::{self, Write};

/// The result of sending: how many bytes the socket has accepted. The outer error is one of the file.
pub(crate) type Sent = Result<io::Result<usize>, io::Error>;

/// A socket that can send a part of a file.
pub(crate) trait Sink: Write {
    /// Sends some of the bytes of a file from `offset`, at most `most`.
    ///
    /// # Errors
    /// Of reading; [`io::ErrorKind::UnexpectedEof`] if the file ends before the offset. The inner one: of writing.
    fn write_file(&mut self, file: &File, offset: u64, most: usize) -> Sent {
        self.copy_file(file, offset, most)
    }

    /// Writes bytes that a part of a file or the FIN follows at once: the system may wait for that before it sends them, so
    /// that they share a segment.
    fn write_before_more(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write(bytes)
    }

    /// Like `write_file`, without sendfile(2).
    fn copy_file(&mut self, file: &File, offset: u64, most: usize) -> Sent {
        let mut buffer = [0; COPIED_BYTES];
        let part = &mut buffer[..most.min(COPIED_BYTES)];
        match read_at(file, part, offset)? {
            0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file has become shorter")),
            n => Ok(self.write(&part[..n])),
        }
    }
}

/// Reads from an offset, whatever the position of the file.
fn read_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    loop {
        #[cfg(unix)]
        let read = std::os::unix::fs::FileExt::read_at(file, buffer, offset);
        #[cfg(windows)]
        let read = std::os::windows::fs::FileExt::seek_read(file, buffer, offset);
        match read {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

/// Fills the buffer from an offset.
///
/// # Errors
/// [`io::ErrorKind::UnexpectedEof`] if the file is too short.
pub(crate) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        match read_at(file, buffer, offset)? {
            0 => return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short")),
            n => (buffer, offset) = (&mut buffer[n..], offset + n as u64),
        }
    }
    Ok(())
}

/// sendfile(2). `None`: it cannot send this, or has failed, and copying may do better or tell whose error that is.
#[cfg(all(feature = "sendfile", target_os = "linux"))]
pub(crate) fn send_file(
    socket: impl std::os::fd::AsFd,
    file: &File,
    offset: u64,
    most: usize,
) -> Option<io::Result<usize>> {
    let mut offset = i64::try_from(offset).ok()?;
    match nix::sys::sendfile::sendfile64(socket, file, Some(&mut offset), most).map_err(io::Error::from) {
        Ok(0) => None,
        Err(error) if !matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => None,
        sent => Some(sent),
    }
}

/// How many bytes one step copies. They are read again if the socket does not accept them.
const COPIED_BYTES: usize = 16 * 1024;
