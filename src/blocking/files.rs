//! `rfile` and `wfile`: a request as two files.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};

use super::descriptor::Move;
use super::socket::BlockingSocket;
use super::text::{read_text, read_to_end_within};
use crate::error::Error;
use crate::limits::Limits;

/// Python's `rfile`: the input of the client. Read lines with [`BufRead`].
///
/// For a stream, a read waits for bytes, and the end of the file is the client's end of the stream. For a datagram, the
/// file is the packet. [`BlockingHandler::rbufsize`](crate::BlockingHandler::rbufsize) is the number of bytes to read
/// ahead.
///
/// A client cannot make its memory grow without limit. A line, or the result of `read_until`, fails with
/// [`Error::InputLimit`](crate::Error::InputLimit) when it is longer than
/// [`Limits::line_bytes_max`](crate::Limits::line_bytes_max). `read_to_end` and `read_to_string` fail in the same way
/// beyond [`Limits::input_bytes_max`](crate::Limits::input_bytes_max). A handler that returns that error ends its
/// request with [`EndReason::InputLimit`](crate::EndReason::InputLimit), as on the reactor. For `read`, `read_exact`
/// and [`take`](std::io::Read::take), the handler gives the limit.
///
/// ```
/// use socketserver::{BlockingRequest, Result};
/// use std::io::{BufRead as _, Write as _};
///
/// fn headers(request: &mut BlockingRequest) -> Result<()> {
///     let mut line = String::new();
///     while request.rfile.read_line(&mut line)? > 0 && line != "\r\n" {
///         line.clear();
///     }
///     request.wfile.write_all(b"that was all of them\r\n")?;
///     Ok(())
/// }
/// ```
pub struct BlockingReader {
    kind: Reader,
    /// Bytes of a line that a call has read before its time was over. The next call continues with them.
    begun: usize,
}

enum Reader {
    Stream(BufReader<Receiver>),
    Packet(Cursor<Packet>),
}

/// The source of the buffer.
struct Receiver {
    socket: BlockingSocket,
    /// The purpose of the next read.
    what: Move,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.descriptor().receive(self.what, buffer)
    }
}

/// The packet itself, not a copy.
struct Packet(BlockingSocket);

impl AsRef<[u8]> for Packet {
    fn as_ref(&self) -> &[u8] {
        self.0.packet()
    }
}

impl BlockingReader {
    pub(super) fn new(socket: &BlockingSocket, bufsize: usize) -> Self {
        let kind = match socket.is_datagram() {
            true => Reader::Packet(Cursor::new(Packet(socket.share()))),
            // Without a buffer a line is read one byte at a time, as in Python. Larger reads bypass this.
            false => {
                let receiver = Receiver { socket: socket.share(), what: Move::Begin };
                Reader::Stream(BufReader::with_capacity(bufsize.max(1), receiver))
            }
        };
        BlockingReader { kind, begun: 0 }
    }

    fn limits(&self) -> &Limits {
        match &self.kind {
            Reader::Stream(stream) => &stream.get_ref().socket.descriptor().limits,
            Reader::Packet(packet) => &packet.get_ref().0.descriptor().limits,
        }
    }

    /// Marks that a message is being read, of which this many bytes were read. While its rest is missing, the client is
    /// not quiet.
    fn has_read(&mut self, count: usize) -> &mut Reader {
        if let Reader::Stream(stream) = &mut self.kind {
            stream.get_mut().what = if count == 0 { Move::Begin } else { Move::GoOn };
        }
        &mut self.kind
    }

    fn read_delimited(&mut self, delimiter: u8, what: &'static str, line: &mut Vec<u8>) -> io::Result<usize> {
        let (max, before) = (self.limits().line_bytes_max, self.begun);
        loop {
            let begun = self.begun;
            let reader = self.has_read(begun);
            let mut input = reader.fill_buf()?;
            input = &input[..input.len().min((max - begun).saturating_add(1))];
            let is_last = input.is_empty();
            let taken = input.read_until(delimiter, line)?;
            reader.consume(taken);
            if begun + taken > max {
                return Err(Error::InputLimit { what, max }.into());
            }
            self.begun += taken;
            if is_last || (taken > 0 && line.ends_with(&[delimiter])) {
                return Ok(std::mem::take(&mut self.begun) - before);
            }
        }
    }
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Reader::Stream(stream) => stream.read(buffer),
            Reader::Packet(packet) => packet.read(buffer),
        }
    }
}

impl BufRead for Reader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match self {
            Reader::Stream(stream) => stream.fill_buf(),
            Reader::Packet(packet) => packet.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match self {
            Reader::Stream(stream) => stream.consume(count),
            Reader::Packet(packet) => packet.consume(count),
        }
    }
}

impl Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.has_read(self.begun).read(buffer)?;
        self.begun = 0;
        Ok(count)
    }

    fn read_exact(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        let mut count = 0;
        while count < buffer.len() {
            match self.has_read(self.begun + count).read(&mut buffer[count..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                more => count += more,
            }
        }
        self.begun = 0;
        Ok(())
    }

    fn read_to_end(&mut self, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let max = self.limits().input_bytes_max;
        read_to_end_within(self, max, bytes)
    }

    fn read_to_string(&mut self, text: &mut String) -> io::Result<usize> {
        read_text(text, |bytes| self.read_to_end(bytes))
    }
}

impl BufRead for BlockingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.has_read(self.begun).fill_buf()
    }

    fn consume(&mut self, count: usize) {
        self.begun = 0;
        self.kind.consume(count);
    }

    fn read_until(&mut self, delimiter: u8, line: &mut Vec<u8>) -> io::Result<usize> {
        self.read_delimited(delimiter, "text up to the delimiter", line)
    }

    fn read_line(&mut self, line: &mut String) -> io::Result<usize> {
        read_text(line, |bytes| self.read_delimited(b'\n', "line", bytes))
    }
}

impl fmt::Debug for BlockingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingReader")
    }
}

/// Python's `wfile`: the output to the client.
///
/// For a stream, each write is sent whole before it returns, or gathered up to
/// [`BlockingHandler::wbufsize`](crate::BlockingHandler::wbufsize) bytes. The rest is sent when the handler has
/// finished. For a datagram, everything is gathered and then sent as one datagram, if there was a write at all.
///
/// ```
/// use socketserver::{BlockingRequest, Result, StreamRequestHandler};
/// use std::io::Write as _;
///
/// fn squares(request: &mut BlockingRequest) -> Result<()> {
///     for number in 1..=1_000 {
///         writeln!(request.wfile, "{number} {}", number * number)?;
///     }
///     Ok(())
/// }
/// let mut table = StreamRequestHandler::new(squares);
/// table.wbufsize = 64 * 1024; // few system calls instead of some for each line
/// ```
pub struct BlockingWriter {
    kind: Writer,
}

enum Writer {
    Direct(BlockingSocket),
    Buffered(BufWriter<Sender>),
    /// `None` until there was a write.
    Packet(Option<Vec<u8>>),
}

/// Sends as many bytes as can be sent immediately, so that the buffer before it knows the rest if a write fails.
struct Sender(BlockingSocket);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.descriptor().send(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl BlockingWriter {
    pub(super) fn new(socket: &BlockingSocket, bufsize: usize) -> Self {
        let kind = match (socket.is_datagram(), bufsize) {
            (true, _) => Writer::Packet(None),
            (false, 0) => Writer::Direct(socket.share()),
            (false, bufsize) => Writer::Buffered(BufWriter::with_capacity(bufsize, Sender(socket.share()))),
        };
        BlockingWriter { kind }
    }

    /// The answer to a datagram, if there is one.
    pub(super) fn into_packet(self) -> Option<Vec<u8>> {
        match self.kind {
            Writer::Packet(packet) => packet,
            _ => None,
        }
    }
}

impl Write for BlockingWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.kind {
            Writer::Direct(socket) => socket.write(bytes),
            Writer::Buffered(buffer) => buffer.write_all(bytes).map(|()| bytes.len()),
            Writer::Packet(packet) => packet.get_or_insert_default().write(bytes),
        }
    }

    /// Formats first and sends once. Otherwise `write!` would send one packet for each piece.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        match text.as_str() {
            Some(text) => self.write_all(text.as_bytes()),
            None => self.write_all(text.to_string().as_bytes()),
        }
    }

    /// Takes all of it in one call, even if it is empty, because an empty answer is a datagram as well.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).map(drop)
    }

    /// Sends the gathered output of a stream. A datagram needs no flush, because it is sent in one piece.
    fn flush(&mut self) -> io::Result<()> {
        match &mut self.kind {
            Writer::Buffered(buffer) => buffer.flush(),
            _ => Ok(()),
        }
    }
}

impl fmt::Debug for BlockingWriter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingWriter")
    }
}

#[cfg(test)]
mod tests;
