//! SIGINT, SIGTERM, SIGHUP and SIGUSR2 as events of the loop, through signal-hook.

use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};

/// The signals that stop a server.
pub(super) const STOPPING: [i32; 2] = [SIGINT, SIGTERM];
/// The signal after which servers read their configuration again.
pub(super) const RELOADING: i32 = SIGHUP;

/// The signal that restarts the program.
#[cfg(feature = "restart")]
pub(super) const RESTARTING: i32 = signal_hook::consts::SIGUSR2;

/// The signals for which a reactor watches.
pub(crate) struct Signals {
    /// Dropped first, so that a signal in between has its default effect.
    watch: inherited::Watch,
    pub(super) delivery: signal_hook_mio::v1_0::Signals,
}

impl Signals {
    /// Watches for none.
    pub(super) fn new() -> io::Result<Self> {
        let delivery = signal_hook_mio::v1_0::Signals::new([] as [i32; 0])?;
        Ok(Signals { delivery, watch: inherited::Watch::default() })
    }

    /// Watches for more signals, except for ignored ones.
    pub(super) fn add(&mut self, signals: &[i32]) -> io::Result<()> {
        for &signal in signals {
            if !self.numbers().contains(&signal) && inherited::prepare(signal)? {
                self.delivery.add_signal(signal)?;
                self.watch.add(signal);
            }
        }
        Ok(())
    }

    pub(super) fn numbers(&self) -> &[i32] {
        self.watch.signals()
    }

    /// The signals that have come since the last call.
    pub(super) fn take(&mut self) -> Vec<i32> {
        self.delivery.pending().collect()
    }
}

/// The initial effect of the signals, which is restored when no reactor watches for them any more.
mod inherited {
    use std::collections::BTreeMap;
    use std::collections::btree_map::Entry;
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

    use signal_hook::low_level::signal_name;

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

    /// A signal for which a reactor has watched.
    struct Known {
        is_ignored: bool,
        /// How many reactors watch for it.
        watching: usize,
        /// None of them watches.
        unwatched: Arc<AtomicBool>,
    }

    impl Known {
        /// Reads its state before our first handler for it is installed, and prepares its default effect for the time in
        /// which no reactor watches for it. signal-hook's handlers stay installed. Without a receiver they would ignore
        /// every signal. Therefore they then have the default effect of the system, unless the program had its own
        /// handler before; signal-hook calls that handler as well.
        fn new(signal: i32) -> io::Result<Self> {
            let before = Dispositions::read();
            let name = signal_name(signal).unwrap_or("a signal");
            let (is_ignored, unwatched) = (has(before.ignored, signal), Arc::new(AtomicBool::new(true)));
            if is_ignored {
                note!(Info, "{name} is ignored, as it was when the program began: it has no effect on the server");
            } else if has(before.blocked, signal) {
                note!(Warn, "{name} is blocked: it has no effect on the server until a thread takes it");
            }
            if !is_ignored && !has(before.caught, signal) {
                signal_hook::flag::register_conditional_default(signal, Arc::clone(&unwatched))?;
            }
            Ok(Known { is_ignored, watching: 0, unwatched })
        }

        fn count(&mut self, more: bool) {
            self.watching = if more { self.watching + 1 } else { self.watching - 1 };
            self.unwatched.store(self.watching == 0, Ordering::SeqCst);
        }
    }

    static KNOWN: LazyLock<Mutex<BTreeMap<i32, Known>>> = LazyLock::new(Mutex::default);

    fn known() -> MutexGuard<'static, BTreeMap<i32, Known>> {
        KNOWN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a signal its default effect while no reactor watches. This must be called before a reactor is registered
    /// for signals. signal-hook's handler runs its actions in this order, and may be slow on a thread of its own. A
    /// reactor that receives the signal first could be gone before the handler checks whether one watches. Returns
    /// whether it may be watched: nohup and background jobs of a shell rely on ignored signals.
    pub(super) fn prepare(signal: i32) -> io::Result<bool> {
        let mut known = known();
        let known = match known.entry(signal) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(place) => place.insert(Known::new(signal)?),
        };
        Ok(!known.is_ignored)
    }

    /// One reactor watches for these signals.
    #[derive(Default)]
    pub(super) struct Watch(Vec<i32>);

    impl Watch {
        pub(super) fn add(&mut self, signal: i32) {
            known().get_mut(&signal).expect("it is prepared").count(true);
            self.0.push(signal);
        }

        pub(super) fn signals(&self) -> &[i32] {
            &self.0
        }
    }

    impl Drop for Watch {
        fn drop(&mut self) {
            let mut known = known();
            for signal in &self.0 {
                known.get_mut(signal).expect("it is prepared").count(false);
            }
        }
    }
}
