#![no_main]

#[path = "../../../examples/common/mod.rs"]
mod common;
#[path = "../bodies/options.rs"]
mod options;

libfuzzer_sys::fuzz_target!(|data: &[u8]| options::options(data));
