//! The variable-length integers of `opaque frame<V>` (RFC 9000 section 16, restricted by RFC 9420 section 2.1.2: minimal,
//! at most 2^30-1).

use bytes::{BufMut, Bytes, BytesMut};

/// Largest length that has an encoding.
pub(super) const MAX_LENGTH: usize = (1 << 30) - 1;

/// The encoding of a length, none above [`MAX_LENGTH`].
pub(super) fn encode_length(length: usize) -> Option<Bytes> {
    let mut out = BytesMut::with_capacity(4);
    match length {
        0..=0x3f => out.put_u8(length as u8),
        0x40..=0x3fff => out.put_u16(length as u16 | 0x4000),
        0x4000..=MAX_LENGTH => out.put_u32(length as u32 | 0x8000_0000),
        _ => return None,
    }
    Some(out.freeze())
}

/// A length at the start of a buffer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// The length, and how many bytes its encoding took.
    Known(usize, usize),
    /// So many bytes are needed to know it.
    Needs(usize),
    /// Not minimal, or of the eight-byte form.
    Invalid,
}

/// Reads the length that `buffer` begins with.
pub(super) fn decode_length(buffer: &[u8]) -> Length {
    let Some(&first) = buffer.first() else {
        return Length::Needs(1);
    };
    let size = 1usize << (first >> 6);
    if size == 8 {
        return Length::Invalid;
    }
    let Some(encoded) = buffer.get(..size) else {
        return Length::Needs(size);
    };
    let value = encoded[1..].iter().fold(usize::from(first & 0x3f), |value, &byte| value << 8 | usize::from(byte));
    let minimal = match size {
        1 => true,
        2 => value > 0x3f,
        _ => value > 0x3fff,
    };
    if minimal { Length::Known(value, size) } else { Length::Invalid }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_decode_to_what_was_encoded() {
        for (length, size) in [(0, 1), (63, 1), (64, 2), (16383, 2), (16384, 4), (MAX_LENGTH, 4)] {
            let bytes = encode_length(length).unwrap();
            assert_eq!(bytes.len(), size);
            assert_eq!(decode_length(&bytes), Length::Known(length, size));
            for cut in 0..size {
                let needs = if cut == 0 { 1 } else { size };
                assert_eq!(decode_length(&bytes[..cut]), Length::Needs(needs));
            }
        }
        assert_eq!(encode_length(MAX_LENGTH + 1), None);
    }

    #[test]
    fn lengths_that_are_not_minimal_are_refused() {
        for bytes in [&[0x40, 0x3f][..], &[0x80, 0, 0x3f, 0xff], &[0xc0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(decode_length(bytes), Length::Invalid);
        }
    }
}
