//! The only door to time and chance.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::moment::Moment;

/// Returns the present moment by this machine's clock.
#[allow(clippy::disallowed_methods)] // this is the door
pub fn now() -> Moment {
    let micros = match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_micros()).unwrap_or(i64::MAX),
        Err(before) => -i64::try_from(before.duration().as_micros()).unwrap_or(i64::MAX),
    };
    Moment::from_unix_micros(micros)
}

/// Returns bytes from the operating system's random source.
///
/// # Panics
/// When the operating system has none to give: no key may be made from anything else.
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}
