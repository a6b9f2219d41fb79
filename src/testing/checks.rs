//! What a simulated network checks of its reactor.

use super::network::{Network, Place};
use super::world::lock;

impl Network {
    /// Checks that nothing is left, at the end of a test in which all peers have gone and every server is closed.
    ///
    /// # Panics
    /// If there is a connection, a timer, an entry of the ready queue, or an open socket.
    pub fn check_nothing_left(&mut self) {
        let core = &mut self.reactor.core;
        assert_eq!(core.stats.active, 0, "connections are left");
        let queued = core.ready.iter().filter(|&&entry| core.slots.entry(entry).is_some()).count();
        assert_eq!(queued, 0, "entries of the ready queue are left");
        let left: Vec<_> = core.timers.iter().map(|(_, alarm)| format!("{alarm:?}")).collect();
        assert!(left.is_empty(), "timers are left: {left:?}");
        self.peers.retain(|peer| !peer.is_socket_closed());
        assert!(self.peers.is_empty(), "sockets are left open: {:?}", self.peers);
    }

    /// Checks that nothing waits for a reactor that rests.
    pub(super) fn check_nobody_waits(&mut self) {
        self.peers.retain(|peer| !peer.is_socket_closed());
        if !self.serving {
            return assert!(self.peers.is_empty(), "a stopped reactor has sockets open: {:?}", self.peers);
        }
        let core = &mut self.reactor.core;
        for token in self.places.iter().flat_map(Place::waited_for) {
            let Some((key, slot)) = core.slots.live(token) else { continue };
            let (server, slots) = (slot.server, &mut core.slots);
            let paused = slots.pause(key).is_some_and(|pause| pause.is_on());
            let held_up = match slots.endpoint(key) {
                Some(endpoint) => endpoint.receives_no_more,
                None => core.is_capped(server),
            };
            let quota = core.served[usize::from(server)].quota;
            assert!(paused || held_up || quota == 0, "clients or datagrams wait for nothing at {key}");
        }
        for peer in &self.peers {
            let pipe = lock(&peer.pipe);
            let Some(token) = pipe.token() else { continue }; // In the backlog, or queued because it is not registered.
            let Some((_, slot)) = core.slots.live(token) else {
                panic!("the socket of {peer:?} is open, its slot gone")
            };
            let Some(connection) = slot.connection() else { panic!("the slot of {peer:?} is no connection") };
            let state = &connection.state;
            assert!(
                !(connection.takes_input() && pipe.is_readable()),
                "{peer:?} has sent bytes that will not be read: {state:?}"
            );
            assert!(!(connection.has_output() && pipe.is_writable()), "{peer:?} has room that is not used: {state:?}");
            assert!(
                pipe.is_connecting() || !state.phase.is_connecting(),
                "the answer of {peer:?} was not seen: {state:?}"
            );
        }
    }
}
