//! Input that is not consumed, between two callbacks. There is a carry only while it holds something.

/// Received bytes that the handler has not consumed.
#[derive(Debug, Default)]
pub(crate) struct Carry {
    pub(crate) bytes: Vec<u8>,
    /// So many of them are consumed.
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

    /// Each byte is moved once at most for each that was consumed, however small the pieces.
    pub(crate) fn consume(&mut self, n: usize) {
        self.consumed += n;
        if self.consumed > self.bytes.len() / 2 {
            self.bytes.drain(..self.consumed);
            self.consumed = 0;
        }
    }
}

/// How far the unread bytes were searched, and for what, so that no byte is searched twice for the same needle.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Scan {
    /// Length and hash of the needle; (0, 0) is none.
    pub(crate) needle: (usize, u64),
    /// A match cannot begin before this offset into the unread bytes.
    pub(crate) from: usize,
}
