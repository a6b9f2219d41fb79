//! Feeds the same input in every way of cutting it.

use super::Client;
use crate::server::hooks::BaseServer;

/// Feeds `input` to a new client in one piece, then cut in two at every boundary, then byte by byte, then cut at
/// random. Each run is followed by the end of the stream. Panics, with the positions of the cuts in its message, unless
/// the server sends the same bytes and ends for the same reason every time.
///
/// An input of more than 2,048 bytes is cut in two at 2,048 evenly spread positions instead of at every position.
pub fn check_chunking<S: BaseServer>(input: &[u8], mut connect: impl FnMut() -> Client<S>) {
    let mut run = |cuts: &[usize]| {
        let mut client = connect();
        let mut from = 0;
        for &cut in cuts.iter().chain([&input.len()]) {
            client.feed(&input[from..cut]);
            from = cut;
        }
        client.feed_eof();
        (client.sent(), client.finished())
    };
    let whole = run(&[]);
    let mut check = |cuts: &[usize], how: &str| {
        let cut = run(cuts);
        assert!(
            cut == whole,
            "cut {how} at {cuts:?} the input gives another result:\n  {:?}, {:?}\nin one piece:\n  {:?}, {:?}",
            String::from_utf8_lossy(&cut.0),
            cut.1,
            String::from_utf8_lossy(&whole.0),
            whole.1,
        );
    };
    let step = input.len().div_ceil(2_048).max(1);
    for cut in (1..input.len()).step_by(step) {
        check(&[cut], "in two");
    }
    check(&(1..input.len()).collect::<Vec<_>>(), "into single bytes");
    for seed in 1..=64u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut cuts: Vec<_> = (0..1 + seed as usize % 7).map(|_| random(&mut state, input.len())).collect();
        cuts.sort_unstable();
        cuts.dedup();
        check(&cuts, &format!("with seed {seed}"));
    }
}

/// xorshift64, which is enough to choose the cuts.
fn random(state: &mut u64, below: usize) -> usize {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    (*state % (below as u64 + 1)) as usize
}
