//! A service under a supervisor: what it tells the supervisor, as systemd would hear it, and how it is replaced by its
//! next version. The service is this program itself, started again.
//!
//! `RESTARTS=500 cargo test --test supervised load` replaces it that often under load.
#![cfg(target_os = "linux")]
#![allow(clippy::disallowed_methods, reason = "deadlines of tests are real time")]

#[path = "../common/directory.rs"]
mod directory;
mod full;
mod load;
mod notify;
#[path = "../common/programs.rs"]
mod programs;
mod restart;
mod service;
mod supervisor;
