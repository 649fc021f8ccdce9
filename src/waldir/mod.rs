//! A plain directory of WAL segments, as any archiver leaves them: read where it lies, never written.
//!
//! file names -> segments that lead to the newest timeline -> stretches without a gap -> what the segments
//! around a moment tell
//!
//! Needs no index: segments are decoded as they are asked for, and forgotten but for what a cut asks. To know
//! what is prepared at the start of a stretch, decoding begins where the WAL itself says that no transaction
//! was under way that was so later ([`known`]); where the directory begins after that, [`WalDir::doubt`] tells.

mod error;
mod file;
mod known;
mod listing;
mod log;
mod tape;

pub use error::Error;
pub(crate) use file::{Pieces, header};
pub use log::WalDir;
