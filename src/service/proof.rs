//! Proven senders. A handler that needs one takes a [`Verified`] of it, which only this file can make
//! (`wire-spec/authentication.md`, "Proofs").

use std::sync::Mutex;

use crate::{
    base::{AliasId, ClientId, GroupId, QsClientId, QsUserId, Refusal, limits::MAX_BOUND_KEYS},
    crypto::proof::RequestContext,
    wire::{Authentication, Opaque, Proof, SenderId, credential::SignaturePublicKey},
};

/// A sender that has proven to be the sender of the request at hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verified<T>(T);

impl<T> Verified<T> {
    /// Who.
    pub const fn get(&self) -> &T {
        &self.0
    }
}

/// A sender known to the QS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QueuingSender {
    /// A client.
    Client(QsClientId),
    /// A user, for any of its clients.
    User(QsUserId),
}

/// A leaf of a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Leaf(pub u32);

/// A joiner, by its KeyPackageRef.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Joiner(pub Opaque);

/// The keys that one connection has proven to possess: at most [`MAX_BOUND_KEYS`], the least recently used goes first.
#[derive(Default)]
pub struct BoundKeys(Mutex<Vec<SignaturePublicKey>>);

impl BoundKeys {
    /// Adds a key whose possession was proven.
    pub fn insert(&self, key: SignaturePublicKey) {
        let mut keys = self.lock();
        keys.retain(|known| *known != key);
        if keys.len() >= MAX_BOUND_KEYS {
            keys.remove(0);
        }
        keys.push(key);
    }

    /// Whether a key is bound, which counts as a use.
    pub fn contains(&self, key: &SignaturePublicKey) -> bool {
        let mut keys = self.lock();
        let Some(at) = keys.iter().rposition(|known| known == key) else { return false };
        keys[at..].rotate_left(1);
        true
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<SignaturePublicKey>> {
        // A panic while the list is held leaves a list; nothing about it can be half done.
        self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// What a request presents as proof of its sender.
pub struct Presented<'a> {
    /// What a signature must cover.
    pub context: RequestContext<'a>,
    /// Sent along.
    pub auth: &'a [Authentication],
    /// Of the connection.
    pub bound: &'a BoundKeys,
}

impl Presented<'_> {
    /// For methods without a sender: none may be named, so that nothing is read into a request that it does not prove.
    ///
    /// # Errors
    /// `unauthenticated` if one is.
    pub fn nobody(&self) -> Result<(), Refusal> {
        if self.auth.is_empty() { Ok(()) } else { Err(Refusal::unauthenticated("this method takes no sender")) }
    }

    /// The client credential that claims to send.
    ///
    /// # Errors
    /// `unauthenticated` if there is not exactly one sender, of this kind.
    pub fn client(&self) -> Result<&ClientId, Refusal> {
        match self.sender()? {
            SenderId::AsClient(client) => Ok(client),
            _ => Err(wrong_kind()),
        }
    }

    /// The QS client that claims to send.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn qs_client(&self) -> Result<QsClientId, Refusal> {
        match self.sender()? {
            SenderId::QsClient(client) => Ok(*client),
            _ => Err(wrong_kind()),
        }
    }

    /// The QS user that claims to send.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn qs_user(&self) -> Result<QsUserId, Refusal> {
        match self.sender()? {
            SenderId::QsUser(user) => Ok(*user),
            _ => Err(wrong_kind()),
        }
    }

    /// The QS client that claims to send, or the QS user whose client it may be.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn qs_either(&self) -> Result<QueuingSender, Refusal> {
        match self.sender()? {
            SenderId::QsClient(client) => Ok(QueuingSender::Client(*client)),
            SenderId::QsUser(user) => Ok(QueuingSender::User(*user)),
            _ => Err(wrong_kind()),
        }
    }

    /// The leaf of `group` that claims to send.
    ///
    /// # Errors
    /// As [`Self::client`]; also if it claims to be of another group.
    pub fn leaf(&self, group: &GroupId) -> Result<Leaf, Refusal> {
        match self.sender()? {
            SenderId::DsLeaf(leaf) if leaf.group == *group => Ok(Leaf(leaf.leaf)),
            _ => Err(wrong_kind()),
        }
    }

    /// The joiner of `group` that claims to send.
    ///
    /// # Errors
    /// As [`Self::leaf`].
    pub fn joiner(&self, group: &GroupId) -> Result<Joiner, Refusal> {
        match self.sender()? {
            SenderId::DsKeyPackage(joiner) if joiner.group == *group => Ok(Joiner(joiner.reference.clone())),
            _ => Err(wrong_kind()),
        }
    }

    /// The alias that claims to send.
    ///
    /// # Errors
    /// As [`Self::client`].
    pub fn alias(&self) -> Result<AliasId, Refusal> {
        match self.sender()? {
            SenderId::AsAlias(alias) => Ok(*alias),
            _ => Err(wrong_kind()),
        }
    }

    /// The client that claims to send, by two keys: the one it has and the one it wants.
    ///
    /// # Errors
    /// `unauthenticated` if there are not exactly two senders, both this client.
    pub fn renewing_client(&self) -> Result<&ClientId, Refusal> {
        match self.auth {
            [
                Authentication { sender: SenderId::AsClient(one), .. },
                Authentication { sender: SenderId::AsClient(other), .. },
            ] if one == other => Ok(one),
            _ => Err(Refusal::unauthenticated("this method needs the same client twice, with its old and its new key")),
        }
    }

    /// Checks the proofs of [`Self::renewing_client`]: by the key it has, unless none is asked for, and by the one it
    /// wants.
    ///
    /// # Errors
    /// `unauthenticated` if one of them does not verify.
    pub fn prove_renewing<T>(
        &self,
        sender: T,
        old: Option<&SignaturePublicKey>,
        new: &SignaturePublicKey,
    ) -> Result<Verified<T>, Refusal> {
        let [by_old, by_new] = self.auth else { return Err(missing()) };
        let proven = old.is_none_or(|old| self.holds(by_old, old)) && self.holds(by_new, new);
        if proven { Ok(Verified(sender)) } else { Err(unproven()) }
    }

    /// Does what [`Self::prove`] does for a sender that does not exist, and takes as long.
    pub fn prove_nobody(&self) -> Refusal {
        // A point of the curve, like any key: the base point (RFC 8032 section 5.1).
        let mut base = [0x66; 32];
        base[0] = 0x58;
        match self.prove((), &base[..].into()) {
            Ok(_) | Err(_) => unproven(),
        }
    }

    /// Checks the proof against the sender's current key. `sender` is what one of the methods above has read from the
    /// request, or something found by it.
    ///
    /// # Errors
    /// `unauthenticated` if the key neither signed this request nor is bound to the connection.
    pub fn prove<T>(&self, sender: T, key: &SignaturePublicKey) -> Result<Verified<T>, Refusal> {
        let [authentication] = self.auth else { return Err(missing()) };
        if self.holds(authentication, key) { Ok(Verified(sender)) } else { Err(unproven()) }
    }

    fn holds(&self, Authentication { sender, proof }: &Authentication, key: &SignaturePublicKey) -> bool {
        match proof {
            Proof::Bound => self.bound.contains(key),
            Proof::Signature(signature) => self.context.verify(sender, key, signature).is_ok(),
        }
    }

    fn sender(&self) -> Result<&SenderId, Refusal> {
        match self.auth {
            [Authentication { sender, .. }] => Ok(sender),
            _ => Err(missing()),
        }
    }
}

/// The refusal for a wrong proof, and for a sender that does not exist: nobody learns which it is.
pub fn unproven() -> Refusal {
    Refusal::unauthenticated("the proof of the sender does not verify for this request on this stream")
}

fn missing() -> Refusal {
    Refusal::unauthenticated("this method needs exactly one sender and its proof")
}

fn wrong_kind() -> Refusal {
    Refusal::unauthenticated("the sender is not of the kind that this method needs")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_key_is_forgotten_first() {
        let key = |n: usize| SignaturePublicKey::from(&n.to_be_bytes()[..]);
        let bound = BoundKeys::default();
        for n in 0..MAX_BOUND_KEYS {
            bound.insert(key(n));
        }
        assert!(bound.contains(&key(0)), "a use");
        bound.insert(key(1_000));
        assert!(bound.contains(&key(0)));
        assert!(!bound.contains(&key(1)));
        assert!(bound.contains(&key(1_000)));
    }
}
