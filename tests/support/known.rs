//! What clients know, and how it is found in what others see: the tests of what can be watched look for it.

use std::{collections::BTreeSet, path::Path};

/// Shorter words say nothing about anybody.
const SHORTEST: usize = 8;

/// Everything that a client remembers, as it stands in its database.
pub fn remembered(home: &Path) -> Vec<Vec<u8>> {
    let database = rusqlite::Connection::open(home.join("client.db")).unwrap();
    let mut tables = database.prepare("SELECT name FROM sqlite_master WHERE type = 'table'").unwrap();
    let tables: Vec<String> = tables.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap).collect();
    let mut values = Vec::new();
    for table in tables {
        let mut rows = database.prepare(&format!("SELECT * FROM \"{table}\"")).unwrap();
        let columns = rows.column_count();
        let mut rows = rows.query([]).unwrap();
        while let Some(row) = rows.next().unwrap() {
            for column in 0..columns {
                match row.get_ref(column).unwrap() {
                    rusqlite::types::ValueRef::Blob(bytes) | rusqlite::types::ValueRef::Text(bytes) => {
                        values.push(bytes.to_vec());
                    }
                    _ => {}
                }
            }
        }
    }
    values
}

/// What words of a text may stand for: hexadecimal digits, with and without the hyphens of a UUID, numbers in lists, and the words
/// themselves.
pub fn names(text: &str) -> BTreeSet<Vec<u8>> {
    let mut names = BTreeSet::new();
    for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '_')) {
        let digits: String = word.chars().filter(|c| *c != '-').collect();
        if digits.len() >= 2 * SHORTEST
            && let Some(bytes) = bennu::base::hex::decode(&digits)
        {
            names.insert(bytes);
        }
    }
    // As a list of octets is printed.
    for list in text.split('[').skip(1).filter_map(|rest| rest.split(']').next()) {
        let octets: Option<Vec<u8>> = list.split(',').map(|octet| octet.trim().parse().ok()).collect();
        names.extend(octets.filter(|octets| octets.len() >= SHORTEST));
    }
    names
}

/// Whether something is in it.
pub fn contains(hay: &[u8], needle: &[u8]) -> bool {
    hay.windows(needle.len()).any(|window| window == needle)
}
