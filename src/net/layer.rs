//! A layer between a socket and its connection that turns the bytes of the wire into plaintext and back.
//!
//! The caller lends all buffers, so that an idle connection owns none.

use std::fmt::Debug;
use std::io;
use std::ops::Range;

use crate::panics::catch;

/// The state of a layer for one connection.
pub(crate) trait Layer: Sized + Debug + Send + 'static {
    /// The configuration from which a layer is made when the first byte arrives.
    type Start: Debug + Send;

    /// Returns whether it sends the first byte.
    fn speaks_first(start: &Self::Start) -> bool;

    fn start(start: &Self::Start) -> io::Result<Self>;

    /// Opens the records in a part of the buffer. Puts their plaintext at the start of the buffer, and the layer's own
    /// messages into `sealed`. Before the part there are at least [`PLAIN_MAX`] bytes of room.
    fn open(&mut self, buffer: &mut [u8], wire: Range<usize>, sealed: &mut Sealed<'_>) -> Opened;

    /// Seals plaintext. `carried` has the bytes of the wire that the last `open` left over, unchanged.
    fn seal(&mut self, plain: &[u8], carried: &mut [u8], sealed: &mut Sealed<'_>) -> io::Result<()>;

    /// Ends our direction.
    fn close(&mut self, carried: &mut [u8], sealed: &mut Sealed<'_>) -> io::Result<()>;

    fn is_handshaking(&self) -> bool;
}

/// The result of opening records.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    /// Bytes of the wire that are not needed any more. The next call needs the rest as it is in the buffer now.
    pub(crate) used: usize,
    /// Bytes of plaintext at the start of the buffer.
    pub(crate) plain: usize,
    pub(crate) records: usize,
    pub(crate) end: Option<Ended>,
}

/// Nothing more can be opened. What was opened before is valid.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The peer has ended its direction.
    Closed,
    Failed(io::Error),
}

/// Runs code of the layer. A panic is an error.
pub(crate) fn guarded<T>(run: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    catch(run).unwrap_or_else(|panic| Err(panic.into()))
}

/// The plaintext of the longest record.
pub(crate) const PLAIN_MAX: usize = 18 * 1024;

/// Sealed bytes that grow at their end. The vector may be longer than they are, so that it is not zeroed every time.
pub(crate) struct Sealed<'a> {
    bytes: &'a mut Vec<u8>,
    filled: usize,
}

impl<'a> Sealed<'a> {
    /// Begins with the first `filled` bytes of the vector.
    pub(crate) fn new(bytes: &'a mut Vec<u8>, filled: usize) -> Self {
        Sealed { bytes, filled }
    }

    pub(crate) fn len(&self) -> usize {
        self.filled
    }

    /// Returns room for at least `wanted` more bytes.
    pub(crate) fn room(&mut self, wanted: usize) -> &mut [u8] {
        if self.bytes.len() < self.filled + wanted {
            self.bytes.resize(self.filled + wanted, 0);
        }
        &mut self.bytes[self.filled..]
    }

    /// Records that the first `filled` bytes of the room are sealed bytes now.
    pub(crate) fn add(&mut self, filled: usize) {
        self.filled += filled;
        debug_assert!(self.filled <= self.bytes.len());
    }
}
