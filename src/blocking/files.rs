//! `rfile` and `wfile`: a request as two files.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};

use super::socket::BlockingSocket;

/// Python's `rfile`: what the client sends. Lines are read with [`BufRead`].
///
/// Of a stream, a read waits for bytes, and the end of the file is the client's end of the stream. Of a datagram, the
/// file is the packet. [`BlockingHandler::rbufsize`](crate::BlockingHandler::rbufsize) says how much is read ahead.
///
/// ```
/// use socketserver::StreamRequestHandler;
/// use std::io::{BufRead as _, Write as _};
///
/// let headers = StreamRequestHandler::new(|request| {
///     let mut line = String::new();
///     while request.rfile.read_line(&mut line)? > 0 && line != "\r\n" {
///         line.clear();
///     }
///     request.wfile.write_all(b"that was all of them\r\n")?;
///     Ok(())
/// });
/// ```
pub struct BlockingReader {
    kind: Reader,
}

enum Reader {
    Stream(BufReader<BlockingSocket>),
    Packet(Cursor<Packet>),
}

/// The packet where it is, not a copy.
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
            // One byte at a time is how Python reads a line from a file without a buffer; larger reads go past it.
            false => Reader::Stream(BufReader::with_capacity(bufsize.max(1), socket.share())),
        };
        BlockingReader { kind }
    }
}

impl Read for BlockingReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.kind {
            Reader::Stream(stream) => stream.read(buffer),
            Reader::Packet(packet) => packet.read(buffer),
        }
    }
}

impl BufRead for BlockingReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        match &mut self.kind {
            Reader::Stream(stream) => stream.fill_buf(),
            Reader::Packet(packet) => packet.fill_buf(),
        }
    }

    fn consume(&mut self, count: usize) {
        match &mut self.kind {
            Reader::Stream(stream) => stream.consume(count),
            Reader::Packet(packet) => packet.consume(count),
        }
    }
}

impl fmt::Debug for BlockingReader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("BlockingReader")
    }
}

/// Python's `wfile`: what the client is sent.
///
/// Of a stream, each write is sent whole before it returns, or gathered up to
/// [`BlockingHandler::wbufsize`](crate::BlockingHandler::wbufsize) bytes; what is left is sent when the handler has
/// finished. Of a datagram, everything is gathered and sent then as one datagram, if there was a write at all.
///
/// ```
/// use socketserver::StreamRequestHandler;
/// use std::io::Write as _;
///
/// let mut table = StreamRequestHandler::new(|request| {
///     for number in 1..=1_000 {
///         writeln!(request.wfile, "{number} {}", number * number)?;
///     }
///     Ok(())
/// });
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

/// Takes what goes out at once, so that the buffer before it knows what is left when a write fails.
struct Sender(BlockingSocket);

impl Write for Sender {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes)
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

    /// Formats first and sends once: piece by piece, `write!` would send as many packets as it has pieces.
    fn write_fmt(&mut self, text: fmt::Arguments<'_>) -> io::Result<()> {
        match text.as_str() {
            Some(text) => self.write_all(text.as_bytes()),
            None => self.write_all(text.to_string().as_bytes()),
        }
    }

    /// All of it in one call, even if it is nothing: an empty answer is a datagram as well.
    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.write(bytes).map(drop)
    }

    /// Sends what was gathered of a stream. Of a datagram there is nothing to flush: it goes out in one piece.
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
mod tests {
    use super::*;
    use crate::blocking::StreamRequestHandler;
    use crate::blocking::tests::{MOMENT, PATIENCE, answer, rest, serve};

    #[test]
    fn without_a_buffer_each_write_is_sent_at_once_and_nothing_is_read_ahead() {
        let mut handler = StreamRequestHandler::new(|request| {
            let mut line = String::new();
            request.wfile.write_all(b"name? ")?;
            request.rfile.read_line(&mut line)?;
            request.wfile.write_all(line.as_bytes())?;
            let mut left = String::new();
            { request.request() }.read_to_string(&mut left)?;
            assert_eq!(left, "more");
            Ok(())
        });
        handler.rbufsize = 0;
        let (served, mut peer) = serve(handler);
        let mut question = [0; 6];
        peer.read_exact(&mut question).unwrap();
        peer.write_all(b"me\nmore").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(&mut peer), "me\n");
        served.result().unwrap();
    }

    #[test]
    fn with_a_buffer_input_is_read_ahead_and_output_is_sent_at_the_end() {
        let mut handler = StreamRequestHandler::new(|request| {
            request.wfile.write_all(b"one ")?;
            request.wfile.write_all(b"two")?;
            let mut line = String::new();
            request.rfile.read_line(&mut line)?;
            request.rfile.read_line(&mut line)?;
            assert_eq!(line, "me\nmore");
            Ok(())
        });
        handler.wbufsize = 100;
        let (served, mut peer) = serve(handler);
        peer.set_read_timeout(Some(MOMENT)).unwrap();
        assert!(peer.read(&mut [0; 100]).is_err(), "nothing comes before the handler has finished");
        peer.set_read_timeout(Some(PATIENCE)).unwrap();
        peer.write_all(b"me\nmore").unwrap();
        peer.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(rest(&mut peer), "one two");
        served.result().unwrap();
    }

    #[test]
    fn a_write_larger_than_the_buffer_goes_out_whole_and_in_order() {
        let mut handler = StreamRequestHandler::new(|request| {
            for length in [1, 9, 10, 11, 100_000, 3] {
                assert_eq!(request.wfile.write(&vec![b'0' + (length % 10) as u8; length])?, length);
            }
            Ok(())
        });
        handler.wbufsize = 10;
        let (served, mut peer) = serve(handler);
        let text = rest(&mut peer);
        served.result().unwrap();
        assert_eq!(text.len(), 1 + 9 + 10 + 11 + 100_000 + 3);
        assert!(text.starts_with("1999999999000000000011111111111000") && text.ends_with("0333"));
    }

    #[test]
    fn a_datagram_is_read_as_a_file_and_answered_with_one() {
        let replies = answer(|request| {
            let mut line = String::new();
            while request.rfile.read_line(&mut line)? > 0 {
                request.wfile.write_all(line.to_uppercase().as_bytes())?;
                line.clear();
            }
            request.wfile.flush()?;
            assert_eq!(request.request().packet(), b"one\ntwo\n");
            Ok(())
        });
        assert_eq!(replies, [b"ONE\nTWO\n"]);
    }

    #[test]
    fn a_datagram_is_answered_if_there_was_a_write_and_not_otherwise() {
        assert!(answer(|_| Ok(())).is_empty());
        assert_eq!(answer(|request| Ok(_ = request.wfile.write(b"")?)), [b""]);
    }
}
