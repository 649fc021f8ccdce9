//! Does the WAL come the way that the configuration says, and only that way?

use super::line::Lines;
use crate::config::settings::Method;
use crate::node::{Error, Session};

const QUERY: &str = "
    select current_setting('archive_mode'), current_setting('archive_command'),
           exists (select from pg_replication_slots where slot_name = $1)";

pub(super) async fn check(
    lines: &mut Lines,
    session: &Session,
    method: Method,
    slot: &str,
) -> Result<(), Error> {
    let row = session.row("read how WAL is archived", QUERY, &[&slot]).await?;
    let (mode, command, own_slot) = (row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, bool>(2));
    judge(lines, method, slot, (mode, command), own_slot);
    Ok(())
}

fn judge(lines: &mut Lines, method: Method, slot: &str, (mode, command): (&str, &str), own_slot: bool) {
    let pushes = command.contains("archive-push") && command.contains("pitrus");
    if method == Method::Stream {
        if mode != "off" && pushes {
            let set = "archive.method is \"stream\": take it out, or set archive.method = \"push\"";
            lines.not_ok("archive_command", command, set);
        }
        return;
    }
    let set = "ALTER SYSTEM SET archive_mode = on;  -- then restart the server";
    lines.must(mode != "off", "archive_mode", mode, set);
    let set = "ALTER SYSTEM SET archive_command = 'pitrus archive-push %p'; SELECT pg_reload_conf();";
    lines.must(pushes, "archive_command", command, set);
    if own_slot {
        let drop = format!(
            "nothing moves it with archive.method = \"push\", and the server keeps all WAL for it: SELECT pg_drop_replication_slot('{slot}');"
        );
        lines.not_ok(&format!("slot {slot}"), "is left from streaming", drop);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::check::line::Verdict;

    #[test]
    fn two_ways_at_once_are_told() {
        let worst = |method, mode, command, own_slot| {
            let mut lines = Lines::default();
            judge(&mut lines, method, "pitrus", (mode, command), own_slot);
            lines.worst()
        };
        let push = "/usr/bin/pitrus archive-push %p";
        assert_eq!(worst(Method::Stream, "off", "", true), Verdict::Ok);
        assert_eq!(worst(Method::Stream, "on", "cp %p /x/%f", true), Verdict::Ok);
        assert_eq!(worst(Method::Stream, "on", push, true), Verdict::NotOk);
        assert_eq!(worst(Method::Push, "on", push, false), Verdict::Ok);
        assert_eq!(worst(Method::Push, "off", push, false), Verdict::NotOk);
        assert_eq!(worst(Method::Push, "on", "cp %p /x/%f", false), Verdict::NotOk);
        assert_eq!(worst(Method::Push, "on", push, true), Verdict::NotOk);
    }
}
