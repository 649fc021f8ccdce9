//! See `pitrus_fuzz::objects`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::objects::objects(bytes));
