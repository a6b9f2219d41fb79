//! What is sent: bytes that say whose they are and which, so that a lost, doubled or strayed one shows.

use std::collections::BTreeMap;

/// What peers send: the n-th byte of a peer.
pub(crate) fn byte_of(peer: usize, n: u64) -> u8 {
    let mixed = (peer as u64 + 1).wrapping_mul(0x9e37_79b9).wrapping_add(n.wrapping_mul(0x85eb_ca6b));
    (mixed ^ (mixed >> 13)) as u8
}

pub(crate) fn bytes_of(peer: usize, from: u64, count: usize) -> Vec<u8> {
    (from..from + count as u64).map(|n| byte_of(peer, n)).collect()
}

/// What all peers are sent at once.
pub(crate) const BROADCAST: u32 = u32::MAX;
const MAGIC: u8 = 0xc3;
pub(crate) const HEAD: usize = 1 + 4 + 8 + 4;

/// What servers send: its source, how many bytes came from there to this peer before, and the bytes.
pub(crate) fn record(source: u32, before: u64, count: usize) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEAD + count);
    record.push(MAGIC);
    record.extend_from_slice(&source.to_le_bytes());
    record.extend_from_slice(&before.to_le_bytes());
    record.extend_from_slice(&(count as u32).to_le_bytes());
    record.extend(bytes_of(source as usize, before, count));
    record
}

/// Takes records apart as they arrive, in whatever pieces.
#[derive(Debug, Default)]
pub(crate) struct Reader {
    partial: Vec<u8>,
    /// By source: bytes that have come.
    pub(crate) received: BTreeMap<u32, u64>,
}

impl Reader {
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<(), String> {
        self.partial.extend_from_slice(bytes);
        let mut rest = &self.partial[..];
        while rest.len() >= HEAD {
            let source = u32::from_le_bytes(rest[1..5].try_into().unwrap());
            let before = u64::from_le_bytes(rest[5..13].try_into().unwrap());
            let count = u32::from_le_bytes(rest[13..17].try_into().unwrap()) as usize;
            if rest[0] != MAGIC || count > 1 << 20 {
                return Err(format!("bytes are lost, doubled or strayed: no record begins with {:?}", &rest[..HEAD]));
            }
            if rest.len() < HEAD + count {
                break;
            }
            let came = self.received.entry(source).or_default();
            let in_order = if source == BROADCAST { before >= *came } else { before == *came };
            if !in_order {
                return Err(format!("{came} bytes have come from {source}, and the next are those after {before}"));
            }
            if rest[HEAD..HEAD + count] != bytes_of(source as usize, before, count) {
                return Err(format!("{count} bytes from {source} after {before} are not what was sent"));
            }
            *came = before + count as u64;
            rest = &rest[HEAD + count..];
        }
        let done = self.partial.len() - rest.len();
        self.partial.drain(..done);
        Ok(())
    }

    /// Bytes of a record that did not come to its end.
    pub(crate) fn partial(&self) -> usize {
        self.partial.len()
    }
}
