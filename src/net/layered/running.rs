//! A layer that has begun: what it keeps, and how it seals.

use std::io::{self, IoSlice, Write};
use std::ops::Range;

use crate::error::Result;
use crate::net::layer::{Ended, Layer, Opened, Sealed, guarded};
use crate::panics::catch;

/// A layer that has begun.
#[derive(Debug)]
pub(super) struct Running<L> {
    pub(super) layer: L,
    /// Exists only while it holds something, because there is one of these for every idle connection.
    pub(super) kept: Option<Box<Kept>>,
    /// Bytes of plaintext that are sealed, but not reported as written.
    ahead: u32,
    /// Nothing more is opened.
    pub(super) is_over: bool,
    /// Nothing more is sealed either.
    pub(super) has_failed: bool,
    pub(super) is_closed: bool,
}

/// What a layer keeps for the next call.
#[derive(Debug, Default)]
pub(super) struct Kept {
    /// Bytes of an incomplete record.
    pub(super) carried: Vec<u8>,
    /// Sealed bytes that the socket has not accepted.
    sealed: Vec<u8>,
    /// The end of the input, if it is not reported yet.
    pub(super) end: Option<Ended>,
}

impl<L: Layer> Running<L> {
    pub(super) fn new(layer: L) -> Self {
        Running { layer, kept: None, ahead: 0, is_over: false, has_failed: false, is_closed: false }
    }

    pub(super) fn sealed(&self) -> &[u8] {
        self.kept.as_ref().map_or(&[], |kept| &kept.sealed)
    }

    pub(super) fn take_carried(&mut self) -> Vec<u8> {
        self.take(|kept| std::mem::take(&mut kept.carried))
    }

    pub(super) fn take_end(&mut self) -> Option<Ended> {
        self.take(|kept| kept.end.take())
    }

    /// Takes a part of what is kept, and frees the box if nothing is left in it.
    #[inline]
    fn take<T: Default>(&mut self, take: impl FnOnce(&mut Kept) -> T) -> T {
        let Some(kept) = &mut self.kept else { return T::default() };
        let taken = take(kept);
        if kept.carried.is_empty() && kept.sealed.is_empty() && kept.end.is_none() {
            self.kept = None;
        }
        taken
    }

    /// Runs an operation of the layer that may add to the sealed bytes.
    fn adding<T>(&mut self, run: impl FnOnce(&mut L, &mut [u8], &mut Sealed<'_>) -> T) -> Result<T> {
        let Running { layer, kept, .. } = self;
        let (mut none, mut new) = (Vec::new(), Vec::new());
        let (carried, bytes) = match kept {
            Some(kept) => (&mut kept.carried, &mut kept.sealed),
            None => (&mut none, &mut new),
        };
        let filled = bytes.len();
        let mut sealed = Sealed::new(bytes, filled);
        let result = catch(|| run(layer, carried, &mut sealed));
        let filled = sealed.len();
        bytes.truncate(filled);
        if !new.is_empty() {
            self.kept.get_or_insert_default().sealed = new;
        }
        result
    }

    /// Opens records. A panic is a failure.
    pub(super) fn open(&mut self, buffer: &mut [u8], wire: Range<usize>) -> Opened {
        if self.is_over {
            return Opened { used: wire.len(), ..Opened::default() };
        }
        let before = self.sealed().len();
        let opened = self.adding(|layer, _, sealed| layer.open(buffer, wire, sealed));
        if self.is_closed {
            self.take(|kept| kept.sealed.truncate(before)); // The peer was told that nothing follows.
        }
        opened.unwrap_or_else(|panic| Opened { end: Some(Ended::Failed(panic.into())), ..Opened::default() })
    }

    pub(super) fn close(&mut self) {
        if self.has_failed || self.layer.is_handshaking() {
            return;
        }
        // After an error there is nothing to send, and the peer sees the end of the socket.
        let _ = self.adding(|layer, carried, sealed| layer.close(carried, sealed));
    }

    pub(super) fn write(
        &mut self,
        socket: &mut impl Write,
        slices: &[IoSlice<'_>],
        scratch: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let offered: usize = slices.iter().map(|slice| slice.len()).sum();
        let mut taken = 0;
        while taken < offered {
            let ahead = self.ahead as usize;
            let sealed = self.seal_more(slices, taken + ahead, offered, scratch)?;
            let ahead = self.ahead as usize;
            let waiting = self.sealed().len() + sealed;
            let written = match write_both(socket, self.sealed(), &scratch[..sealed]) {
                Ok(0) if waiting > 0 => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                    self.keep(0, &scratch[..sealed]);
                    continue;
                }
                Err(error) => return Err(error),
            };
            if written == waiting {
                self.take(|kept| kept.sealed = Vec::new());
                let done = ahead.min(offered - taken);
                self.ahead -= done as u32;
                taken += done;
                continue;
            }
            // If half of the ciphertext was written, half of the plaintext counts as written, but never all of it.
            let done = (ahead * written / waiting).min(offered - taken);
            self.ahead -= done as u32;
            taken += done;
            self.keep(written, &scratch[..sealed]);
            if cfg!(unix) || written == 0 {
                break;
            }
        }
        if taken == 0 && offered > 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(taken) }
    }

    /// Keeps sealed bytes that were not written: those that waited, and the new ones.
    pub(super) fn keep(&mut self, written: usize, new: &[u8]) {
        let before = self.sealed().len();
        if written < before {
            let sealed = &mut self.kept.get_or_insert_default().sealed;
            sealed.drain(..written);
            sealed.extend_from_slice(new);
        } else if written - before < new.len() {
            self.kept.get_or_insert_default().sealed = new[written - before..].to_vec();
        } else {
            self.take(|kept| kept.sealed = Vec::new());
        }
    }

    /// Seals plaintext from `from` on, until enough is ahead of the socket. Returns how many bytes of the scratch are
    /// filled.
    fn seal_more(
        &mut self,
        slices: &[IoSlice<'_>],
        from: usize,
        offered: usize,
        scratch: &mut Vec<u8>,
    ) -> io::Result<usize> {
        let room = AHEAD_MAX.saturating_sub(self.sealed().len());
        let wanted = offered.saturating_sub(from).min(room);
        if wanted == 0 {
            return Ok(0);
        }
        if self.has_failed || self.is_closed {
            return Err(io::ErrorKind::BrokenPipe.into());
        }
        let mut sealed = Sealed::new(scratch, 0);
        let carried = self.kept.as_mut().map_or(&mut [][..], |kept| &mut kept.carried);
        guarded(|| seal_slices(&mut self.layer, slices, from, wanted, carried, &mut sealed))?;
        self.ahead += wanted as u32;
        Ok(sealed.len())
    }
}

/// Seals `wanted` bytes of the slices from `from` on. Short slices share a record.
fn seal_slices<L: Layer>(
    layer: &mut L,
    slices: &[IoSlice<'_>],
    mut from: usize,
    mut wanted: usize,
    carried: &mut [u8],
    sealed: &mut Sealed<'_>,
) -> io::Result<()> {
    let mut gathered = Vec::new();
    for slice in slices {
        let skipped = from.min(slice.len());
        from -= skipped;
        let piece = &slice[skipped..];
        let mut piece = &piece[..piece.len().min(wanted)];
        wanted -= piece.len();
        if gathered.is_empty() && (wanted == 0 || piece.len() >= GATHER_MAX) {
            if !piece.is_empty() {
                layer.seal(piece, carried, sealed)?;
            }
            continue;
        }
        while !piece.is_empty() {
            let (now, later) = piece.split_at(piece.len().min(GATHER_MAX - gathered.len()));
            gathered.extend_from_slice(now);
            piece = later;
            if gathered.len() == GATHER_MAX {
                layer.seal(&gathered, carried, sealed)?;
                gathered.clear();
            }
        }
    }
    if gathered.is_empty() { Ok(()) } else { layer.seal(&gathered, carried, sealed) }
}

fn write_both(socket: &mut impl Write, first: &[u8], second: &[u8]) -> io::Result<usize> {
    match (first.is_empty(), second.is_empty()) {
        (true, true) => Ok(0),
        (true, false) => socket.write(second),
        (false, true) => socket.write(first),
        (false, false) => socket.write_vectored(&[IoSlice::new(first), IoSlice::new(second)]),
    }
}

/// How far the ciphertext is ahead of the socket.
const AHEAD_MAX: usize = 64 * 1024;
/// The plaintext of a full record.
const GATHER_MAX: usize = 16 * 1024;
