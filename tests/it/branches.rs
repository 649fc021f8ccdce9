//! Plans of the recorded cluster where one node was promoted: which of its WAL counts. A real promotion is in
//! [`crate::promoted`].

use pitrus::class::{Class, Classified};
use pitrus::cut;
use pitrus::lsn::Lsn;
use pitrus::restore::plan::{self, Error, Follow, Plan, PlanOptions, Request};
use pitrus::timeline::TimelineId;
use pitrus::vault::{Catalog, ObjectName};

use crate::plan::{Stored, stops};

const WORKER: usize = 1;

/// Plans along these timelines: of the worker, and of all.
async fn follow(
    stored: &Stored,
    request: Request,
    of_worker: Option<u32>,
    all: Option<u32>,
) -> Result<Plan, Error> {
    let of = of_worker.map(|number| (stored.name(WORKER), TimelineId(number))).into_iter().collect();
    let options = PlanOptions {
        request,
        follow: Follow { all: all.map(TimelineId), of },
        new_name: "copy".parse().unwrap(),
        clocks: Default::default(),
        pretended: Default::default(),
        explain: false,
    };
    plan::make(&stored.vault, &Catalog::load(&stored.vault).await.unwrap(), &options).await
}

async fn leave(stored: &Stored, timeline: u32, parent: u32, at: Lsn) {
    let name = ObjectName::History { node: stored.name(WORKER), timeline: TimelineId(timeline) };
    stored.put(&name, format!("{parent}\t{at}\tno recovery target specified\n")).await;
}

#[tokio::test]
async fn a_timeline_that_has_begun_ends_the_one_before() {
    let stored = Stored::whole().await;
    let (whole, time) = (follow(&stored, Request::Latest, None, None).await.unwrap(), stored.middle(1, 2));
    let middle = follow(&stored, Request::Time(time), None, None).await.unwrap();
    let times = stored.times(WORKER);
    let left = times[times.len() * 3 / 4].0;
    leave(&stored, 2, 1, left).await;

    // Nothing of it is archived yet; what its server wrote on the old one after it left is not its.
    let plan = follow(&stored, Request::Latest, None, None).await.unwrap();
    let mut histories = stored.histories();
    histories[WORKER].end = left;
    histories[WORKER].events.retain(|event| event.lsn < left);
    let cut = cut::greatest_consistent(&histories, &[Lsn::MAX; 3]).unwrap();
    assert_eq!(stops(&plan), cut.stop, "{plan}");
    assert_eq!(plan.nodes[WORKER].wal_end, left);
    assert!(!plan.left_out.is_empty() && plan.nodes[WORKER].stop_before.is_none_or(|stop| stop <= left));

    // A moment before the promotion is what it was; so is all, along the old timeline.
    let before = follow(&stored, Request::Time(time), None, None).await.unwrap();
    assert_eq!(stops(&before), stops(&middle));
    let old = follow(&stored, Request::Latest, Some(1), None).await.unwrap();
    assert_eq!(stops(&old), stops(&whole));
    assert_eq!(old.nodes[WORKER].timeline, TimelineId(1));
    assert!(old.notes[0].contains("worker1 follows timeline 1, as asked"), "{old}");
    assert_eq!(stops(&follow(&stored, Request::Latest, None, Some(1)).await.unwrap()), stops(&whole));
    for (of_worker, all) in [(Some(3), None), (None, Some(2))] {
        let refused = follow(&stored, Request::Latest, of_worker, all).await.unwrap_err();
        assert_eq!(refused.class(), Class::Operator, "{refused}");
    }
}

/// A promoted server was promoted again, from a place before the first promotion's.
#[tokio::test]
async fn a_branch_of_a_branch_is_followed_from_where_it_left() {
    let stored = Stored::whole().await;
    let times = stored.times(WORKER);
    let (first, second) = (times[times.len() / 2].0, times[times.len() / 3].0);
    leave(&stored, 2, 1, first).await;
    leave(&stored, 3, 1, second).await;
    let newest = follow(&stored, Request::Latest, None, None).await.unwrap();
    assert_eq!(newest.nodes[WORKER].wal_end, second);
    let older = follow(&stored, Request::Latest, Some(2), None).await.unwrap();
    assert_eq!(older.nodes[WORKER].wal_end, first);
}
