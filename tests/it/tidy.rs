//! Is the code itself in form? Floors, sizes, headers, names.

#![allow(clippy::unwrap_used)] // helpers of tests

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The floors of `src/lib.rs`; a module names only lower ones, and on the first also its neighbours.
const FLOORS: [&[&str]; 9] = [
    &["lsn", "timeline", "ids", "moment", "class", "clock", "retry", "flow", "folio", "loops"],
    &["wal", "pgfile", "citus", "seal", "manifest"],
    &["cut", "skew", "retention"],
    &["zones", "node", "waldir"],
    &["vault"],
    &["backup", "archive", "restore", "repair", "expire"],
    &["config"],
    &["agent"],
    &["cli"],
];
/// Floors whose modules may name each other.
const NEIGHBOURLY: [usize; 2] = [0, 1];
const LINES_MAX: usize = 500;
const LINES_MAX_WITH_TESTS: usize = 700;
const BANNED_NAMES: [&str; 9] =
    ["util", "utils", "common", "helper", "helpers", "manager", "misc", "types", "stuff"];

struct Source {
    path: PathBuf,
    text: String,
    /// Without comments, literals and test modules; lines stay where they are.
    code: String,
    is_test: bool,
}

impl Source {
    /// Returns the names of modules from the crate's root: `cut/search.rs` → `["cut", "search"]`.
    fn modules(&self) -> Vec<String> {
        let inner = self.path.strip_prefix("src").unwrap_or(&self.path).with_extension("");
        let names = inner.iter().map(|s| s.to_string_lossy().into_owned());
        names.filter(|name| name != "mod" && name != "lib" && name != "main").collect()
    }
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    for folder in ["src", "tests"] {
        collect(root, &root.join(folder), &mut found);
    }
    assert!(found.len() > 20, "the sources were not found");
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

fn collect(root: &Path, folder: &Path, found: &mut Vec<Source>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            let path = path.strip_prefix(root).expect("found under the root").to_owned();
            let is_test =
                path.starts_with("tests") || path.iter().any(|part| part == "tests" || part == "tests.rs");
            let code = without_tests(&plain(&text));
            found.push(Source { path, text, code, is_test });
        }
    }
}

/// Blanks comments, strings and characters, keeping every line where it is.
fn plain(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let at = |i: usize| chars.get(i).copied().unwrap_or('\0');
    let mut out = String::with_capacity(text.len());
    let mut i = 0;
    while i < chars.len() {
        let end = match at(i) {
            '/' if at(i + 1) == '/' => line_comment(&chars, i),
            '/' if at(i + 1) == '*' => block_comment(&chars, i),
            '"' => quoted(&chars, i, '"'),
            'r' => raw_string(&chars, i).unwrap_or(i),
            // A character, not a lifetime.
            '\'' if at(i + 1) == '\\' || at(i + 2) == '\'' => quoted(&chars, i, '\''),
            _ => i,
        };
        if end == i {
            out.push(at(i));
            i += 1;
            continue;
        }
        let end = end.min(chars.len());
        out.extend(chars[i..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
        i = end;
    }
    out
}

fn line_comment(chars: &[char], start: usize) -> usize {
    start + chars[start..].iter().take_while(|c| **c != '\n').count()
}

fn block_comment(chars: &[char], start: usize) -> usize {
    let (mut depth, mut i) = (0, start);
    while i < chars.len() {
        match (chars[i], chars.get(i + 1)) {
            ('/', Some('*')) => (depth, i) = (depth + 1, i + 2),
            ('*', Some('/')) => (depth, i) = (depth - 1, i + 2),
            _ => i += 1,
        }
        if depth == 0 {
            break;
        }
    }
    i
}

fn quoted(chars: &[char], start: usize, quote: char) -> usize {
    let mut i = start + 1;
    while i < chars.len() && chars[i] != quote {
        i += if chars[i] == '\\' { 2 } else { 1 };
    }
    i + 1
}

fn raw_string(chars: &[char], start: usize) -> Option<usize> {
    if start > 0 && (chars[start - 1].is_alphanumeric() || chars[start - 1] == '_') && chars[start - 1] != 'b'
    {
        return None;
    }
    let hashes = chars[start + 1..].iter().take_while(|c| **c == '#').count();
    if chars.get(start + 1 + hashes) != Some(&'"') {
        return None;
    }
    let close: Vec<char> = std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
    let from = start + 2 + hashes;
    let at = chars[from..].windows(close.len()).position(|w| w == close.as_slice())?;
    Some(from + at + close.len())
}

/// Blanks what stands under `#[cfg(test)]`.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let rest = &out[start..];
        let mut depth = 0;
        let mut end = rest.len();
        for (i, c) in rest.char_indices() {
            match c {
                '{' => depth += 1,
                '}' => depth -= 1,
                _ => {}
            }
            if depth == 0 && (c == '}' || c == ';') {
                end = i + 1;
                break;
            }
        }
        let blank: String = rest[..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..start + end, &blank);
    }
    out
}

/// Returns the top-level modules that code of a module at `depth` names, with their lines.
fn named(code: &str, depth: usize) -> Vec<(String, usize)> {
    let mut found = Vec::new();
    let up = "super::".repeat(depth);
    for prefix in ["crate::", up.as_str()] {
        if prefix.is_empty() {
            continue;
        }
        for (at, _) in code.match_indices(prefix) {
            let before = &code[..at];
            let joined =
                before.ends_with("::") || before.ends_with(|c: char| c.is_alphanumeric() || c == '_');
            if joined {
                continue;
            }
            let line = before.matches('\n').count() + 1;
            let rest = &code[at + prefix.len()..];
            found.extend(heads(rest).into_iter().map(|name| (name, line)));
        }
    }
    found
}

/// Returns the first words of a path: `a::b` → a; `{a::b, c}` → a, c; `*` → *.
fn heads(rest: &str) -> Vec<String> {
    let Some(group) = rest.strip_prefix('{') else {
        let word: String = rest.chars().take_while(|c| c.is_alphanumeric() || "_*".contains(*c)).collect();
        return vec![word];
    };
    let (mut depth, mut parts) = (0, vec![String::new()]);
    for c in group.chars() {
        match c {
            '}' if depth == 0 => break,
            '{' => depth += 1,
            '}' => depth -= 1,
            ',' if depth == 0 => parts.push(String::new()),
            _ => {
                if let (0, Some(part)) = (depth, parts.last_mut()) {
                    part.push(c);
                }
            }
        }
    }
    parts.iter().map(|p| p.trim()).filter(|p| !p.is_empty()).flat_map(heads).collect()
}

fn floor_of(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

/// Returns what is wrong with the names that one file uses.
fn floor_faults(source: &Source) -> Vec<String> {
    let modules = source.modules();
    let Some(own) = modules.first() else { return Vec::new() };
    let Some(floor) = floor_of(own) else { return vec![format!("{}: on no floor", source.path.display())] };
    let mut faults = Vec::new();
    for (name, line) in named(&source.code, modules.len()) {
        let place = format!("{}:{line}", source.path.display());
        match floor_of(&name) {
            _ if name == "*" => faults.push(format!("{place}: names everything")),
            Some(_) if name == *own => {}
            Some(other) if other > floor => {
                faults.push(format!("{place}: floor {floor} names `{name}` on floor {other}"));
            }
            Some(other) if other == floor && !NEIGHBOURLY.contains(&floor) => {
                faults.push(format!("{place}: names its neighbour `{name}`"));
            }
            _ => {}
        }
    }
    faults
}

#[test]
fn modules_name_only_lower_floors() {
    let faults: Vec<String> =
        sources().iter().filter(|s| s.path.starts_with("src") && !s.is_test).flat_map(floor_faults).collect();
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

#[test]
fn every_module_of_the_crate_is_on_a_floor() {
    let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("src/lib.rs")).unwrap();
    let declared: Vec<&str> = text
        .lines()
        .filter_map(|l| {
            l.strip_prefix("pub mod ").or(l.strip_prefix("pub use pitrus_loops as "))?.strip_suffix(';')
        })
        .collect();
    let listed: Vec<&str> = FLOORS.iter().flat_map(|f| f.iter().copied()).collect();
    for module in &declared {
        assert!(listed.contains(module), "src/lib.rs: `{module}` is on no floor");
    }
    for module in listed {
        assert!(declared.contains(&module), "`{module}` is gone from src/lib.rs");
    }
}

#[test]
fn files_are_short() {
    let mut faults = Vec::new();
    for source in sources() {
        let lines = source.text.lines().count();
        let most = if source.is_test { LINES_MAX_WITH_TESTS } else { LINES_MAX };
        let outside = source.code.lines().take_while(|l| !l.contains("mod tests")).collect::<Vec<_>>();
        let own = outside.iter().rposition(|l| !l.trim().is_empty()).map_or(0, |i| i + 1);
        if own > most || lines > LINES_MAX_WITH_TESTS {
            faults.push(format!("{}: {own} lines ({lines} with tests)", source.path.display()));
        }
    }
    assert!(faults.is_empty(), "longer than {LINES_MAX} ({LINES_MAX_WITH_TESTS}):\n{}", faults.join("\n"));
}

#[test]
fn every_file_says_what_it_is_for() {
    let silent: Vec<String> = sources()
        .iter()
        .filter(|s| !s.text.starts_with("//! "))
        .map(|s| s.path.display().to_string())
        .collect();
    assert!(silent.is_empty(), "without a `//!` header: {}", silent.join(", "));
}

#[test]
fn names_mean_something() {
    for source in sources() {
        for part in source.path.with_extension("").iter() {
            let part = part.to_string_lossy();
            assert!(!BANNED_NAMES.contains(&part.as_ref()), "{}: says nothing", source.path.display());
        }
    }
}

#[test]
fn nothing_is_left_for_later() {
    // Written in two halves, so that this file does not find itself.
    let marks = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X"), concat!("HA", "CK")];
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let words = line.split(|c: char| !c.is_alphanumeric());
            let found = words.clone().any(|w| marks.contains(&w)) || line.contains(concat!("todo", "!("));
            assert!(!found, "{}:{}: left for later", source.path.display(), number + 1);
        }
    }
}

#[test]
fn the_rule_itself_finds_faults() {
    let file = |path: &str, text: &str| Source {
        path: PathBuf::from(path),
        text: text.to_owned(),
        code: without_tests(&plain(text)),
        is_test: false,
    };
    let cases = BTreeMap::from([
        ("use crate::restore::Plan;", "src/seal/mod.rs:1: floor 1 names `restore` on floor 5"),
        ("fn f() -> crate::vault::Vault {}", "src/seal/mod.rs:1: floor 1 names `vault` on floor 4"),
        ("\nuse crate::{lsn::Lsn, cut::{a, b}};", "src/seal/mod.rs:2: floor 1 names `cut` on floor 2"),
        ("use crate::*;", "src/seal/mod.rs:1: names everything"),
        ("use super::agent;", "src/seal/mod.rs:1: floor 1 names `agent` on floor 7"),
    ]);
    for (text, fault) in cases {
        assert_eq!(floor_faults(&file("src/seal/mod.rs", text)), [fault]);
    }
    let neighbour = file("src/backup/copy.rs", "use super::super::archive;\nuse crate::expire::run;");
    assert_eq!(floor_faults(&neighbour).len(), 2);
    for fine in [
        "use crate::wal::event::Event;",
        "use super::Error; use crate::lsn::Lsn;",
        "// use crate::vault::X;\nlet a = \"crate::vault\"; let b = r#\"crate::vault\"#;",
        "#[cfg(test)]\nmod tests { use crate::vault::X; }",
        "let quote = '\"'; use crate::lsn::Lsn; let other = '\"';",
    ] {
        assert!(floor_faults(&file("src/seal/open.rs", fine)).is_empty(), "{fine}");
    }
}
