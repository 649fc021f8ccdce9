//! `pitrus cut`: the consistent cut of plain directories of WAL, for restores with any other tool.
//!
//! directories -> the position asked for on each node -> the cut -> what to give each server, and what to do
//! with the transactions that are prepared there
//!
//! Needs no configuration, vault, key or server; writes nothing.

mod error;
mod make;
mod node;
mod print;
mod shown;

use super::args::{Cut, Output};
use super::failure::Failure;
use super::out;

pub(super) async fn run(args: &Cut) -> Result<(), Failure> {
    let shown = make::make(args).await?;
    match args.shown.output {
        Output::Text => out::text(&shown).map(drop),
        Output::Json => out::json(&shown),
    }
}
