//! The spool against a supply of three segments.

use std::os::unix::fs::MetadataExt;

use futures::StreamExt;

use super::*;

struct Three;

impl Supply for Three {
    async fn file(&self, wanted: Wanted) -> Result<Option<Pieces>, Error> {
        let piece = |at: u64, n: u64| Ok((at, Bytes::from(vec![n as u8; 64])));
        match wanted {
            Wanted::Segment(s) if s.number < 3 => {
                Ok(Some(futures::stream::iter([piece(0, s.number), piece(128, 7)]).boxed()))
            }
            Wanted::History(TimelineId(1)) => {
                Ok(Some(futures::stream::iter([Ok((0, Bytes::from_static(b"one")))]).boxed()))
            }
            Wanted::Segment(Segment { number: 9, .. }) => Err(Error::Lost("a test")),
            _ => Ok(None),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gives_what_is_there_and_never_mistakes_a_fault_for_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().to_owned();
    let pg_wal = private.join("pg_wal");
    std::fs::create_dir(&pg_wal).unwrap();
    let user = OsUser::find("postgres").unwrap();
    let options = SpoolOptions {
        pg_wal: pg_wal.clone(),
        private: private.clone(),
        user,
        segment_bytes: 1 << 24,
        ahead: 2,
        at_once: 2,
    };
    let spool = Spool::open(options, Three).unwrap();
    let get = |name: &'static str| {
        let private = private.clone();
        async move { tokio::task::spawn_blocking(move || deliver(&private, name)).await.unwrap() }
    };
    // Again, as recovery asks at its end.
    for _ in 0..2 {
        assert_eq!(get("000000010000000000000001").await, LOOK);
        let given = std::fs::read(pg_wal.join("000000010000000000000001")).unwrap();
        assert_eq!(given[..192], [[1; 64], [0; 64], [7; 64]].concat());
        assert!(given.len() == 1 << 24 && given[192..].iter().all(|byte| *byte == 0));
    }
    let owner = |path: &str| std::fs::metadata(pg_wal.join(path)).unwrap().uid();
    assert_eq!(owner(STATUS), owner("000000010000000000000001"));
    assert_eq!(get("00000001.history").await, LOOK);
    assert_eq!(std::fs::read(pg_wal.join("00000001.history")).unwrap(), b"one");
    for absent in ["000000010000000000000003", "00000002.history", "../../etc/passwd"] {
        assert_eq!(get(absent).await, LOOK);
        assert!(!pg_wal.join(absent).exists());
    }
    assert!(spool.fault().await.is_none());
    assert_eq!(get("000000010000000000000009").await, BROKEN);
    assert!(spool.fault().await.is_some());
    drop(spool);
    let mut code = get("000000010000000000000001").await;
    for _ in 0..100 {
        // Ending is asynchronous.
        if code == BROKEN {
            break;
        }
        code = get("000000010000000000000001").await;
    }
    assert_eq!(code, BROKEN);
}

/// What the shell does of it: nothing of ours runs where the file is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_shell_finds_what_was_laid_and_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let private = folder.path().join("it's 100%");
    let pg_wal = folder.path().join("pg_wal");
    std::fs::create_dir_all(&private).unwrap();
    std::fs::create_dir(&pg_wal).unwrap();
    let options = SpoolOptions {
        pg_wal: pg_wal.clone(),
        private: private.clone(),
        user: OsUser::find("postgres").unwrap(),
        segment_bytes: 1 << 24,
        ahead: 1,
        at_once: 1,
    };
    let spool = Spool::open(options, Three).unwrap();
    let command = restore_command(Path::new("/bin/true"), &private);
    let run = |name: &str| {
        let command = command.replace("%f", name).replace("%%", "%");
        let shell = std::process::Command::new("sh").args(["-c", &command]).current_dir(&folder).output();
        shell.unwrap()
    };
    // It is not there, nor an old file under its name ours: the program is called.
    std::fs::write(pg_wal.join("000000010000000000000001"), "old").unwrap();
    let output = run("000000010000000000000001");
    assert_eq!((output.status.code(), spool.asked()), (Some(0), 0));
    let asked = private.clone();
    let code = tokio::task::spawn_blocking(move || deliver(&asked, "000000010000000000000001")).await;
    assert_eq!((code.unwrap(), spool.asked()), (LOOK, 1));
    let output = run("000000010000000000000001");
    assert!(output.stderr.is_empty(), "{output:?}");
    assert_eq!(output.status.code(), Some(LOOK.into()));
    for _ in 0..10_000 {
        if spool.asked() == 2 {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(1)).await;
    }
    assert_eq!(spool.asked(), 2);
}

#[test]
fn the_command_survives_strange_paths() {
    let command = restore_command(Path::new("/a b/it's"), Path::new("/tmp/100%"));
    let found = "[ -e pg_wal/%f ] && [ -e pg_wal/archive_status/%f.done ] && echo %f 1<>'/tmp/100%%/found' && exit 1; ";
    assert_eq!(command, format!(r#"{found}exec '/a b/it'\''s' restore wal-from-spool '/tmp/100%%' %f"#));
}
