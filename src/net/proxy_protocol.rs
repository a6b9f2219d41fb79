//! The PROXY protocol: a header in which a proxy tells the address of its client.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, str};

use proxy_header::{ParseConfig, ProxiedAddress, Tlv};

use super::proxy_fault::{fault_of_line, fault_of_v2};
use crate::address::Address;
use crate::error::{Error, Result};

/// How a server reads the header of the PROXY protocol, versions 1 and 2, with which a proxy begins each connection:
/// [`TcpOptions::proxy_protocol`](crate::TcpOptions), [`UnixOptions::proxy_protocol`](crate::UnixOptions). It is read
/// before TLS and before the first hook, so that `client_address` is the address of the client for hooks, handlers,
/// limits per client, and the log. [`Stream::proxy_header`](crate::Stream::proxy_header),
/// [`Request::proxy_header`](crate::Request::proxy_header) and
/// [`BlockingRequest::proxy_header`](crate::BlockingRequest::proxy_header) have the rest, and the address of the proxy.
///
/// A header names any client, so it is believed only if it comes from a trusted proxy. A header that is wrong, longer
/// than 4,096 bytes, or not complete in time closes the connection. The request counts as refused and in
/// [`Stats::proxy_headers_failed`](crate::Stats), and a warning in the log says why. A connection that ends before its
/// first byte, as health checks do, is closed silently. `LOCAL` and `UNKNOWN`, with which a proxy speaks for itself,
/// leave the proxy's address. So do `UNSPEC`, whose addresses are ignored if there are any, and the address of a client
/// on a Unix socket, which is not read. A checksum (CRC32c) is not verified. A header that says that the client sends
/// datagrams is wrong.
///
/// Feature `proxy-protocol`, on Unix. Source: "The PROXY protocol" of HAProxy, versions 1 and 2, without datagrams.
///
/// ```
/// use socketserver::{Next, ProxyProtocol, Request, RequestHandler, Result, TcpOptions, TcpServer};
/// use std::io::{Read, Write};
///
/// struct Hello;
/// impl RequestHandler for Hello {
///     fn handle(&mut self, request: &mut Request<'_>) -> Result<Next> {
///         request.input.take_all();
///         write!(request.output, "hello {}", request.client_address())?;
///         Ok(Next::Close)
///     }
/// }
/// let mut options = TcpOptions::default();
/// options.proxy_protocol = Some(ProxyProtocol::trusting(["127.0.0.1".parse().unwrap()]));
/// let mut server = TcpServer::unbound(|_client_address| Hello);
/// server.server_bind_with("127.0.0.1:0", options)?;
/// let mut server = server.server_activate()?;
///
/// let mut proxy = std::net::TcpStream::connect(server.server_address())?;
/// proxy.write_all(b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 80\r\nGET /\r\n")?;
/// server.handle_request()?;
/// let mut answer = String::new();
/// proxy.read_to_string(&mut answer)?;
/// assert_eq!(answer, "hello 203.0.113.7:50000");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ProxyProtocol {
    /// Whether each connection must begin with a header. If so, a connection from another address than a trusted one is
    /// refused. If not, it is served as it is, and so is a trusted one that begins with something else. If the client
    /// sends nothing, or only a part of what each header begins with (`PROXY `, or the first 12 bytes of version 2), the
    /// server finds that out after [`timeout`](Self::timeout). Default: true.
    pub required: bool,
    /// How long the header may take after the connection was accepted, however many bytes arrive. Default: 3 s, at least
    /// as specified for retransmitted packets.
    pub timeout: Duration,
    trusts: Arc<dyn Fn(&Address) -> bool + Send + Sync>,
}

impl ProxyProtocol {
    /// Expects a header from the proxies for whose addresses `trusts` returns true. It is called on the reactor's thread
    /// for each connection, and must not block. A Unix socket whose peer is bound to no name has an unnamed address.
    pub fn new(trusts: impl Fn(&Address) -> bool + Send + Sync + 'static) -> Self {
        ProxyProtocol { required: true, timeout: Duration::from_secs(3), trusts: Arc::new(trusts) }
    }

    /// Expects a header from the proxies with these addresses, whatever their ports: see [`new`](Self::new).
    pub fn trusting(proxies: impl IntoIterator<Item = IpAddr>) -> Self {
        let proxies: Vec<_> = proxies.into_iter().map(|ip| ip.to_canonical()).collect();
        Self::new(move |peer| peer.ip().is_some_and(|ip| proxies.contains(&ip.to_canonical())))
    }

    pub(super) fn check(&self) -> Result<()> {
        match self.timeout.is_zero() {
            true => Err(Error::setting("proxy_protocol.timeout", self.timeout, "no header could come in time")),
            false => Ok(()),
        }
    }

    pub(crate) fn trusts(&self, proxy: &Address) -> bool {
        (self.trusts)(proxy)
    }
}

impl fmt::Debug for ProxyProtocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ProxyProtocol { required, timeout, .. } = self;
        f.debug_struct("ProxyProtocol").field("required", required).field("timeout", timeout).finish_non_exhaustive()
    }
}

/// The header of the PROXY protocol, received or to be sent.
///
/// To send one on an outbound connection, write [`to_v1`](Self::to_v1) or [`to_v2`](Self::to_v2) in `setup` before
/// anything else, also before `start_tls`.
///
/// ```
/// use socketserver::ProxyHeader;
///
/// let client = "203.0.113.7:50000".parse::<std::net::SocketAddr>().unwrap();
/// let server = "192.0.2.1:80".parse::<std::net::SocketAddr>().unwrap();
/// let header = ProxyHeader::new(client.into(), server.into());
/// assert_eq!(header.to_v1()?, b"PROXY TCP4 203.0.113.7 192.0.2.1 50000 80\r\n");
/// assert!(header.with_tlv(0x05, b"id 1").to_v2()?.starts_with(b"\r\n\r\n\0\r\nQUIT\n"));
/// assert_eq!(ProxyHeader::local().to_v1()?, b"PROXY UNKNOWN\r\n");
/// # Ok::<(), socketserver::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProxyHeader {
    proxy: Option<Address>,
    /// Source and destination.
    addresses: Option<(Address, Address)>,
    tlvs: Vec<(u8, Vec<u8>)>,
}

impl ProxyHeader {
    /// A header for a connection of this client to this address of the proxy.
    pub fn new(client: Address, destination: Address) -> Self {
        ProxyHeader { proxy: None, addresses: Some((client, destination)), tlvs: Vec::new() }
    }

    /// A header for a connection of the proxy itself, for example a health check.
    pub fn local() -> Self {
        ProxyHeader { proxy: None, addresses: None, tlvs: Vec::new() }
    }

    /// Adds a value of this type, for version 2: see [`tlv`](Self::tlv).
    pub fn with_tlv(mut self, kind: u8, value: impl AsRef<[u8]>) -> Self {
        self.tlvs.push((kind, value.as_ref().to_vec()));
        self
    }

    /// Returns the address of the proxy, which is the peer of the connection. `None` for a header that was not received.
    pub fn proxy_address(&self) -> Option<&Address> {
        self.proxy.as_ref()
    }

    /// Returns the address of the client. `None` if the proxy speaks for itself (`LOCAL`, `UNKNOWN`) or the client has
    /// an address of another or of an unknown family.
    pub fn client_address(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(client, _)| client)
    }

    /// Returns the address to which the client has connected.
    pub fn destination(&self) -> Option<&Address> {
        self.addresses.as_ref().map(|(_, destination)| destination)
    }

    /// Returns the first value of this type; version 2 only. Types are in section 2.2 of the specification: 0x20 is
    /// about TLS, 0xE0 to 0xEF are for applications.
    pub fn tlv(&self, kind: u8) -> Option<&[u8]> {
        self.tlvs.iter().find(|(found, _)| *found == kind).map(|(_, value)| &value[..])
    }

    /// Returns the name that the client has asked for, under TLS in its SNI: `PP2_TYPE_AUTHORITY`. `None` if it is no
    /// UTF-8.
    pub fn server_name(&self) -> Option<&str> {
        self.tlv(AUTHORITY).and_then(|name| str::from_utf8(name).ok())
    }

    /// Returns the protocol that was agreed on by ALPN: `PP2_TYPE_ALPN`.
    pub fn alpn(&self) -> Option<&[u8]> {
        self.tlv(ALPN)
    }

    /// Returns the id that the proxy has given the connection: `PP2_TYPE_UNIQUE_ID`.
    pub fn unique_id(&self) -> Option<&[u8]> {
        self.tlv(UNIQUE_ID)
    }

    /// Returns the header in version 1, as text.
    ///
    /// # Errors
    /// [`Error::Io`] of the kind [`InvalidInput`](io::ErrorKind::InvalidInput) if an address is not an internet address,
    /// the two are of different families, or there are values, which version 1 does not have.
    pub fn to_v1(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.written()?.encode_v1(&mut bytes).map_err(invalid)?;
        Ok(bytes)
    }

    /// Returns the header in version 2.
    ///
    /// # Errors
    /// [`Error::Io`] of the kind [`InvalidInput`](io::ErrorKind::InvalidInput) if an address is not an internet address,
    /// the two are of different families, or the values are longer than 65,535 bytes.
    pub fn to_v2(&self) -> Result<Vec<u8>> {
        if self.tlvs.iter().map(|(_, value)| value.len() + 3).sum::<usize>() > usize::from(u16::MAX) {
            return Err(invalid(proxy_header::Error::HeaderTooBig));
        }
        let mut bytes = Vec::new();
        self.written()?.encode_v2(&mut bytes).map_err(invalid)?;
        Ok(bytes)
    }

    fn written(&self) -> Result<proxy_header::ProxyHeader<'_>> {
        let inet = |address: &Address| address.as_inet().ok_or_else(|| invalid("it is no internet address"));
        let addresses = match &self.addresses {
            Some((client, destination)) => Some(ProxiedAddress::stream(inet(client)?, inet(destination)?)),
            None => None,
        };
        let tlvs = self.tlvs.iter().map(|(kind, value)| Tlv::Custom(*kind, value.into()));
        Ok(proxy_header::ProxyHeader::with_tlvs(addresses, tlvs))
    }
}

fn invalid(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
    Error::Io(io::Error::new(io::ErrorKind::InvalidInput, why))
}

/// What a connection begins with.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Head {
    /// A header of this length.
    Complete(ProxyHeader, usize),
    /// So many bytes that may become the signature of one.
    Undecided(usize),
    /// A part of one, with the whole signature.
    Incomplete,
    /// Something else.
    Absent,
    /// A header, and what is wrong with it.
    Malformed(&'static str),
}

/// The lengths are known before the library parses a header, so it is only given a whole one.
pub(super) fn parse(bytes: &[u8]) -> Head {
    let begins_with = |signature: &[u8]| bytes.iter().zip(signature).all(|(byte, wanted)| byte == wanted);
    let is_v2 = begins_with(SIGNATURE_V2);
    let signature = match is_v2 {
        true => SIGNATURE_V2,
        false if begins_with(SIGNATURE_V1) => SIGNATURE_V1,
        false => return Head::Absent,
    };
    if bytes.len() < signature.len() {
        return Head::Undecided(bytes.len());
    }
    let length = if is_v2 {
        let Some(&[command, protocol, high, low]) = bytes.get(SIGNATURE_V2.len()..).and_then(<[u8]>::first_chunk)
        else {
            return Head::Incomplete;
        };
        let length = SIGNATURE_V2.len() + 4 + usize::from(u16::from_be_bytes([high, low]));
        if length > HEADER_BYTES_MAX {
            return Head::Malformed("longer than 4,096 bytes");
        }
        // Whatever follows is to be skipped.
        if command == LOCAL && bytes.len() >= length {
            return Head::Complete(ProxyHeader::local(), length);
        }
        if command == PROXY && DATAGRAMS.contains(&protocol) {
            return Head::Malformed("its protocol is for datagrams, and this is a connection");
        }
        length
    } else {
        let line = &bytes[..bytes.len().min(LINE_BYTES_MAX)];
        match line.windows(2).position(|end| end == b"\r\n") {
            Some(end) => end + 2,
            None if line.len() == LINE_BYTES_MAX => return Head::Malformed("a line of more than 107 bytes"),
            None => return Head::Incomplete,
        }
    };
    let Some(bytes) = bytes.get(..length) else { return Head::Incomplete };
    match proxy_header::ProxyHeader::parse(bytes, ParseConfig::default()) {
        Ok((header, parsed)) if parsed == length => {
            let tlvs = match tlvs(&header) {
                Some(tlvs) => tlvs,
                // Addresses may stand there, which are to be ignored.
                None if bytes[SIGNATURE_V2.len() + 1] == UNSPEC => Vec::new(),
                None => return Head::Malformed("one of its values (TLV) is cut off or no text"),
            };
            let addresses = header.proxied_address();
            let addresses = addresses.map(|both| (both.source.into(), both.destination.into()));
            Head::Complete(ProxyHeader { proxy: None, addresses, tlvs }, length)
        }
        _ => Head::Malformed(bytes.strip_prefix(SIGNATURE_V2).map_or_else(|| fault_of_line(bytes), fault_of_v2)),
    }
}

fn tlvs(header: &proxy_header::ProxyHeader<'_>) -> Option<Vec<(u8, Vec<u8>)>> {
    header
        .tlvs()
        .map(|tlv| {
            let mut bytes = Vec::new();
            let tlv = tlv.ok()?;
            tlv.encode(&mut bytes);
            Some((tlv.kind(), bytes.split_off(TLV_PREFIX_BYTES)))
        })
        .collect()
}

impl ProxyHeader {
    pub(crate) fn with_proxy(mut self, proxy: Address) -> Self {
        self.proxy = Some(proxy);
        self
    }
}

const SIGNATURE_V1: &[u8] = b"PROXY ";
const SIGNATURE_V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection of the proxy itself.
const LOCAL: u8 = 0x20;
/// Version 2, a connection of a client.
const PROXY: u8 = 0x21;
/// An address family and a protocol that the proxy does not know.
const UNSPEC: u8 = 0x00;
/// UDP over IPv4 and over IPv6, and Unix datagrams. A receiver may refuse the protocols that it does not implement.
const DATAGRAMS: [u8; 3] = [0x12, 0x22, 0x32];
/// The longest line of version 1.
const LINE_BYTES_MAX: usize = 107;
pub(super) const HEADER_BYTES_MAX: usize = 4_096;
/// Type and length.
const TLV_PREFIX_BYTES: usize = 3;
const ALPN: u8 = 0x01;
const AUTHORITY: u8 = 0x02;
const UNIQUE_ID: u8 = 0x05;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;

    fn header(client: &str, destination: &str) -> ProxyHeader {
        let address = |text: &str| Address::from(text.parse::<SocketAddr>().unwrap());
        ProxyHeader::new(address(client), address(destination))
    }

    #[test]
    fn what_is_written_is_read_and_each_beginning_of_it_is_incomplete() {
        let inet = header("203.0.113.7:50000", "192.0.2.1:80");
        let inet6 = header("[2001:db8::7]:50000", "[2001:db8::1]:80");
        let tlvs =
            inet6.clone().with_tlv(UNIQUE_ID, b"id").with_tlv(AUTHORITY, "example.com").with_tlv(0xE0, [0; 2_000]);
        let written = [inet.to_v1(), inet6.to_v1(), inet.to_v2(), inet6.to_v2(), tlvs.to_v2()];
        for (written, header) in written.into_iter().zip([&inet, &inet6, &inet, &inet6, &tlvs]) {
            let mut bytes = written.unwrap();
            let length = bytes.len();
            for end in 0..length {
                let signature = if bytes[0] == b'P' { SIGNATURE_V1 } else { SIGNATURE_V2 };
                let head = if end < signature.len() { Head::Undecided(end) } else { Head::Incomplete };
                assert_eq!(parse(&bytes[..end]), head);
            }
            bytes.extend(b"GET /");
            assert_eq!(parse(&bytes), Head::Complete(header.clone(), length));
        }
        assert_eq!((tlvs.unique_id(), tlvs.server_name(), tlvs.alpn()), (Some(&b"id"[..]), Some("example.com"), None));
    }

    #[test]
    fn what_is_no_header_is_absent_and_what_is_a_wrong_one_malformed() {
        for absent in ["GET /", "P!", "PROXYTCP4", "\r\n\r\n\0\r\nQUIX", "\0"] {
            assert_eq!(parse(absent.as_bytes()), Head::Absent, "{absent:?}");
        }
        for malformed in [
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000 99999\r\n",
            "PROXY TCP4 2001:db8::1 192.0.2.1 50000 80\r\n",
            "PROXY TCP5 203.0.113.7 192.0.2.1 50000 80\r\n",
            "PROXY \r\n",
            "PROXY TCP4 203.0.113.7 192.0.2.1 50000 80\rx\r\n",
            &format!("PROXY {}", "x".repeat(LINE_BYTES_MAX)),
        ] {
            assert!(matches!(parse(malformed.as_bytes()), Head::Malformed(_)), "{malformed:?}");
        }
        let v2 = |rest: &[u8]| [SIGNATURE_V2, rest].concat();
        for malformed in [
            v2(&[0x31, 0x11, 0, 0]),                                              // version 3
            v2(&[0x21, 0x11, 0, 11, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),            // too short for its family
            v2(&[0x21, 0x41, 0, 0]),                                              // no such family
            v2(&[0x21, 0x11, 0xff, 0xff]),                                        // too long
            v2(&[&[0x21, 0x11, 0, 16], &[1; 12][..], &[5, 0, 9, 0]].concat()),    // a value longer than the header
            v2(&[&[0x21, 0x11, 0, 16], &[1; 12][..], &[2, 0, 1, 0xff]].concat()), // a name that is no text
        ] {
            assert!(matches!(parse(&malformed), Head::Malformed(_)), "{malformed:?}");
        }
    }

    #[test]
    fn a_proxy_that_speaks_for_itself_has_no_client() {
        let unix = [SIGNATURE_V2, &[0x21, 0x31, 0, 216], &[b'x'; 216]].concat();
        let local = [SIGNATURE_V2, &[0x20, 0x11, 0, 3, 1, 2, 3]].concat();
        let unspec = [SIGNATURE_V2, &[0x21, 0, 0, 12, 203, 0, 113, 7, 192, 0, 2, 1, 195, 80, 0, 80]].concat();
        for bytes in [&b"PROXY UNKNOWN\r\n"[..], b"PROXY UNKNOWN ffff::1 ffff::1 1 2\r\n", &unix, &local, &unspec] {
            assert_eq!(parse(bytes), Head::Complete(ProxyHeader::local(), bytes.len()));
        }
        let with_id = [SIGNATURE_V2, &[0x21, 0, 0, 4, UNIQUE_ID, 0, 1, 7]].concat();
        assert_eq!(parse(&with_id), Head::Complete(ProxyHeader::local().with_tlv(UNIQUE_ID, [7]), with_id.len()));
    }

    #[test]
    fn what_cannot_be_written_is_an_error() {
        let mixed = header("203.0.113.7:50000", "[2001:db8::1]:80");
        assert!(mixed.to_v1().is_err() && mixed.to_v2().is_err());
        let unix = Address::Unix(crate::address::UnixAddress::unnamed());
        assert!(ProxyHeader::new(unix.clone(), unix).to_v2().is_err());
        let inet = header("203.0.113.7:50000", "192.0.2.1:80");
        assert!(inet.clone().with_tlv(1, b"h2").to_v1().is_err());
        assert!(inet.with_tlv(0xE0, [0; 70_000]).to_v2().is_err());
    }
}
