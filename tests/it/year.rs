//! Planning against a year of WAL opens as many objects as against a month.

mod archive;

use std::time::Instant;

use pitrus::cut::Request;
use pitrus::moment::Moment;
use pitrus::restore::plan::{self, ClockSource, Follow, Plan, PlanOptions};
use pitrus::vault::Catalog;

use crate::world::say;
use archive::{AHEAD_MICROS, Archive, DAY, Shape};

const YEAR: u64 = 365;

fn options(request: Request) -> PlanOptions {
    let new_name = "copy".parse().unwrap();
    PlanOptions {
        follow: Follow::default(),
        request,
        new_name,
        clocks: Default::default(),
        pretended: Default::default(),
        explain: false,
    }
}

/// Moments and how they are asked for; all lie at the same distance from the archive's end or beginning.
fn requests(archive: &Archive) -> Vec<Request> {
    let ago = |micros: i64| archive.end().plus_micros(-micros);
    vec![
        Request::Time(ago(10 * DAY + DAY / 3)),
        Request::Time(ago(200_000_000)),
        Request::Time(archive.start().plus_micros(5 * DAY + 7_000_000)),
        Request::Latest,
        Request::Earliest,
    ]
}

/// Makes each plan; returns how many objects each opened, and in how many requests.
async fn opened(archive: &Archive) -> Vec<(usize, usize)> {
    let mut counts = Vec::new();
    for request in requests(archive) {
        archive.forget();
        let vault = archive.vault().await;
        let plan = plan::find(&vault, &options(request.clone())).await.unwrap();
        counts.push(archive.opened());
        if let Request::Time(time) = request {
            lands_before(&plan, time);
        }
    }
    counts
}

/// The last transaction inside is the last before the moment by the node's own clock, which is translated.
fn lands_before(plan: &Plan, time: Moment) {
    for (number, node) in plan.nodes.iter().enumerate() {
        let ahead = AHEAD_MICROS * number as i64;
        assert_eq!(node.clock_ahead_micros, ahead, "{plan}");
        assert_ne!(node.clock_source, ClockSource::NotMeasured);
        let (last, next) = (node.last_included.as_ref().unwrap(), node.first_excluded.as_ref().unwrap());
        assert!(last.time <= time.plus_micros(ahead) && next.time > time.plus_micros(ahead), "{plan}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_opens_as_much_of_a_year_as_of_a_month() {
    let month = opened(&Archive::new(Shape { nodes: 2, days: 30, segments_a_day: 144 }).await).await;
    let year = opened(&Archive::new(Shape { nodes: 2, days: YEAR, segments_a_day: 144 }).await).await;
    assert_eq!(month, year);
    let most = year.iter().map(|(objects, _)| *objects).max().unwrap();
    assert!(most < 60, "{most} objects for two nodes");
    say!("objects opened for two nodes, and requests: {year:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "measures; takes minutes where nothing is optimised"]
async fn what_a_million_segments_cost() {
    let shape = Shape { nodes: 1, days: YEAR, segments_a_day: 2740 };
    let archive = Archive::new(shape).await;
    let vault = archive.vault().await;
    let before = resident();
    let began = Instant::now();
    let catalog = Catalog::load(&vault).await.unwrap();
    say!("catalogue of {} segments: {:?}", YEAR * shape.segments_a_day, began.elapsed());
    say!("resident: {} KiB before, {} KiB with it", before, resident());
    drop(catalog);
    for request in requests(&archive) {
        let began = Instant::now();
        let said = request.to_string();
        plan::find(&vault, &options(request)).await.unwrap();
        say!("plan to {said}: {:?}", began.elapsed());
    }
}

/// Returns this process's memory in KiB.
fn resident() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
