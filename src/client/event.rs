//! What the SDK tells its user while it runs. Everything an event stands for is stored already.

use crate::{
    base::{GroupId, UserId},
    client::state::queues::Queue,
};

/// Something happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// A message is in the inbox.
    Message {
        /// Where.
        chat: GroupId,
        /// By whom.
        from: UserId,
    },
    /// Somebody wants to connect.
    Request {
        /// Names the request here.
        id: String,
        /// Who.
        from: UserId,
        /// What it calls itself.
        name: String,
    },
    /// Somebody is a contact now.
    Connected {
        /// Who.
        user: UserId,
        /// The chat with it.
        chat: GroupId,
    },
    /// Somebody does not want to connect.
    Declined {
        /// Who; not known if it was asked by an alias.
        user: Option<UserId>,
        /// The chat that was made for it.
        chat: GroupId,
    },
    /// This client was added to a chat.
    Joined {
        /// Which.
        chat: GroupId,
        /// By whom.
        by: UserId,
    },
    /// Members of a chat came or went, or renewed their keys.
    Changed {
        /// Which.
        chat: GroupId,
    },
    /// Somebody is a member of a chat now.
    MemberJoined {
        /// Which.
        chat: GroupId,
        /// Who.
        user: UserId,
    },
    /// Somebody is no member of a chat any more.
    MemberLeft {
        /// Which.
        chat: GroupId,
        /// Who.
        user: UserId,
    },
    /// Somebody leaves a chat: it is a member until the next commit.
    Leaving {
        /// Which.
        chat: GroupId,
        /// Who.
        user: UserId,
    },
    /// Other members of a chat are its admins now.
    AdminsChanged {
        /// Which.
        chat: GroupId,
    },
    /// A chat has another name.
    Renamed {
        /// Which.
        chat: GroupId,
        /// What it is called now.
        name: String,
    },
    /// This client was removed from a chat.
    Removed {
        /// Which.
        chat: GroupId,
    },
    /// A chat was deleted.
    Deleted {
        /// Which.
        chat: GroupId,
    },
    /// A contact has another identity key, for which its old one has not signed.
    IdentityChanged {
        /// Who.
        user: UserId,
    },
    /// Something received could not be used; it was skipped.
    Problem(String),
    /// Something of a queue is missing: it was full, or its ratchet or this client's state was lost.
    Gap(Queue),
    /// A queue is being listened to.
    Listening(Queue),
    /// The connection to a queue broke; it is being made again.
    Interrupted(Queue),
    /// Another process listens to the queue now: this one stopped.
    Replaced(Queue),
}
