//! The handshake of TLS on a thread.

use std::io;
use std::time::Duration;

use super::descriptor::{Descriptor, Move};
use super::secure::Secure;
use crate::error::{Error, HANDSHAKE, Result};
use crate::lifecycle::{EndReason, Timeout};

impl Descriptor {
    /// Completes the handshake, within the time for it.
    ///
    /// # Errors
    /// [`Error::Tls`] with the reason, or [`Error::TimeLimit`].
    pub(super) fn handshake(&self, secure: &Secure) -> Result<()> {
        let begun = self.clock.now();
        while secure.is_handshaking() {
            if let Some(max) = self.limits.handshake_timeout {
                let left = max.saturating_sub(Duration::from_nanos(self.clock.now().saturating_sub(begun)));
                if left.is_zero() {
                    return Err(too_late(max));
                }
                self.set_time(Timeout::Read, SETTING, Some(left))?;
                self.set_time(Timeout::Write, SETTING, Some(left))?;
            }
            match self.watch(Move::Write, || secure.send_sealed(self).map(|()| 0)).and_then(|_| {
                self.watch(Move::Begin, || secure.advance(self)) // Its own time, if it waits.
            }) {
                Ok(1..) => {}
                Ok(0) => return Err(failed(io::ErrorKind::UnexpectedEof.into())),
                Err(error) => {
                    let _ = secure.send_sealed(self); // The alert.
                    return Err(match Error::from(error) {
                        Error::TimeLimit { .. } => too_late(self.limits.handshake_timeout.unwrap_or_default()),
                        Error::Io(source) => failed(source),
                        error => error,
                    });
                }
            }
        }
        self.watch(Move::Write, || secure.send_sealed(self).map(|()| 0)).map_err(failed)?;
        self.set_time(Timeout::Read, SETTING, None)?;
        Ok(self.set_time(Timeout::Write, SETTING, None)?)
    }
}

fn failed(source: io::Error) -> Error {
    Error::Tls { doing: HANDSHAKE, source }
}

fn too_late(max: Duration) -> Error {
    Error::TimeLimit { why: EndReason::HandshakeTimeout, setting: SETTING, max }
}

const SETTING: &str = "handshake_timeout";
