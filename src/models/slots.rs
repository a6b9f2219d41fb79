//! Compares the slots with a map of the living ones. An id of a freed slot finds nothing, and never its successor.

use std::collections::HashMap;
use std::net::SocketAddr;

use arbitrary::Arbitrary;
use mio::Token;

use crate::connection::Connection;
use crate::ids::{ConnectionId, KEY_MAX, SERVERS_MAX, WAKER, pack, unpack};
use crate::net::packet::Route;
use crate::reactor::slots::{Contents, Slots};

/// Operations on slots, starting at any generation.
#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) struct Case {
    generation: u32,
    operations: Vec<Operation>,
}

#[derive(Clone, Debug, Arbitrary)]
#[cfg_attr(test, derive(proptest_derive::Arbitrary))]
pub(crate) enum Operation {
    Insert {
        server: u8,
        lent: bool,
    },
    /// The index of a living slot.
    Remove(u8),
    /// Any token.
    Event(u64),
}

/// A slot, and whether it is still alive.
struct Made {
    server: u16,
    lent: bool,
    token: Token,
    id: ConnectionId,
    lives: bool,
}

pub(crate) fn check(case: Case) {
    let mut slots = Slots::new();
    slots.generation = case.generation;
    let (mut made, mut living): (Vec<Made>, HashMap<u32, usize>) = Default::default();
    for operation in case.operations {
        match operation {
            Operation::Insert { server, lent } => {
                let server = u16::from(server) % SERVERS_MAX as u16;
                let key = if lent { slots.insert_lent(server).key } else { slots.insert(server, connection()) };
                assert!(living.insert(key, made.len()).is_none(), "the key is in use");
                made.push(Made { server, lent, token: slots.token(key), id: slots.id(key), lives: true });
            }
            Operation::Remove(which) => {
                let mut keys: Vec<_> = living.keys().copied().collect();
                keys.sort_unstable();
                let Some(&key) = keys.get(usize::from(which) % keys.len().max(1)) else { continue };
                let gone = living.remove(&key).expect("it lives");
                made[gone].lives = false;
                assert_eq!(slots.remove(key).generation, made[gone].id.slot.generation);
            }
            Operation::Event(token) => event(&mut slots, Token(token as usize), &made, &living),
        }
        assert_eq!(slots.len(), living.len());
        made.iter().for_each(|made| names(&mut slots, made));
    }
    let mut tokens: Vec<_> = made.iter().map(|made| made.token).collect();
    tokens.sort_unstable();
    tokens.dedup();
    assert_eq!(tokens.len(), made.len(), "two slots had the same token");
}

/// Every id of a slot finds that slot while it lives.
fn names(slots: &mut Slots, made: &Made) {
    let id = made.id;
    assert_ne!(made.token, WAKER);
    assert_eq!(slots.live(made.token).map(|(key, _)| key), made.lives.then_some(id.slot.key));
    assert_eq!(slots.named(id).is_some(), made.lives);
    assert_eq!(slots.find(id).map(|(server, _)| server), (made.lives && !made.lent).then_some(made.server));
    assert_eq!(slots.address(id).is_some(), made.lives && !made.lent);
    let claimed = slots.claim(id.slot, made.server);
    assert_eq!(claimed.is_some(), made.lives && !made.lent);
    if let Some(connection) = claimed {
        slots.give_back(id.slot.key, connection);
    }
}

/// Any token can be taken apart, and finds its own slot or nothing.
fn event(slots: &mut Slots, token: Token, made: &[Made], living: &HashMap<u32, usize>) {
    let (generation, key) = unpack(token);
    assert_eq!(pack(generation, key), token);
    assert!(token == WAKER || key as usize <= KEY_MAX + 1);
    let expected = living.get(&key).filter(|&&at| made[at].token == token);
    assert_eq!(slots.live(token).is_some(), expected.is_some());
}

fn connection() -> Contents {
    let address = SocketAddr::from(([192, 0, 2, 2], 50_000)).into();
    Contents::Connection(Connection::datagram(Route { endpoint: 0, local: None }, address, 0, 1))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(crate::models::cases::cases())]

        #[test]
        fn only_living_slots_are_found(case: super::Case) {
            super::check(case);
        }
    }
}
