//! Errors of TLS in plain words, for the log.

use std::{fmt, io};

use rustls::{AlertDescription as Alert, Error, InvalidMessage};

use crate::address::Address;
use crate::error::reason;

/// Shows what an error means, followed by rustls' own words.
pub(crate) struct Explained<'a>(pub(crate) &'a io::Error);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
        if let Some(meaning) = error.and_then(meaning) {
            write!(f, "{meaning}: ")?;
        }
        f.write_str(&reason(self.0))
    }
}

/// Shows the addresses of the client, or of the server that is called, and of this end.
pub(crate) struct Ends<'a>(pub(crate) &'a Address, pub(crate) Option<Address>);

impl fmt::Display for Ends<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        self.1.as_ref().map_or(Ok(()), |local| write!(f, " at {local}"))
    }
}

/// `None`: rustls' words are plain already.
fn meaning(error: &Error) -> Option<&'static str> {
    Some(match error {
        Error::InvalidMessage(InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion) => {
            "the peer sends something else than TLS, perhaps plain HTTP"
        }
        Error::InvalidMessage(_) | Error::PeerSentOversizedRecord => "the peer has sent a malformed message",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } | Error::PeerMisbehaved(_) => {
            "the peer has violated the protocol"
        }
        Error::PeerIncompatible(_) => "the peer supports no version or algorithm that this end accepts",
        Error::NoApplicationProtocol | Error::AlertReceived(Alert::NoApplicationProtocol) => {
            "the two ends have no ALPN protocol in common"
        }
        Error::NoCertificatesPresented => "the peer has sent no certificate",
        Error::InvalidCertificate(_) => "the certificate of the peer is not accepted",
        Error::DecryptError => "a record was changed on its way, or has another key",
        Error::General(text) if text.contains("certificate chain") => "there is no certificate for that server name",
        Error::AlertReceived(
            Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateUnknown
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::UnsupportedCertificate,
        ) => "the peer does not accept the certificate of this end",
        Error::AlertReceived(Alert::CertificateRequired) => "the peer requires a certificate",
        Error::AlertReceived(_) => "the peer has given up",
        _ => return None,
    })
}
