//! Chats and their members. A chat's MLS state is in the tables of OpenMLS; here is what OpenMLS does not know.

use rusqlite::Connection;

use super::{all, array, decoded, execute, first, history, meta};
use crate::{
    base::{AliasId, GroupId, Secret, Timestamp, UserId},
    client::error::ClientError,
    wire::{
        Encode,
        credential::{Fingerprint, SignaturePublicKey},
        delivery::MemberInfo,
    },
};

macro_rules! stored_enums {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $code:literal $text:literal,)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name { $($(#[$variant_doc])* $variant = $code,)* }

        impl $name {
            /// Its name in JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }

            fn from_code(code: i64) -> Result<Self, ClientError> {
                match code {
                    $($code => Ok(Self::$variant),)*
                    _ => Err(ClientError::storage(concat!("no such ", stringify!($name)))),
                }
            }
        }
    )*};
}

stored_enums! {
    /// What a chat is for.
    ChatKind {
        /// Two connected users.
        Connection = 1 "connection",
        /// A group.
        Group = 2 "group",
    }

    /// Where a chat stands.
    ChatState {
        /// Being created or joined: the homeserver has not answered yet.
        Starting = 1 "starting",
        /// A connection group whose other side has not answered yet.
        Waiting = 2 "waiting",
        /// In use.
        Active = 3 "active",
        /// This client was removed.
        Removed = 4 "removed",
        /// The group was deleted.
        Deleted = 5 "deleted",
        /// The other side declined to connect.
        Declined = 6 "declined",
        /// This client has left.
        Left = 7 "left",
        /// The other side is blocked.
        Blocked = 8 "blocked",
    }
}

impl ChatState {
    /// Whether the chat has MLS state.
    pub const fn is_live(self) -> bool {
        matches!(self, Self::Starting | Self::Waiting | Self::Active)
    }
}

/// A chat.
#[derive(Clone)]
pub struct Chat {
    /// The group.
    pub group: GroupId,
    /// What it is for.
    pub kind: ChatKind,
    /// Where it stands.
    pub state: ChatState,
    /// What it is called; a connection is called as its other side.
    pub name: String,
    /// The other side of a connection.
    pub peer: Option<UserId>,
    /// Opens the group's state on its DS.
    pub ear_key: Secret,
    /// Opens what only members know.
    pub credential_key: Secret,
    /// This client's leaf.
    pub leaf: u32,
    /// Seed of the leaf's signature key.
    pub leaf_seed: Secret,
    /// Whether the leaf came from a package that may be used more than once, and is to be renewed.
    pub stale_leaf: bool,
    /// Seed of the signature key that a commit under way gives the leaf.
    pub next_leaf: Option<Secret>,
}

const COLUMNS: &str = "chat, kind, state, name, peer, ear_key, credential_key, leaf, leaf_seed, stale_leaf, next_leaf";

fn chat_of(row: &rusqlite::Row<'_>) -> Result<Chat, ClientError> {
    let secret = |column: usize| Ok::<_, ClientError>(Secret::new(array(&row.get::<_, Vec<u8>>(column)?)?));
    Ok(Chat {
        group: decoded(&row.get::<_, Vec<u8>>(0)?)?,
        kind: ChatKind::from_code(row.get(1)?)?,
        state: ChatState::from_code(row.get(2)?)?,
        name: row.get(3)?,
        peer: row.get::<_, Option<Vec<u8>>>(4)?.map(|user| decoded(&user)).transpose()?,
        ear_key: secret(5)?,
        credential_key: secret(6)?,
        leaf: row.get(7)?,
        leaf_seed: secret(8)?,
        stale_leaf: row.get(9)?,
        next_leaf: row.get::<_, Option<Vec<u8>>>(10)?.map(|seed| array(&seed).map(Secret::new)).transpose()?,
    })
}

/// Adds a chat, or replaces one that has ended.
pub fn insert(connection: &Connection, chat: &Chat, now: u64) -> Result<(), ClientError> {
    let sql = format!(
        "INSERT OR REPLACE INTO chats ({COLUMNS}, created, renewed) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    );
    let row = (
        chat.group.to_vec(),
        chat.kind as i64,
        chat.state as i64,
        &chat.name,
        chat.peer.as_ref().map(Encode::to_vec),
        chat.ear_key.expose(),
        chat.credential_key.expose(),
        chat.leaf,
        chat.leaf_seed.expose(),
        chat.stale_leaf,
        chat.next_leaf.as_ref().map(|seed| *seed.expose()),
        now.cast_signed(),
        now.cast_signed(),
    );
    execute(connection, &sql, row).map(drop)
}

/// A chat.
pub fn find(connection: &Connection, group: &GroupId) -> Result<Option<Chat>, ClientError> {
    first(connection, &format!("SELECT {COLUMNS} FROM chats WHERE chat = ?"), [group.to_vec()], chat_of)
}

/// A chat that must exist.
pub fn require(connection: &Connection, group: &GroupId) -> Result<Chat, ClientError> {
    find(connection, group)?.ok_or_else(|| ClientError::not_found(format!("there is no chat {group} here")))
}

/// A chat in which this client is a member.
pub fn require_active(connection: &Connection, group: &GroupId) -> Result<Chat, ClientError> {
    let chat = require(connection, group)?;
    match chat.state {
        ChatState::Active => Ok(chat),
        ChatState::Starting | ChatState::Waiting => Err(ClientError::invalid("the other side has not answered yet")),
        ChatState::Removed => Err(ClientError::invalid("you were removed from this chat")),
        ChatState::Blocked => Err(ClientError::invalid("you have blocked the other side")),
        ChatState::Left => Err(ClientError::invalid("you have left this chat")),
        ChatState::Deleted => Err(ClientError::invalid("this chat was deleted")),
        ChatState::Declined => Err(ClientError::invalid("the other side declined to connect")),
    }
}

/// All chats, the oldest first.
pub fn all_chats(connection: &Connection) -> Result<Vec<Chat>, ClientError> {
    all(connection, &format!("SELECT {COLUMNS} FROM chats ORDER BY created, chat"), [], chat_of)
}

/// When a chat was created here, in milliseconds.
pub fn created(connection: &Connection, group: &GroupId) -> Result<u64, ClientError> {
    let sql = "SELECT created FROM chats WHERE chat = ?";
    let created = first(connection, sql, [group.to_vec()], |row| Ok(row.get::<_, i64>(0)?.cast_unsigned()))?;
    created.ok_or_else(|| ClientError::not_found("there is no such chat"))
}

/// The live chat that an alias was made an offer for.
pub fn by_alias(connection: &Connection, alias: &AliasId) -> Result<Option<GroupId>, ClientError> {
    let chats = all(connection, &format!("SELECT {COLUMNS} FROM chats WHERE alias = ?"), [alias.0], chat_of)?;
    Ok(chats.into_iter().find(|chat| chat.state.is_live()).map(|chat| chat.group))
}

/// Remembers for which alias a chat was made.
pub fn set_alias(connection: &Connection, group: &GroupId, alias: &AliasId) -> Result<(), ClientError> {
    execute(connection, "UPDATE chats SET alias = ? WHERE chat = ?", (alias.0, group.to_vec())).map(drop)
}

/// The other side of a connection has become known.
pub fn set_peer(connection: &Connection, group: &GroupId, peer: &UserId) -> Result<(), ClientError> {
    execute(connection, "UPDATE chats SET peer = ? WHERE chat = ?", (peer.to_vec(), group.to_vec())).map(drop)
}

/// Changes where a chat stands.
pub fn set_state(connection: &Connection, group: &GroupId, state: ChatState) -> Result<(), ClientError> {
    execute(connection, "UPDATE chats SET state = ? WHERE chat = ?", (state as i64, group.to_vec())).map(drop)
}

/// What a chat is called now.
pub fn set_name(connection: &Connection, group: &GroupId, name: &str) -> Result<(), ClientError> {
    execute(connection, "UPDATE chats SET name = ? WHERE chat = ?", (name, group.to_vec())).map(drop)
}

/// Where this client's leaf is now.
pub fn set_leaf(connection: &Connection, group: &GroupId, leaf: u32) -> Result<(), ClientError> {
    execute(connection, "UPDATE chats SET leaf = ? WHERE chat = ?", (leaf, group.to_vec())).map(drop)
}

/// Active chats whose leaf was last renewed before that time, in milliseconds.
pub fn renewed_before(connection: &Connection, time: u64) -> Result<Vec<GroupId>, ClientError> {
    let sql = format!("SELECT {COLUMNS} FROM chats WHERE state = ? AND renewed < ?");
    let chats = all(connection, &sql, (ChatState::Active as i64, time.cast_signed()), chat_of)?;
    Ok(chats.into_iter().map(|chat| chat.group).collect())
}

/// `stale_leaf` of a leaf that keeps its identity; one of a package that may be used more than once (1) gets another.
const KEEPS_IDENTITY: i64 = 2;

/// This client's leaf is to be renewed.
pub fn set_stale(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    let sql = "UPDATE chats SET stale_leaf = ? WHERE chat = ? AND stale_leaf = 0";
    execute(connection, sql, (KEEPS_IDENTITY, group.to_vec())).map(drop)
}

/// Whether a leaf that is to be renewed keeps its identity.
pub fn keeps_identity(connection: &Connection, group: &GroupId) -> Result<bool, ClientError> {
    let sql = "SELECT stale_leaf FROM chats WHERE chat = ?";
    let stale = first(connection, sql, [group.to_vec()], |row| Ok(row.get::<_, i64>(0)?))?;
    Ok(stale == Some(KEEPS_IDENTITY))
}

/// Remembers the key that a commit under way gives this client's leaf.
pub fn set_next_leaf(connection: &Connection, group: &GroupId, seed: Option<&Secret>) -> Result<(), ClientError> {
    let seed = seed.map(|seed| *seed.expose());
    execute(connection, "UPDATE chats SET next_leaf = ? WHERE chat = ?", (seed, group.to_vec())).map(drop)
}

/// The leaf has a new signature key.
pub fn renew_leaf(connection: &Connection, group: &GroupId, seed: &Secret, now: u64) -> Result<(), ClientError> {
    history::keep_leaf(connection, group, now)?;
    let sql = "UPDATE chats SET leaf_seed = ?, stale_leaf = 0, next_leaf = NULL, renewed = ? WHERE chat = ?";
    execute(connection, sql, (seed.expose(), now.cast_signed(), group.to_vec())).map(drop)
}

/// Forgets a chat and its members.
pub fn remove(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    meta::remove(connection, &behind_in(group))?;
    history::forget(connection, group)?;
    execute(connection, "DELETE FROM members WHERE chat = ?", [group.to_vec()])?;
    execute(connection, "DELETE FROM chats WHERE chat = ?", [group.to_vec()]).map(drop)
}

fn behind_in(group: &GroupId) -> String {
    format!("behind in {group}")
}

/// Since when this client has waited for what is on its way, in an epoch: because it has known that its group has left that, or
/// because it `is_doomed` to be removed in it.
pub fn behind_since(
    connection: &Connection,
    group: &GroupId,
    epoch: u64,
    is_doomed: bool,
    now: Timestamp,
) -> Result<Timestamp, ClientError> {
    let (name, why) = (behind_in(group), u64::from(is_doomed));
    match meta::get::<Vec<u64>>(connection, &name)?.as_deref() {
        Some([known, of, since]) if (*known, *of) == (epoch, why) && *since <= now.0 => Ok(Timestamp(*since)),
        _ => meta::put(connection, &name, &vec![epoch, why, now.0]).map(|()| now),
    }
}

/// Nothing is missed of a group: if something is in the same epoch again, it is something else.
pub fn set_level(connection: &Connection, group: &GroupId) -> Result<(), ClientError> {
    meta::remove(connection, &behind_in(group))
}

/// A member of a chat.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Its leaf.
    pub leaf: u32,
    /// The leaf's signature key.
    pub key: SignaturePublicKey,
    /// The leaf credential's identity.
    pub identity: [u8; 32],
    /// Who is behind it, if that was verified once.
    pub user: Option<UserId>,
    /// Opens its profile.
    pub profile_key: Option<Secret>,
    /// What that rests on.
    pub grounds: Option<Grounds>,
    /// Whether it is in quarantine: nothing from it is shown, and nothing is sent while it is there.
    pub quarantined: bool,
    /// What is said of a leaf that did not verify, to try again.
    pub claim: Option<MemberInfo>,
}

/// What it rests on that a leaf is of a user.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Grounds {
    /// Fingerprint of the client credential behind it.
    pub credential: Fingerprint,
    /// Fingerprint of the intermediate credential that signed that one.
    pub signer: Fingerprint,
    /// Last second in which the client credential is valid.
    pub until: u64,
}

impl Member {
    /// Who it is, unless that is in doubt.
    pub fn trusted(&self) -> Option<&UserId> {
        self.user.as_ref().filter(|_| !self.quarantined)
    }

    /// Whether it is this user, or was when that was last verified.
    pub fn is(&self, user: &UserId) -> bool {
        self.user.as_ref() == Some(user)
    }
}

const MEMBER_COLUMNS: &str = "leaf, key, identity, user, profile_key, credential, signer, until, quarantined, claim";

/// The members of a chat, in the order of their leaves.
pub fn members(connection: &Connection, group: &GroupId) -> Result<Vec<Member>, ClientError> {
    let sql = format!("SELECT {MEMBER_COLUMNS} FROM members WHERE chat = ? ORDER BY leaf");
    all(connection, &sql, [group.to_vec()], |row| {
        let (credential, signer, until): (Option<_>, Option<_>, Option<i64>) = (row.get(5)?, row.get(6)?, row.get(7)?);
        let grounds = credential.zip(signer).zip(until).map(|((credential, signer), until)| Grounds {
            credential,
            signer,
            until: until.cast_unsigned(),
        });
        Ok(Member {
            leaf: row.get(0)?,
            key: row.get::<_, Vec<u8>>(1)?.as_slice().into(),
            identity: array(&row.get::<_, Vec<u8>>(2)?)?,
            user: row.get::<_, Option<Vec<u8>>>(3)?.map(|user| decoded(&user)).transpose()?,
            profile_key: row.get::<_, Option<Vec<u8>>>(4)?.map(|key| array(&key).map(Secret::new)).transpose()?,
            grounds,
            quarantined: row.get(8)?,
            claim: row.get::<_, Option<Vec<u8>>>(9)?.map(|claim| decoded(&claim)).transpose()?,
        })
    })
}

/// Replaces the members of a chat.
pub fn put_members(connection: &Connection, group: &GroupId, members: &[Member]) -> Result<(), ClientError> {
    execute(connection, "DELETE FROM members WHERE chat = ?", [group.to_vec()])?;
    let sql = format!("INSERT INTO members (chat, {MEMBER_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)");
    for member in members {
        let user = member.user.as_ref().map(Encode::to_vec);
        let profile_key = member.profile_key.as_ref().map(|key| *key.expose());
        let grounds = member.grounds.as_ref();
        let row = (
            group.to_vec(),
            member.leaf,
            member.key.as_slice(),
            member.identity,
            user,
            profile_key,
            grounds.map(|grounds| grounds.credential),
            grounds.map(|grounds| grounds.signer),
            grounds.map(|grounds| grounds.until.cast_signed()),
            member.quarantined,
            member.claim.as_ref().map(Encode::to_vec),
        );
        execute(connection, &sql, row)?;
    }
    Ok(())
}

/// Keys that may open a user's profile, from the chats that it is in. It changes them one chat after another.
pub fn profile_keys(connection: &Connection, user: &UserId) -> Result<Vec<Secret>, ClientError> {
    let sql = "SELECT DISTINCT profile_key FROM members WHERE user = ? AND profile_key IS NOT NULL";
    all(connection, sql, [user.to_vec()], |row| Ok(Secret::new(array(&row.get::<_, Vec<u8>>(0)?)?)))
}

/// Everybody who is known to be a member of a chat.
pub fn users(connection: &Connection) -> Result<Vec<UserId>, ClientError> {
    let sql = "SELECT DISTINCT user FROM members WHERE user IS NOT NULL";
    all(connection, sql, [], |row| decoded(row.get_ref(0)?.as_blob().map_err(ClientError::storage)?))
}
