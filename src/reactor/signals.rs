//! SIGINT and SIGTERM as events of the loop, through signal-hook.

use std::io;

use super::handle::ShutdownHandle;

/// The signals that stop a server.
pub(crate) struct Signals {
    /// Dropped first, so that a signal in between has its default effect.
    #[expect(dead_code, reason = "held")]
    watch: inherited::Watch,
    pub(super) delivery: signal_hook_mio::v1_0::Signals,
}

impl Signals {
    /// `None`: all of them are ignored.
    pub(super) fn watch() -> io::Result<Option<Self>> {
        let wanted = inherited::wanted();
        if wanted.is_empty() {
            return Ok(None);
        }
        inherited::prepare()?;
        let delivery = signal_hook_mio::v1_0::Signals::new(wanted)?;
        Ok(Some(Signals { delivery, watch: inherited::Watch::begin() }))
    }

    /// The first signal stops gracefully, and any further one immediately.
    pub(crate) fn deliver(&mut self, stop: &ShutdownHandle) {
        for _signal in self.delivery.pending() {
            if stop.is_requested() {
                stop.shutdown_now();
            } else {
                stop.shutdown();
            }
        }
    }
}

/// The initial effect of the signals, which is restored when no reactor watches for them any more.
mod inherited {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, LazyLock, Mutex, PoisonError};

    use signal_hook::consts::{SIGINT, SIGTERM};

    use crate::logging::note;

    /// A set of signals as in proc(5): bit 0 is signal 1.
    struct Dispositions {
        ignored: u64,
        caught: u64,
        blocked: u64,
    }

    impl Dispositions {
        fn read() -> Self {
            // The file of this thread, because of blocked signals. Without the file, all signals count as normal.
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

    /// The state before our first handler was installed.
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

    /// SIGINT and SIGTERM, except ignored ones. nohup and background jobs of a shell rely on that.
    pub(super) fn wanted() -> Vec<i32> {
        [SIGINT, SIGTERM].into_iter().filter(|&signal| !has(BEFORE.ignored, signal)).collect()
    }

    /// The number of reactors that watch, and whether the default is prepared.
    static WATCHING: Mutex<(usize, bool)> = Mutex::new((0, false));
    /// No reactor watches now.
    static UNWATCHED: LazyLock<Arc<AtomicBool>> = LazyLock::new(|| Arc::new(AtomicBool::new(true)));

    /// Gives a signal its default effect while no reactor watches. This must be called before a reactor is registered
    /// for signals. signal-hook's handler runs its actions in this order, and may be slow on a thread of its own. A
    /// reactor that receives the signal first could be gone before the handler checks whether one watches.
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

    /// One reactor watches. signal-hook's handlers stay installed. Without a receiver they would ignore every signal.
    /// Therefore they then have the default effect of the system, unless the program had its own handler before;
    /// signal-hook calls that handler as well.
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
