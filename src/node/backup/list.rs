//! The list of one backup: lines of text, for people too, and at the end the SHA-256 of what comes before.

use std::{fmt::Write as _, io::Read as _, path::Path};

use time::OffsetDateTime;

use super::{NodeError, open, wrong};
use crate::{
    base::{Domain, Timestamp, hex},
    crypto::sha256,
    wire::queue::Incarnation,
};

const FIRST: &str = "bennu backup list 1";

/// Longest list in bytes. A terabyte of database is a few ten thousand files.
const MAX_SIZE: u64 = 64 << 20;

/// Longest name of a file.
const MAX_FILE_NAME: usize = 64;

/// A file of a database, as it was.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// What it is called in the data directory.
    pub name: String,
    /// How many bytes it has.
    pub size: u64,
    /// SHA-256 of them.
    pub hash: [u8; 32],
}

/// A backup.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    /// What it is called: the second in which it was begun, in UTC.
    pub name: String,
    /// Whose database.
    pub domain: Domain,
    /// In which life of it.
    pub incarnation: Incarnation,
    /// Its files, in the order of their names.
    pub files: Vec<Entry>,
}

/// What a backup of this moment is called: `20261127T101500Z`.
pub fn name_of(now: Timestamp) -> String {
    let time = i64::try_from(now.seconds()).ok().and_then(|now| OffsetDateTime::from_unix_timestamp(now).ok());
    let time = time.unwrap_or(OffsetDateTime::UNIX_EPOCH);
    let (year, month, day) = (time.year(), u8::from(time.month()), time.day());
    let (hour, minute, second) = time.to_hms();
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Whether a file may be a list.
pub fn is_name(name: &str) -> bool {
    name.len() == 16
        && name.bytes().enumerate().all(|(at, byte)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        })
}

/// Whether a file of a database may be called so: nothing that leads elsewhere.
fn is_file_name(name: &str) -> bool {
    let usual = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= MAX_FILE_NAME && name.bytes().all(usual) && !name.starts_with('.')
}

impl List {
    /// Bytes of all files.
    pub fn size(&self) -> u64 {
        self.files.iter().map(|file| file.size).fold(0, u64::saturating_add)
    }

    /// As it is written.
    pub fn encode(&self) -> String {
        let Self { name, domain, incarnation, files } = self;
        let mut text = format!("{FIRST}\nname {name}\ndomain {domain}\nincarnation {}\n", hex::encode(incarnation));
        for Entry { name, size, hash } in files {
            _ = writeln!(text, "file {} {size} {name}", hex::encode(hash));
        }
        let sum = hex::encode(&sha256(text.as_bytes()));
        _ = writeln!(text, "end {sum}");
        text
    }

    /// Reads a list back.
    ///
    /// # Errors
    /// [`NodeError`] if it cannot be read, was changed or cut off, or is of a newer program.
    pub fn read(path: &Path, name: &str) -> Result<Self, NodeError> {
        let failed = |error| NodeError::File { path: path.to_owned(), error };
        let mut text = Vec::new();
        open(path).and_then(|file| file.take(MAX_SIZE + 1).read_to_end(&mut text)).map_err(failed)?;
        let damaged = || wrong(path, "is damaged: it is not what its checksum says");
        let text = std::str::from_utf8(&text).map_err(|_| damaged())?;
        if text.starts_with("bennu backup list ") && !text.starts_with(&format!("{FIRST}\n")) {
            return Err(wrong(path, "is of a newer bennu: upgrade bennu"));
        }
        let list = Self::decode(text).filter(|list| list.name == name && text.len() as u64 <= MAX_SIZE);
        list.ok_or_else(damaged)
    }

    fn decode(text: &str) -> Option<Self> {
        let (listed, sum) = text.strip_suffix('\n')?.rsplit_once("\nend ")?;
        let listed = text.get(..=listed.len())?;
        if sum != hex::encode(&sha256(listed.as_bytes())) {
            return None;
        }
        let mut lines = listed.lines();
        (lines.next()? == FIRST).then_some(())?;
        let name = lines.next()?.strip_prefix("name ").filter(|name| is_name(name))?.to_owned();
        let domain = lines.next()?.strip_prefix("domain ")?.parse().ok()?;
        let incarnation = hex::decode(lines.next()?.strip_prefix("incarnation ")?)?.try_into().ok()?;
        let files: Vec<_> = lines.map(entry).collect::<Option<_>>()?;
        // No name twice.
        files.is_sorted_by(|one, next| one.name < next.name).then_some(Self { name, domain, incarnation, files })
    }
}

fn entry(line: &str) -> Option<Entry> {
    let mut words = line.split(' ');
    (words.next()? == "file").then_some(())?;
    let hash = hex::decode(words.next()?)?.try_into().ok()?;
    let size = words.next()?.parse().ok()?;
    let name = words.next().filter(|name| is_file_name(name))?.to_owned();
    words.next().is_none().then_some(Entry { name, size, hash })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list() -> List {
        let file = |name: &str, size| Entry { name: name.into(), size, hash: [size as u8; 32] };
        let files = vec![file("000012.sst", 5), file("CURRENT", 16), file("MANIFEST-000005", 300)];
        let domain = "a.test".parse().unwrap();
        List { name: name_of(Timestamp(1_795_000_000_000)), domain, incarnation: [7; 16], files }
    }

    #[test]
    fn lists_round_trip_and_no_changed_octet_goes_unnoticed() {
        let text = list().encode();
        assert_eq!(List::decode(&text), Some(list()));
        for at in 0..text.len() {
            let mut bytes = text.clone().into_bytes();
            bytes[at] ^= 1;
            let changed = String::from_utf8(bytes).unwrap();
            assert_eq!(List::decode(&changed), None, "octet {at}");
            assert_eq!(List::decode(&text[..at]), None, "cut at {at}");
        }
        assert_eq!(List::decode(&format!("{text}\n")), None);
    }

    #[test]
    fn names_that_lead_elsewhere_are_none() {
        for name in ["../x", "/etc/passwd", "", ".", "..", ".x", "a b", "a/b", "a\\b", "x\u{e4}"] {
            let mut list = list();
            list.files[0].name = name.into();
            assert_eq!(List::decode(&list.encode()), None, "{name}");
        }
        let mut list = list();
        list.files[1].name = list.files[0].name.clone();
        assert_eq!(List::decode(&list.encode()), None, "the same name twice");
    }

    #[test]
    fn a_backup_is_called_by_its_time() {
        assert_eq!(list().name, "20261118T110640Z");
        assert!(is_name(&list().name));
        for name in ["", "begun", "20261118T110640", "20261118T110640Z.old", "2026111aT110640Z", "20261118 110640Z"] {
            assert!(!is_name(name), "{name}");
        }
    }
}
