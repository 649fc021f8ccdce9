//! Sealed objects: an object that was sealed once, changed; only what was sealed is ever opened. And keys.

use std::sync::OnceLock;

use pitrus::seal::{self, EpochKey, KeyRing, MasterKey};

use super::orders::Orders;

const MASTER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const KEY_NAME: &str = "frozen/keys/epoch";
const NAME: &str = "frozen/nodes/one/object";
const KEY: &[u8] = include_bytes!("../../fixtures/formats/v1/key");
const OBJECT: &[u8] = include_bytes!("../../fixtures/formats/v1/object");

struct Frozen {
    ring: KeyRing,
    plain: Vec<u8>,
}

fn frozen() -> &'static Frozen {
    static FROZEN: OnceLock<Frozen> = OnceLock::new();
    FROZEN.get_or_init(|| {
        let master = MasterKey::from_text(MASTER).expect("a key");
        let mut ring = KeyRing::new();
        ring.insert(EpochKey::unwrap(&master, KEY_NAME, KEY).expect("a wrapped key"));
        let plain = seal::open(&ring, NAME, OBJECT).expect("it was sealed so");
        Frozen { ring, plain }
    })
}

pub fn sealed(input: &[u8]) {
    let mut orders = Orders(input);
    let Frozen { ring, plain } = frozen();
    match orders.u8() % 4 {
        0 => {
            let _ = seal::open(ring, NAME, orders.0);
            let _ = seal::last_chunk(orders.0);
        }
        1 => {
            let master = MasterKey::from_text(MASTER).expect("a key");
            let mut key = KEY.to_vec();
            change(&mut orders, &mut key);
            assert_eq!(EpochKey::unwrap(&master, KEY_NAME, &key).is_ok(), key == KEY);
            let _ = MasterKey::from_text(&String::from_utf8_lossy(orders.0));
        }
        _ => {
            let mut object = OBJECT.to_vec();
            change(&mut orders, &mut object);
            let _ = seal::last_chunk(&object);
            match seal::open(ring, NAME, &object) {
                Ok(opened) => assert!(object == OBJECT && opened == *plain),
                Err(_) => assert!(object != OBJECT),
            }
        }
    }
}

/// Changes, cuts, moves, adds.
fn change(orders: &mut Orders<'_>, bytes: &mut Vec<u8>) {
    for _ in 0..16 {
        if orders.is_empty() {
            return;
        }
        let (what, at) = (orders.u8(), usize::from(orders.u16()) % (bytes.len() + 1));
        match what % 5 {
            0 => bytes.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= what),
            1 => bytes.truncate(at),
            2 => bytes.extend_from_slice(orders.bytes(usize::from(what))),
            3 => {
                let new = orders.bytes(usize::from(what));
                bytes.iter_mut().skip(at).zip(new).for_each(|(byte, new)| *byte = *new);
            }
            _ => {
                let by = at % bytes.len().max(1);
                bytes.rotate_left(by);
            }
        }
    }
}
