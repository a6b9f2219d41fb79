//! Unsent output. A queue exists only while it holds bytes.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice};
use std::ops::Range;
use std::sync::Arc;

use crate::net::file::{Sent, Sink};
use crate::shared_bytes::SharedBytes;

/// Unsent output in order: own bytes in chunks, payloads shared with other connections, and parts of files.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    pub(crate) chunks: VecDeque<Chunk>,
    /// The bytes in memory.
    held: usize,
    /// The bytes in files.
    filed: u64,
    /// The time at which the peer last accepted bytes, or at which the queue was created.
    pub(crate) progress: u64,
}

#[derive(Debug)]
pub(crate) struct Chunk {
    bytes: Bytes,
    sent: usize,
}

#[derive(Debug)]
enum Bytes {
    Own(Vec<u8>),
    Shared(SharedBytes),
    /// What is left of it.
    File(Arc<File>, Range<u64>),
}

/// The result of a flush.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    Empty,
    /// The socket takes no more for now.
    Blocked,
    /// The budget is used up, but the socket may take more.
    Budget,
    /// A file could not be read.
    File(io::ErrorKind),
}

impl Queue {
    /// A connection's queue. Makes one if there is none.
    pub(crate) fn of(queue: &mut Option<Box<Queue>>, now: u64) -> &mut Queue {
        queue.get_or_insert_with(|| Box::new(Queue { progress: now, ..Queue::default() }))
    }

    /// The number of unsent bytes.
    pub(crate) fn len(&self) -> usize {
        self.held.saturating_add(usize::try_from(self.filed).unwrap_or(usize::MAX))
    }

    /// How many of them are in memory.
    pub(crate) fn held(&self) -> usize {
        self.held
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.held += bytes.len();
        match self.chunks.back_mut() {
            // A partly sent chunk does not grow, because that would move bytes that are sent already.
            Some(Chunk { bytes: Bytes::Own(tail), sent: 0 }) if tail.len() + bytes.len() <= CHUNK_BYTES => {
                tail.extend_from_slice(bytes);
            }
            _ if bytes.is_empty() => {}
            _ => self.chunks.push_back(Chunk { bytes: Bytes::Own(bytes.to_vec()), sent: 0 }),
        }
        self.check();
    }

    pub(crate) fn push_shared(&mut self, bytes: SharedBytes) {
        if bytes.len() <= COPIED_BYTES {
            // A chunk of its own would need as much memory, and a place in the next write.
            self.push(&bytes);
        } else {
            self.held += bytes.len();
            self.chunks.push_back(Chunk { bytes: Bytes::Shared(bytes), sent: 0 });
        }
        self.check();
    }

    pub(crate) fn push_file(&mut self, file: Arc<File>, part: Range<u64>) {
        if !part.is_empty() {
            self.filed += part.end - part.start;
            self.chunks.push_back(Chunk { bytes: Bytes::File(file, part), sent: 0 });
        }
        self.check();
    }

    /// Keeps the first `len` bytes.
    #[cfg(feature = "tls")]
    pub(crate) fn truncate(&mut self, len: usize) {
        while self.len() > len {
            let chunk = self.chunks.pop_back().expect("the length is that of the chunks");
            if let Bytes::File(file, part) = chunk.bytes {
                self.filed -= part.end - part.start;
                let kept = part.start + (len.saturating_sub(self.len()) as u64);
                self.push_file(file, part.start..kept);
                continue;
            }
            self.held -= chunk.unsent().len();
            if self.len() < len {
                let kept = chunk.unsent()[..len - self.len()].to_vec();
                self.held += kept.len();
                self.chunks.push_back(Chunk { bytes: Bytes::Own(kept), sent: 0 });
            }
        }
        self.check();
    }

    /// Sends up to `budget` bytes. Returns how many were sent and why it stopped.
    pub(crate) fn write_to(&mut self, socket: &mut impl Sink, budget: usize) -> (usize, io::Result<Flush>) {
        let mut sent = 0;
        while !self.chunks.is_empty() && sent < budget {
            let (wanted, result) = match &self.chunks[0].bytes {
                // A short write may also mean that the file has become shorter, which the next one finds out.
                Bytes::File(file, part) => match send_part(socket, file, part, budget - sent) {
                    Ok(result) => (0, result),
                    Err(error) => return (sent, Ok(Flush::File(error.kind()))),
                },
                _ => self.write_once(socket, budget - sent),
            };
            match result {
                Ok(0) => return (sent, Err(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    self.advance(n);
                    sent += n;
                    // Unix: a short write means that the socket's buffer is full, and an event will report room.
                    if cfg!(unix) && n < wanted {
                        return (sent, Ok(Flush::Blocked));
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (sent, Ok(Flush::Blocked));
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (sent, Err(error)),
            }
        }
        (sent, Ok(if self.chunks.is_empty() { Flush::Empty } else { Flush::Budget }))
    }

    /// One system call for what is in memory, up to the first file. Returns the number of offered bytes and the result.
    fn write_once(&self, socket: &mut impl Sink, budget: usize) -> (usize, io::Result<usize>) {
        if self.chunks.len() == 1 {
            let bytes = self.chunks[0].unsent();
            let bytes = &bytes[..bytes.len().min(budget)];
            return (bytes.len(), socket.write(bytes));
        }
        let mut slices = [IoSlice::new(&[]); SLICES];
        let (mut used, mut offered) = (0, 0);
        for (slice, chunk) in slices.iter_mut().zip(&self.chunks) {
            let bytes = chunk.unsent();
            if bytes.is_empty() {
                break; // A file.
            }
            *slice = IoSlice::new(&bytes[..bytes.len().min(budget - offered)]);
            offered += slice.len();
            used += 1;
            if offered == budget {
                break;
            }
        }
        (offered, socket.write_vectored(&slices[..used]))
    }

    fn advance(&mut self, mut sent: usize) {
        while sent > 0 {
            let chunk = self.chunks.front_mut().expect("sent bytes came from a chunk");
            if let Bytes::File(_, part) = &mut chunk.bytes {
                part.start += sent as u64;
                self.filed -= sent as u64;
                if part.is_empty() {
                    self.chunks.pop_front();
                }
                break; // A file is sent alone.
            }
            let rest = chunk.unsent().len();
            self.held -= sent.min(rest);
            if sent < rest {
                chunk.sent += sent;
                break;
            }
            sent -= rest;
            self.chunks.pop_front();
        }
        self.check();
    }

    /// The lengths are the sums of the chunks, and no chunk is empty.
    fn check(&self) {
        if cfg!(debug_assertions) && self.chunks.len() < 64 {
            assert_eq!(self.held, self.chunks.iter().map(|chunk| chunk.unsent().len()).sum::<usize>());
            assert_eq!(self.filed, self.chunks.iter().map(Chunk::filed).sum::<u64>());
            assert!(self.chunks.iter().all(|chunk| !chunk.unsent().is_empty() || chunk.filed() > 0));
        }
    }
}

impl Chunk {
    /// The number of bytes in a file.
    fn filed(&self) -> u64 {
        match &self.bytes {
            Bytes::File(_, part) => part.end - part.start,
            _ => 0,
        }
    }

    /// The bytes in memory.
    fn unsent(&self) -> &[u8] {
        match &self.bytes {
            Bytes::Own(bytes) => &bytes[self.sent..],
            Bytes::Shared(bytes) => &bytes[self.sent..],
            Bytes::File(..) => &[],
        }
    }
}

/// Sends some of a part of a file, at most `budget` bytes.
fn send_part(socket: &mut impl Sink, file: &File, part: &Range<u64>, budget: usize) -> Sent {
    let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX);
    socket.write_file(file, part.start, length.min(budget))
}

/// Small writes are gathered up to this size.
pub(crate) const CHUNK_BYTES: usize = 64 * 1024;
/// A shared payload of up to this size is copied.
pub(crate) const COPIED_BYTES: usize = 128;
/// Buffers per vectored write: far under the kernel's IOV_MAX of 1,024, and cheap to fill.
pub(crate) const SLICES: usize = 32;
