//! SIGINT and SIGTERM as events of the loop, through signal-hook.

use std::io;

use super::core::Core;
#[cfg(unix)]
use super::slots::Kind;

/// The signals that stop a server.
#[cfg(unix)]
pub(crate) struct Signals {
    /// Goes first: a signal that comes in between does what it does by default.
    #[expect(dead_code, reason = "held")]
    watch: inherited::Watch,
    delivery: signal_hook_mio::v1_0::Signals,
}

#[cfg(unix)]
impl Signals {
    /// The first signal stops in good order, any further one at once.
    pub(crate) fn deliver(&mut self, stop: &super::handle::ShutdownHandle) {
        for _signal in self.delivery.pending() {
            if stop.is_requested() {
                stop.shutdown_now();
            } else {
                stop.shutdown();
            }
        }
    }
}

/// Whether signals stop this reactor.
pub(crate) fn is_watching(core: &mut Core) -> bool {
    #[cfg(unix)]
    return core.slots.iter().any(|(_, slot)| matches!(slot.kind, Kind::Signals(_)));
    #[cfg(not(unix))]
    {
        let _ = core;
        false
    }
}

#[cfg(unix)]
pub(crate) fn watch(core: &mut Core) -> io::Result<()> {
    if is_watching(core) {
        return Ok(()); // Watched twice, one signal would count as two.
    }
    let wanted = inherited::wanted();
    if wanted.is_empty() {
        return Ok(());
    }
    inherited::prepare()?;
    let delivery = signal_hook_mio::v1_0::Signals::new(wanted)?;
    let signals = Signals { delivery, watch: inherited::Watch::begin() };
    let key = core.slots.insert(0, Kind::Signals(Box::new(signals)));
    let token = core.slots.token(key);
    let Some(Kind::Signals(signals)) = core.slots.get(key).map(|slot| &mut slot.kind) else {
        unreachable!("just inserted");
    };
    if let Err(error) = core.selector.register_source(&mut signals.delivery, token) {
        core.slots.remove(key);
        return Err(error);
    }
    Ok(())
}

#[cfg(not(unix))]
pub(crate) fn watch(_core: &mut Core) -> io::Result<()> {
    Ok(())
}

/// What the process was started with, and what it gets back when no reactor watches any more.
#[cfg(unix)]
mod inherited {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, LazyLock, Mutex, PoisonError};

    use signal_hook::consts::{SIGINT, SIGTERM};

    use crate::logging::note;

    /// Signals as proc(5) shows them: bit 0 is signal 1.
    struct Dispositions {
        ignored: u64,
        caught: u64,
        blocked: u64,
    }

    impl Dispositions {
        fn read() -> Self {
            // Of this thread, for what is blocked. Where there is no such file, nothing is known to be special.
            let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
            let mask = |name: &str| {
                let line = status.lines().find_map(|line| line.strip_prefix(name));
                line.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
            };
            Dispositions { ignored: mask("SigIgn:"), caught: mask("SigCgt:"), blocked: mask("SigBlk:") }
        }
    }

    fn has(mask: u64, signal: i32) -> bool {
        mask & 1 << (signal - 1) != 0
    }

    /// As they were before the first handler of ours was installed.
    static BEFORE: LazyLock<Dispositions> = LazyLock::new(|| {
        let before = Dispositions::read();
        for (signal, name) in [(SIGINT, "SIGINT"), (SIGTERM, "SIGTERM")] {
            if has(before.ignored, signal) {
                note!(Info, "{name} is ignored, as it was when the program began: it does not stop the server");
            } else if has(before.blocked, signal) {
                note!(Warn, "{name} is blocked: it does not stop the server until a thread takes it");
            }
        }
        before
    });

    /// SIGINT and SIGTERM, without what was ignored: nohup and a shell's background jobs rely on that.
    pub(super) fn wanted() -> Vec<i32> {
        [SIGINT, SIGTERM].into_iter().filter(|&signal| !has(BEFORE.ignored, signal)).collect()
    }

    /// How many reactors watch, and whether the default is prepared.
    static WATCHING: Mutex<(usize, bool)> = Mutex::new((0, false));
    /// No reactor watches, not yet or not any more.
    static UNWATCHED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

    /// Lets a signal do what it does by default while no reactor watches. It has to be called before a reactor is told of
    /// signals: signal-hook's handler takes its actions in this order, and may be slow on a thread of its own. A reactor
    /// that was told first could be gone before the handler asks whether one watches.
    pub(super) fn prepare() -> io::Result<()> {
        let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
        let (_, is_prepared) = &mut *watching;
        if !*is_prepared {
            for signal in wanted().into_iter().filter(|&signal| !has(BEFORE.caught, signal)) {
                signal_hook::flag::register_conditional_default(signal, Arc::clone(&UNWATCHED))?;
            }
            *is_prepared = true;
        }
        Ok(())
    }

    /// One reactor watches. signal-hook's handlers stay installed for good: with nothing left that listens to them, they
    /// would swallow every signal. So they do then what the system does by default, unless the program had a handler of
    /// its own before: signal-hook calls that one as well.
    pub(super) struct Watch(());

    impl Watch {
        pub(super) fn begin() -> Self {
            let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
            watching.0 += 1;
            UNWATCHED.store(false, Ordering::SeqCst);
            Watch(())
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            let mut watching = WATCHING.lock().unwrap_or_else(PoisonError::into_inner);
            watching.0 -= 1;
            UNWATCHED.store(watching.0 == 0, Ordering::SeqCst);
        }
    }
}
