//! What a reactor tells its supervisor: sd_notify(3), through sd-notify.

use std::sync::Arc;

use super::Reactor;
use super::core::Core;
use super::entries::Alarm;
use super::shutdown::stop::Stop;
use crate::error::{Error, Result};
use crate::supervisor::{Reload, Supervision, Supervisor};
use crate::timers::{NO_TIMER, nanos};

impl Reactor {
    /// Tells the supervisor that has started this process, such as systemd with `Type=notify`:
    ///
    /// - `READY=1` when the reactor begins to serve. Its servers listen by then;
    /// - `RELOADING=1` before the hooks of a [reload](Self::reload), and `READY=1` after them;
    /// - `STOPPING=1` when a stop is requested;
    /// - `WATCHDOG=1` twice in each `WatchdogSec=`, as long as the loop turns, also while it drains;
    /// - `STATUS=restart failed: ` with the reason, if a [restart](Self::restart) has failed.
    ///
    /// The returned [`Supervisor`] tells it more, such as a status. Nothing happens without a supervisor, so the same
    /// program runs from a shell. A second call returns the same supervisor. If there are several reactors, call this for
    /// the one that begins to serve last. On Unix. Feature `sd-notify`.
    ///
    /// Source: sd_notify(3), sd_watchdog_enabled(3).
    ///
    /// # Errors
    /// [`Error::Reactor`] if `NOTIFY_SOCKET` cannot be reached.
    ///
    /// ```
    /// # use socketserver::{NoHandler, Reactor, TcpServer};
    /// let mut reactor = Reactor::new()?;
    /// reactor.add(TcpServer::new("127.0.0.1:0", |_client_address| NoHandler)?)?;
    /// reactor.notify_supervisor()?;
    /// # reactor.shutdown_handle().shutdown();
    /// reactor.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn notify_supervisor(&mut self) -> Result<Supervisor> {
        if let Some(supervision) = &self.core.supervision {
            return Ok(supervision.supervisor.clone());
        }
        let failed = |source| Error::Reactor { doing: "notify the supervisor", source };
        let supervisor = Supervisor::from_env().map_err(failed)?;
        let period = sd_notify::watchdog_enabled().map(|time| nanos(time) / 2).filter(|&period| period > 0);
        let period = period.filter(|_| supervisor.is_there());
        let supervision =
            Supervision { supervisor: supervisor.clone(), is_ready: false, reload: None, period, timer: NO_TIMER };
        self.core.supervision = Some(Box::new(supervision));
        if self.turning {
            self.core.tell_ready();
        }
        Ok(supervisor)
    }

    /// A server comes with the reactor that it had.
    pub(crate) fn take_supervision(&mut self, from: &mut Reactor) {
        if let Some(mut supervision) = from.core.supervision.take() {
            if supervision.timer != NO_TIMER {
                from.core.timers.cancel(supervision.timer);
                supervision.timer = NO_TIMER;
            }
            self.core.supervision.get_or_insert(supervision);
            if self.turning {
                self.core.tell_ready();
            }
        }
    }
}

impl Core {
    /// The reactor serves.
    pub(super) fn tell_ready(&mut self) {
        let Some(supervision) = &mut self.supervision else { return };
        if !matches!(self.stop, Stop::No) {
            return;
        }
        if !std::mem::replace(&mut supervision.is_ready, true) {
            supervision.supervisor.ready();
        }
        if supervision.timer == NO_TIMER {
            self.arm_watchdog(); // It may have come from another reactor that was ready.
        }
    }

    pub(super) fn tell_stopping(&mut self) {
        if let Some(supervision) = &mut self.supervision {
            supervision.is_ready = false;
            supervision.supervisor.stopping();
        }
    }

    /// A service that is ready calls the hooks of a reload.
    pub(super) fn begin_reload(&mut self) {
        if let Some(supervision) = self.supervision.as_mut().filter(|supervision| supervision.is_ready) {
            supervision.reload = Some(Arc::new(Reload::begin(&supervision.supervisor)));
        }
    }

    /// The reload whose hooks are called. It ends when this and all clones were dropped.
    pub(crate) fn take_reload(&mut self) -> Option<Arc<Reload>> {
        self.supervision.as_mut()?.reload.take()
    }

    /// Another process is the main one.
    ///
    /// # Errors
    /// If the supervisor cannot be told.
    #[cfg(feature = "restart")]
    pub(super) fn tell_main_process(&self, id: u32) -> std::io::Result<()> {
        self.supervision.as_ref().map_or(Ok(()), |supervision| supervision.supervisor.main_process(id))
    }

    /// The process continues to serve.
    #[cfg(feature = "restart")]
    pub(super) fn tell_failed_restart(&self, why: &str) {
        if let Some(supervision) = &self.supervision {
            supervision.supervisor.status(&format!("restart failed: {why}"));
        }
    }

    /// A successor speaks to the supervisor.
    #[cfg(feature = "restart")]
    pub(super) fn end_supervision(&mut self) {
        let Some(supervision) = self.supervision.take() else { return };
        supervision.supervisor.fall_silent();
        if supervision.timer != NO_TIMER {
            self.timers.cancel(supervision.timer);
        }
    }

    /// The timer of the watchdog has fired.
    pub(super) fn keep_alive(&mut self) {
        if let Some(supervision) = &self.supervision {
            supervision.supervisor.keep_alive();
        }
        self.arm_watchdog();
    }

    fn arm_watchdog(&mut self) {
        if let Some(supervision) = &mut self.supervision
            && let Some(period) = supervision.period
        {
            let due = self.selector.now().saturating_add(period);
            supervision.timer = self.timers.arm(due, Alarm::Watchdog);
        }
    }
}
