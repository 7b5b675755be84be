//! How far each queue has been processed: the incarnation, the next wanted entry, the ratchet that opens it, and the keys that
//! its secrets are sent to.

use rusqlite::Connection;

use super::{all, array, execute, first};
use crate::{
    base::{AliasId, Secret},
    client::error::ClientError,
    crypto::{Rng, hpke::HpkePrivateKey, random_secret, ratchet::Ratchet},
    wire::{credential::HpkePublicKey, queue::Incarnation},
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

    /// The queue that this stands for.
    pub fn of_key(key: &str) -> Result<Self, ClientError> {
        let unknown = || ClientError::storage("there is an unknown queue");
        match key {
            "direct" => Ok(Self::Direct),
            "client" => Ok(Self::Client),
            alias => {
                let digits = alias.strip_prefix("alias:").filter(|digits| digits.len() == 64 && digits.is_ascii());
                let mut id = [0; 32];
                for (at, byte) in id.iter_mut().enumerate() {
                    let digits = digits.and_then(|digits| digits.get(2 * at..2 * at + 2)).ok_or_else(unknown)?;
                    *byte = u8::from_str_radix(digits, 16).map_err(ClientError::storage)?;
                }
                Ok(Self::Alias(AliasId(id)))
            }
        }
    }

    /// What stands for it in the table.
    pub fn key(self) -> String {
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
    let sql = "INSERT INTO queues (name, incarnation, next, ratchet) VALUES (?, ?, ?, ?) ON CONFLICT (name) DO UPDATE
        SET incarnation = excluded.incarnation, next = excluded.next, ratchet = excluded.ratchet";
    let ratchet = cursor.ratchet.as_ref().map(|ratchet| ratchet.secret().expose());
    execute(connection, sql, (queue.key(), cursor.incarnation, cursor.next.cast_signed(), ratchet)).map(drop)
}

/// Forgets a queue that is no more.
pub fn remove(connection: &Connection, queue: Queue) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM queue_keys WHERE queue = ?", [queue.key()])?;
    execute(connection, "DELETE FROM queues WHERE name = ?", [queue.key()]).map(drop)
}

/// Whether the homeserver has been asked to start the ratchet anew, and has not yet.
pub fn is_restarting(connection: &Connection, queue: Queue) -> Result<bool, ClientError> {
    let sql = "SELECT 1 FROM queues WHERE name = ? AND restarting";
    Ok(first(connection, sql, [queue.key()], |_| Ok(()))?.is_some())
}

/// Notes whether it has.
pub fn set_restarting(connection: &Connection, queue: Queue, restarting: bool) -> Result<(), ClientError> {
    execute(connection, "UPDATE queues SET restarting = ? WHERE name = ?", (restarting, queue.key())).map(drop)
}

/// A fresh key for a queue, which is the current one from now on.
pub fn new_key(connection: &Connection, queue: Queue, rng: &mut dyn Rng) -> Result<(), ClientError> {
    let sql = "INSERT INTO queue_keys (queue, secret) VALUES (?, ?)";
    execute(connection, sql, (queue.key(), random_secret(rng).expose())).map(drop)
}

/// What opens secrets of a queue: numbered, the current key first. Those before it are kept until it was used.
pub fn keys(connection: &Connection, queue: Queue) -> Result<Vec<(i64, HpkePrivateKey)>, ClientError> {
    let sql = "SELECT number, secret FROM queue_keys WHERE queue = ? ORDER BY number DESC";
    all(connection, sql, [queue.key()], |row| {
        let secret = Secret::new(array(&row.get::<_, Vec<u8>>(1)?)?);
        Ok((row.get(0)?, HpkePrivateKey::from_secret(secret)?))
    })
}

/// The key that secrets of a queue are to be sent to.
pub fn current_key(connection: &Connection, queue: Queue) -> Result<HpkePublicKey, ClientError> {
    let mut keys = keys(connection, queue)?.into_iter();
    keys.next().map(|(_, key)| key.public_key()).ok_or_else(|| ClientError::storage("a queue has no key"))
}

/// The homeserver uses a key: those before it will not be needed any more.
pub fn retire_keys(connection: &Connection, queue: Queue, used: i64) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM queue_keys WHERE queue = ? AND number < ?", (queue.key(), used)).map(drop)
}
