//! The cut of arbitrary histories, also such as no cluster writes: no panic, and what is found is consistent,
//! within its bounds, and where one looks again from there, found again.

use pitrus::cut::{Known, NodeHistory};
use pitrus::ids::GroupId;
use pitrus::lsn::Lsn;
use pitrus::manifest::wal_index::Times;
use pitrus::moment::Moment;
use pitrus::wal::event::{Decided, Event, Prepared, What};

use super::orders::Orders;

const EVENTS_MAX: usize = 200;

pub fn cut(input: &[u8]) {
    let mut orders = Orders(input);
    let count = 1 + usize::from(orders.u8() % 5);
    let starts: Vec<Lsn> = (0..count).map(|_| position(orders.u8())).collect();
    let nodes = histories(&mut orders, count);
    let Ok(known) = Known::new(&nodes) else { return };
    let _ = known.torn(&starts);
    if let Ok(cut) = known.greatest(&starts) {
        assert!(cut.stop.iter().zip(&starts).all(|(stop, start)| stop <= start), "it went on");
        assert_eq!(known.torn(&cut.stop).expect("a cut of these"), []);
        assert_eq!(known.greatest(&cut.stop).expect("a cut of these").stop, cut.stop);
        let _ = format!("{cut:?}");
    }
    if let Ok(cut) = known.first(&starts) {
        assert!(cut.stop.iter().zip(&starts).all(|(stop, start)| stop >= start), "it went back");
        assert_eq!(known.torn(&cut.stop).expect("a cut of these"), []);
        assert_eq!(known.first(&cut.stop).expect("a cut of these").stop, cut.stop);
    }
}

fn position(number: u8) -> Lsn {
    if number == 255 { Lsn::MAX } else { Lsn(100 * (u64::from(number) + 1)) }
}

fn histories(orders: &mut Orders<'_>, count: usize) -> Vec<NodeHistory> {
    let mut nodes: Vec<NodeHistory> = (0..count)
        .map(|at| NodeHistory {
            node: format!("n{at}").parse().expect("a name"),
            group: (orders.u8() > 10).then_some(GroupId(at as i32)),
            earliest: Lsn(1),
            end: Lsn(1),
            events: Vec::new(),
            prepared_at_start: Vec::new(),
            times: None,
        })
        .collect();
    for _ in 0..EVENTS_MAX {
        if orders.is_empty() {
            break;
        }
        let place = orders.u8();
        let Some(node) = nodes.get_mut(usize::from(place) % count) else { break };
        let time = Moment(i64::from(orders.u8()) * if place > 200 { 10_000_000_000 } else { 1_000 });
        let xid = u32::from(orders.u8() % 8);
        let lsn = position(node.events.len() as u8 % 255).plus(25_600 * (node.events.len() as u64 / 255));
        let what = match orders.u8() % 8 {
            0..=2 => What::Prepare { xid, database: 5, gid: gid(orders), time },
            3 => What::CommitPrepared { xid, time, gid: (place > 128).then(|| gid(orders)) },
            4 => What::RollbackPrepared { xid, time, gid: (place > 128).then(|| gid(orders)) },
            5 | 6 => {
                let row = |_| Decided { group: GroupId(i32::from(orders.u8() % 6)), gid: gid(orders) };
                What::Commit { xid, time, decides: (0..1 + xid % 3).map(row).collect() }
            }
            _ if node.events.is_empty() => {
                let gid = gid(orders);
                node.prepared_at_start.push(Prepared { lsn: Lsn::INVALID, xid, database: 5, gid, time });
                node.times = Some(Times { min: time, max: time });
                continue;
            }
            _ => What::RestorePoint { name: "here".to_owned(), time },
        };
        node.events.push(Event { lsn, end: lsn.plus(80), what });
        node.end = lsn.plus(80);
    }
    nodes
}

fn gid(orders: &mut Orders<'_>) -> String {
    let byte = orders.u8();
    match byte {
        0..=19 => format!("own-{}", byte % 4),
        20..=39 => format!("citus_77_50_{}_0", byte % 3),
        _ => format!("citus_{}_{}_{}_{}", byte % 5, 50 + byte / 128, byte / 8 % 3, byte / 32 % 3),
    }
}
