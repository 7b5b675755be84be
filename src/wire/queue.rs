//! Encrypted queues: what the QS and the AS store for a client, and how it fetches it (`wire-spec/queues.tls`).

use super::{Opaque, connection::DirectMessage, delivery::WelcomeBundle};
use crate::base::{GroupId, Secret};

/// Marks one life of a store: new whenever it was restored from a backup.
pub type Incarnation = [u8; 16];

wire_structs! {
    /// Fetches entries and deletes those before `start`.
    pub struct Dequeue {
        /// The incarnation the client knows; all zero if none.
        pub incarnation: Incarnation,
        /// The next wanted sequence number: everything before it is deleted.
        pub start: u64,
        /// At most this many entries.
        pub max: u32,
    }

    /// Streams entries from `start` on as they become durable. A newer Listen on a queue ends the older.
    pub struct Listen {
        /// The incarnation the client knows; all zero if none.
        pub incarnation: Incarnation,
        /// The next wanted sequence number: everything before it is deleted.
        pub start: u64,
    }

    /// Frame from the client of a Listen: everything before `next` is processed and can be deleted.
    pub struct Acknowledge {
        /// The next wanted sequence number.
        pub next: u64,
    }

    /// Entries of a queue; the response to Dequeue, the header and every frame of a Listen.
    pub struct QueueEntries {
        /// The queue's incarnation. If it is not the one asked for, nothing was deleted and no entry is here.
        pub incarnation: Incarnation,
        /// Sequence number of the oldest entry stored (or of the next one, if none is).
        pub first: u64,
        /// Sequence number that the next entry will get.
        pub head: u64,
        /// In sequence, without gaps.
        pub entries: Vec<QueueEntry>,
    }

    /// Detail of a `malformed` refusal of a start beyond the head.
    pub struct CurrentHead {
        /// Sequence number that the next entry will get.
        pub head: u64,
    }

    /// One entry.
    pub struct QueueEntry {
        /// Its number.
        pub sequence: u64,
        /// What the ciphertext is.
        pub kind: EntryKind,
        /// By `kind`: an encoded HpkeCiphertext, or an AEAD ciphertext of a padded [`QueueMessage`].
        pub ciphertext: Opaque,
    }

    /// What an entry's encryption is bound to.
    pub struct EntryAad {
        /// The queue's incarnation.
        pub incarnation: Incarnation,
        /// The entry's number.
        pub sequence: u64,
        /// The entry's kind.
        pub kind: EntryKind,
    }

    /// What the DS tells a member.
    pub struct FanOut {
        /// The group.
        pub group: GroupId,
        /// What happened.
        pub content: FanOutContent,
    }

    /// A message that several queues share: fetched with GetBody.
    pub struct SharedBody {
        /// Where it is.
        pub id: [u8; 16],
        /// What it is encrypted under.
        pub key: Secret,
        /// SHA-256 of its ciphertext.
        pub hash: [u8; 32],
    }
}

wire_selects! {
    /// What an entry is.
    pub enum EntryKind: u8 {
        /// The ratchet's (new) first secret under HPKE.
        Secret = 1,
        /// A message under the ratchet.
        Message = 2,
        /// Fresh randomness for the ratchet under HPKE.
        KeyUpdate = 3,
        /// The queue was full: messages were refused from here on. Encrypted like a message, with empty content.
        Overflow = 4,
    }

    /// The plaintext of a message entry (padded, `wire-spec/queues.md`).
    pub enum QueueMessage: u8 {
        /// For the direct queue at the AS.
        Direct(DirectMessage) = 1,
        /// From a DS.
        FanOut(FanOut) = 2,
        /// From a DS, stored apart.
        Shared(SharedBody) = 3,
    }

    /// What happened in a group.
    pub enum FanOutContent: u8 {
        /// An accepted commit (MLSMessage).
        Commit(Opaque) = 1,
        /// An application message (MLSMessage).
        Application(Opaque) = 2,
        /// A stored proposal (MLSMessage).
        Proposal(Opaque) = 3,
        /// The recipient was added.
        Welcome(WelcomeBundle) = 4,
        /// The group is gone; the commit that removed everybody, or the SelfRemove that left nobody (MLSMessage).
        GroupDeleted(Opaque) = 5,
        /// The DS was restored from a backup, since when this is the first that the group tells: the incarnation of its store.
        Restored(Incarnation) = 6,
    }
}
