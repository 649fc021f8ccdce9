//! What is refused, and with which words; what is left out, and what it then means.

use super::*;
use crate::config::fields;

const LEAST: &str =
    "cluster = \"prod\"\n[key]\nfile = \"/etc/pitrus/key\"\n[[zone]]\nname = \"a\"\nurl = \"/zones/a\"\n";

fn parse(text: &str) -> Result<Settings, Error> {
    Settings::parse(Path::new("/p.toml"), text)
}

/// Returns the message for `LEAST` with `top` before it and `more` after it.
fn refused(top: &str, more: &str) -> String {
    parse(&format!("{top}\n{LEAST}{more}")).unwrap_err().to_string()
}

#[test]
fn what_is_left_out_has_a_meaning() {
    let s = parse(LEAST).unwrap();
    assert_eq!((s.write_quorum, s.retention_days, s.backup.level, s.backup.threads), (1, 35, 1, 2));
    assert_eq!(s.archive.part_interval, Duration::from_secs(1));
    assert!(s.node.is_none() && s.postgres.is_none());
    let three = format!(
        "{LEAST}[[zone]]\nname = \"b\"\nurl = \"s3://b/x\"\n[[zone]]\nname = \"c\"\nurl = \"file:///c\"\n"
    );
    assert_eq!(parse(&three).unwrap().write_quorum, 2);
}

/// The defaults that the documents state are the defaults that hold.
#[test]
fn the_documented_defaults_hold() {
    let mut text = String::from("cluster = \"prod\"\nstate_dir = \"/var/lib/pitrus\"\n");
    for table in ["backup", "archive", "retention"] {
        text += &format!("[{table}]\n");
        for field in fields::FIELDS.iter().filter(|f| f.path.starts_with(&format!("{table}."))) {
            if let fields::Absent::Value(value) = field.default {
                text += &format!("{} = {value}\n", fields::key(field.path));
            }
        }
    }
    let rest = LEAST.replace("cluster = \"prod\"\n", "");
    let written = parse(&(text + &rest)).unwrap();
    let left_out = parse(LEAST).unwrap();
    assert_eq!(format!("{:?}", written.backup), format!("{:?}", left_out.backup));
    assert_eq!(format!("{:?}", written.archive), format!("{:?}", left_out.archive));
    assert_eq!(written.retention_days, left_out.retention_days);
    assert_eq!(written.state_dir, left_out.state_dir);
}

#[test]
fn what_is_wrong_is_named() {
    for (top, more, want) in [
        ("write_quorum = 2", "", "line 1: `write_quorum` cannot be 2"),
        ("node = \"A b\"", "", "line 1: `node` cannot be \"A b\""),
        ("state_dir = \"x\"", "", "line 1: `state_dir` is not an absolute path"),
        ("", "[backup]\nlevel = 0\n", "line 9: `backup.level` cannot be 0"),
        ("", "[backup]\nschedule = \"daily\"\n", "`backup.schedule` is not a schedule"),
        ("", "[backup]\nmax_rate = 99999\n", "`backup.max_rate` cannot be 99999"),
        ("", "[backup]\nnice = -1\n", "`backup.nice` cannot be -1"),
        ("", "[backup]\nionice = \"realtime\"\n", "`backup.ionice` cannot be \"realtime\""),
        ("", "[archive]\npart_interval_ms = 99\n", "`archive.part_interval_ms` cannot be 99"),
        ("", "[retention]\ndays = 0\n", "`retention.days` cannot be 0"),
        ("", "[[zone]]\nname = \"a\"\nurl = \"/zones/b\"\n", "repeats the name or the place of zone a"),
        ("", "[[zone]]\nname = \"b\"\nurl = \"/zones/a\"\n", "repeats the name or the place of zone a"),
        ("", "[[zone]]\nname = \"b\"\nurl = \"zones/b\"\n", "neither an absolute path nor a URL"),
        ("", "[[zone]]\nname = \"b\"\nurl = \"ftp://b\"\n", "unknown scheme \"ftp\""),
        ("", "[[zone]]\nname = \"b\"\nurl = \"file://b\"\n", "must be file:///absolute/path"),
        ("", "[[zone]]\nname = \"b\"\nurl = \"s3://\"\n", "names no place"),
        ("", "[postgres]\nslot = \"x\"\n", "`postgres.conninfo` is missing"),
        ("", "[postgres]\nconninfo = \"\"\nslot = \"A\"\n", "`postgres.slot` cannot be \"A\""),
        ("", "[postgres]\nconninfo = \"host=a password = x\"\n", "`postgres.conninfo` holds a password"),
        ("", "[postgres]\nconninfo = \"postgres://u:p@h/d\"\n", "`postgres.conninfo` holds a password"),
        (
            "",
            "[postgres]\nconninfo = \"\"\npassword_env = \"A\"\npassword_file = \"/a\"\n",
            "`postgres.password_env` is written beside another",
        ),
        ("", "[postgres]\nconninfo = \"\"\npassword_command = []\n", "`postgres.password_command` is empty"),
        (
            "",
            "options = { aws_secret_access_key = \"x\" }\n",
            "`zone[1].options` holds the secret `aws_secret_access_key`",
        ),
        ("", "options = { a = { file = \"x\" } }\n", "`zone[1].options` is not an absolute path"),
    ] {
        let found = refused(top, more);
        assert!(found.contains(want), "{found}\nlacks\n{want}");
    }
    assert!(parse("").unwrap_err().to_string().contains("`cluster` is missing"));
    assert!(parse("cluster = \"a\"\n").unwrap_err().to_string().contains("`zone` is missing"));
    let keyless = LEAST.replace("file = \"/etc/pitrus/key\"\n", "");
    assert!(parse(&keyless).unwrap_err().to_string().contains("`key` is missing"));
}

#[test]
fn a_backup_can_be_told_to_be_gentle() {
    let pace = |text: &str| parse(&format!("{LEAST}[backup]\n{text}")).unwrap().backup.pace;
    assert_eq!(pace(""), Pace::default());
    let told = pace("max_rate = 50_000_000\nnice = 10\nionice = \"best-effort:6\"\n");
    assert_eq!((told.max_rate.map(u64::from), told.nice), (Some(50_000_000), 10));
    assert_eq!(told.disk.map(|disk| disk.to_string()).as_deref(), Some("best-effort:6"));
}

#[test]
fn options_may_be_plain_or_secret() {
    let s = parse(&format!(
        "{LEAST}options = {{ aws_region = \"eu\", aws_access_key_id = \"AK\", aws_secret_access_key = {{ env = \"S\" }} }}\n"
    ))
    .unwrap();
    assert_eq!(s.zones[0].options.len(), 3);
    assert!(!format!("{s:?}").contains("password"));
}

#[test]
fn the_schedule_is_utc() {
    let s = parse(LEAST).unwrap();
    let at = |text: &str| text.parse::<Moment>().unwrap();
    let next = |after| s.backup.schedule.next(at(after));
    assert_eq!(next("2026-11-21T01:59:59Z"), Some(at("2026-11-21T02:00:00Z")));
    assert_eq!(next("2026-11-21T02:00:00Z"), Some(at("2026-11-22T02:00:00Z")));
    let never = parse(&format!("{LEAST}[backup]\nschedule = \"never\"\n")).unwrap();
    assert_eq!(never.backup.schedule.next(at("2026-11-21T02:00:00Z")), None);
}
