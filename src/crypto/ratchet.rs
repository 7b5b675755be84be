//! The queue ratchet: each entry of a queue has a key of its own, and what is stored afterwards opens no earlier entry
//! (`wire-spec/queues.md`, "Ratchet"). One file serves both ends.

use bytes::Bytes;

use super::{
    CryptoError, Rng,
    aead::{Extracted, derive, open_once, seal_once},
    hpke::{self, HpkePrivateKey},
    random_secret,
};
use crate::{
    base::Secret,
    wire::{
        Decode, Encode, Opaque,
        credential::{HpkeCiphertext, HpkePublicKey},
        label::{HpkeLabel, KeyLabel},
        padding::{MESSAGE_FLOOR, pad, unpad},
        queue::{EntryAad, EntryKind, QueueEntry},
    },
};

/// The state of a queue's ratchet: opens or seals the next entry, and none before it.
#[derive(Clone, PartialEq, Eq)]
pub struct Ratchet(Secret);

impl Ratchet {
    /// A new ratchet, and the entry that tells the owner of `queue_key` its secret.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if `queue_key` is no usable key.
    pub fn start(
        queue_key: &HpkePublicKey,
        aad: &EntryAad,
        rng: &mut dyn Rng,
    ) -> Result<(Self, QueueEntry), CryptoError> {
        let secret = random_secret(rng);
        let sealed = hpke::seal(queue_key, HpkeLabel::QueueSecret, &[], &aad.to_vec(), secret.expose(), rng)?;
        Ok((Self(secret), entry(aad, sealed.to_vec())))
    }

    /// The ratchet that a [`EntryKind::Secret`] entry starts.
    ///
    /// # Errors
    /// [`CryptoError`] if the entry was not made for `key` at this place of the queue.
    pub fn accept(key: &HpkePrivateKey, aad: &EntryAad, ciphertext: &Opaque) -> Result<Self, CryptoError> {
        open_secret(key, HpkeLabel::QueueSecret, aad, ciphertext).map(Self)
    }

    /// The stored state of a ratchet.
    pub const fn from_secret(secret: Secret) -> Self {
        Self(secret)
    }

    /// For storing.
    pub const fn secret(&self) -> &Secret {
        &self.0
    }

    /// Encrypts the next entry's content and advances.
    pub fn seal(&mut self, aad: &EntryAad, content: &[u8]) -> QueueEntry {
        let (next, material) = self.step();
        let sealed = seal_once(&material, &aad.to_vec(), pad(content, MESSAGE_FLOOR));
        self.0 = next;
        entry(aad, sealed)
    }

    /// Decrypts the next entry: its content, and the ratchet after it.
    ///
    /// # Errors
    /// [`CryptoError::Invalid`] if it is not the next entry of this queue.
    pub fn open(&self, aad: &EntryAad, ciphertext: &Opaque) -> Result<(Self, Bytes), CryptoError> {
        let (next, material) = self.step();
        let padded = open_once(&material, &aad.to_vec(), ciphertext.as_slice())?;
        Ok((Self(next), unpad(padded, MESSAGE_FLOOR)?))
    }

    /// Mixes fresh randomness into the ratchet; the entry tells it to the owner of `queue_key`.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if `queue_key` is no usable key.
    pub fn update(
        &mut self,
        queue_key: &HpkePublicKey,
        aad: &EntryAad,
        rng: &mut dyn Rng,
    ) -> Result<QueueEntry, CryptoError> {
        let fresh = random_secret(rng);
        let sealed = hpke::seal(queue_key, HpkeLabel::QueueKeyUpdate, &[], &aad.to_vec(), fresh.expose(), rng)?;
        self.0 = self.mix(&fresh);
        Ok(entry(aad, sealed.to_vec()))
    }

    /// The ratchet after a [`EntryKind::KeyUpdate`] entry.
    ///
    /// # Errors
    /// [`CryptoError`] if the entry was not made for `key` at this place of the queue.
    pub fn accept_update(
        &self,
        key: &HpkePrivateKey,
        aad: &EntryAad,
        ciphertext: &Opaque,
    ) -> Result<Self, CryptoError> {
        open_secret(key, HpkeLabel::QueueKeyUpdate, aad, ciphertext).map(|fresh| Self(self.mix(&fresh)))
    }

    fn step(&self) -> (Secret, Secret<44>) {
        let extracted = Extracted::from(&self.0, &[]);
        let key: Secret<32> = extracted.expand(KeyLabel::RatchetKey);
        let nonce: Secret<12> = extracted.expand(KeyLabel::RatchetNonce);
        let mut material = [0; 44];
        material[..32].copy_from_slice(key.expose());
        material[32..].copy_from_slice(nonce.expose());
        (extracted.expand(KeyLabel::RatchetSecret), Secret::new(material))
    }

    fn mix(&self, fresh: &Secret) -> Secret {
        let rotation: Secret = derive(&self.0, &[], KeyLabel::RatchetUpdate);
        derive(&rotation, fresh.expose(), KeyLabel::RatchetSecret)
    }
}

fn entry(aad: &EntryAad, ciphertext: Vec<u8>) -> QueueEntry {
    QueueEntry { sequence: aad.sequence, kind: aad.kind.clone(), ciphertext: ciphertext.into() }
}

fn open_secret(
    key: &HpkePrivateKey,
    label: HpkeLabel,
    aad: &EntryAad,
    ciphertext: &Opaque,
) -> Result<Secret, CryptoError> {
    let sealed = HpkeCiphertext::from_bytes(ciphertext.0.clone())?;
    let secret = key.open(label, &[], &aad.to_vec(), &sealed)?;
    <[u8; 32]>::try_from(&secret[..]).map(Secret::new).map_err(|_| CryptoError::Form)
}

/// What an entry's encryption is bound to.
pub const fn entry_aad(incarnation: [u8; 16], sequence: u64, kind: EntryKind) -> EntryAad {
    EntryAad { incarnation, sequence, kind }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crypto::system_rng;

    #[test]
    fn both_ends_stay_in_step_through_a_key_update_and_earlier_entries_stay_shut() {
        let mut rng = system_rng();
        let key = HpkePrivateKey::generate(&mut rng).unwrap();
        let at = |sequence, kind| entry_aad([7; 16], sequence, kind);

        let (mut server, first) = Ratchet::start(&key.public_key(), &at(0, EntryKind::Secret), &mut rng).unwrap();
        let client = Ratchet::accept(&key, &at(0, EntryKind::Secret), &first.ciphertext).unwrap();

        let second = server.seal(&at(1, EntryKind::Message), b"one");
        assert_eq!(second.ciphertext.as_slice().len(), 256 + 16, "padded");
        assert!(client.open(&at(2, EntryKind::Message), &second.ciphertext).is_err(), "another place");
        assert!(client.open(&at(1, EntryKind::Overflow), &second.ciphertext).is_err(), "another kind");
        let (client, content) = client.open(&at(1, EntryKind::Message), &second.ciphertext).unwrap();
        assert_eq!(content, &b"one"[..]);
        assert!(client.open(&at(1, EntryKind::Message), &second.ciphertext).is_err(), "an earlier entry");

        let copied = server.clone();
        let third = server.update(&key.public_key(), &at(2, EntryKind::KeyUpdate), &mut rng).unwrap();
        let client = client.accept_update(&key, &at(2, EntryKind::KeyUpdate), &third.ciphertext).unwrap();
        let fourth = server.seal(&at(3, EntryKind::Message), b"two");
        assert!(copied.open(&at(3, EntryKind::Message), &fourth.ciphertext).is_err(), "a copy of the old state");
        assert_eq!(client.open(&at(3, EntryKind::Message), &fourth.ciphertext).unwrap().1, &b"two"[..]);
    }
}
