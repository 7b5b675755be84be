//! Homeservers that are named by messages, and not by this client's user: when they were asked for their credentials, and
//! what waits until they have answered.

use rusqlite::Connection;

use super::{all, execute, first, queues::Queue};
use crate::{
    base::{Domain, GroupId, Timestamp},
    client::error::ClientError,
    wire::Encode,
};

/// Homeservers that nothing is known of and that are asked in a day.
pub const NEW_A_DAY: u32 = 20;

const DAY: u64 = 86_400_000;

/// Milliseconds after which a homeserver is asked again at the soonest; twice as many for every time it was asked in vain,
const FIRST_PAUSE: u64 = 60_000;

/// and at most.
const LONGEST_PAUSE: u64 = 6 * 3_600_000;

/// Homeservers that are remembered.
const MAX_STRANGERS: u32 = 500;

/// Offers that wait for a homeserver, for all together
const MAX_OFFERS: u32 = 500;

/// and for one.
const MAX_OFFERS_OF_ONE: u32 = 50;

/// Messages of groups that wait for a homeserver, one and the same,
const MAX_MESSAGES_OF_ONE: u32 = 5_000;

/// and their bytes, for all together: those that follow a Welcome are lost if they do not wait for it.
const MAX_MESSAGE_BYTES: u64 = 64 << 20;

/// Milliseconds for which one waits.
const ASIDE_LIFE: u64 = 30 * DAY;

/// Whether a homeserver may be asked now, which is noted as having happened. If not, it is asked later.
pub fn ask(connection: &Connection, domain: &Domain, now: Timestamp) -> Result<bool, ClientError> {
    let name = domain.as_str();
    let sql = "SELECT asked, failed FROM strangers WHERE domain = ?";
    let before =
        first(connection, sql, [name], |row| Ok((row.get::<_, i64>(0)?.cast_unsigned(), row.get::<_, u32>(1)?)))?;
    let may = match before {
        Some((asked, failed)) if asked > 0 => {
            let pause = FIRST_PAUSE.saturating_mul(1 << failed.min(20)).min(LONGEST_PAUSE);
            // A clock that was set back must not keep it from being asked.
            (asked.saturating_add(pause) <= now.0 || asked > now.0) && is_within(connection, domain, now)?
        }
        _ => is_within(connection, domain, now)?,
    };
    want(connection, domain)?;
    if may {
        // Until it has answered: whoever stops before that must not ask it at once again.
        let sql = "UPDATE strangers SET asked = ?, failed = failed + 1 WHERE domain = ?";
        execute(connection, sql, (now.0.cast_signed(), name))?;
    }
    Ok(may)
}

/// Something waits for a homeserver, which is to be asked when it may.
pub fn want(connection: &Connection, domain: &Domain) -> Result<(), ClientError> {
    if execute(connection, "UPDATE strangers SET wanted = 1 WHERE domain = ?", [domain.as_str()])? == 0 {
        make_room(connection)?;
        let sql = "INSERT INTO strangers (domain, asked, failed, wanted) VALUES (?, 0, 0, 1)";
        execute(connection, sql, [domain.as_str()])?;
    }
    Ok(())
}

/// Whether a homeserver is known, or not too many others were asked today that are not.
fn is_within(connection: &Connection, domain: &Domain, now: Timestamp) -> Result<bool, ClientError> {
    let sql = "SELECT COUNT(*) FROM strangers WHERE asked > ? AND domain <> ? \
               AND domain NOT IN (SELECT domain FROM authorities)";
    let since = now.0.saturating_sub(DAY).cast_signed();
    let new: u32 = connection.query_row(sql, (since, domain.as_str()), |row| row.get(0))?;
    let is_known = first(connection, "SELECT 1 FROM authorities WHERE domain = ?", [domain.as_str()], |_| Ok(()))?;
    Ok(is_known.is_some() || new < NEW_A_DAY)
}

/// The one asked longest ago goes if there are too many, first among those that nothing waits for.
fn make_room(connection: &Connection) -> Result<(), ClientError> {
    let sql = "DELETE FROM strangers WHERE (SELECT COUNT(*) FROM strangers) >= ? AND domain = \
               (SELECT domain FROM strangers ORDER BY wanted, asked LIMIT 1)";
    execute(connection, sql, [MAX_STRANGERS]).map(drop)
}

/// A homeserver has given its credentials.
pub fn answered(connection: &Connection, domain: &Domain) -> Result<(), ClientError> {
    execute(connection, "UPDATE strangers SET failed = 0, wanted = 0 WHERE domain = ?", [domain.as_str()]).map(drop)
}

/// Homeservers that something waits for.
pub fn wanted(connection: &Connection) -> Result<Vec<Domain>, ClientError> {
    all(connection, "SELECT domain FROM strangers WHERE wanted = 1 ORDER BY asked", [], |row| {
        row.get::<_, String>(0)?.parse().map_err(ClientError::storage)
    })
}

/// What waits for a homeserver.
#[derive(Clone)]
pub struct Aside {
    /// Names it.
    pub number: i64,
    /// Where it came from.
    pub queue: Queue,
    /// The encoded message.
    pub content: Vec<u8>,
}

/// Keeps a message, of a group if it is of one, until a homeserver has been asked; `false` if too many wait.
pub fn put_aside(
    connection: &Connection,
    domain: &Domain,
    queue: Queue,
    group: Option<&GroupId>,
    content: &[u8],
    now: Timestamp,
) -> Result<bool, ClientError> {
    let count = "SELECT COUNT(*), COUNT(CASE WHEN domain = ?1 THEN 1 END), COALESCE(SUM(LENGTH(content)), 0) FROM aside \
                 WHERE (chat IS NULL) = ?2";
    let (all, of_one, bytes): (u32, u32, u64) =
        connection.query_row(count, (domain.as_str(), group.is_none()), |row| {
            Ok((row.get(0)?, row.get(1)?, row.get::<_, i64>(2)?.cast_unsigned()))
        })?;
    let is_full = match group {
        Some(_) => of_one >= MAX_MESSAGES_OF_ONE || bytes >= MAX_MESSAGE_BYTES,
        None => all >= MAX_OFFERS || of_one >= MAX_OFFERS_OF_ONE,
    };
    if is_full {
        return Ok(false);
    }
    want(connection, domain)?;
    let sql = "INSERT INTO aside (domain, queue, chat, content, received) VALUES (?, ?, ?, ?, ?)";
    let (chat, queue) = (group.map(Encode::to_vec), queue.key());
    execute(connection, sql, (domain.as_str(), queue, chat, content, now.0.cast_signed()))?;
    Ok(true)
}

/// Whether anything waits.
pub fn is_any_aside(connection: &Connection) -> Result<bool, ClientError> {
    Ok(first(connection, "SELECT 1 FROM aside LIMIT 1", [], |_| Ok(()))?.is_some())
}

/// The homeserver that something of a group waits for.
pub fn waits_for(connection: &Connection, group: &GroupId) -> Result<Option<Domain>, ClientError> {
    first(connection, "SELECT domain FROM aside WHERE chat = ? LIMIT 1", [group.to_vec()], |row| {
        row.get::<_, String>(0)?.parse().map_err(ClientError::storage)
    })
}

/// What waits for a homeserver, in the order in which it came.
pub fn aside(connection: &Connection, domain: &Domain) -> Result<Vec<Aside>, ClientError> {
    let sql = "SELECT number, queue, content FROM aside WHERE domain = ? ORDER BY number";
    all(connection, sql, [domain.as_str()], |row| {
        Ok(Aside { number: row.get(0)?, queue: Queue::of_key(&row.get::<_, String>(1)?)?, content: row.get(2)? })
    })
}

/// A message waits no longer.
pub fn remove_aside(connection: &Connection, number: i64) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM aside WHERE number = ?", [number]).map(drop)
}

/// Messages that have waited too long go; how many.
pub fn expire_aside(connection: &Connection, now: Timestamp) -> Result<usize, ClientError> {
    execute(connection, "DELETE FROM aside WHERE received < ?", [now.0.saturating_sub(ASIDE_LIFE).cast_signed()])
}
