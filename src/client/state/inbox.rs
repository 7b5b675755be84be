//! What was received: messages until they have been read, and problems until they are old.

use rusqlite::Connection;

use super::{all, array, decoded, execute};
use crate::{
    base::{GroupId, Timestamp, UserId},
    client::error::ClientError,
    wire::{
        Encode,
        content::{ApplicationMessage, Content},
    },
};

/// Problems remembered.
const MAX_PROBLEMS: u32 = 1_000;

/// How long repeats of a read message are noticed, in milliseconds.
const REMEMBERED: u64 = 180 * 86_400 * 1_000;

/// A message that has not been read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Names it here.
    pub number: i64,
    /// Where.
    pub chat: GroupId,
    /// By whom.
    pub sender: UserId,
    /// Names it everywhere.
    pub id: [u8; 16],
    /// What.
    pub content: Content,
    /// When its sender sent it.
    pub sent: Timestamp,
}

/// Keeps a message until it is read. `None` if it was received before.
pub fn insert(
    connection: &Connection,
    chat: &GroupId,
    sender: &UserId,
    message: &ApplicationMessage,
    now: Timestamp,
) -> Result<Option<i64>, ClientError> {
    let sql = "INSERT OR IGNORE INTO messages (chat, sender, id, content, sent, received) VALUES (?, ?, ?, ?, ?, ?)";
    let sent = message.sent.cast_signed();
    let row = (chat.to_vec(), sender.to_vec(), message.id, message.content.to_vec(), sent, now.0.cast_signed());
    let added = execute(connection, sql, row)? > 0;
    Ok(added.then(|| connection.last_insert_rowid()))
}

/// Messages that have not been read, the oldest first.
pub fn unread(connection: &Connection, max: u32) -> Result<Vec<Stored>, ClientError> {
    let sql = "SELECT number, chat, sender, id, content, sent FROM messages
        WHERE content IS NOT NULL ORDER BY number LIMIT ?";
    all(connection, sql, [max], |row| {
        Ok(Stored {
            number: row.get(0)?,
            chat: decoded(&row.get::<_, Vec<u8>>(1)?)?,
            sender: decoded(&row.get::<_, Vec<u8>>(2)?)?,
            id: array(&row.get::<_, Vec<u8>>(3)?)?,
            content: decoded(&row.get::<_, Vec<u8>>(4)?)?,
            sent: Timestamp(row.get::<_, i64>(5)?.cast_unsigned()),
        })
    })
}

/// Messages have been read: their contents go.
pub fn mark_read(connection: &Connection, numbers: &[i64]) -> Result<(), ClientError> {
    for number in numbers {
        execute(connection, "UPDATE messages SET content = NULL WHERE number = ?", [number])?;
    }
    Ok(())
}

/// Notes what could not be processed.
pub fn problem(connection: &Connection, text: &str, now: Timestamp) -> Result<(), ClientError> {
    execute(connection, "INSERT INTO problems (time, text) VALUES (?, ?)", (now.0.cast_signed(), text))?;
    let sql = "DELETE FROM problems WHERE number <= (SELECT MAX(number) FROM problems) - ?";
    execute(connection, sql, [MAX_PROBLEMS]).map(drop)
}

/// What could not be processed, the oldest first.
pub fn problems(connection: &Connection) -> Result<Vec<(Timestamp, String)>, ClientError> {
    let sql = "SELECT time, text FROM problems ORDER BY number";
    all(connection, sql, [], |row| Ok((Timestamp(row.get::<_, i64>(0)?.cast_unsigned()), row.get(1)?)))
}

/// Forgets messages that were read long ago.
pub fn forget_old(connection: &Connection, now: Timestamp) -> Result<(), ClientError> {
    let before = now.0.saturating_sub(REMEMBERED).cast_signed();
    execute(connection, "DELETE FROM messages WHERE content IS NULL AND received < ?", [before]).map(drop)
}
