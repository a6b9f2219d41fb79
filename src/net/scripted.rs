//! The interface of sockets without an operating system, for each kind of socket. The implementations are in `testing`.
//!
//! They are boxed, so a program that does not use the testing kit does not contain them.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::net::Shutdown;
use std::sync::Arc;
use std::time::Duration;

use mio::Token;

use super::readiness::Readiness;
use crate::address::Address;

/// The twin of a connected socket. Dropping it is close(2).
pub(crate) trait ScriptedStream: Debug + Send {
    fn register(&mut self, token: Token) -> io::Result<()>;
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize>;
    /// See [`Stream::cuts_reads_short`](super::stream::Stream::cuts_reads_short).
    fn cuts_reads_short(&self) -> bool;
    fn write(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize>;
    /// See [`Stream::connected`](super::stream::Stream::connected).
    fn connected(&self) -> io::Result<bool>;
    fn local_address(&self) -> Address;
    fn shutdown(&self, how: Shutdown);
    fn reset_on_close(&self);
}

/// The twin of a listening socket.
pub(crate) trait ScriptedListener: Debug + Send {
    fn register(&mut self, token: Token) -> io::Result<()>;
    fn accept(&mut self) -> io::Result<(Box<dyn ScriptedStream>, Address)>;
}

/// The twin of a datagram socket.
pub(crate) trait ScriptedDatagrams: Debug + Send {
    fn register(&mut self, token: Token);
    /// Sets whether events also report room.
    fn watch_room(&mut self, on: bool);
    /// Like recvfrom(2): cuts off bytes that do not fit.
    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<(usize, Address)>;
    fn send(&mut self, bytes: &[u8], to: &Address) -> io::Result<usize>;
}

/// The twin of poll and clock.
pub(crate) trait ScriptedSelector: Send {
    /// Nanoseconds, never zero.
    fn now(&self) -> u64;
    /// Returns the clock for places without access to the selector.
    fn clock(&self) -> Arc<dyn Fn() -> u64 + Send + Sync>;
    /// Never waits. If nothing is ready, it records that the caller would have slept.
    fn poll(&mut self, wait: Option<Duration>) -> io::Result<()>;
    /// The events of the last poll.
    fn events(&self) -> &[(Token, Readiness)];
    fn waker(&self) -> Box<dyn Fn() + Send + Sync>;
    fn connect(&self, address: &Address) -> io::Result<Box<dyn ScriptedStream>>;
}
