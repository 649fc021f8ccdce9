//! Reads numbers and stretches of bytes from an input; at its end, zeros and nothing.

pub struct Orders<'a>(pub &'a [u8]);

impl<'a> Orders<'a> {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn array<const N: usize>(&mut self) -> [u8; N] {
        let mut array = [0; N];
        let have = self.bytes(N);
        array[..have.len()].copy_from_slice(have);
        array
    }

    pub fn u8(&mut self) -> u8 {
        self.array::<1>()[0]
    }

    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.array())
    }

    pub fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.array())
    }

    pub fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.array())
    }

    /// Takes up to `count` bytes.
    pub fn bytes(&mut self, count: usize) -> &'a [u8] {
        let (head, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        head
    }

    /// Picks one of a few.
    pub fn one_of<T: Copy>(&mut self, choice: &[T]) -> T {
        choice[usize::from(self.u8()) % choice.len()]
    }
}
