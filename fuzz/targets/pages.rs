//! See `pitrus_fuzz::pages`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| pitrus_fuzz::pages::pages(bytes));
