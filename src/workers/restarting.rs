//! The next version of the program gets the sockets of all workers, from the control reactor.

use std::io;
use std::sync::Arc;

use super::crew::Crew;
use super::handle::WorkersHandle;
use crate::error::Result;
use crate::logging::note;
use crate::reactor::served::{KeptElsewhere, Passed};

impl WorkersHandle {
    /// Replaces this process by the next version of its program, without losing a client: see
    /// [`Reactor::restart`](crate::Reactor::restart). The sockets of all workers are passed on that were taken with
    /// [`Worker::inherit_or_bind`](crate::Worker::inherit_or_bind). In the new process connections are
    /// [handed](crate::Spread::Handed) to the workers, because the sockets are inherited. On Unix. Feature `restart`.
    ///
    /// It begins in the next turn of the control reactor, and the log has the result.
    ///
    /// # Errors
    /// [`Error::Gone`](crate::Error::Gone) if all workers have ended, [`Error::Full`](crate::Error::Full) if the queue of the
    /// control thread is full.
    ///
    /// ```no_run
    /// use socketserver::{InheritedSockets, NoHandler, TcpServer, Workers};
    ///
    /// let mut sockets = InheritedSockets::from_env()?;
    /// let workers = Workers::new(4, move |worker| {
    ///     let mut server = TcpServer::unbound(|_client_address| NoHandler);
    ///     worker.inherit_or_bind(&mut server, &mut sockets, "http", "0.0.0.0:80")?;
    ///     worker.add(server)
    /// })?;
    /// let handle = workers.handle();
    /// std::thread::spawn(move || handle.restart()); // when a new version is installed
    /// workers.serve_forever()?;
    /// # Ok::<(), socketserver::Error>(())
    /// ```
    pub fn restart(&self) -> Result<()> {
        self.crew().control.run(|reactor| {
            if let Err(error) = reactor.restart() {
                note!(Warn, "{error:#}");
            }
        })
    }
}

impl KeptElsewhere for Arc<Crew> {
    fn sockets(&self) -> io::Result<Vec<Passed>> {
        let passed: Vec<_> = self.sharings().iter().map(|sharing| sharing.passed()).collect::<io::Result<_>>()?;
        Ok(passed.into_iter().flatten().collect())
    }

    fn hand_over(&self) {
        self.set_replaced();
        self.sharings().iter().for_each(|sharing| sharing.hand_over());
    }

    fn note_failure(&self) {
        self.note_failed_restart();
    }
}
