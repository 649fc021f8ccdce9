//! A machine that starts again before a restored node is durable: what its server wrote unsynced is not believed.

use std::fs;
use std::sync::Arc;
use std::time::Duration;

use pitrus::restore::{self, Stage};

use super::{end_at, gone, options, prove, silent};
use crate::world::{Folder, Kind, Landing, NODES};

#[tokio::test(flavor = "multi_thread")]
async fn what_was_not_synced_before_the_machine_started_again_is_fetched_again() {
    if !Kind::Plain.can_run("what_was_not_synced_before_the_machine_started_again_is_fetched_again") {
        return;
    }
    let folder = Arc::new(Folder::new().unwrap());
    let gone = gone(&folder, Kind::Plain).await;
    let names: Vec<String> = NODES.map(str::to_owned).to_vec();
    let landing = Landing::choose(&folder, "new", &names).unwrap();
    let options = options(landing.targets.clone());
    let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    let ledger = |node: &str| landing.directory.join(node).join("pitrus.restoring.json");

    for stage in [Stage::Landed, Stage::Settled] {
        assert!(end_at(stage, &options, &gone).await.is_none(), "{stage:?} is not the end");
        let mut unsynced = 0;
        for node in NODES {
            let directory = landing.directory.join(node);
            // Its server was told to stop.
            while directory.join("postmaster.pid").exists() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            let noted = fs::read_to_string(ledger(node)).unwrap();
            if !noted.contains("unsynced_in") {
                continue;
            }
            unsynced += 1;
            assert!(noted.contains(boot.trim()), "{noted}");
            fs::write(ledger(node), noted.replace(boot.trim(), "another-boot")).unwrap();
            // More than a crash would lose.
            fs::remove_dir_all(directory.join("base")).unwrap();
        }
        assert!(unsynced > 0);
    }
    let report =
        restore::run(&options, gone.copies.clone(), gone.plan.clone(), Arc::new(silent)).await.unwrap();
    for node in NODES {
        let noted = fs::read_to_string(ledger(node)).unwrap();
        assert!(!noted.contains("unsynced_in"), "all is durable: {noted}");
    }
    prove(Kind::Plain, &folder, &gone, &landing, &report).await;
}
