//! What the examples are told on the command line, and addresses as text: options or an error that says why, and the
//! same address again.

use std::time::Duration;

use arbitrary::{Arbitrary, Unstructured};
use clap::Parser as _;
use socketserver::Address;
#[cfg(unix)]
use socketserver::UnixAddress;

use crate::common;

/// A program with the options that all examples have.
#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    options: common::Options,
    /// As the examples with datagrams and Unix sockets have it.
    #[arg(long)]
    udp: Option<String>,
    #[cfg(unix)]
    #[arg(long)]
    unix: Option<UnixAddress>,
    address: Option<String>,
}

#[derive(Debug, Arbitrary)]
enum Case<'a> {
    Arguments(Vec<Argument<'a>>),
    Seconds(&'a str),
    Printable(&'a str),
    UnixPath(&'a str),
    AbstractName(&'a [u8]),
    Inet([u16; 8], u16),
}

#[derive(Debug, Arbitrary)]
enum Argument<'a> {
    Timeout(&'a str),
    MaxConnections(&'a str),
    Grace(&'a str),
    LogLevel(&'a str),
    Unix(&'a str),
    Any(&'a [u8]),
}

pub(crate) fn options(data: &[u8]) {
    match Case::arbitrary_take_rest(Unstructured::new(data)) {
        Ok(Case::Arguments(arguments)) => parse(arguments),
        Ok(Case::Seconds(text)) => seconds(text),
        Ok(Case::Printable(text)) => printable(text),
        #[cfg(unix)]
        Ok(Case::UnixPath(text)) => unix_path(text),
        #[cfg(unix)]
        Ok(Case::AbstractName(name)) => abstract_name(name),
        Ok(Case::Inet(ip, port)) => inet(ip, port),
        _ => {}
    }
}

fn parse(arguments: Vec<Argument<'_>>) {
    let mut line = vec!["program".into()];
    for argument in arguments {
        let (option, value) = match argument {
            Argument::Timeout(value) => ("--timeout", value),
            Argument::MaxConnections(value) => ("--max-connections", value),
            Argument::Grace(value) => ("--grace", value),
            Argument::LogLevel(value) => ("--log-level", value),
            Argument::Unix(value) => ("--unix", value),
            Argument::Any(bytes) => {
                line.push(os_string(bytes));
                continue;
            }
        };
        line.extend([option.into(), value.into()]);
    }
    match Program::try_parse_from(line) {
        Ok(program) => assert!(program.options.timeout().is_none_or(|timeout| !timeout.is_zero())),
        Err(usage) => assert!(!usage.render().to_string().trim().is_empty()),
    }
}

#[cfg(unix)]
fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    std::os::unix::ffi::OsStringExt::from_vec(bytes.to_vec())
}

#[cfg(not(unix))]
fn os_string(bytes: &[u8]) -> std::ffi::OsString {
    String::from_utf8_lossy(bytes).into_owned().into()
}

fn seconds(text: &str) {
    match common::seconds(text) {
        Ok(time) => {
            let number: f64 = text.parse().expect("what was taken is a number");
            assert!(number >= 0.0);
            assert_eq!(common::unless_zero(time), Some(time).filter(|&time| time != Duration::ZERO));
        }
        Err(why) => assert!(!why.is_empty()),
    }
}

/// A line stays one line, and what is shown already is shown as it is.
fn printable(text: &str) {
    let shown = common::printable(text);
    assert!(!shown.chars().any(char::is_control));
    assert_eq!(common::printable(&shown), shown);
    if text.chars().all(|letter| letter.is_ascii_graphic()) {
        assert_eq!(shown, text);
    }
}

#[cfg(unix)]
fn unix_path(text: &str) {
    let address: UnixAddress = text.parse().expect("any text is an address");
    assert_eq!(address.as_path().is_some(), !text.starts_with('@'));
    assert_eq!(address.as_abstract_name().is_some(), text.starts_with('@'));
    let shown = address.to_string();
    assert!(!shown.is_empty());
    if !text.is_empty() {
        assert_eq!(shown, text);
        assert_eq!(shown.parse(), Ok(address));
    }
}

#[cfg(unix)]
fn abstract_name(name: &[u8]) {
    let address = UnixAddress::from_abstract_name(name);
    assert_eq!(address.as_abstract_name(), Some(name));
    if std::str::from_utf8(name).is_ok() {
        assert_eq!(address.to_string().parse(), Ok(address));
    }
}

fn inet(ip: [u16; 8], port: u16) {
    let address = Address::from(std::net::SocketAddr::from((ip, port)));
    let again: std::net::SocketAddr = address.to_string().parse().expect("an address is shown as one");
    assert_eq!(Address::from(again), address);
    assert_eq!(address.port(), Some(port));
}
