//! Octets as decisions: whoever reads on after the end gets zeros, so that every input means something.

/// A cursor over octets.
pub struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    /// Reads from the start.
    pub const fn new(octets: &'a [u8]) -> Self {
        Self(octets)
    }

    /// Whether there is nothing left.
    pub const fn is_over(&self) -> bool {
        self.0.is_empty()
    }

    /// The next octet.
    pub fn octet(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        *first
    }

    /// A number below `end`, which is at most 256.
    pub fn below(&mut self, end: usize) -> usize {
        usize::from(self.octet()) % end.max(1)
    }

    /// So many octets, or as many as are left.
    pub fn octets(&mut self, most: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(most.min(self.0.len()));
        self.0 = rest;
        taken
    }
}
