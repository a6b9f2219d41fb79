//! `rfile` and `wfile`: a request as two files.

use std::fmt;
use std::io::{self, BufRead, BufReader, BufWriter, Cursor, Read, Write};

use super::socket::{BlockingSocket, Move};
use crate::error::Error;
use crate::limits::Limits;

/// Python's `rfile`: what the client sends. Lines are read with [`BufRead`].
///
/// Of a stream, a read waits for bytes, and the end of the file is the client's end of the stream. Of a datagram, the
/// file is the packet. [`BlockingHandler::rbufsize`](crate::BlockingHandler::rbufsize) says how much is read ahead.
///
/// A client cannot make it grow: a line, or what `read_until` is to read, fails with
/// [`Error::InputLimit`](crate::Error::InputLimit) when it is longer than
/// [`Limits::line_bytes_max`](crate::Limits::line_bytes_max), and so do `read_to_end` and `read_to_string` beyond
/// [`Limits::input_bytes_max`](crate::Limits::input_bytes_max). A handler that returns that error ends its request with
/// [`Finish::InputLimit`](crate::Finish::InputLimit), as on the reactor. `read`, `read_exact` and
/// [`take`](std::io::Read::take) have the limit that the handler gives them.
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
    /// Bytes of a line that a call has read before it failed, because its time was over: the next one goes on with it.
    begun: usize,
}

enum Reader {
    Stream(BufReader<Receiver>),
    Packet(Cursor<Packet>),
}

/// What fills the buffer.
struct Receiver {
    socket: BlockingSocket,
    /// What it is filled for.
    what: Move,
}

impl Read for Receiver {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.receive(self.what, buffer)
    }
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
            false => {
                let receiver = Receiver { socket: socket.share(), what: Move::Begin };
                Reader::Stream(BufReader::with_capacity(bufsize.max(1), receiver))
            }
        };
        BlockingReader { kind, begun: 0 }
    }

    fn limits(&self) -> &Limits {
        match &self.kind {
            Reader::Stream(stream) => stream.get_ref().socket.limits(),
            Reader::Packet(packet) => packet.get_ref().0.limits(),
        }
    }

    /// A message of which this many bytes were read is to be read: while the rest of it is waited for, the client is not
    /// quiet.
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

/// Reads to the end, which may be at most so many bytes away.
pub(super) fn read_to_end_within(reader: &mut impl Read, max: usize, bytes: &mut Vec<u8>) -> io::Result<usize> {
    let count = reader.take((max as u64).saturating_add(1)).read_to_end(bytes)?;
    if count > max { Err(Error::InputLimit { what: "unread input", max }.into()) } else { Ok(count) }
}

/// Appends what is read to a text, or nothing if that is no text.
pub(super) fn read_text(text: &mut String, read: impl FnOnce(&mut Vec<u8>) -> io::Result<usize>) -> io::Result<usize> {
    let mut bytes = std::mem::take(text).into_bytes();
    let length = bytes.len();
    let result = read(&mut bytes);
    let (valid, result) = match String::from_utf8(bytes) {
        Ok(valid) => (valid, result),
        Err(error) => {
            let mut bytes = error.into_bytes();
            bytes.truncate(length);
            let valid = String::from_utf8(bytes).expect("this part was a text before");
            let invalid = io::Error::new(io::ErrorKind::InvalidData, "stream did not contain valid UTF-8");
            (valid, result.and(Err(invalid)))
        }
    };
    *text = valid;
    result
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
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    use super::*;
    use crate::blocking::job::Work;
    use crate::blocking::tests::{MOMENT, PATIENCE, Served, answer, origin, pair, rest, serve};
    use crate::blocking::{BlockingRequest, StreamRequestHandler};
    use crate::error::Result;
    use crate::net::StdStream;
    use crate::net::clock::Clock;

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

    /// What a handler makes of what a client sends, and how much memory it needed for that, with limits of 10 bytes for a
    /// line and 100 for everything.
    fn read(
        sent: &[u8],
        read: impl Fn(&mut BlockingRequest, &mut Vec<u8>) -> io::Result<usize> + Send + 'static,
    ) -> (Result<usize>, usize) {
        let mut limits = Limits::default();
        (limits.line_bytes_max, limits.input_bytes_max) = (10, 100);
        let (stream, mut peer) = pair();
        let socket = BlockingSocket::stream(StdStream::Tcp(stream), Clock::new(), Arc::new(limits));
        let (told, tell) = channel();
        let handler = StreamRequestHandler::new(move |request| {
            let mut bytes = Vec::new();
            let result = read(request, &mut bytes);
            told.send((result.map_err(Error::from), bytes.capacity())).unwrap();
            Ok(())
        });
        let served = Served::begin(Work::Handler(Box::new(handler)), origin(socket));
        let _ = peer.write_all(sent); // It fails if the handler does not want all of it.
        let _ = peer.shutdown(std::net::Shutdown::Write);
        served.result().unwrap();
        tell.recv_timeout(PATIENCE).unwrap()
    }

    fn read_line(request: &mut BlockingRequest, bytes: &mut Vec<u8>) -> io::Result<usize> {
        let mut line = String::new();
        let result = request.rfile.read_line(&mut line);
        *bytes = line.into_bytes();
        result
    }

    #[test]
    fn a_line_without_an_end_is_an_error_and_takes_no_memory() {
        let endless = vec![b'x'; 1_000_000];
        for sent in [&b"123456789\n123"[..], b"1234567890"] {
            assert_eq!(read(sent, read_line).0.unwrap(), 10);
        }
        for sent in [&b"1234567890\n"[..], &endless] {
            let (result, capacity) = read(sent, read_line);
            assert!(matches!(result, Err(Error::InputLimit { what: "line", max: 10 })));
            assert!(capacity < 100, "{capacity} bytes for a line of 10");
            let (result, capacity) = read(sent, |request, bytes| request.rfile.read_until(0, bytes));
            assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
            assert!(capacity < 100);
            // Through an adapter as well.
            let (result, _) =
                read(sent, |request, _| request.rfile.by_ref().lines().next().unwrap().map(|line| line.len()));
            assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
        }
    }

    #[test]
    fn a_line_that_comes_too_slowly_has_no_more_bytes_for_that() {
        let (result, _) = read(b"12345", |request, bytes| {
            request.rfile.begun = 5; // As an earlier call has left it that was over time.
            request.rfile.read_until(b'\n', bytes)
        });
        assert_eq!(result.unwrap(), 5);
        let (result, _) = read(b"123456\n", |request, bytes| {
            request.rfile.begun = 5;
            request.rfile.read_until(b'\n', bytes)
        });
        assert!(matches!(result, Err(Error::InputLimit { max: 10, .. })));
    }

    #[test]
    fn input_without_an_end_is_an_error_and_takes_no_memory() {
        type ReadAll = fn(&mut BlockingRequest, &mut Vec<u8>) -> io::Result<usize>;
        let reads: [ReadAll; 3] = [
            |request, bytes| request.rfile.read_to_end(bytes),
            |request, bytes| request.rfile.read_to_string(&mut String::new()).inspect(|_| bytes.clear()),
            |request, bytes| { request.request() }.read_to_end(bytes),
        ];
        for read_all in reads {
            assert_eq!(read(&[b'x'; 100], read_all).0.unwrap(), 100);
            let (result, capacity) = read(&vec![b'x'; 1_000_000], read_all);
            assert!(matches!(result, Err(Error::InputLimit { what: "unread input", max: 100 })));
            assert!(capacity < 1_000, "{capacity} bytes for 100");
        }
        // What the handler has room for has no other limit.
        let (result, _) = read(&[b'x'; 1_000], |request, _| request.rfile.read_exact(&mut [0; 1_000]).map(|()| 1_000));
        assert_eq!(result.unwrap(), 1_000);
    }

    #[test]
    fn what_is_no_text_leaves_the_text_before_it_as_it_was() {
        let (result, _) = read(b"\xff\n", |request, bytes| {
            let mut line = "before".to_owned();
            let result = request.rfile.read_line(&mut line);
            assert_eq!(line, "before");
            bytes.clear();
            result
        });
        assert!(matches!(result, Err(Error::Io(error)) if error.kind() == io::ErrorKind::InvalidData));
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
