//! The control thread: signals, the stop, and the acceptors.

use std::sync::Arc;
use std::time::Duration;

use super::crew::Crew;
use crate::error::Result;
use crate::handler::others::Others;
use crate::logging::note;
use crate::net::family::Tcp;
use crate::panics::catch;
use crate::reactor::Reactor;
use crate::reactor::shutdown::stop::Hold;
use crate::server::Server;
use crate::server::hooks::BaseServer;
use crate::server::threading::NoHandler;

/// Passes a stop and a reload on to the workers. The control reactor begins to stop with them and is held until all have
/// ended, so that it hears a second signal.
struct Relay {
    crew: Arc<Crew>,
    has_released: bool,
}

impl BaseServer for Relay {
    fn stopping(&mut self, others: &mut Others<'_, Self>) {
        self.crew.handing.prepare_drain(others.core);
        self.crew.stop();
    }

    #[cfg_attr(not(all(unix, feature = "sd-notify")), expect(unused_variables, reason = "no supervisor is told"))]
    fn reload(&mut self, others: &mut Others<'_, Self>) {
        #[cfg(all(unix, feature = "sd-notify"))]
        let reload = others.core.take_reload();
        for handle in self.crew.handles() {
            #[cfg(all(unix, feature = "sd-notify"))]
            let reload = reload.clone();
            handle.run_next(move |reactor| {
                reactor.reload();
                #[cfg(all(unix, feature = "sd-notify"))]
                drop(reload); // With the last one the supervisor is told that the reload has ended.
            });
        }
    }

    /// When the drain has begun, the acceptors have handed out all clients. Those of servers that serve on go on.
    fn service_actions(&mut self, others: &mut Others<'_, Self>) {
        if !self.has_released && others.core.stop.is_draining() {
            self.has_released = true;
            self.crew.release(others.core);
            others.set_server_timer(0, self.patience());
        }
    }

    /// By now the workers have aborted their connections. A callback, or a thread that is waited for, goes on.
    fn timer(&mut self, _: &mut Others<'_, Self>, _: u64) {
        for number in self.crew.awaited() {
            let after = self.patience();
            note!(Warn, "worker {number} has not stopped after {after:?}: a callback or a thread may be running");
        }
    }
}

impl Relay {
    /// How long the workers may take for their drain, before the log has those that have not stopped.
    fn patience(&self) -> Duration {
        self.crew.config.reactor.drain_grace.saturating_add(Duration::from_millis(500))
    }
}

pub(super) fn relay_stop(reactor: &mut Reactor, crew: &Arc<Crew>) -> Result<()> {
    let relay = Relay { crew: Arc::clone(crew), has_released: false };
    reactor.add_unbound(Server::<Tcp, _, _>::unbound_with_server(relay, |_, _| NoHandler)).map(drop)
}

/// Serves until all workers have ended. The first stop drains them, and a second one ends them.
pub(super) fn run(crew: &Arc<Crew>, mut reactor: Reactor) {
    reactor.core.hold = Hold::Clients;
    let ended = catch(|| reactor.serve_forever()).and_then(|ended| ended);
    crew.stop();
    crew.release(&mut reactor.core);
    if let Err(error) = ended {
        note!(Error, "the workers end, because their control thread has failed: {error:#}");
        crew.note_failure(error);
        crew.stop_now();
    } else if reactor.core.stop.is_hurried(false, false) {
        crew.stop_now();
    }
}
