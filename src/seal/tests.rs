//! What is sealed opens again, and nothing else does.

#![allow(clippy::unwrap_used, clippy::indexing_slicing)]

use super::*;

fn ring() -> (KeyRing, EpochKey) {
    let key = EpochKey::generate();
    let mut ring = KeyRing::new();
    ring.insert(key.clone());
    (ring, key)
}

fn plain(len: usize) -> Vec<u8> {
    (0..len).map(|i| (i * i / 7 + i / 300) as u8).collect()
}

#[test]
fn what_is_sealed_opens() {
    let (ring, key) = ring();
    for len in [0, 1, 100, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES] {
        let plain = plain(len);
        let object = Sealer::whole(&key, "a/b", 1, &plain).unwrap();
        assert_eq!(open(&ring, "a/b", &object).unwrap(), plain, "{len}");
        assert!(matches!(open(&ring, "a/c", &object), Err(Error::Damaged { .. })));
    }
}

#[test]
fn contents_are_compared_however_they_were_cut_into_chunks() {
    let (ring, key) = ring();
    let sealed = |cuts: &[usize], plain: &[u8]| {
        let mut sealer = Sealer::new(&key, "a", Form::Bytes, 1);
        let mut rest = plain;
        for cut in cuts {
            let (chunk, behind) = rest.split_at(*cut);
            sealer.chunk(chunk, false).unwrap();
            rest = behind;
        }
        sealer.chunk(rest, true).unwrap();
        sealer.finish().unwrap()
    };
    let plain = plain(1000);
    let mut other = plain.clone();
    other[999] ^= 1;
    let one = sealed(&[10, 0, 300], &plain);
    let same = |theirs: &[u8], ours: &[u8]| same_contents(&ring, "a", theirs, ours);
    for cuts in [&[][..], &[1000], &[310, 1], &[0, 0, 999]] {
        assert!(same(&one, &sealed(cuts, &plain)).unwrap() && same(&sealed(cuts, &plain), &one).unwrap());
        for other in [&other[..], &plain[..999], &[]] {
            let cuts = if other.len() == 1000 { cuts } else { &[] };
            let other = sealed(cuts, other);
            assert!(!same(&one, &other).unwrap() && !same(&other, &one).unwrap());
            let mut damaged = other.to_vec();
            let at = damaged.len() - 10;
            damaged[at] ^= 1;
            assert!(same(&damaged, &one).is_err(), "damage is seen also behind a difference");
        }
    }
}

/// Pages of an index whose keys grow by one.
fn index_pages(pages: u32) -> Vec<u8> {
    let page = |block: u32| {
        let mut page = vec![0; 8192];
        let (tuples, special) = (366_u32, 8176_u32);
        let fields = [24 + 4 * tuples, special - 16 * tuples, special, 8192 | 4];
        for (at, value) in fields.iter().enumerate() {
            page[12 + 2 * at..][..2].copy_from_slice(&(*value as u16).to_le_bytes());
        }
        for n in 0..tuples {
            let at = special - 16 * (n + 1);
            page[24 + 4 * n as usize..][..4].copy_from_slice(&(16 << 17 | 1 << 15 | at).to_le_bytes());
            let key = block * tuples + n;
            let tuple =
                [(key / 61).rotate_left(16), (key % 61) | (16 << 16), key, 0].map(u32::to_le_bytes).concat();
            page[at as usize..][..16].copy_from_slice(&tuple);
        }
        page
    };
    (0..pages).flat_map(page).collect()
}

#[test]
fn pages_are_stored_by_column_and_open_as_they_were() {
    let (ring, key) = ring();
    // The whole pages of a chunk, and what lies behind them.
    let plain = [&index_pages(100)[..], &[5; 77]].concat();
    let sealed = |form| {
        let mut sealer = Sealer::new(&key, "n", form, 1);
        sealer.chunk(&plain, false).unwrap();
        sealer.finish().unwrap()
    };
    let [bytes, pages] = [Form::Bytes, Form::Pages].map(sealed);
    assert!(open(&ring, "n", &bytes).unwrap() == plain && open(&ring, "n", &pages).unwrap() == plain);
    assert!(same_contents(&ring, "n", &bytes, &pages).unwrap());
    assert!(pages.len() < bytes.len() / 3, "{} of {}", pages.len(), bytes.len());
}

#[test]
fn chunks_open_alone_and_were_sealed_by_several() {
    let (ring, epoch) = ring();
    let key = ObjectKey::new(&epoch, "pack", Form::Pages, 3);
    let seats: Vec<Seat> = (0..4).map(|_| key.seat().unwrap()).collect();
    let sealed: Vec<(u32, Vec<u8>)> = std::thread::scope(|scope| {
        let seal = |seat: Seat| {
            let (index, mut out) = (seat.index(), Vec::new());
            seat.seal(false, &plain(1000 * (index as usize + 1)), &mut out).unwrap();
            (index, out)
        };
        let workers: Vec<_> = seats.into_iter().map(|seat| scope.spawn(move || seal(seat))).collect();
        workers.into_iter().map(|w| w.join().unwrap()).collect()
    });
    let mut assembly = Assembly::new(key);
    assert!(assembly.append(1, false, &sealed[1].1).is_err(), "out of order");
    let places: Vec<ChunkPlace> =
        sealed.iter().map(|(index, bytes)| assembly.append(*index, false, bytes).unwrap()).collect();
    let object = assembly.finish().unwrap();
    let opener = Opener::new(&ring, "pack", &object[..HEADER_BYTES]).unwrap();
    let mut out = Vec::new();
    for place in places {
        let bytes = &object[place.at as usize..place.at as usize + place.sealed as usize];
        opener.chunk(place.index, false, bytes, &mut out).unwrap();
        assert_eq!(out, plain(1000 * (place.index as usize + 1)));
        assert!(opener.chunk(place.index + 1, false, bytes, &mut out).is_err());
        assert!(opener.chunk(place.index, true, bytes, &mut out).is_err());
    }
    assert_eq!(open(&ring, "pack", &object).unwrap().len(), 10_000);
    let (index, last) = last_chunk(&object[object.len() - 100..]).unwrap();
    opener.chunk(index, true, last, &mut out).unwrap();
    assert!(out.is_empty());
}

#[test]
fn every_flipped_bit_is_found() {
    flipped_bits(Form::Bytes);
    flipped_bits(Form::Pages);
}

fn flipped_bits(form: Form) {
    let (ring, key) = ring();
    let mut sealer = Sealer::new(&key, "n", form, 1);
    sealer.chunk(b"first", false).unwrap();
    sealer.chunk(b"second", true).unwrap();
    let good = sealer.finish().unwrap().to_vec();
    assert_eq!(open(&ring, "n", &good).unwrap(), b"firstsecond");
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.clone();
            bad[at] ^= 1 << bit;
            assert!(open(&ring, "n", &bad).is_err(), "byte {at} bit {bit}");
        }
    }
    for len in 0..good.len() {
        assert!(open(&ring, "n", &good[..len]).is_err(), "cut to {len}");
    }
    for more in [vec![0], vec![0; 8], good[good.len() - 8..].to_vec(), good.clone()] {
        assert!(open(&ring, "n", &[good.clone(), more].concat()).is_err());
    }
}

#[test]
fn chunks_cannot_be_left_out_moved_or_doubled() {
    let (ring, key) = ring();
    let mut sealer = Sealer::new(&key, "n", Form::Bytes, 1);
    let places: Vec<ChunkPlace> = (0..4).map(|i| sealer.chunk(&[i; 50], i == 3).unwrap()).collect();
    assert!(sealer.chunk(b"more", false).is_err());
    let object = sealer.finish().unwrap();
    let piece = |i: usize| {
        let place = places[i];
        &object[place.at as usize..place.at as usize + place.sealed as usize]
    };
    for order in [&[0, 1, 2][..], &[1, 2, 3], &[0, 2, 1, 3], &[0, 1, 1, 2, 3], &[0, 1, 2, 3, 3], &[3]] {
        let chunks: Vec<u8> = order.iter().flat_map(|i| piece(*i).to_vec()).collect();
        let trailer = [(order.len() as u32).to_le_bytes(), places[3].sealed.to_le_bytes()].concat();
        let forged = [&object[..HEADER_BYTES], &chunks, &trailer].concat();
        assert!(open(&ring, "n", &forged).is_err(), "{order:?}");
    }
}

#[test]
fn keys_are_read_shown_and_told_apart() {
    let hex = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
    let base64 = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let key = MasterKey::from_text(&format!(" {hex}\n")).unwrap();
    assert_eq!(key.id(), MasterKey::from_text(base64).unwrap().id());
    assert_eq!(key.id(), MasterKey::from_text(base64.trim_end_matches('=')).unwrap().id());
    assert_eq!(key.to_text().as_str(), hex);
    assert_eq!(format!("{key:?}"), format!("MasterKey({})", key.id()));
    for bad in ["", "00", &hex[1..], &format!("{hex}0"), &hex.replace('0', "g"), &base64[1..], "é"] {
        assert!(matches!(MasterKey::from_text(bad), Err(Error::NotAKey)), "{bad}");
    }

    let epoch = EpochKey::generate();
    let object = epoch.wrap(&key, "c/keys/1");
    assert_eq!(EpochKey::unwrap(&key, "c/keys/1", &object).unwrap().id(), epoch.id());
    assert!(matches!(EpochKey::unwrap(&key, "d/keys/1", &object), Err(Error::Damaged { .. })));
    let other = MasterKey::generate();
    let refused = EpochKey::unwrap(&other, "c/keys/1", &object).unwrap_err();
    assert!(
        matches!(refused, Error::OtherMaster { wanted, given, .. } if wanted == key.id() && given == other.id())
    );
    for at in 0..object.len() {
        let mut bad = object.clone();
        bad[at] ^= 1;
        assert!(EpochKey::unwrap(&key, "c/keys/1", &bad).is_err(), "{at}");
    }
    assert!(EpochKey::unwrap(&key, "c/keys/1", &object[..object.len() - 1]).is_err());

    let (ring, _) = ring();
    let foreign = Sealer::whole(&epoch, "n", 1, b"x").unwrap();
    assert!(
        matches!(open(&ring, "n", &foreign), Err(Error::UnknownEpoch { epoch: id, .. }) if id == epoch.id())
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), head in 0_usize..130) {
        let (ring, key) = ring();
        let good = Sealer::whole(&key, "n", 1, b"plain").unwrap();
        let mixed = [&good[..head.min(good.len())], &bytes].concat();
        let _ = open(&ring, "n", &mixed);
        let _ = last_chunk(&bytes);
        let _ = EpochKey::unwrap(&MasterKey::generate(), "n", &mixed);
    }
}
