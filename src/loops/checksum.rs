//! The checksum of a data page: 32 FNV-1a sums side by side, mixed with the block number
//! (PostgreSQL `src/include/storage/checksum_impl.h`).

use super::PAGE_BYTES;

const SUMS: usize = 32;
const ROW_BYTES: usize = SUMS * 4;
const PRIME: u32 = 16_777_619;

const OFFSETS: [u32; SUMS] = [
    0x5B1F_36E9,
    0xB852_5960,
    0x02AB_50AA,
    0x1DE6_6D2A,
    0x79FF_467A,
    0x9BB9_F8A3,
    0x217E_7CD2,
    0x83E1_3D2C,
    0xF8D4_474F,
    0xE39E_B970,
    0x42C6_AE16,
    0x9932_16FA,
    0x7B09_3B5D,
    0x98DA_FF3C,
    0xF718_902A,
    0x0B1C_9CDB,
    0xE58F_764B,
    0x1876_36BC,
    0x5D7B_3BB1,
    0xE73D_E7DE,
    0x92BE_C979,
    0xCCA6_C0B2,
    0x304A_0979,
    0x85AA_43D4,
    0x7831_25BB,
    0x6CA8_EAA2,
    0xE407_EAC6,
    0x4B5C_FC3E,
    0x9FBF_8C76,
    0x15CA_20BE,
    0xF2CA_9FD3,
    0x959B_D756,
];

/// Returns the checksum that belongs in the header of block `number` (counted through all of a fork's
/// segment files). The stored checksum itself counts as zero.
pub fn checksum(number: u32, page: &[u8; PAGE_BYTES]) -> u16 {
    let mut sums = OFFSETS;
    let (rows, _) = page.as_chunks::<ROW_BYTES>();
    // A loop without a special case is one the compiler does many words at a time.
    if let Some((first, rest)) = rows.split_first() {
        let mut first = *first;
        first[8..10].fill(0); // pd_checksum
        add(&mut sums, &first);
        rest.iter().for_each(|row| add(&mut sums, row));
    }
    for _ in 0..2 {
        for sum in &mut sums {
            *sum = mix(*sum, 0);
        }
    }
    let folded = sums.iter().fold(0, |all, sum| all ^ sum) ^ number;
    (folded % 65535 + 1) as u16
}

#[inline(always)]
fn add(sums: &mut [u32; SUMS], row: &[u8; ROW_BYTES]) {
    let (words, _) = row.as_chunks::<4>();
    for (sum, word) in sums.iter_mut().zip(words) {
        *sum = mix(*sum, u32::from_le_bytes(*word));
    }
}

fn mix(sum: u32, value: u32) -> u32 {
    let mixed = sum ^ value;
    mixed.wrapping_mul(PRIME) ^ (mixed >> 17)
}
