//! A group's head: who is in it, who may change it, and where the rest of its state is. Sending a message reads nothing
//! else. At rest it is encrypted under the group's EAR key and padded.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::{
    base::{Day, Domain, GroupId, Refusal, Secret, Status, Timestamp},
    crypto::{aead, hpke::HpkePrivateKey, random_secret},
    service::{Context, damaged},
    store::{
        Batch, Key, Table,
        record::{self, RecordError},
    },
    wire::{
        Encode, Opaque,
        credential::{LeafCredential, SignaturePublicKey},
        delivery::{CurrentEpoch, GroupAccess},
        label::KeyLabel,
        padding::{STATE_FLOOR, pad, unpad},
        queue::Incarnation,
        queuing::ClientQueueConfig,
    },
};

const HEAD_VERSION: u8 = 2;
pub(super) const META_VERSION: u8 = 1;

/// Sending a message counts as activity once in so many days: it writes the head then.
const TOUCH_DAYS: u32 = 7;

/// Whether somebody may join with the EAR key alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Connection {
    /// Not a connection group.
    No,
    /// A connection group that never had a second member.
    Open,
    /// A connection group that had one.
    Closed,
}

/// A member as sending needs it.
#[derive(Clone, Serialize, Deserialize)]
pub struct Member {
    /// Leaf index.
    pub leaf: u32,
    /// Signature key of the leaf.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Identity in the leaf credential.
    pub identity: [u8; 32],
    /// An encoded [`ClientQueueConfig`].
    pub queue_config: Bytes,
    /// Day of its last commit, or of its joining.
    pub active_day: u32,
    /// Epoch of its last commit; none before its first.
    pub active_epoch: Option<u64>,
    /// Whether its queue was found to be gone.
    pub gone: bool,
}

impl Member {
    /// A member that has just joined.
    pub fn new(leaf: u32, credential: &LeafCredential, queue_config: &ClientQueueConfig, today: Day) -> Self {
        Self {
            leaf,
            key: credential.verifying_key.as_slice().to_vec(),
            identity: credential.identity,
            queue_config: queue_config.to_vec().into(),
            active_day: today.0,
            active_epoch: None,
            gone: false,
        }
    }
}

/// A member whose removal has been proposed: it leaves with the next commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Leaving {
    /// Its leaf.
    pub leaf: u32,
    /// Whether it has proposed that itself (SelfRemove), and not the DS.
    pub by_itself: bool,
}

/// Which rows give a tree: a checkpoint, and the deltas after it up to and including `last`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rows {
    /// Number of the checkpoint.
    pub checkpoint: u64,
    /// Number of the last row.
    pub last: u64,
    /// Size of the checkpoint in bytes.
    pub checkpoint_bytes: u64,
    /// Size of the deltas in bytes.
    pub delta_bytes: u64,
}

/// Somebody who was added and has not made its first commit: it still needs the tree of its epoch.
#[derive(Clone, Serialize, Deserialize)]
pub struct Joiner {
    /// Its KeyPackageRef.
    #[serde(with = "serde_bytes")]
    pub reference: Vec<u8>,
    /// The signature key of its KeyPackage's leaf.
    #[serde(with = "serde_bytes")]
    pub key: Vec<u8>,
    /// Its leaf index.
    pub leaf: u32,
    /// The epoch it was added in.
    pub epoch: u64,
    /// The rows that give that epoch's tree.
    pub rows: Rows,
    /// Last day its KeyPackage is valid.
    pub expires: u32,
}

/// The head of a group.
#[derive(Clone, Serialize, Deserialize)]
pub struct Head {
    /// The current epoch.
    pub epoch: u64,
    /// Whether and how it is a connection group.
    pub connection: Connection,
    /// Identities listed in the roles extension.
    pub admins: Vec<[u8; 32]>,
    /// By leaf index.
    pub members: Vec<Member>,
    /// In the order they were added.
    pub joiners: Vec<Joiner>,
    /// The rows that give the current tree.
    pub rows: Rows,
    /// Whose removal is proposed, in the order of the stored proposals.
    pub leaving: Vec<Leaving>,
    /// Whether there is a row of what waits for the next commit.
    pub waiting: bool,
    /// The first row that still exists.
    pub oldest_row: u64,
    /// Month of last use, as in the clear row.
    pub month: u32,
    /// Private half of the key to which reports about this group are sealed.
    pub(super) report_key: [u8; 32],
    /// The life of the store in which the group last told its members something; none if that is not known.
    pub incarnation: Incarnation,
    /// Of the current epoch's GroupContext ([`context_hash`](crate::crypto::mls::context_hash)); zero if that is not known.
    pub context_hash: [u8; 8],
}

impl Head {
    /// Decodes a head. Version 1 ends before the incarnation.
    fn decode(row: &[u8]) -> Result<Self, RecordError> {
        if record::version(row)? == 1 {
            let body = row.get(1..).unwrap_or_default();
            return record::decode(HEAD_VERSION, &[&[HEAD_VERSION], body, &[0; 16 + 8]].concat());
        }
        record::decode(HEAD_VERSION, row)
    }
}

/// What is stored of a group in clear.
#[derive(Serialize, Deserialize)]
pub(super) struct Meta {
    /// Months since January 1970.
    pub month: u32,
    /// Reports about gone queues are sealed to it.
    #[serde(with = "serde_bytes")]
    pub report_key: Vec<u8>,
}

/// A group whose head has been opened with its EAR key.
pub struct Group {
    /// Which.
    pub id: GroupId,
    /// From the request; gone when the request ends.
    pub ear_key: Secret,
    /// Its head.
    pub head: Head,
}

impl Group {
    /// A group of one, not stored yet.
    ///
    /// # Errors
    /// `internal` if no key can be made.
    pub fn new(
        id: GroupId,
        ear_key: Secret,
        connection: Connection,
        admins: Vec<[u8; 32]>,
        creator: Member,
        context_hash: [u8; 8],
        context: &mut Context<'_>,
    ) -> Self {
        let head = Head {
            epoch: 0,
            connection,
            admins,
            members: vec![creator],
            joiners: Vec::new(),
            rows: Rows::default(),
            leaving: Vec::new(),
            waiting: false,
            oldest_row: 0,
            // Not a month that is: the first save writes the clear row.
            month: u32::MAX,
            report_key: *random_secret(context.rng).expose(),
            incarnation: context.incarnation,
            context_hash,
        };
        Self { id, ear_key, head }
    }

    /// Opens a stored group.
    ///
    /// # Errors
    /// `not_found` if there is no such group here, or the EAR key is not its: who has no key learns nothing.
    pub async fn open(context: &Context<'_>, access: &GroupAccess) -> Result<Self, Refusal> {
        let not_found = || Refusal::not_found("there is no such group here, or the key is not its");
        if access.group.domain != *context.domain {
            return Err(not_found());
        }
        let sealed = context.get(Table::DsHeads, &head_key(&access.group)).await?.ok_or_else(not_found)?;
        let label = KeyLabel::GroupHead;
        let padded = aead::open(&access.ear_key, label, &access.group.uuid, &sealed).map_err(|_| not_found())?;
        let record = unpad(padded, STATE_FLOOR).map_err(damaged)?;
        let head = Head::decode(&record).map_err(damaged)?;
        Ok(Self { id: access.group.clone(), ear_key: access.ear_key.clone(), head })
    }

    /// Adds the head to the batch, and the clear row if the month has changed.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn save(&mut self, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let month = context.now.day().month();
        if month != self.head.month {
            self.head.month = month;
            let report_key = HpkePrivateKey::from_secret(self.head.report_key.into()).map_err(damaged)?;
            let meta = Meta { month, report_key: report_key.public_key().as_slice().to_vec() };
            batch.put(Table::DsMeta, head_key(&self.id), record::encode(META_VERSION, &meta).map_err(damaged)?);
        }
        let record = record::encode(HEAD_VERSION, &self.head).map_err(damaged)?;
        let padded = pad(&record, STATE_FLOOR);
        let sealed = aead::seal(&self.ear_key, KeyLabel::GroupHead, &self.id.uuid, &padded, context.rng);
        batch.put(Table::DsHeads, head_key(&self.id), sealed);
        Ok(())
    }

    /// Whether the month of last use has to be brought up to date.
    pub const fn is_stale(&self, now: Timestamp) -> bool {
        self.head.month != now.day().month()
    }

    /// Adds the end of the group to the batch. Its id stays used until no ticket for it can be valid.
    pub fn delete(&self, tombstone_until: u64, batch: &mut Batch) {
        delete_rows(self.id.uuid, batch);
        batch.put(Table::DsTombstones, head_key(&self.id), tombstone_until.to_vec());
    }

    /// Notes that the queue behind a config is gone; whether that is news.
    pub fn mark_gone(&mut self, config: &Bytes) -> bool {
        let mut members = self.head.members.iter_mut();
        let found = members.find(|member| member.queue_config == *config && !member.gone);
        found.map(|member| member.gone = true).is_some()
    }

    /// Notes that a member did something; whether that is worth writing, which it is once a week.
    pub fn touch(&mut self, leaf: u32, today: Day) -> bool {
        let member = self.head.members.iter_mut().find(|member| member.leaf == leaf);
        let stale = member.filter(|member| today.0.saturating_sub(member.active_day) >= TOUCH_DAYS);
        stale.map(|member| member.active_day = today.0).is_some()
    }

    /// Whether a member has proposed to leave.
    pub fn is_leaving(&self, leaf: u32) -> bool {
        self.head.leaving.contains(&Leaving { leaf, by_itself: true })
    }

    /// The member at a leaf.
    pub fn member(&self, leaf: u32) -> Option<&Member> {
        let at = self.head.members.binary_search_by_key(&leaf, |member| member.leaf).ok()?;
        self.head.members.get(at)
    }

    /// The signature key of a leaf.
    pub fn leaf_key(&self, leaf: u32) -> Option<SignaturePublicKey> {
        self.member(leaf).map(|member| member.key[..].into())
    }

    /// The home domain of the member at a leaf.
    ///
    /// # Errors
    /// `internal` if its stored config does not decode.
    pub fn home_of(&self, leaf: u32) -> Result<Option<Domain>, Refusal> {
        let home = self.member(leaf).map(|member| ClientQueueConfig::home_of(&member.queue_config));
        home.transpose().map_err(damaged)
    }

    /// The joiner with this KeyPackageRef, if its time is not over.
    pub fn joiner(&self, reference: &Opaque, today: Day) -> Option<&Joiner> {
        self.head.joiners.iter().find(|joiner| joiner.reference == reference.as_slice() && joiner.expires >= today.0)
    }

    /// Whether the member at `leaf` may change the group: it is listed as an admin, or nobody listed is present.
    pub fn is_admin(&self, leaf: u32) -> bool {
        let listed = |member: &Member| self.head.admins.contains(&member.identity);
        self.member(leaf).is_some_and(listed) || !self.head.members.iter().any(listed)
    }

    /// Checks that a message is of the current epoch.
    ///
    /// # Errors
    /// `wrong_epoch` with the current one.
    pub fn check_epoch(&self, epoch: u64) -> Result<(), Refusal> {
        if epoch == self.head.epoch { Ok(()) } else { Err(self.wrong_epoch()) }
    }

    /// Checks that a message of the current epoch is of this history of the group.
    ///
    /// # Errors
    /// `wrong_epoch` with the current one.
    pub fn check_context(&self, hash: [u8; 8]) -> Result<(), Refusal> {
        if hash == self.head.context_hash || self.head.context_hash == [0; 8] {
            Ok(())
        } else {
            Err(self.wrong_epoch())
        }
    }

    fn wrong_epoch(&self) -> Refusal {
        let current = CurrentEpoch { epoch: self.head.epoch };
        Refusal::new(Status::WrongEpoch, "the message is not of the current epoch").with_detail(current.to_vec())
    }

    /// Where the members' messages go, but for those of the leaves that `skip` names: encoded [`ClientQueueConfig`]s.
    pub fn queue_configs(&self, skip: impl Fn(u32) -> bool) -> Vec<Bytes> {
        let members = self.head.members.iter().filter(|member| !skip(member.leaf));
        members.map(|member| member.queue_config.clone()).collect()
    }
}

/// Adds the end of all rows of a group to the batch.
pub fn delete_rows(group: [u8; 16], batch: &mut Batch) {
    let rows = Key::new().bytes(group).prefix();
    batch.delete(Table::DsHeads, rows.from.clone());
    batch.delete(Table::DsMeta, rows.from.clone());
    let to = rows.to.unwrap_or_default();
    batch.delete_range(Table::DsReports, rows.from.clone(), to.clone());
    batch.delete_range(Table::DsLog, rows.from, to);
}

/// Where a group's head is.
pub fn head_key(group: &GroupId) -> Key {
    Key::new().bytes(group.uuid)
}
