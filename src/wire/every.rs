//! Every type of the specification by its name, for fuzzers, conformance tests and other tools: decoding and encoding again
//! without a Rust type at hand.

use bytes::Bytes;

use super::{Decode, DecodeError, Encode};

/// Hands all types to a macro, in groups. Types that are only ever part of others, or the body of a method, are among those.
macro_rules! with_every_type {
    ($callback:ident) => {
        $callback! {
            envelopes: Request, Response, ErrorDetail, Authentication, Token, SenderId, Proof, envelope::RequestTbs,
                envelope::BindTbs;
            credentials: credential::AsCredential, credential::AsIntermediateCredential, credential::ClientCredential,
                credential::LeafCredential, credential::LeafTbs, credential::LeafSignature, credential::LeafChain,
                credential::HpkeCiphertext, delivery::Roles, delivery::CommitAad, queuing::ClientQueueConfig;
            contents: content::ApplicationMessage, content::UserProfile, content::GroupData,
                connection::ConnectionOffer, connection::ConnectionDecline, connection::WelcomeAttribution,
                connection::FriendshipPackage, connection::ConnectionPackage;
            queues: queue::QueueEntries, queue::QueueEntry, queue::QueueMessage, queue::EntryAad, queue::FanOut,
                queue::CurrentHead, connection::DirectMessage, queuing::QueueConfig, queuing::PushToken,
                delivery::WelcomeBundle;
            groups: mls::WelcomeMessage, mls::PrivateMessage, delivery::CurrentEpoch, delivery::StoredProposals;
            frames: queue::Acknowledge, federation::QsToQsFrame, federation::Delivered;
            federation: federation::QsToQsTbs, federation::Forward, federation::ForwardAad;
        }
    };
}

type Recode = fn(Bytes) -> Result<Vec<u8>, DecodeError>;

fn recode<T: Encode + Decode>(octets: Bytes) -> Result<Vec<u8>, DecodeError> {
    T::from_bytes(octets).map(|value| value.to_vec())
}

/// A type of the specification.
#[derive(Clone, Copy, Debug)]
pub struct Named {
    /// Its name in `wire-spec/`.
    pub name: &'static str,
    /// What it belongs to.
    pub group: &'static str,
    recode: Recode,
}

impl Named {
    /// Decodes a value and encodes it again: the same octets, whatever was accepted.
    ///
    /// # Errors
    /// [`DecodeError`] if they are no encoding of the type.
    pub fn recode(&self, octets: Bytes) -> Result<Vec<u8>, DecodeError> {
        (self.recode)(octets)
    }
}

/// The last part of a type's path, which is its name in `wire-spec/`.
pub(super) fn last(path: &'static str) -> &'static str {
    path.rsplit([':', ' ']).next().unwrap_or(path)
}

macro_rules! named {
    ($($group:ident: $($type:ty),* $(,)?;)*) => {
        /// All types, but for those that are only part of others or the body of a method.
        pub fn types() -> Vec<Named> {
            use super::*;
            vec![$($(Named { name: last(stringify!($type)), group: stringify!($group), recode: recode::<$type> },)*)*]
        }
    };
}

with_every_type!(named);
