//! How far each queue has been processed: the incarnation, the next wanted entry, and the ratchet that opens it.

use rusqlite::Connection;

use super::{array, execute, first};
use crate::{
    base::{AliasId, Secret},
    client::error::ClientError,
    crypto::ratchet::Ratchet,
    wire::queue::Incarnation,
};

/// The client's queues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Queue {
    /// At the AS, for offers to connect.
    Direct,
    /// At the QS, for everything else.
    Client,
    /// At the AS, for offers to connect through an alias.
    Alias(AliasId),
}

impl Queue {
    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Client => "client",
            Self::Alias(_) => "alias",
        }
    }

    /// What stands for it in the table.
    fn key(self) -> String {
        match self {
            Self::Direct | Self::Client => self.name().into(),
            Self::Alias(AliasId(id)) => id.iter().fold("alias:".into(), |key, byte| format!("{key}{byte:02x}")),
        }
    }
}

/// How far a queue has been processed.
#[derive(Clone)]
pub struct Cursor {
    /// The incarnation that `next` is of; all zero if none is known yet.
    pub incarnation: Incarnation,
    /// The next wanted entry.
    pub next: u64,
    /// Opens it; none before the first secret.
    pub ratchet: Option<Ratchet>,
}

impl Cursor {
    /// The start of an incarnation.
    pub const fn start(incarnation: Incarnation, next: u64) -> Self {
        Self { incarnation, next, ratchet: None }
    }
}

/// Where a queue stands.
pub fn load(connection: &Connection, queue: Queue) -> Result<Cursor, ClientError> {
    let sql = "SELECT incarnation, next, ratchet FROM queues WHERE name = ?";
    let cursor = first(connection, sql, [queue.key()], |row| {
        let ratchet = row.get::<_, Option<Vec<u8>>>(2)?;
        let ratchet = ratchet.map(|secret| array(&secret).map(|secret| Ratchet::from_secret(Secret::new(secret))));
        Ok(Cursor {
            incarnation: array(&row.get::<_, Vec<u8>>(0)?)?,
            next: row.get::<_, i64>(1)?.cast_unsigned(),
            ratchet: ratchet.transpose()?,
        })
    })?;
    Ok(cursor.unwrap_or_else(|| Cursor::start([0; 16], 0)))
}

/// Records where a queue stands.
pub fn store(connection: &Connection, queue: Queue, cursor: &Cursor) -> Result<(), ClientError> {
    let sql = "INSERT OR REPLACE INTO queues (name, incarnation, next, ratchet) VALUES (?, ?, ?, ?)";
    let ratchet = cursor.ratchet.as_ref().map(|ratchet| ratchet.secret().expose());
    execute(connection, sql, (queue.key(), cursor.incarnation, cursor.next.cast_signed(), ratchet)).map(drop)
}

/// Forgets where a queue stands that is no more.
pub fn remove(connection: &Connection, queue: Queue) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM queues WHERE name = ?", [queue.key()]).map(drop)
}
