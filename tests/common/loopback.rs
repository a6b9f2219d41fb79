//! Addresses of the loopback network.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU8, Ordering};

/// An address of the loopback network that no other test uses. Any port is free there, and one that a test gives up is not
/// given to another test in the meantime. Only Linux has these addresses from the start; elsewhere all tests share one.
pub(crate) fn loopback() -> Ipv4Addr {
    static COUNT: AtomicU8 = AtomicU8::new(1);
    if !cfg!(target_os = "linux") {
        return Ipv4Addr::LOCALHOST;
    }
    let [high, low] = (std::process::id() as u16).to_be_bytes();
    Ipv4Addr::new(127, high | 0x40, low, COUNT.fetch_add(1, Ordering::Relaxed))
}
