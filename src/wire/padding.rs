//! Padding to size classes, so that a ciphertext's length says little: Padmé (Nikitin et al., PETS 2019, section 4),
//! which leaks O(log log n) bits and costs at most 12 %, with a floor (`wire-spec/encoding.md`, "Padding").

use super::{Decode, DecodeError, Encode, Opaque, Reader, encode_varint};

/// Floor of messages: queue entries, application messages, profiles.
pub const MESSAGE_FLOOR: usize = 256;

/// Floor of connection offers and of their refusals, which the AS carries and must not tell apart.
pub const OFFER_FLOOR: usize = 4096;

/// Floor of push tokens, which all look alike.
pub const PUSH_TOKEN_FLOOR: usize = 1024;

/// Floor of group state at rest.
pub const STATE_FLOOR: usize = 4096;

/// The size class of `length` bytes.
pub const fn size_class(length: usize, floor: usize) -> usize {
    if length <= floor {
        return floor;
    }
    // Keep only as many significant bits as the exponent's own length.
    let exponent = length.ilog2();
    let significant = exponent.ilog2() + 1;
    let mask = (1 << (exponent - significant)) - 1;
    (length + mask) & !mask
}

/// `opaque content<V>` followed by zeros up to the size class.
pub fn pad(content: &[u8], floor: usize) -> Vec<u8> {
    let mut padded = Vec::with_capacity(size_class(content.len() + 4, floor));
    encode_varint(content.len(), &mut padded);
    padded.extend_from_slice(content);
    padded.resize(size_class(padded.len(), floor), 0);
    padded
}

/// The padded encoding of a value.
pub fn pad_value(value: &impl Encode, floor: usize) -> Vec<u8> {
    pad(&value.to_vec(), floor)
}

/// What [`pad`] was given.
///
/// # Errors
/// [`DecodeError`] unless `padded` is exactly what [`pad`] makes of its content.
pub fn unpad(padded: bytes::Bytes, floor: usize) -> Result<bytes::Bytes, DecodeError> {
    let total = padded.len();
    let mut reader = Reader::new(padded);
    let content = Opaque::decode(&mut reader)?;
    let zeros = reader.take(reader.remaining())?;
    // All of them: that is quicker than to look at each whether it is the last.
    let set = zeros.iter().fold(0, |set, byte| set | byte);
    if total != size_class(content.encoded_len(), floor) || set != 0 {
        return Err(DecodeError::Value("padding"));
    }
    Ok(content.0)
}

/// Decodes a padded value.
///
/// # Errors
/// [`DecodeError`] unless `padded` is exactly what [`pad_value`] makes of a value.
pub fn unpad_value<T: Decode>(padded: bytes::Bytes, floor: usize) -> Result<T, DecodeError> {
    T::from_bytes(unpad(padded, floor)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_classes_are_few_and_cost_at_most_an_eighth() {
        let mut classes = std::collections::BTreeSet::new();
        for length in 0..100_000 {
            let class = size_class(length, MESSAGE_FLOOR);
            assert!(
                class >= length && (length <= MESSAGE_FLOOR || class <= length + length / 8),
                "{length} -> {class}"
            );
            assert_eq!(size_class(class, MESSAGE_FLOOR), class);
            classes.insert(class);
        }
        assert!(classes.len() < 160, "{} classes", classes.len());
    }

    #[test]
    fn what_was_padded_is_found_again_and_nothing_else_is_accepted() {
        for length in [0, 1, 63, 64, 255, 256, 5_000, 20_000] {
            let content = vec![7; length];
            let padded = pad(&content, MESSAGE_FLOOR);
            assert_eq!(unpad(padded.clone().into(), MESSAGE_FLOOR).unwrap(), content);
            let mut longer = padded.clone();
            longer.push(0);
            assert!(unpad(longer.into(), MESSAGE_FLOOR).is_err());
            if length == 0 {
                let mut marked = padded;
                marked[200] = 1;
                assert!(unpad(marked.into(), MESSAGE_FLOOR).is_err());
            }
        }
    }
}
