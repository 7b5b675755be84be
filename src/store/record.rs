//! Records: a version byte, then the fields in postcard. They are formats of the disk, not of the wire. Who changes a
//! record raises its version and still decodes the older ones, telling them apart with [`version`].

use serde::{Serialize, de::DeserializeOwned};

/// Why a record cannot be written or read. Says nothing about its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RecordError {
    /// The record was written by another version of the program.
    #[error("a record has version {found}, expected {expected}")]
    Version {
        /// What the record says.
        found: u8,
        /// What the reader knows.
        expected: u8,
    },
    /// The record is empty, cut off, too long or otherwise not what its version says.
    #[error("a record is damaged")]
    Damaged,
    /// The value has no encoding.
    #[error("a value cannot be encoded as a record")]
    Unencodable,
}

/// Encodes a record of this version.
pub fn encode(version: u8, value: &impl Serialize) -> Result<Vec<u8>, RecordError> {
    postcard::to_extend(value, vec![version]).map_err(|_| RecordError::Unencodable)
}

/// Decodes a record that must have this version, to its last byte.
pub fn decode<T: DeserializeOwned>(expected: u8, record: &[u8]) -> Result<T, RecordError> {
    let (&found, body) = record.split_first().ok_or(RecordError::Damaged)?;
    if found != expected {
        return Err(RecordError::Version { found, expected });
    }
    match postcard::take_from_bytes(body) {
        Ok((value, [])) => Ok(value),
        _ => Err(RecordError::Damaged),
    }
}

/// The version of a record, for choosing how to decode it.
pub fn version(record: &[u8]) -> Result<u8, RecordError> {
    record.first().copied().ok_or(RecordError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_round_trip_under_their_version_only() {
        let value = (7u32, "text".to_owned(), vec![1u8, 2]);
        let record = encode(3, &value).unwrap();
        assert_eq!(version(&record), Ok(3));
        assert_eq!(decode(3, &record), Ok(value.clone()));
        assert_eq!(decode::<(u32, String, Vec<u8>)>(4, &record), Err(RecordError::Version { found: 3, expected: 4 }));
    }

    #[test]
    fn cut_and_overlong_records_are_refused() {
        let record = encode(1, &(1u8, vec![9u8; 4])).unwrap();
        for length in 0..record.len() {
            assert_eq!(decode::<(u8, Vec<u8>)>(1, &record[..length]), Err(RecordError::Damaged), "{length}");
        }
        let longer = [&record[..], &[0]].concat();
        assert_eq!(decode::<(u8, Vec<u8>)>(1, &longer), Err(RecordError::Damaged));
    }
}
