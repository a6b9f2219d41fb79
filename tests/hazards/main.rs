//! One test for each hazard that has hurt a server before, named after it: the list of the test functions is the
//! catalogue.
//!
//! Clients are those of the standard library, on the loopback, with a deadline on every wait; whatever depends on time
//! alone runs on the testing kit's clock. Nothing sleeps, and nothing asserts how fast something is.
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are on the machine's clock")]
#![cfg_attr(not(target_os = "linux"), allow(dead_code, unused_imports, reason = "used by tests that are Linux's"))]

/// Makes a test of each function, once over TCP and once over Unix sockets.
macro_rules! over_streams {
    ($($test:ident,)*) => {
        mod tcp {
            $(#[test] fn $test() { super::$test::<socketserver::family::Tcp>(); })*
        }
        #[cfg(unix)]
        mod unix_stream {
            $(#[test] fn $test() { super::$test::<socketserver::family::UnixStream>(); })*
        }
    };
}

/// The same over UDP and Unix datagrams.
macro_rules! over_datagrams {
    ($($test:ident,)*) => {
        mod udp {
            $(#[test] fn $test() { super::$test::<socketserver::family::Udp>(); })*
        }
        #[cfg(unix)]
        mod unix_datagram {
            $(#[test] fn $test() { super::$test::<socketserver::family::UnixDatagram>(); })*
        }
    };
}

#[path = "../common/mod.rs"]
mod common;

mod accept;
#[cfg(all(feature = "batch", target_os = "linux"))]
mod addresses;
mod admit;
mod binding;
mod blocking;
mod buffers;
mod calls;
mod close;
mod connect;
mod contradictions;
mod datagram;
mod draining;
mod ends;
mod fairness;
#[cfg(unix)]
mod families;
mod faults;
mod files;
mod flow;
#[cfg(unix)]
mod handing_over;
#[cfg(unix)]
mod inherited;
mod inspecting;
#[cfg(all(feature = "batch", target_os = "linux"))]
mod joined_datagrams;
mod lifecycle;
mod limits;
mod logging;
mod messages;
mod options;
mod outbound;
mod outbound_datagrams;
#[cfg(all(unix, feature = "proxy-protocol"))]
mod proxy_protocol;
mod random;
mod reactor;
mod shutdown;
#[cfg(feature = "signals")]
mod signals;
mod testing_kit;
mod timers;
#[cfg(feature = "tls")]
mod tls;
#[cfg(unix)]
mod tokens;
#[cfg(unix)]
mod unix;
