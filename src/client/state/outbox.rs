//! What is being sent: complete requests, kept until they are answered, and chores that follow from what was received.
//! Requests of one lane (a group, or everything else) go out one after another.

use rusqlite::Connection;

use super::{
    all, array,
    chats::{self, Chat, ChatState},
    decoded, execute, first,
};
use crate::{
    base::{AliasId, Domain, GroupId},
    client::error::ClientError,
    wire::{Decode, Encode, Method, credential::SignaturePublicKey},
};

/// What a waiting request is, and with it what its answer means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An application message; beside it the plaintext, should another epoch need another ciphertext.
    Message = 1,
    /// A new group.
    Create = 2,
    /// A commit; beside it the intent, should it lose the race for its epoch.
    Commit = 3,
    /// An external commit; beside it the id of the offer that it accepts.
    Join = 4,
    /// Anything that needs nothing more once it is done.
    Simple = 5,
    /// A SelfRemove; beside it what names it.
    Leave = 6,
    /// An external commit that takes the own old leaf's place; beside it what names it.
    Resync = 7,
}

/// A request that waits for its answer.
#[derive(Clone)]
pub struct Pending {
    /// Names it.
    pub number: i64,
    /// The group's encoding, or nothing.
    pub lane: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// How it is sent.
    pub method: Method,
    /// Whereto.
    pub domain: Domain,
    /// The encoded request.
    pub body: Vec<u8>,
    /// By kind.
    pub extra: Vec<u8>,
}

impl Pending {
    /// What it is, in words for people.
    pub const fn words(&self) -> &'static str {
        match self.kind {
            Kind::Message => "a message",
            Kind::Create => "a new group",
            Kind::Commit => "a change of a group",
            Kind::Join => "joining a chat",
            Kind::Leave => "leaving a group",
            Kind::Resync => "coming back into a group",
            Kind::Simple => match self.method {
                Method::AsEnqueue | Method::AsEnqueueAlias => "an offer to connect, or an answer to one",
                Method::AsUpdateUserProfile => "a new display name",
                Method::QsPublishKeyPackages => "fresh KeyPackages",
                Method::AsPublishConnectionPackages => "fresh connection packages",
                Method::AsPublishAliasPackages => "fresh packages of an alias",
                Method::DsUpdateQueueInfo => "where messages of a group go",
                _ => "a request",
            },
        }
    }
}

/// A request to add.
pub struct New {
    /// The group it belongs to.
    pub group: Option<GroupId>,
    /// What it is.
    pub kind: Kind,
    /// How it is sent.
    pub method: Method,
    /// Whereto.
    pub domain: Domain,
    /// The encoded request.
    pub body: Vec<u8>,
    /// By kind.
    pub extra: Vec<u8>,
}

/// The lane of a notice to a user, or an alias, of a homeserver: one that cannot be reached is in nobody else's way.
pub fn lane_to(domain: &Domain) -> Vec<u8> {
    domain.to_vec()
}

/// The group whose lane this is.
pub fn group_of(lane: &[u8]) -> Option<GroupId> {
    GroupId::from_slice(lane).ok()
}

/// Adds a request.
pub fn insert(connection: &Connection, new: New) -> Result<Pending, ClientError> {
    insert_at(connection, None, new)
}

/// Adds a request, at the place of one that it replaces: what was to be sent after that is sent after it.
pub fn insert_at(connection: &Connection, place: Option<i64>, new: New) -> Result<Pending, ClientError> {
    let New { group, kind, method, domain, body, extra } = new;
    let lane = match &group {
        Some(group) => group.to_vec(),
        None if matches!(method, Method::AsEnqueue | Method::AsEnqueueAlias) => lane_to(&domain),
        None => Vec::new(),
    };
    let sql = "INSERT INTO outbox (number, lane, kind, method, domain, body, extra) VALUES (?, ?, ?, ?, ?, ?, ?)";
    execute(connection, sql, (place, &lane, kind as i64, method as u16, domain.as_str(), &body, &extra))?;
    Ok(Pending { number: connection.last_insert_rowid(), lane, kind, method, domain, body, extra })
}

fn pending_of(row: &rusqlite::Row<'_>) -> Result<Pending, ClientError> {
    let unknown = || ClientError::storage("the outbox holds an unknown request");
    Ok(Pending {
        number: row.get(0)?,
        lane: row.get(1)?,
        kind: match row.get::<_, i64>(2)? {
            1 => Kind::Message,
            2 => Kind::Create,
            3 => Kind::Commit,
            4 => Kind::Join,
            5 => Kind::Simple,
            6 => Kind::Leave,
            7 => Kind::Resync,
            _ => return Err(unknown()),
        },
        method: Method::from_code(row.get(3)?).ok_or_else(unknown)?,
        domain: row.get::<_, String>(4)?.parse().map_err(ClientError::storage)?,
        body: row.get(5)?,
        extra: row.get(6)?,
    })
}

/// The oldest request of a lane.
pub fn next(connection: &Connection, lane: &[u8]) -> Result<Option<Pending>, ClientError> {
    let sql =
        "SELECT number, lane, kind, method, domain, body, extra FROM outbox WHERE lane = ? ORDER BY number LIMIT 1";
    first(connection, sql, [lane], pending_of)
}

/// Whether there is a commit among the requests of a lane.
pub fn has_commit(connection: &Connection, lane: &[u8]) -> Result<bool, ClientError> {
    let sql = "SELECT 1 FROM outbox WHERE lane = ? AND kind = ? LIMIT 1";
    Ok(first(connection, sql, (lane, Kind::Commit as i64), |_| Ok(()))?.is_some())
}

/// Lanes with requests in them, the one that waits longest first, and where the first request of each goes.
pub fn lanes(connection: &Connection) -> Result<Vec<(Vec<u8>, Domain)>, ClientError> {
    let sql = "SELECT lane, domain FROM outbox WHERE number IN (SELECT MIN(number) FROM outbox GROUP BY lane) \
               ORDER BY number";
    all(connection, sql, [], |row| Ok((row.get(0)?, row.get::<_, String>(1)?.parse().map_err(ClientError::storage)?)))
}

/// Removes a request; `false` if it was gone.
pub fn remove(connection: &Connection, number: i64) -> Result<bool, ClientError> {
    Ok(execute(connection, "DELETE FROM outbox WHERE number = ?", [number])? > 0)
}

/// Makes room for what takes the place of a request, if any; `false` if that is gone, and nothing is to take its place.
pub fn replace(connection: &Connection, replaced: Option<i64>) -> Result<bool, ClientError> {
    replaced.map_or(Ok(true), |number| remove(connection, number))
}

/// Removes all requests of a lane.
pub fn clear(connection: &Connection, lane: &[u8]) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM outbox WHERE lane = ?", [lane]).map(drop)
}

/// Something to do that what was received calls for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Chore {
    /// Delete a group that nobody else wants.
    Delete(GroupId),
    /// Remove a leaf that has no business in a connection group.
    Expel(GroupId, SignaturePublicKey),
    /// Give this client's leaf a fresh key and credential.
    RenewLeaf(GroupId),
    /// Publish fresh KeyPackages.
    KeyPackages,
    /// Publish fresh connection packages.
    ConnectionPackages,
    /// Publish fresh packages of an alias.
    AliasPackages(AliasId),
    /// Carry out what others have proposed.
    Settle(GroupId),
    /// Compare the own state of a group with the DS's, and come back if they differ.
    Compare(GroupId),
    /// Have the QS replace the keys of this client's record.
    Record,
    /// Tell the DS of a group where messages go.
    QueueConfig(GroupId),
    /// Tell the QS which groups are blocked.
    Blocklist,
    /// Have the QS replace the friendship token.
    FriendshipToken,
    /// Give the other side of a connection the friendship token.
    GiveToken(GroupId),
    /// Begin a new epoch of a group before anything is sent there: keys of this one may have been used before.
    Refresh(GroupId),
}

/// In words for people.
impl std::fmt::Display for Chore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let words = match self {
            Self::Delete(_) => "deleting a group that nobody else wants",
            Self::Expel(..) => "removing a member that has no business there",
            Self::RenewLeaf(_) => "renewing the own keys in a group",
            Self::KeyPackages => "publishing fresh KeyPackages",
            Self::ConnectionPackages => "publishing fresh connection packages",
            Self::AliasPackages(_) => "publishing fresh packages of an alias",
            Self::Settle(_) => "carrying out what was proposed in a group",
            Self::Compare(_) => "comparing the state of a group with the homeserver's",
            Self::Record => "renewing the keys of the own queue",
            Self::QueueConfig(_) => "telling where messages of a group go",
            Self::Blocklist => "telling the homeserver which chats are blocked",
            Self::FriendshipToken => "replacing the friendship token",
            Self::GiveToken(_) => "giving a contact the friendship token",
            Self::Refresh(_) => "beginning a new epoch of a group",
        };
        match self.group() {
            Some(group) => write!(f, "{words} ({group})"),
            None => f.write_str(words),
        }
    }
}

impl Chore {
    /// The group that it is about.
    pub const fn group(&self) -> Option<&GroupId> {
        match self {
            Self::Delete(group)
            | Self::Expel(group, _)
            | Self::RenewLeaf(group)
            | Self::Settle(group)
            | Self::Compare(group)
            | Self::QueueConfig(group)
            | Self::GiveToken(group)
            | Self::Refresh(group) => Some(group),
            Self::KeyPackages
            | Self::ConnectionPackages
            | Self::AliasPackages(_)
            | Self::Record
            | Self::Blocklist
            | Self::FriendshipToken => None,
        }
    }

    fn row(&self) -> (i64, Vec<u8>) {
        match self {
            Self::Delete(group) => (1, group.to_vec()),
            Self::Expel(group, key) => (2, [group.to_vec(), key.to_vec()].concat()),
            Self::RenewLeaf(group) => (3, group.to_vec()),
            Self::KeyPackages => (4, Vec::new()),
            Self::ConnectionPackages => (5, Vec::new()),
            Self::AliasPackages(id) => (6, id.0.to_vec()),
            Self::Settle(group) => (7, group.to_vec()),
            Self::Compare(group) => (8, group.to_vec()),
            Self::Record => (9, Vec::new()),
            Self::QueueConfig(group) => (10, group.to_vec()),
            Self::Blocklist => (11, Vec::new()),
            Self::FriendshipToken => (12, Vec::new()),
            Self::GiveToken(group) => (13, group.to_vec()),
            Self::Refresh(group) => (14, group.to_vec()),
        }
    }
}

/// Adds a chore, once. One that is being done is to be done again after that.
pub fn add_chore(connection: &Connection, chore: &Chore) -> Result<(), ClientError> {
    execute(connection, "INSERT OR REPLACE INTO chores (kind, argument) VALUES (?, ?)", chore.row()).map(drop)
}

/// This client's state may be an old copy, and the keys of all its groups, or of those at one homeserver, used before.
pub fn refresh_all(connection: &Connection, only: Option<&Domain>) -> Result<(), ClientError> {
    let concerned =
        |chat: &Chat| chat.state == ChatState::Active && only.is_none_or(|domain| chat.group.domain == *domain);
    for chat in chats::all_chats(connection)?.into_iter().filter(concerned) {
        add_chore(connection, &Chore::Refresh(chat.group))?;
    }
    Ok(())
}

/// Whether there is such a chore.
pub fn has_chore(connection: &Connection, chore: &Chore) -> Result<bool, ClientError> {
    Ok(first(connection, "SELECT 1 FROM chores WHERE kind = ? AND argument = ?", chore.row(), |_| Ok(()))?.is_some())
}

/// All chores, the oldest first, and what numbers them.
pub fn chores(connection: &Connection) -> Result<Vec<(i64, Chore)>, ClientError> {
    use crate::wire::Reader;
    all(connection, "SELECT number, kind, argument FROM chores ORDER BY number", [], |row| {
        let argument = row.get::<_, Vec<u8>>(2)?;
        let chore = match row.get::<_, i64>(1)? {
            1 => Chore::Delete(decoded(&argument)?),
            2 => {
                let mut reader = Reader::new(argument.into());
                Chore::Expel(GroupId::decode(&mut reader)?, SignaturePublicKey::decode(&mut reader)?)
            }
            3 => Chore::RenewLeaf(decoded(&argument)?),
            4 => Chore::KeyPackages,
            5 => Chore::ConnectionPackages,
            6 => Chore::AliasPackages(AliasId(array(&argument)?)),
            7 => Chore::Settle(decoded(&argument)?),
            8 => Chore::Compare(decoded(&argument)?),
            9 => Chore::Record,
            10 => Chore::QueueConfig(decoded(&argument)?),
            11 => Chore::Blocklist,
            12 => Chore::FriendshipToken,
            13 => Chore::GiveToken(decoded(&argument)?),
            14 => Chore::Refresh(decoded(&argument)?),
            _ => return Err(ClientError::storage("an unknown chore")),
        };
        Ok((row.get(0)?, chore))
    })
}

/// A chore is done, or cannot be; unless it was added again meanwhile.
pub fn finish_chore(connection: &Connection, number: i64) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM chores WHERE number = ?", [number]).map(drop)
}

/// A chore is done with everything that it was added for until now.
pub fn remove_chore(connection: &Connection, chore: &Chore) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM chores WHERE kind = ? AND argument = ?", chore.row()).map(drop)
}
