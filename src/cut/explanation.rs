//! Why a cut is where it is, in values and in plain words.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::outcome::Move;
use crate::ids::NodeName;
use crate::lsn::Lsn;
use crate::moment::Moment;

/// Lists longer than this are cut short in text; the JSON form has all of them.
const LIST_MAX: usize = 50;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Explanation {
    /// For each node that moved, what moved it, back to a position asked for.
    pub chains: Vec<Chain>,
    /// Distributed transactions that lie on both sides of the moment asked for, or of the cut.
    pub straddling: Vec<Straddling>,
}

/// A node's last move, the move of another node that made it necessary, and so on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Chain {
    pub moves: Vec<Move>,
    /// The node with which it began, which stands where it was asked to; `None` where a node's known WAL ends.
    pub began: Option<NodeName>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Straddling {
    /// `None` where nobody decided, as far as is known.
    pub decision: Option<Stands>,
    pub parts: Vec<Part>,
    /// The cut keeps it: what is still prepared is committed. Else it is left out, and what is prepared rolled back.
    pub kept: bool,
}

/// What one node has of a transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    pub node: NodeName,
    pub gid: String,
    /// `None`: before the known WAL.
    pub prepared: Option<Stands>,
    /// Where it was committed, or rolled back; `None`: after the known WAL, or never.
    pub ended: Option<Stands>,
    pub committed: bool,
}

/// Where a record stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stands {
    pub node: NodeName,
    pub lsn: Lsn,
    pub time: Moment,
    /// At the moment asked for it was there.
    pub inside_asked: bool,
    /// In the cut it is there.
    pub inside_cut: bool,
}

impl fmt::Display for Explanation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.chains.as_slice() {
            [] => writeln!(f, "\nno node had to move: the moment asked for is consistent as it is")?,
            chains => {
                writeln!(f, "\nwhy the cut moved:")?;
                chains.iter().try_for_each(|chain| write!(f, "{chain}"))?;
            }
        }
        if self.straddling.is_empty() {
            return writeln!(f, "\nno distributed transaction was under way then");
        }
        writeln!(f, "\ndistributed transactions under way then ({}):", self.straddling.len())?;
        for one in self.straddling.iter().take(LIST_MAX) {
            write!(f, "{one}")?;
        }
        match self.straddling.len().saturating_sub(LIST_MAX) {
            0 => Ok(()),
            more => writeln!(f, "  and {more} more (see --output json)"),
        }
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, one) in self.moves.iter().enumerate() {
            let because = if depth == 0 { "" } else { "for " };
            writeln!(f, "  {:indent$}{because}{one}", "", indent = depth.min(10) * 2)?;
        }
        match &self.began {
            Some(node) => {
                let indent = self.moves.len().min(10) * 2;
                writeln!(f, "  {:indent$}and {node} stands where the moment asked for puts it", "")
            }
            None => Ok(()),
        }
    }
}

impl fmt::Display for Straddling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gids: Vec<&str> = self.parts.iter().map(|part| part.gid.as_str()).collect();
        let outcome = if self.kept { "kept" } else { "left out" };
        writeln!(f, "  {}: {outcome}", gids.join(" "))?;
        match &self.decision {
            Some(decision) => writeln!(f, "    decided by {}{decision}", decision.node)?,
            None => writeln!(f, "    no decision is known")?,
        }
        for part in &self.parts {
            match &part.prepared {
                Some(prepared) => writeln!(f, "    prepared on {}{prepared}", part.node)?,
                None => writeln!(f, "    prepared on {} before its known WAL", part.node)?,
            }
            let verb = if part.committed { "committed" } else { "rolled back" };
            if let Some(ended) = &part.ended {
                writeln!(f, "    {verb} on {}{ended}", part.node)?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Stands {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let side = match (self.inside_asked, self.inside_cut) {
            (true, true) => "inside",
            (false, false) => "outside",
            (true, false) => "before the moment asked for, outside the cut",
            (false, true) => "after the moment asked for, inside the cut",
        };
        write!(f, " at {} ({}): {side}", self.lsn, self.time)
    }
}
