//! What a connection sends: bytes that tell at each position whose they are, and where in the stream they belong.

use std::ops::Range;

/// An endless sequence of bytes that looks random. Each connection has one of its own.
#[derive(Clone, Copy)]
pub(crate) struct Pattern {
    key: u64,
}

impl Pattern {
    pub(crate) fn new(key: u64) -> Self {
        Pattern { key }
    }

    /// Writes the bytes that begin at `position`.
    pub(crate) fn fill(self, position: u64, buffer: &mut [u8]) {
        let (mut index, skipped) = (position / WORD as u64, (position % WORD as u64) as usize);
        let (head, tail) = buffer.split_at_mut(((WORD - skipped) % WORD).min(buffer.len()));
        if !head.is_empty() {
            head.copy_from_slice(&self.word(index)[skipped..skipped + head.len()]);
            index += 1;
        }
        for (chunk, index) in tail.chunks_mut(WORD).zip(index..) {
            chunk.copy_from_slice(&self.word(index)[..chunk.len()]);
        }
    }

    /// Where `bytes`, which should begin at `position`, are first something else.
    pub(crate) fn mismatch(self, position: u64, bytes: &[u8]) -> Option<usize> {
        let mut expected = [0; 4096];
        for (number, chunk) in bytes.chunks(expected.len()).enumerate() {
            let before = number * expected.len();
            let expected = &mut expected[..chunk.len()];
            self.fill(position + before as u64, expected);
            if chunk != expected {
                return chunk.iter().zip(expected).position(|(seen, expected)| seen != expected).map(|at| before + at);
            }
        }
        None
    }

    /// Where in the given part of the sequence `bytes` are. Too few of them could be anywhere, and are nowhere.
    pub(crate) fn find(self, bytes: &[u8], part: Range<u64>) -> Option<u64> {
        if bytes.len() < WORD {
            return None;
        }
        let mut sequence = vec![0; (part.end - part.start) as usize];
        self.fill(part.start, &mut sequence);
        sequence.windows(bytes.len()).position(|window| window == bytes).map(|at| part.start + at as u64)
    }

    /// The finalizer of SplitMix64.
    fn word(self, index: u64) -> [u8; WORD] {
        let mut word = self.key.wrapping_add(index.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (word ^ (word >> 31)).to_le_bytes()
    }
}

const WORD: usize = size_of::<u64>();

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(key: u64, part: Range<u64>) -> Vec<u8> {
        let mut bytes = vec![0; (part.end - part.start) as usize];
        Pattern::new(key).fill(part.start, &mut bytes);
        bytes
    }

    #[test]
    fn every_part_of_a_pattern_is_cut_from_the_same_sequence() {
        let whole = bytes(7, 0..64);
        for start in 0..64 {
            for end in start..64 {
                assert_eq!(bytes(7, start..end), whole[start as usize..end as usize], "{start}..{end}");
            }
        }
    }

    #[test]
    fn one_wrong_byte_is_seen_wherever_it_is() {
        let pattern = Pattern::new(7);
        let good = bytes(7, 3..10_003);
        assert_eq!(pattern.mismatch(3, &good), None);
        for at in [0, 1, 4_095, 4_096, 9_999] {
            let mut bad = good.clone();
            bad[at] ^= 1;
            assert_eq!(pattern.mismatch(3, &bad), Some(at));
        }
    }

    #[test]
    fn bytes_of_another_connection_are_seen_and_found() {
        let alien = bytes(8, 1_000..1_016);
        assert!(Pattern::new(7).mismatch(1_000, &alien).is_some());
        assert_eq!(Pattern::new(7).find(&alien, 0..10_000), None);
        assert_eq!(Pattern::new(8).find(&alien, 0..10_000), Some(1_000));
        assert_eq!(Pattern::new(8).find(&alien[..7], 0..10_000), None);
    }
}
