//! The names under which Citus prepares transactions on participants: `citus_<group>_<pid>_<number>_<connection>`
//! (Citus `remote_transaction.c`, `PREPARED_TRANSACTION_NAME_FORMAT`).
//!
//! Group and pid are the initiator's. One transaction has a gid for each connection. The number
//! begins anew when the initiator's server starts, so names repeat over time.

use crate::ids::GroupId;

/// A gid of Citus, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gid {
    pub transaction: Transaction,
    pub connection: u32,
}

/// What all gids of one distributed transaction have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Transaction {
    /// The initiator's group.
    pub group: GroupId,
    pub pid: u32,
    pub number: u64,
}

impl Gid {
    /// Reads a gid; `None` for one that Citus did not make.
    pub fn parse(text: &str) -> Option<Gid> {
        let mut words = text.strip_prefix("citus_")?.split('_');
        let transaction = Transaction {
            group: GroupId(digits(words.next()?)?),
            pid: digits(words.next()?)?,
            number: digits(words.next()?)?,
        };
        let connection = digits(words.next()?)?;
        words.next().is_none().then_some(Gid { transaction, connection })
    }

    pub fn transaction(&self) -> Transaction {
        self.transaction
    }
}

/// Reads a number without the sign and the blanks that `from_str` and `sscanf` would take.
fn digits<T: std::str::FromStr>(word: &str) -> Option<T> {
    word.bytes().all(|b| b.is_ascii_digit()).then(|| word.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_apart_what_citus_writes_and_nothing_else() {
        let gid = Gid::parse("citus_0_4711_18446744073709551615_3").unwrap();
        assert_eq!((gid.transaction.group, gid.transaction.pid, gid.connection), (GroupId(0), 4711, 3));
        assert_eq!(gid.transaction.number, u64::MAX);
        for other in [
            "",
            "citus_",
            "citus_0_1_2",
            "citus_0_1_2_3_4",
            "citus_0_1_2_+3",
            "citus_-1_1_2_3",
            "citus_0__2_3",
            "Citus_0_1_2_3",
            "citus_0_1_18446744073709551616_3",
            " citus_0_1_2_3",
            "citus_0_1_2_3 ",
        ] {
            assert_eq!(Gid::parse(other), None, "{other}");
        }
    }
}
