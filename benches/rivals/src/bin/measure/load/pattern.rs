//! The bytes that are sent, made so that any byte lost, doubled, changed or from another connection is noticed.
//!
//! All streams run through one block of random bytes, round and round, each from a place of its own. What is sent is a
//! slice of the block, and what comes back is compared with one: nothing is copied, and memcmp is fast.

use std::sync::LazyLock;

/// Bytes until a stream repeats itself. A prime, so that no number of whole buffers, pages or segments is a multiple of
/// it and could be lost or doubled unnoticed, and more than the connections that one process can have, so that no two
/// of them are at the same place of the block for the same byte of their streams.
const PERIOD: usize = 65_521;

/// The longest slice that can be had whatever the place it begins at.
pub(super) const SLICE_MAX: usize = 256 * 1024;

/// How far the beginnings of two consecutive streams are apart: any number that keeps neighbours from sharing most of
/// a message.
const STRIDE: u64 = 26_489;

static BLOCK: LazyLock<Vec<u8>> = LazyLock::new(|| {
    // xorshift64, for bytes that are the same in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let round: Vec<u8> = (0..PERIOD)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 32) as u8
        })
        .collect();
    round.iter().copied().cycle().take(PERIOD + SLICE_MAX).collect()
});

/// Where stream `number` begins in the block.
fn beginning(number: u64) -> usize {
    (number % PERIOD as u64 * STRIDE % PERIOD as u64) as usize
}

/// The first `length` bytes of stream `number`: a datagram is a stream of its own.
pub(super) fn first(number: u64, length: usize) -> &'static [u8] {
    let beginning = beginning(number);
    &BLOCK[beginning..beginning + length]
}

/// How many bytes of `got` are not those of `expected`, which is as long.
pub(super) fn differences(got: &[u8], expected: &[u8]) -> u64 {
    if got == expected {
        return 0;
    }
    got.iter().zip(expected).filter(|(got, expected)| got != expected).count() as u64
}

/// One connection's bytes: how far they are to be sent, have been sent, and have come back.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stream {
    beginning: usize,
    due: u64,
    sent: u64,
    received: u64,
}

impl Stream {
    pub(super) fn new(number: u64) -> Self {
        Stream { beginning: beginning(number), due: 0, sent: 0, received: 0 }
    }

    /// So many bytes more are to be sent.
    pub(super) fn extend(&mut self, bytes: u64) {
        self.due += bytes;
    }

    /// What is to be sent next, perhaps not all of it; empty if there is nothing.
    pub(super) fn unsent(&self) -> &'static [u8] {
        let place = self.place(self.sent);
        &BLOCK[place..place + (self.due - self.sent).min(SLICE_MAX as u64) as usize]
    }

    /// So many of the [`unsent`](Self::unsent) bytes have been sent.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.sent += bytes as u64;
    }

    /// Compares what came back, at most [`SLICE_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// How many bytes are not those that were sent. Nothing that comes after them can be told right from wrong.
    pub(super) fn accept(&mut self, bytes: &[u8]) -> Result<(), u64> {
        let expected = bytes.len().min((self.sent - self.received) as usize);
        let place = self.place(self.received);
        let changed = differences(&bytes[..expected], &BLOCK[place..place + expected]);
        let too_many = (bytes.len() - expected) as u64;
        self.received += expected as u64;
        if changed + too_many == 0 { Ok(()) } else { Err(changed + too_many) }
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent
    }

    pub(super) fn received(&self) -> u64 {
        self.received
    }

    /// Whether everything due has been sent.
    pub(super) fn is_sent(&self) -> bool {
        self.sent == self.due
    }

    /// Whether everything due has come back.
    pub(super) fn is_back(&self) -> bool {
        self.received == self.due
    }

    fn place(&self, position: u64) -> usize {
        (self.beginning + (position % PERIOD as u64) as usize) % PERIOD
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn eight_bytes_tell_the_place_in_the_block() {
        let places: HashSet<&[u8]> = BLOCK.windows(8).take(PERIOD).collect();
        assert_eq!(places.len(), PERIOD);
    }

    #[test]
    fn as_many_streams_begin_at_places_of_their_own_as_there_are_places() {
        let beginnings: HashSet<usize> = (0..PERIOD as u64).map(beginning).collect();
        assert_eq!(beginnings.len(), PERIOD);
    }

    /// What a stream sends, and the stream that expects it back.
    fn sent(number: u64, bytes: usize) -> (Vec<u8>, Stream) {
        let mut stream = Stream::new(number);
        stream.extend(bytes as u64);
        let mut sent = Vec::new();
        while !stream.is_sent() {
            let slice = stream.unsent();
            sent.extend_from_slice(slice);
            stream.advance(slice.len());
        }
        (sent, stream)
    }

    #[test]
    fn what_was_sent_is_accepted_in_pieces_of_any_size() {
        let (bytes, mut stream) = sent(7, 3 * PERIOD + SLICE_MAX);
        for piece in bytes.chunks(1000) {
            stream.accept(piece).unwrap();
        }
        assert!(stream.is_back());
    }

    #[test]
    fn a_changed_a_lost_and_a_doubled_byte_are_noticed() {
        let (bytes, stream) = sent(7, 100);
        let mut changed = bytes.clone();
        changed[50] ^= 1;
        assert_eq!({ stream }.accept(&changed), Err(1));

        let mut lost = bytes.clone();
        lost.remove(50);
        assert!({ stream }.accept(&lost).is_err());

        let mut doubled = bytes.clone();
        doubled.push(0);
        assert_eq!({ stream }.accept(&doubled), Err(1));
    }

    #[test]
    fn the_bytes_of_a_neighbour_are_noticed() {
        let (bytes, _) = sent(7, 100);
        let (_, mut neighbour) = sent(8, 100);
        assert!(neighbour.accept(&bytes).unwrap_err() > 50);
    }
}
