//! Three zones, each of which may fail, hang, be slow or lose its replies: what is acknowledged is on a
//! quorum, and no zone slows the others.

mod faulty;

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use object_store::ObjectStore;
use pitrus::class::{Class, Classified};
use pitrus::zones::{Error, Fault, Judge, Verdict, ZoneOptions, ZoneSet};

use faulty::{Faulty, Mode};

struct Place {
    stores: Vec<Arc<Faulty>>,
    set: ZoneSet,
}

fn place() -> Place {
    let stores: Vec<Arc<Faulty>> = (0..3).map(|_| Arc::new(Faulty::default())).collect();
    Place { set: set(&stores, 2), stores }
}

fn set(stores: &[Arc<Faulty>], quorum: usize) -> ZoneSet {
    let named = ["a", "b", "c"].iter().zip(stores);
    let stores = named.map(|(name, store)| (name.parse().unwrap(), store.clone() as Arc<dyn ObjectStore>));
    ZoneSet::of_stores(stores.collect(), quorum).unwrap()
}

impl Place {
    fn modes(&self, modes: [Mode; 3]) {
        self.stores.iter().zip(modes).for_each(|(store, mode)| store.set(mode));
    }

    /// How many zones hold these bytes.
    fn held(&self, name: &str, bytes: &[u8]) -> usize {
        self.stores.iter().filter(|store| store.held(name).is_some_and(|held| held == bytes)).count()
    }

    async fn settle(&self) {
        assert!(self.set.settle(Duration::from_secs(30)).await);
    }
}

/// Every way in which `down` zones of three can be chosen.
fn outages(down: usize, how: Mode) -> Vec<[Mode; 3]> {
    let all = (0..8_u8).filter(|mask| mask.count_ones() as usize == down);
    all.map(|mask| [0, 1, 2].map(|zone| if mask & (1 << zone) != 0 { how } else { Mode::Up })).collect()
}

#[tokio::test]
async fn every_outage_of_one_two_and_three() {
    for down in 0..=3 {
        for modes in outages(down, Mode::Down) {
            let place = place();
            place.set.put("old/x", Bytes::from("old")).await.unwrap();
            place.settle().await;
            place.modes(modes);
            let put = place.set.put("new/y", Bytes::from("new")).await;
            let got = place.set.get("old/x").await;
            let listed = place.set.list("old").await;
            place.settle().await;
            assert_eq!(place.held("new/y", b"new"), 3 - down);
            match down {
                0 | 1 => {
                    assert!(!put.unwrap().already);
                    assert!(place.set.exists("old/x").await.unwrap());
                    assert!(!place.set.exists("none").await.unwrap());
                    assert!(matches!(place.set.get("none").await, Err(Error::NotFound { .. })));
                }
                _ => {
                    let error = put.unwrap_err();
                    assert!(matches!(&error, Error::TooFew { held, wanted: 2, failures, .. }
                        if *held == 3 - down && failures.len() == down));
                    assert_eq!(error.class(), Class::Transient);
                    // One zone alone cannot say that nothing was ever there.
                    assert!(place.set.exists("none").await.is_err());
                }
            }
            if down == 3 {
                assert!(matches!(got, Err(Error::Unreadable { failures, .. }) if failures.len() == 3));
                assert!(matches!(listed, Err(Error::Unlisted { failures, .. }) if failures.len() == 3));
            } else {
                assert_eq!(got.unwrap(), "old");
                let listed = listed.unwrap();
                assert_eq!((listed.objects.len(), listed.silent.len()), (1, down));
                assert_eq!(listed.objects[0].zones.count(), 3 - down);
                assert_eq!(listed.complete, down < 2);
            }
            // Back again: the same write succeeds, and counts what is there.
            place.modes([Mode::Up; 3]);
            place.set.put("new/y", Bytes::from("new")).await.unwrap();
            place.settle().await;
            assert!(place.held("new/y", b"new") >= 2);
        }
    }
}

#[tokio::test]
async fn a_hanging_zone_slows_nobody_and_holds_no_more_than_its_share() {
    let place = place();
    place.modes([Mode::Up, Mode::Hang, Mode::Up]);
    let begun = Instant::now();
    for number in 0..1000 {
        place.set.put(&format!("x/{number}"), Bytes::from(vec![7; 1000])).await.unwrap();
    }
    assert!(begun.elapsed() < Duration::from_secs(8), "{:?}", begun.elapsed());
    let under_way = place.stores[1].under_way();
    assert!((1..=64).contains(&under_way), "{under_way}");
    assert!(place.set.status()[1].missed >= 900);
    // The zone answers again: it is tried again, and takes new objects.
    place.modes([Mode::Up; 3]);
    let begun = Instant::now();
    while place.set.status()[1].failing_since.is_some() || place.held("y", b"y") < 3 {
        assert!(begun.elapsed() < Duration::from_secs(20));
        place.set.put("y", Bytes::from("y")).await.unwrap();
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn a_slow_zone_does_not_slow_reads_or_writes_for_long() {
    let place = place();
    place.set.put("x", Bytes::from("x")).await.unwrap();
    place.settle().await;
    place.modes([Mode::Slow(Duration::from_secs(5)), Mode::Up, Mode::Up]);
    let begun = Instant::now();
    for _ in 0..5 {
        assert_eq!(place.set.get("x").await.unwrap(), "x");
    }
    place.set.put("y", Bytes::from("y")).await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_lost_reply_is_told_from_a_clash() {
    for modes in (0..=3).flat_map(|lost| outages(lost, Mode::LostReply)) {
        let place = place();
        place.modes(modes);
        place.set.put("x", Bytes::from("mine")).await.unwrap();
        place.settle().await;
        assert_eq!(place.held("x", b"mine"), 3, "{modes:?}");
    }
    let place = place();
    place.set.put("x", Bytes::from("mine")).await.unwrap();
    place.settle().await;
    assert!(place.set.put("x", Bytes::from("mine")).await.unwrap().already);
    let clash = place.set.put("x", Bytes::from("other")).await.unwrap_err();
    assert!(matches!(&clash, Error::Clash { .. }) && clash.class() == Class::Operator);
}

#[tokio::test]
async fn a_refused_write_leaves_nothing_behind() {
    let place = place();
    place.modes([Mode::Up, Mode::Down, Mode::Up]);
    place.set.put("x", Bytes::from("first")).await.unwrap();
    place.settle().await;
    place.modes([Mode::Slow(Duration::from_millis(50)), Mode::Up, Mode::Slow(Duration::from_millis(50))]);
    assert!(matches!(place.set.put("x", Bytes::from("second")).await, Err(Error::Clash { .. })));
    place.settle().await;
    assert_eq!((place.held("x", b"first"), place.held("x", b"second")), (2, 0));
}

#[tokio::test]
async fn a_write_behind_its_quorum_does_not_bring_back_what_was_deleted() {
    for slow in outages(1, Mode::Slow(Duration::from_millis(200))) {
        let place = place();
        place.modes(slow);
        place.set.put("x", Bytes::from("x")).await.unwrap();
        assert_eq!(place.held("x", b"x"), 2);
        assert!(place.set.delete("x").await.unwrap().is_empty());
        place.settle().await;
        assert_eq!(place.held("x", b"x"), 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_writers_with_different_bytes_at_most_one_wins_and_the_others_leave_nothing() {
    for _ in 0..200 {
        let place = place();
        let writers = (0..8).map(|n| {
            let set = place.set.clone();
            tokio::spawn(async move { set.put("x", Bytes::from(format!("{n}"))).await.is_ok() })
        });
        let won = futures::future::join_all(writers).await.into_iter().map(Result::unwrap);
        let won: Vec<usize> = won.enumerate().filter(|(_, won)| *won).map(|(n, _)| n).collect();
        assert!(won.len() <= 1);
        place.settle().await;
        let left = (0..8).filter(|n| place.held("x", format!("{n}").as_bytes()) > 0);
        assert!(left.into_iter().all(|n| won.contains(&n)));
    }
}

#[tokio::test]
async fn the_caller_judges_what_is_already_there() {
    let place = place();
    for zone in 0..2 {
        set(&place.stores[zone..=zone], 1).put("x", Bytes::from("sealed before")).await.unwrap();
    }
    let judge = |verdict: Verdict| -> Judge { Arc::new(move |_, _| verdict.clone()) };
    let bytes = || Bytes::from("sealed now");
    assert!(place.set.put_judged("x", bytes(), judge(Verdict::Other)).await.is_err());
    place.settle().await;
    let damaged = judge(Verdict::Damaged("bad".into()));
    let error = place.set.put_judged("x", bytes(), damaged).await.unwrap_err();
    assert!(matches!(error, Error::TooFew { held: 1, failures, .. }
        if failures.iter().all(|f| matches!(f.fault, Fault::Damaged(_)))));
    place.set.put_judged("x", bytes(), judge(Verdict::Same)).await.unwrap();
}

#[tokio::test]
async fn settings_are_checked() {
    let zone = |url: &str, options: &[(&str, &str)]| ZoneOptions {
        name: "a".parse().unwrap(),
        url: url.to_owned(),
        options: options.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
    };
    let open = |zone: ZoneOptions, quorum| ZoneSet::open(vec![zone], quorum);
    assert!(matches!(open(zone("/srv/x", &[]), 2), Err(Error::Quorum { .. })));
    assert!(matches!(open(zone("/srv/x", &[]), 0), Err(Error::Quorum { .. })));
    assert!(open(zone("file:///srv/x", &[]), 1).is_ok());
    for bad in ["srv/x", "ftp://x/y", ""] {
        assert!(matches!(open(zone(bad, &[]), 1), Err(Error::Url { .. })), "{bad}");
    }
    let region = ("region", "eu-central-1");
    assert!(open(zone("s3://bucket/some/prefix", &[region]), 1).is_ok());
    let unknown = open(zone("s3://bucket", &[("regoin", "x")]), 1).unwrap_err();
    assert!(matches!(&unknown, Error::Option { option, .. } if option == "regoin"));
    assert_eq!(unknown.class(), Class::Operator);
    let secret = zone("s3://bucket", &[("secret_access_key", "hunter2")]);
    assert!(!format!("{secret:?}{:?}", open(secret.clone(), 1)).contains("hunter2"));
}
