//! See `pitrus_fuzz::events`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::events::events(bytes));
