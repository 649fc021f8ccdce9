//! What an operator will want to compare after a restore: settings that differ from PostgreSQL's
//! defaults, and the rules of `pg_hba.conf`. Neither carries a secret.

use super::{Error, NodeFacts, Session};
use crate::manifest::backup::Setting;

/// Words in a setting's name after which its value may hold a secret, or a command or address with one.
const SECRETIVE: [&str; 8] =
    ["password", "passphrase", "secret", "token", "conninfo", "credential", "_command", "_key"];

/// Options of `pg_hba.conf` whose value is a secret.
const HBA_SECRETS: [&str; 2] = ["ldapbindpasswd=", "radiussecrets="];

/// Returns the settings that differ from their defaults, by name.
pub async fn changed_settings(session: &Session) -> Result<Vec<Setting>, Error> {
    let query = "SELECT name, current_setting(name) FROM pg_settings
                 WHERE source NOT IN ('default', 'override', 'client', 'session') ORDER BY name";
    let rows = session.rows("read settings", query, &[]).await?;
    let settings = rows.iter().map(|row| {
        let (name, value): (String, String) = (row.get(0), row.get(1));
        let value = if may_hold_secret(&name) { "(not kept)".to_owned() } else { value };
        Setting { name, value }
    });
    Ok(settings.collect())
}

/// Returns the lines of `pg_hba.conf` that are rules.
pub async fn hba_rules(facts: &NodeFacts) -> Result<Vec<String>, Error> {
    let path = facts.hba_file.clone();
    let text = tokio::fs::read(&path).await.map_err(|source| Error::File { path, source })?;
    Ok(rules(&String::from_utf8_lossy(&text)))
}

fn may_hold_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    SECRETIVE.iter().any(|word| name.contains(word))
}

fn rules(text: &str) -> Vec<String> {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.map(without_secrets).collect()
}

/// Cuts a rule before a secret: its value may be quoted and hold anything, so nothing after it is kept.
fn without_secrets(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    let first = HBA_SECRETS.iter().filter_map(|option| lower.find(option).map(|at| at + option.len())).min();
    match first.and_then(|at| line.get(..at)) {
        Some(kept) => format!("{kept}(not kept)"),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_stay_out() {
        let text =
            "# c\n\nlocal all all peer\n host a a 0/0 ldap ldapserver=x LDAPbindpasswd=\"a b\" ldaptls=1\n";
        assert_eq!(
            rules(text),
            ["local all all peer", "host a a 0/0 ldap ldapserver=x LDAPbindpasswd=(not kept)"]
        );
        assert!(may_hold_secret("primary_conninfo") && may_hold_secret("archive_command"));
        assert!(!may_hold_secret("work_mem"));
    }
}
