//! The bytes that are sent, made so that any byte lost, doubled, changed or from another connection is noticed.
//!
//! All streams run through one block of random bytes, round and round, each from a place of its own. What is sent is a
//! slice of the block, and what comes back is compared with one: nothing is copied, and memcmp is fast.

use std::sync::LazyLock;

/// Bytes until a stream repeats itself. A prime, so that no number of whole buffers, pages or segments is a multiple of
/// it and could be lost or doubled unnoticed, and more than the connections that one process can have, so that no two
/// of them are at the same place of the block for the same byte of their streams.
const PERIOD: u64 = 65_521;

/// The longest slice.
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
    round.iter().copied().cycle().take(PERIOD as usize + SLICE_MAX).collect()
});

/// `length` bytes of stream `number` from `position` on, or [`SLICE_MAX`] if that is less.
pub(super) fn slice(number: u64, position: u64, length: u64) -> &'static [u8] {
    let place = ((number % PERIOD * STRIDE + position) % PERIOD) as usize;
    &BLOCK[place..place + length.min(SLICE_MAX as u64) as usize]
}

/// How many bytes of `got` are not those of `expected`, or are too many.
pub(super) fn differences(got: &[u8], expected: &[u8]) -> u64 {
    if got == expected {
        return 0;
    }
    let changed = got.iter().zip(expected).filter(|(got, expected)| got != expected).count();
    (changed + got.len().saturating_sub(expected.len())) as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn eight_bytes_tell_the_place_in_the_block() {
        let places: HashSet<&[u8]> = BLOCK.windows(8).take(PERIOD as usize).collect();
        assert_eq!(places.len() as u64, PERIOD);
    }

    #[test]
    fn as_many_streams_begin_at_places_of_their_own_as_there_are_places() {
        let beginnings: HashSet<&[u8]> = (0..PERIOD).map(|number| slice(number, 0, 8)).collect();
        assert_eq!(beginnings.len() as u64, PERIOD);
    }

    #[test]
    fn slices_of_a_stream_follow_each_other() {
        let whole = slice(7, 0, SLICE_MAX as u64);
        let pieces: Vec<u8> = (0..256).flat_map(|piece| slice(7, piece * 1024, 1024)).copied().collect();
        assert_eq!(differences(&pieces, whole), 0);
    }

    #[test]
    fn a_changed_a_lost_a_doubled_and_a_foreign_byte_are_noticed() {
        let sent = slice(7, 0, 100);
        let mut changed = sent.to_vec();
        changed[50] ^= 1;
        assert_eq!(differences(&changed, sent), 1);
        assert!(differences(&[&sent[..50], &sent[51..]].concat(), &sent[..99]) > 40);
        assert_eq!(differences(&[sent, &[0]].concat(), sent), 1);
        assert!(differences(slice(8, 0, 100), sent) > 90);
    }
}
