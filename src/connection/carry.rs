//! Unconsumed input between two callbacks. A carry exists only while it holds bytes.

/// Received bytes that the handler has not consumed.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    pub(crate) bytes: Vec<u8>,
    /// How many of them are consumed.
    consumed: usize,
    pub(crate) scan: Scan,
    /// When the first of them arrived, or the handler last consumed some.
    pub(crate) since: u64,
}

impl Carry {
    pub(crate) fn new(bytes: &[u8], scan: Scan, since: u64) -> Self {
        Carry { bytes: bytes.to_vec(), consumed: 0, scan, since }
    }

    #[inline]
    pub(crate) fn unread(&self) -> &[u8] {
        &self.bytes[self.consumed..]
    }

    pub(crate) fn extend(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Each byte is moved at most once for each consumed byte, however small the pieces are.
    pub(crate) fn consume(&mut self, n: usize) {
        self.consumed += n;
        if self.consumed > self.bytes.len() / 2 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// How far the unread bytes were searched for a needle, so that no byte is searched twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// The hash of the needle; 0 is none.
    pub(crate) needle: u64,
    /// A match cannot begin before this offset into the unread bytes.
    pub(crate) from: usize,
}

impl Scan {
    /// The same for what is unread after this many more bytes were consumed.
    pub(crate) fn after(self, consumed: usize) -> Self {
        Scan { from: self.from.saturating_sub(consumed), ..self }
    }
}
