//! The face: what a person at the terminal meets, by running the binary.

use std::path::Path;
use std::process::{Command, Output};
use std::sync::Arc;

use crate::world::{self, Folder, Server, ServerOptions};

struct Ran {
    code: i32,
    out: String,
    err: String,
}

fn pitrus(args: &[&str]) -> Ran {
    let Output { status, stdout, stderr } = Command::new(env!("CARGO_BIN_EXE_pitrus"))
        .args(args)
        .env_remove("PITRUS_CONFIG")
        .env_remove("PITRUS_LOG")
        .output()
        .expect("the binary runs");
    Ran {
        code: status.code().expect("it ended by itself"),
        out: String::from_utf8_lossy(&stdout).into_owned(),
        err: String::from_utf8_lossy(&stderr).into_owned(),
    }
}

impl Ran {
    #[track_caller]
    fn fails(self, code: i32, words: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}{}", self.out, self.err);
        for word in words {
            assert!(self.err.contains(word), "{}\nlacks {word:?}", self.err);
        }
        assert!(self.out.is_empty(), "a failure says nothing on standard output: {}", self.out);
        self
    }
}

/// A folder with a key, three folder zones and a configuration; `extra` stands before its tables.
fn protected(folder: &Path, extra: &str) -> String {
    let path = |name: &str| folder.join(name).display().to_string();
    assert_eq!(pitrus(&["key", "generate", "--file", &path("key")]).code, 0);
    let mut text = format!(
        "cluster = \"test\"\nnode = \"n0\"\nstate_dir = {:?}\n{extra}\n[key]\nfile = {:?}\n",
        path("state"),
        path("key")
    );
    for zone in ["a", "b", "c"] {
        std::fs::create_dir(folder.join(zone)).expect("a new folder");
        text += &format!("[[zone]]\nname = \"{zone}\"\nurl = {:?}\n", path(zone));
    }
    std::fs::write(folder.join("pitrus.toml"), text).expect("a new file");
    path("pitrus.toml")
}

#[test]
fn help_names_every_command_and_exit_code() {
    let help = pitrus(&["--help"]);
    assert_eq!(help.code, 0);
    for word in
        ["init", "agent", "backup", "check", "info", "restore", "repair", "expire", "key", "PITRUS_CONFIG"]
    {
        assert!(help.out.contains(word), "{word}");
    }
    let readme = include_str!("../../README.md");
    for code in 0..=5 {
        assert!(help.out.contains(&format!("\n  {code}  ")), "{code} in\n{}", help.out);
        assert!(readme.contains(&format!("\n| {code} |")), "exit code {code} in README.md");
    }
    assert!(!help.out.contains("wal-from-spool"));
    let restore = pitrus(&["restore", "run", "--help"]);
    for word in
        ["--time", "--latest", "--earliest", "--restore-point", "--as", "--into", "--targets", "--clock"]
    {
        assert!(restore.out.contains(word), "{word}");
    }
}

#[test]
fn usage_errors_are_2() {
    pitrus(&[]).fails(2, &["Usage"]);
    pitrus(&["restore", "plan"]).fails(2, &["--latest"]);
    pitrus(&["restore", "plan", "--time", "2026-11-21 08:30:00"]).fails(2, &["not a time with a zone"]);
    pitrus(&["restore", "run", "--latest", "--as", "New"]).fails(2, &["cannot name a cluster"]);
    pitrus(&["info", "--output", "xml"]).fails(2, &["json"]);
}

#[test]
fn a_configuration_error_names_file_line_and_field() {
    let folder = tempfile::tempdir().expect("a folder");
    pitrus(&["info", "--config", "/nonexistent/p.toml"])
        .fails(2, &["error: /nonexistent/p.toml: cannot be read", "because: No such file", "hint: "]);
    let config = protected(folder.path(), "write_qorum = 2");
    pitrus(&["info", "--config", &config]).fails(
        2,
        &["line 4: unknown field `write_qorum`; the nearest known one is `write_quorum`", "hint: "],
    );
}

#[test]
fn keys_are_made_once_and_kept_closed() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("key").display().to_string();
    assert_eq!(pitrus(&["key", "generate", "--file", &file]).code, 0);
    let mode = std::fs::metadata(&file).expect("it was written").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let before = std::fs::read(&file).expect("it was written");
    pitrus(&["key", "generate", "--file", &file]).fails(2, &["cannot be written", "nothing is overwritten"]);
    assert_eq!(std::fs::read(&file).expect("it is there"), before);
    let printed = pitrus(&["key", "generate"]);
    assert_eq!(printed.out.trim().len(), 64);
}

#[test]
fn a_vault_that_cannot_be_read_says_why() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let config = protected(folder.path(), "");
    let path = |name: &str| folder.path().join(name);
    pitrus(&["info", "--config", &config]).fails(2, &["is not marked as a zone", "hint: "]);
    let plan = ["restore", "plan", "--latest", "--config", &config];
    pitrus(&plan).fails(2, &["is not marked as a zone"]);
    std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(0o644)).expect("it is ours");
    pitrus(&["info", "--config", &config]).fails(2, &["others may read it", "chmod 600"]);
    std::fs::set_permissions(path("key"), std::fs::Permissions::from_mode(0o600)).expect("it is ours");
    std::fs::write(path("key"), "not a key\n").expect("it is ours");
    pitrus(&["info", "--config", &config]).fails(2, &["is not a key", "pitrus key generate"]);
    let (cluster, key) = ("test", path("none").display().to_string());
    let zone = path("a").display().to_string();
    pitrus(&["info", "--cluster", cluster, "--zone", &zone, "--key-file", &key])
        .fails(2, &["cannot be read"]);
    pitrus(&["info", "--cluster", cluster, "--zone", &zone]).fails(2, &["add --key-file"]);
    pitrus(&["agent", "--config", &config]).fails(2, &["`postgres` is missing"]);
}

/// The order of the README: a bare role, `init`, `check` prints the grants, they are run, `check` is content.
#[tokio::test(flavor = "multi_thread")]
async fn check_prints_the_grants_that_make_it_content() {
    if !world::can_run("check_prints_the_grants_that_make_it_content") {
        return;
    }
    let folder = Arc::new(Folder::new().expect("a folder"));
    let options = ServerOptions { durable: true, ..ServerOptions::named("one") };
    let server = Server::start_new(&folder, &options).expect("a server");
    server.run("postgres", "create role pitrus login").await.expect("a bare role");
    let path = |name: &str| folder.path().join(name).display().to_string();
    let config = path("pitrus.toml");
    let conninfo = server.conninfo("postgres").replace("user=postgres", "user=pitrus");
    let mut init = vec!["init", "--config", &config, "--cluster", "test", "--conninfo", &conninfo];
    let (zones, key, state) = (["a", "b", "c"].map(path), path("key"), path("state"));
    for zone in &zones {
        init.extend(["--zone", zone]);
    }
    init.extend(["--key-file", &key, "--state-dir", &state, "--generate-key"]);
    let made = pitrus(&init);
    assert_eq!(made.code, 0, "{}", made.err);
    pitrus(&init).fails(2, &["exists", "nothing is overwritten"]);

    let bare = pitrus(&["check", "--config", &config]);
    assert_eq!(bare.code, 2, "{}{}", bare.out, bare.err);
    let script: String = bare
        .out
        .lines()
        .map(str::trim)
        .filter(|line| line.starts_with("GRANT ") || line.starts_with("ALTER ROLE"))
        .collect();
    assert_eq!(script.matches(';').count(), 4, "{}", bare.out);
    server.run("postgres", &script).await.expect("the printed grants are right");
    let content = pitrus(&["check", "--config", &config, "--output", "json"]);
    assert_eq!(content.code, 0, "{}{}", content.out, content.err);
    let json: serde_json::Value = serde_json::from_str(&content.out).expect("JSON");
    assert_eq!(json["ok"], true);

    drop(server);
    let gone = pitrus(&["check", "--config", &config]);
    assert_eq!(gone.code, 3, "{}{}", gone.out, gone.err);
    assert!(gone.out.contains("NO ANSWER"), "{}", gone.out);
}
