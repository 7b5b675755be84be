//! Keys whose byte order is the order of what they are built from: fixed-width identifiers and big-endian numbers, one
//! after the other. [`Key`] builds, [`KeyReader`] takes apart again, [`KeyRange`] is what scans go over.

use std::{
    borrow::Borrow,
    fmt,
    ops::{Range, RangeFrom},
};

/// The key of a row. Printed by length only, because keys hold pseudonyms.
///
/// Parts must have a fixed width for keys to sort by their parts; a part of variable length may only come last.
#[derive(Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Vec<u8>);

/// Room for an id, a hash and a number without growing.
const TYPICAL: usize = 56;

impl Key {
    /// The empty key, before all others.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Appends bytes as they are.
    #[must_use]
    pub fn bytes(mut self, bytes: impl AsRef<[u8]>) -> Self {
        if self.0.capacity() == 0 {
            self.0.reserve(TYPICAL);
        }
        self.0.extend_from_slice(bytes.as_ref());
        self
    }

    /// Appends a number of eight bytes.
    #[must_use]
    pub fn u64(self, number: u64) -> Self {
        self.bytes(number.to_be_bytes())
    }

    /// Appends a number of four bytes.
    #[must_use]
    pub fn u32(self, number: u32) -> Self {
        self.bytes(number.to_be_bytes())
    }

    /// Appends a number of one byte.
    #[must_use]
    pub fn u8(self, number: u8) -> Self {
        self.bytes([number])
    }

    /// The key as stored.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// Takes the key apart from the front.
    pub fn reader(&self) -> KeyReader<'_> {
        KeyReader(&self.0)
    }

    /// The smallest key that is greater: where a scan goes on after this one.
    #[must_use]
    pub fn successor(&self) -> Self {
        let mut bytes = Vec::with_capacity(self.0.len() + 1);
        bytes.extend_from_slice(&self.0);
        bytes.push(0);
        Self(bytes)
    }

    /// All keys that begin with this one.
    pub fn prefix(self) -> KeyRange {
        let mut end = self.0.clone();
        while end.last() == Some(&u8::MAX) {
            end.pop();
        }
        let to = end.last_mut().map(|last| *last += 1).map(|()| Self(end));
        KeyRange { from: self, to }
    }
}

impl From<&[u8]> for Key {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

impl From<Box<[u8]>> for Key {
    fn from(bytes: Box<[u8]>) -> Self {
        Self(bytes.into_vec())
    }
}

impl AsRef<[u8]> for Key {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Borrow<[u8]> for Key {
    fn borrow(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({} bytes)", self.0.len())
    }
}

/// A stored key that is not built as its reader expects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored key has an unexpected length")]
pub struct KeyError;

/// What is left of a key that is being taken apart.
#[derive(Clone)]
pub struct KeyReader<'a>(&'a [u8]);

impl<'a> KeyReader<'a> {
    /// Takes `N` bytes.
    pub fn array<const N: usize>(&mut self) -> Result<[u8; N], KeyError> {
        let (head, rest) = self.0.split_first_chunk().ok_or(KeyError)?;
        self.0 = rest;
        Ok(*head)
    }

    /// Takes a number of eight bytes.
    pub fn u64(&mut self) -> Result<u64, KeyError> {
        self.array().map(u64::from_be_bytes)
    }

    /// Takes a number of four bytes.
    pub fn u32(&mut self) -> Result<u32, KeyError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Takes a number of one byte.
    pub fn u8(&mut self) -> Result<u8, KeyError> {
        self.array().map(u8::from_be_bytes)
    }

    /// Takes all that is left.
    pub fn rest(self) -> &'a [u8] {
        self.0
    }

    /// Says that nothing is left.
    pub fn end(self) -> Result<(), KeyError> {
        if self.0.is_empty() { Ok(()) } else { Err(KeyError) }
    }
}

/// Keys from `from` up to, but not including, `to`, or to the end of the table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRange {
    /// The first key.
    pub from: Key,
    /// The key after the last.
    pub to: Option<Key>,
}

impl KeyRange {
    /// Whether no key lies in the range.
    pub fn is_empty(&self) -> bool {
        self.to.as_ref().is_some_and(|to| *to <= self.from)
    }

    /// Whether `key` lies in the range.
    pub fn contains(&self, key: &[u8]) -> bool {
        self.from.as_bytes() <= key && self.to.as_ref().is_none_or(|to| key < to.as_bytes())
    }
}

impl From<Range<Key>> for KeyRange {
    fn from(range: Range<Key>) -> Self {
        Self { from: range.start, to: Some(range.end) }
    }
}

impl From<RangeFrom<Key>> for KeyRange {
    fn from(range: RangeFrom<Key>) -> Self {
        Self { from: range.start, to: None }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_sort_as_their_parts_do() {
        let key = |id: u8, n: u64, m: u32| Key::new().bytes([id; 16]).u64(n).u32(m);
        let sorted = [key(1, 0, 9), key(1, 255, 0), key(1, 256, 0), key(1, 256, 1), key(1, u64::MAX, 0), key(2, 0, 0)];
        assert!(sorted.is_sorted());
        assert!(key(1, 2, 3) < key(1, 2, 3).successor() && key(1, 2, 3).successor() < key(1, 2, 4));
    }

    #[test]
    fn a_key_is_taken_apart_as_it_was_built() {
        let key = Key::new().bytes([7; 16]).u64(8).u32(9).u8(10);
        let mut parts = key.reader();
        assert_eq!(parts.array(), Ok([7; 16]));
        assert_eq!((parts.u64(), parts.u32()), (Ok(8), Ok(9)));
        assert_eq!(parts.clone().end(), Err(KeyError));
        assert_eq!(parts.clone().u32(), Err(KeyError));
        assert_eq!(parts.u8(), Ok(10));
        assert_eq!(parts.end(), Ok(()));
    }

    #[test]
    fn a_prefix_covers_exactly_the_keys_that_begin_with_it() {
        let range = Key::new().bytes([1, 255]).prefix();
        assert!(range.contains(&[1, 255]) && range.contains(&[1, 255, 255, 255]));
        assert!(!range.contains(&[1, 254, 255]) && !range.contains(&[2]));
        assert_eq!(Key::new().bytes([255, 255]).prefix().to, None);
        assert_eq!(Key::new().prefix().to, None);
    }

    #[test]
    fn keys_are_not_printed() {
        assert_eq!(format!("{:?}", Key::new().bytes([0xab; 3])), "Key(3 bytes)");
    }
}
