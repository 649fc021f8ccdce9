//! `pitrus key`: makes master keys.

use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use zeroize::Zeroizing;

use super::failure::Failure;
use crate::seal::MasterKey;

/// Prints a new key, or writes it to a file that did not exist.
pub(super) fn generate(file: Option<&Path>) -> Result<(), Failure> {
    let text = new_key();
    match file {
        Some(path) => {
            write_new(path, text.as_bytes())?;
            println!("wrote a new master key to {}", path.display());
            println!("Copy it to a safe place now: without it no backup can be read.");
        }
        None => print!("{}", text.as_str()),
    }
    Ok(())
}

fn new_key() -> Zeroizing<String> {
    Zeroizing::new(format!("{}\n", MasterKey::generate().to_text().as_str()))
}

/// Writes a file readable by its owner alone. What exists is left as it is, and refused.
pub(super) fn write_new(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: std::io::Error| {
        let hint = match error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                "nothing is overwritten: name another file, or move this one away"
            }
            std::io::ErrorKind::NotFound => "make its folder first",
            _ => "check the permissions of its folder",
        };
        Failure::file(format!("{}: cannot be written", path.display()), error, hint)
    };
    let mut file =
        std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path).map_err(failed)?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(failed)?;
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}
