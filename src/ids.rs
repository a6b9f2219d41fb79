//! Ids of connections, servers and slots, and the tokens by which the selector knows slots.

use std::sync::atomic::{AtomicU32, Ordering};

use mio::Token;

/// Names one connection of one reactor while it lives. Afterwards, and in other reactors, it names nothing. It is
/// `Copy` and `Send`: a map can have it as a key, and any thread can hold it. Operations on a connection that is gone
/// report that.
///
/// ```
/// use socketserver::{ConnectionId, Request};
/// use std::collections::HashMap;
///
/// #[derive(Default)]
/// struct Room { names: HashMap<ConnectionId, String> }
///
/// fn join(request: &mut Request<'_, Room>, name: &str) {
///     let id = request.id();
///     request.server.names.insert(id, name.to_owned());
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId {
    pub(crate) slot: SlotId,
    /// [`Slots::reactor`](crate::reactor::slots::Slots::reactor) of its reactor.
    pub(crate) reactor: u32,
}

impl std::fmt::Display for ConnectionId {
    /// A number that no two connections of a reactor share, until 2³² have come and gone.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.slot.generation.fmt(f)
    }
}

/// Names one server of the process, before a reactor has it and also after it moves to another one. When the server is
/// closed, the id names nothing (until 2³² servers were made). A [`Server`](crate::Server) with a reactor of its own
/// keeps its id.
///
/// ```
/// # use socketserver::{Next, Reactor, Request, RequestHandler, Result, TcpServer};
/// # struct Echo;
/// # impl RequestHandler for Echo {
/// #     fn handle(&mut self, _: &mut Request<'_>) -> Result<Next> { Ok(Next::Wait) }
/// # }
/// let mut reactor = Reactor::new()?;
/// let echo = reactor.add(TcpServer::new("127.0.0.1:0", |_| Echo)?)?;
/// println!("listening on {}", reactor.server_addresses(echo)[0]);
/// reactor.server_close(echo);
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServerId(u32);

impl ServerId {
    /// A number that no other server has.
    pub(crate) fn new() -> Self {
        static SERVERS: AtomicU32 = AtomicU32::new(0);
        ServerId(SERVERS.fetch_add(1, Ordering::Relaxed))
    }
}

/// Names one slot of a reactor until it is freed, by its key, which is reused, and its generation, which is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct SlotId {
    pub(crate) key: u32,
    pub(crate) generation: u32,
}

// A token has the generation in its high bits and the key in its low ones. With 64 bits it has all of the generation's 32
// bits. With 32 bits it has 12, which is enough: slots are freed only after the last event of a turn, so a stale event could
// be mistaken only if its key had been reused 4,096 times since the kernel sent it.
const KEY_BITS: u32 = if usize::BITS >= 64 { 32 } else { 20 };
pub(crate) const GENERATION_MASK: u32 = (u64::MAX >> (64 + KEY_BITS - usize::BITS)) as u32;
pub(crate) const KEY_MAX: usize = (1 << KEY_BITS) - 2;

/// Servers that one reactor can host.
pub(crate) const SERVERS_MAX: usize = 256;
/// The key of no slot.
pub(crate) const NO_SLOT: u32 = u32::MAX;
/// This is never the token of a slot.
pub(crate) const WAKER: Token = Token(usize::MAX);

/// The token of a slot.
pub(crate) fn pack(generation: u32, key: u32) -> Token {
    Token((((generation & GENERATION_MASK) as usize) << KEY_BITS) | key as usize)
}

/// The lowest bits of the generation, and the key.
#[inline]
pub(crate) fn unpack(token: Token) -> (u32, u32) {
    ((token.0 >> KEY_BITS) as u32, (token.0 & ((1 << KEY_BITS) - 1)) as u32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_comes_apart_as_it_was_put_together() {
        for generation in [0, 1, 255, GENERATION_MASK] {
            for key in [0, 1, 4_095, KEY_MAX as u32] {
                let token = pack(generation, key);
                assert_ne!(token, WAKER);
                assert_eq!(unpack(token), (generation, key));
            }
        }
    }
}
