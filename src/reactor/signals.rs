//! SIGINT and SIGTERM as events of the loop, through signal-hook.

use std::io;

use super::core::Core;
#[cfg(unix)]
use super::slots::Kind;

/// The signals that stop a server.
#[cfg(unix)]
pub(crate) struct Signals(signal_hook_mio::v1_0::Signals);

#[cfg(unix)]
impl Signals {
    /// The first signal stops in good order, any further one at once.
    pub(crate) fn deliver(&mut self, stop: &super::handle::ShutdownHandle) {
        for _signal in self.0.pending() {
            if stop.is_requested() {
                stop.shutdown_now();
            } else {
                stop.shutdown();
            }
        }
    }
}

#[cfg(unix)]
pub(crate) fn watch(core: &mut Core) -> io::Result<()> {
    use signal_hook::consts::{SIGINT, SIGTERM};

    if core.slots.iter().any(|(_, slot)| matches!(slot.kind, Kind::Signals(_))) {
        return Ok(()); // Watched twice, one signal would count as two.
    }
    let signals = signal_hook_mio::v1_0::Signals::new([SIGINT, SIGTERM])?;
    let key = core.slots.insert(0, Kind::Signals(Box::new(Signals(signals))));
    let token = core.slots.token(key);
    let Some(Kind::Signals(signals)) = core.slots.get(key).map(|slot| &mut slot.kind) else {
        unreachable!("just inserted");
    };
    if let Err(error) = core.selector.register_source(&mut signals.0, token) {
        core.slots.remove(key);
        return Err(error);
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn watch(_core: &mut Core) -> io::Result<()> {
    Ok(())
}
