//! Little-endian reads that never go past the end: PostgreSQL's structures as they lie in the WAL.

/// Reads forward through bytes; every read says by `None` when there is not enough.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bytes<'a>(pub(crate) &'a [u8]);

impl<'a> Bytes<'a> {
    #[inline]
    pub(crate) fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, tail) = self.0.split_at_checked(len)?;
        self.0 = tail;
        Some(head)
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, tail) = self.0.split_first_chunk::<N>()?;
        self.0 = tail;
        Some(*head)
    }

    #[inline]
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[b]| b)
    }

    #[inline]
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn i32(&mut self) -> Option<i32> {
        self.array().map(i32::from_le_bytes)
    }

    #[inline]
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    #[inline]
    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.array().map(i64::from_le_bytes)
    }

    /// Skips `count` items of `size` bytes; `None` for a negative count or too few bytes.
    pub(crate) fn skip_items(&mut self, count: i32, size: usize) -> Option<()> {
        let len = usize::try_from(count).ok()?.checked_mul(size)?;
        self.take(len).map(drop)
    }
}

/// Reads one value at an offset.
pub(crate) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Bytes(bytes.get(at..)?).u16()
}

pub(crate) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Bytes(bytes.get(at..)?).u32()
}

pub(crate) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Bytes(bytes.get(at..)?).u64()
}

/// Text that ends at the first NUL, or at the end.
pub(crate) fn c_string(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&b| b == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(bytes.get(..end).unwrap_or_default()).into_owned()
}
