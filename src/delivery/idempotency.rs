//! Repeats: the first answer to an idempotency key of a leaf is kept, encrypted under the group's EAR key, until its day
//! is over. Row names are derived from that key, so that rows of one group or leaf cannot be told from others'.

use super::group::Group;
use crate::{
    base::Refusal,
    crypto::aead,
    service::{Context, damaged},
    store::{Batch, Key, Table},
    wire::{Decode, Encode, Method, Reader, delivery::IdempotencyKey, label::KeyLabel},
};

/// Days that an answer is kept.
const RETENTION: u32 = 7;

/// The place of the answer to a request.
pub struct Answer {
    name: [u8; 32],
    ear_key: crate::base::Secret,
}

/// An [`Answer`] with everything it takes to store it but the answer itself.
pub struct Prepared {
    answer: Answer,
    expires: u32,
    salt: aead::Salt,
}

impl Answer {
    /// The place of the answer to the request of `method` with this key by the member with this identity.
    pub fn to(group: &Group, method: Method, identity: &[u8; 32], key: &IdempotencyKey) -> Self {
        let mut name = group.id.to_vec();
        (method as u16).encode(&mut name);
        name.extend_from_slice(identity);
        name.extend_from_slice(key);
        let name = *aead::derive(&group.ear_key, &name, KeyLabel::IdempotencyName).expose();
        Self { name, ear_key: group.ear_key.clone() }
    }

    /// The first answer, if the request is a repeat.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn find<R: Decode>(&self, context: &Context<'_>) -> Result<Option<R>, Refusal> {
        let Some(row) = context.get(Table::DsIdempotency, &self.key()).await? else { return Ok(None) };
        let mut reader = Reader::new(row);
        let expires = u32::decode(&mut reader).map_err(damaged)?;
        if expires < context.now.day().0 {
            return Ok(None);
        }
        let sealed = reader.take(reader.remaining()).map_err(damaged)?;
        let opened = aead::open(&self.ear_key, KeyLabel::IdempotencyContent, &self.name, &sealed).map_err(damaged)?;
        R::from_bytes(opened).map(Some).map_err(damaged)
    }

    /// Draws what storing the answer needs.
    pub fn prepare(self, context: &mut Context<'_>) -> Prepared {
        Prepared { answer: self, expires: context.now.day().plus(RETENTION).0, salt: aead::Salt::draw(context.rng) }
    }

    fn key(&self) -> Key {
        Key::new().bytes(self.name)
    }
}

impl Prepared {
    /// Adds the answer to the batch. In clear is the day it expires, by which it is swept.
    pub fn store(self, answer: &impl Encode, batch: &mut Batch) {
        let Self { answer: place, expires, salt } = self;
        let sealed =
            aead::seal_salted(&place.ear_key, KeyLabel::IdempotencyContent, &place.name, &answer.to_vec(), salt);
        let mut row = expires.to_vec();
        row.extend_from_slice(&sealed);
        batch.put(Table::DsIdempotency, place.key(), row);
    }
}
