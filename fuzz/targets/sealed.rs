//! See `pitrus_fuzz::sealed`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::sealed::sealed(bytes));
