//! Sealed objects: an object that was sealed once, changed; only what was sealed is ever opened. Pages with any header
//! come back as they were. And keys.

use std::sync::OnceLock;

use pitrus::seal::{self, EpochKey, Form, KeyRing, MasterKey, Sealer};

use super::orders::Orders;

const MASTER: &str = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
const KEY_NAME: &str = "frozen/keys/epoch";
const NAME: &str = "frozen/nodes/one/object";
const KEY: &[u8] = include_bytes!("../../fixtures/formats/v1/key");
const OBJECT: &[u8] = include_bytes!("../../fixtures/formats/v1/object");

struct Frozen {
    epoch: EpochKey,
    ring: KeyRing,
    plain: Vec<u8>,
}

fn frozen() -> &'static Frozen {
    static FROZEN: OnceLock<Frozen> = OnceLock::new();
    FROZEN.get_or_init(|| {
        let master = MasterKey::from_text(MASTER).expect("a key");
        let mut ring = KeyRing::new();
        let epoch = EpochKey::unwrap(&master, KEY_NAME, KEY).expect("a wrapped key");
        ring.insert(epoch.clone());
        let plain = seal::open(&ring, NAME, OBJECT).expect("it was sealed so");
        Frozen { epoch, ring, plain }
    })
}

pub fn sealed(input: &[u8]) {
    let mut orders = Orders(input);
    let Frozen { epoch, ring, plain } = frozen();
    match orders.u8() % 8 {
        0 | 4 => {
            let _ = seal::open(ring, NAME, orders.0);
            let _ = seal::last_chunk(orders.0);
        }
        1 | 5 => {
            let master = MasterKey::from_text(MASTER).expect("a key");
            let mut key = KEY.to_vec();
            change(&mut orders, &mut key);
            assert_eq!(EpochKey::unwrap(&master, KEY_NAME, &key).is_ok(), key == KEY);
            let _ = MasterKey::from_text(&String::from_utf8_lossy(orders.0));
        }
        7 => {
            let pages = pages(&mut orders);
            let mut sealer = Sealer::new(epoch, NAME, Form::Pages, 1);
            sealer.chunk(&pages, true).expect("a chunk");
            let object = sealer.finish().expect("an object");
            assert!(seal::open(ring, NAME, &object).expect("it was sealed so") == pages);
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

/// Pages of line pointers of a few lengths, with such headers as are asked for.
fn pages(orders: &mut Orders<'_>) -> Vec<u8> {
    let mut pages = Vec::new();
    while !orders.is_empty() && pages.len() < 4 * 8192 {
        let lengths = [u32::from(orders.u8()); 15].into_iter().chain([u32::from(orders.u16())]).cycle();
        let mut page: Vec<u8> = lengths.take(2048).flat_map(|length| (length << 17).to_le_bytes()).collect();
        for (at, or) in [(12, 24 + 4 * 16), (14, 4096), (16, 8192), (18, 8196)] {
            let field = if orders.u8().is_multiple_of(2) { or } else { orders.u16() };
            page.iter_mut().skip(at).zip(field.to_le_bytes()).for_each(|(byte, new)| *byte = new);
        }
        let kept = usize::from(orders.u8());
        let kept = orders.bytes(kept);
        page.iter_mut().rev().zip(kept).for_each(|(byte, new)| *byte = *new);
        pages.extend(page);
    }
    pages.extend_from_slice(orders.0);
    pages.truncate(seal::CHUNK_BYTES);
    pages
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
