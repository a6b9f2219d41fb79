//! A blocking TCP stream for Windows, whose waits end when another thread shuts it down.
//!
//! On Windows shutdown(2) wakes no thread that waits in `recv` or `send`. So a thread does not wait in the system. It
//! tries, pauses, and tries again, 20 times a second in the end. `SO_RCVTIMEO` does not help: Winsock says that a
//! socket must not be used any more after a call has timed out.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The part of [`TcpStream`] that blocking handlers use. Never in blocking mode.
#[derive(Debug)]
pub(crate) struct PatientStream {
    stream: TcpStream,
    /// No more input is accepted after the bytes that have arrived. This does not use shutdown(2), after which Winsock
    /// no longer returns those bytes.
    input_ends: AtomicBool,
}

/// The pauses start short and double, so that a wait is at most twice as long as necessary, and at most this much
/// longer.
const PAUSE_MIN: Duration = Duration::from_millis(1);
const PAUSE_MAX: Duration = Duration::from_millis(50);

impl PatientStream {
    pub(crate) fn set_nonblocking(&self, _: bool) -> io::Result<()> {
        self.stream.set_nonblocking(true)
    }

    pub(crate) fn set_nodelay(&self, on: bool) -> io::Result<()> {
        self.stream.set_nodelay(on)
    }

    pub(crate) fn set_read_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_read_timeout(timeout)
    }

    pub(crate) fn set_write_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.stream.set_write_timeout(timeout)
    }

    pub(crate) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        if how != Shutdown::Write {
            self.input_ends.store(true, Ordering::Release);
        }
        if how != Shutdown::Read { self.stream.shutdown(Shutdown::Write) } else { Ok(()) }
    }
}

impl From<TcpStream> for PatientStream {
    fn from(stream: TcpStream) -> Self {
        PatientStream { stream, input_ends: AtomicBool::new(false) }
    }
}

impl std::os::windows::io::AsSocket for PatientStream {
    fn as_socket(&self) -> std::os::windows::io::BorrowedSocket<'_> {
        self.stream.as_socket()
    }
}

impl Read for &PatientStream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        until_ready(self.stream.read_timeout()?, || {
            // Checked first, so that bytes from before are read.
            let ends = self.input_ends.load(Ordering::Acquire);
            match (&self.stream).read(buffer) {
                Err(error) if ends && error.kind() == io::ErrorKind::WouldBlock => Ok(0),
                result => result,
            }
        })
    }
}

impl Write for &PatientStream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        until_ready(self.stream.write_timeout()?, || (&self.stream).write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[expect(clippy::disallowed_methods, reason = "not on the reactor's thread, nor by its clock")]
fn until_ready(timeout: Option<Duration>, mut attempt: impl FnMut() -> io::Result<usize>) -> io::Result<usize> {
    let begun = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        match attempt() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            result => return result,
        }
        let left = timeout.map_or(PAUSE_MAX, |timeout| timeout.saturating_sub(begun.elapsed()));
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        thread::sleep(pause.min(left));
        pause = (pause * 2).min(PAUSE_MAX);
    }
}
