//! Every order in which threads can run, tried by loom:
//!
//! ```text
//! RUSTFLAGS="--cfg loom" cargo test --release --lib models::threads
//! ```

mod mailbox;
mod orders;
mod pool;
