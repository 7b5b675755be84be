//! What homeservers say to each other (`wire-spec/federation.tls`).

use super::{
    Opaque,
    credential::Signature,
    queue::{FanOut, Incarnation},
    queuing::{ClientQueueConfig, HpkeKeyId},
};
use crate::base::{Domain, GroupId};

/// Most messages in one frame.
pub const MAX_FRAME_MESSAGES: usize = 256;

/// Most recipients of one forwarded fan-out.
pub const MAX_RECIPIENTS: usize = 1_000;

wire_structs! {
    /// Begins to deliver what waits for the homeserver that is asked.
    pub struct Deliver {
        /// The sender's home domain, which its certificate proves.
        pub source: Domain,
        /// The homeserver that is asked. There may be another one where it is looked for, with a certificate for both.
        pub destination: Domain,
        /// Of the sender's store.
        pub incarnation: Incarnation,
    }

    /// What the receiver has already; the response to Deliver, and every frame from the receiver.
    pub struct Delivered {
        /// The next wanted sequence number of this source and incarnation: everything before it is durable here.
        pub next: u64,
    }

    /// Frame from the sender of a Deliver.
    pub struct QsToQsFrame {
        /// In sequence; from one message to the next there may be gaps.
        pub messages: Vec<QsToQsMessage>,
        /// By the source's QS (label `QsToQs`), over the messages.
        pub signature: Signature,
    }

    /// What the signature of a [`QsToQsFrame`] covers.
    pub struct QsToQsTbs {
        /// As in the frame.
        pub messages: Vec<QsToQsMessage>,
    }

    /// One message from one QS to another.
    pub struct QsToQsMessage {
        /// Whose QS sends it.
        pub source: Domain,
        /// Whose QS it is for.
        pub destination: Domain,
        /// Of the source's store.
        pub incarnation: Incarnation,
        /// Its number among those of this source, destination and incarnation.
        pub sequence: u64,
        /// What it says.
        pub payload: SealedForward,
    }

    /// A padded [`Forward`] under HPKE, to a key of the destination's QS.
    pub struct SealedForward {
        /// Of the key it is sealed to.
        pub key_id: HpkeKeyId,
        /// HPKE encapsulated key.
        pub kem_output: Opaque,
        /// The ciphertext.
        pub ciphertext: Opaque,
    }

    /// What the HPKE encryption of a [`SealedForward`] is bound to.
    pub struct ForwardAad {
        /// Whose QS sends it.
        pub source: Domain,
        /// Whose QS it is for.
        pub destination: Domain,
    }

    /// What a DS tells members whose queues are at another homeserver.
    pub struct ForwardedFanOut {
        /// What all of them are told. The group is one of the source's.
        pub message: FanOut,
        /// Whether those who do not listen are left alone, whatever it is.
        pub no_push: bool,
        /// Where it goes: at least one, and at most 1,000, all at the destination.
        pub recipients: Vec<ClientQueueConfig>,
    }

    /// A statement that a queue is gone for good.
    pub struct QueueGone {
        /// What is signed.
        pub statement: QueueGoneTbs,
        /// By the QS of the config's domain (label `QueueGone`).
        pub signature: Signature,
    }

    /// What a [`QueueGone`] says.
    pub struct QueueGoneTbs {
        /// The group whose message did not find it.
        pub group: GroupId,
        /// The queue config that led there.
        pub config: ClientQueueConfig,
    }
}

wire_selects! {
    /// The inside of a [`SealedForward`].
    pub enum Forward: u8 {
        /// For queues.
        FanOut(ForwardedFanOut) = 1,
        /// For the DS of a group.
        QueueGone(QueueGone) = 2,
    }
}
