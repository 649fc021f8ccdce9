//! `pitrus wal show`: files of WAL as their distributed transactions.
//!
//! files -> by server, timeline and position -> events -> what each transaction did on which node
//!
//! A broken tail is told, not an error: looking at one is what this is for.

mod print;
mod read;
mod shown;

use super::args::{Output, WalShow};
use super::failure::Failure;
use super::out;

pub(super) fn show(args: &WalShow) -> Result<(), Failure> {
    let sources = read::sources(&args.files)?;
    if args.records {
        return records(sources, args.shown.output);
    }
    let mut shown = shown::Shown::new(&sources);
    for source in sources {
        let ended = source.read(|event| {
            shown.take(source.node, event);
            Ok(true)
        })?;
        if let Some(ended) = ended {
            shown.ends(source.node, &ended);
        }
    }
    let shown = shown.finish();
    match args.shown.output {
        Output::Text => out::text(&shown).map(drop),
        Output::Json => out::json(&shown),
    }
}

/// Writes a line for each event as it comes.
fn records(sources: Vec<read::Source>, output: Output) -> Result<(), Failure> {
    for source in sources {
        let node = source.node;
        let ended = source.read(|event| match output {
            Output::Text => out::text(&print::Line { node, event: &event }),
            Output::Json => {
                let line = serde_json::json!({ "node": node, "event": event });
                out::text(&format_args!("{line}\n"))
            }
        })?;
        if let (Some(ended), Output::Text) = (ended, output) {
            out::text(&format_args!("# node {node}: {ended}\n"))?;
        }
    }
    Ok(())
}
