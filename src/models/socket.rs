//! A socket whose writes the test decides.

use std::collections::VecDeque;
use std::io::{self, IoSlice, Write};
use std::net::Shutdown;
use std::sync::{Arc, Mutex};

use arbitrary::Arbitrary;
use mio::Token;

use crate::address::Address;
use crate::net::file::Sink;
use crate::net::scripted::ScriptedStream;

/// The result of one write.
#[derive(Clone, Copy, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Take {
    AtMost(u16),
    Interrupted,
    Broken,
}

/// Each write has the next result of the list. When the list is empty, writes would block.
#[derive(Debug, Default)]
pub(crate) struct Socket {
    pub(crate) takes: VecDeque<Take>,
    pub(crate) taken: Vec<u8>,
    /// The longest write that was offered.
    pub(crate) offered: usize,
    /// The last write was partial or refused.
    pub(crate) full: bool,
    /// It was written to again although it was full, without an event in between.
    pub(crate) pressed: bool,
    pub(crate) broken: bool,
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[IoSlice::new(bytes)])
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let offered = slices.iter().map(|slice| slice.len()).sum();
        self.offered = self.offered.max(offered);
        self.pressed |= self.full;
        self.full = false;
        match self.takes.pop_front() {
            Some(Take::AtMost(most)) if most > 0 => {
                let n = offered.min(most.into());
                self.full = n < offered;
                let whole = self.taken.len() + n;
                slices.iter().for_each(|slice| self.taken.extend_from_slice(slice));
                self.taken.truncate(whole);
                Ok(n)
            }
            None | Some(Take::AtMost(_)) => {
                self.full = true;
                Err(io::ErrorKind::WouldBlock.into())
            }
            Some(Take::Interrupted) => Err(io::ErrorKind::Interrupted.into()),
            Some(Take::Broken) => {
                self.broken = true;
                Err(io::ErrorKind::BrokenPipe.into())
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink for Socket {}

/// The model as a connection's socket.
impl ScriptedStream for Arc<Mutex<Socket>> {
    fn register(&mut self, _: Token) -> io::Result<()> {
        Ok(())
    }
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(io::ErrorKind::WouldBlock.into())
    }
    fn cuts_reads_short(&self) -> bool {
        false
    }
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.lock().expect("one thread").write_vectored(slices)
    }
    fn connected(&self) -> io::Result<bool> {
        Ok(true)
    }
    fn local_address(&self) -> Address {
        std::net::SocketAddr::from(([192, 0, 2, 1], 9999)).into()
    }
    fn shutdown(&self, _: Shutdown) {}
    fn reset_on_close(&self) {}
}
