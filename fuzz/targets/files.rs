//! See `pitrus_fuzz::files`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::files::files(bytes));
