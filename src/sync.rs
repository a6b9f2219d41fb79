//! What threads meet at: the standard library's, or loom's, which tries every order that threads can run in.

#[cfg(all(test, loom))]
pub(crate) use loom::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};
#[cfg(not(all(test, loom)))]
pub(crate) use std::{
    sync::{Condvar, Mutex, MutexGuard, atomic},
    thread,
};
