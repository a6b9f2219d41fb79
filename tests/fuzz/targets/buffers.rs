#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| socketserver::models::buffers(data));
