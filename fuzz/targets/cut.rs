//! See `pitrus_fuzz::cut`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::cut::cut(bytes));
