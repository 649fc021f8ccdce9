//! The test world itself: its servers start, answer, stop and recover.

use std::sync::Arc;

use crate::world::{self, Folder, Server, ServerOptions, Stop};

#[tokio::test(flavor = "multi_thread")]
async fn a_server_survives_an_immediate_stop() {
    if !world::can_run("a_server_survives_an_immediate_stop") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let mut server = Server::start_new(&folder, &ServerOptions::named("one").set("work_mem", "5MB")).unwrap();
    server.run("postgres", "create table t as select generate_series(1, 1000) as n").await.unwrap();
    server.stop(Stop::Immediate).unwrap();
    server.start().unwrap();
    let count = server.value("postgres", "select count(*) from t").await.unwrap();
    assert_eq!(count.as_deref(), Some("1000"));
    assert!(server.log_text().contains("connection received"), "the connection log is on");
    let path = folder.path().to_owned();
    drop((server, folder));
    assert!(!path.exists(), "nothing is left");
}
