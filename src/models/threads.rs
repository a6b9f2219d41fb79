//! loom tries every order in which threads can run:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models::threads
//! ```

mod mailbox;
mod orders;
mod pool;
