//! The keys that tokens are issued and redeemed with (`wire-spec/tokens.md`, "Keys"): for the homeserver's own users, and
//! for clients of other ones. Of each kind the newest issues; older ones redeem what they issued until their time is over.

use std::sync::{Arc, PoisonError, RwLock};

use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    base::{Refusal, Secret, Timestamp},
    crypto::{
        privacy_pass::{IssuerKey, challenge_digest},
        random_secret,
    },
    service::{Context, damaged},
    store::{Batch, Key, Store, StoreError, Table, record},
    wire::{self, Token, registry::TOKEN_TYPE},
};

const VERSION: u8 = 1;

/// Most keys of a kind whose tokens are still redeemed.
pub const MAX_KEYS: usize = 8;

/// Most that there may be after an operator's rotation. The rest is for those that follow by themselves until the oldest go: there
/// is always one that issues.
pub const MAX_ROTATED: usize = MAX_KEYS - 2;

/// A key is followed by another this long before it stops to issue, in seconds, or after three quarters of its life if
/// that is later: clients that have just learned of it can still use it.
const OVERLAP: u64 = 86_400;

/// To whom a key issues.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Kind {
    /// Users of this homeserver.
    Own,
    /// Clients of other homeservers.
    Foreign,
}

impl Kind {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Own, Self::Foreign];
}

/// A key whose tokens are redeemed.
pub struct Issuer {
    /// Names it in the record of spent tokens. No two keys of a homeserver ever have the same.
    pub number: u32,
    /// To whom it issues.
    pub kind: Kind,
    /// Last second in which it issues.
    pub issues_until: u64,
    /// Last second in which its tokens are redeemed.
    pub not_after: u64,
    /// The key.
    pub key: IssuerKey,
}

/// The issuing keys, as one row.
#[derive(Serialize, Deserialize)]
struct Stored {
    /// The next number.
    next: u32,
    keys: Vec<StoredKey>,
}

#[derive(Serialize, Deserialize)]
struct StoredKey {
    number: u32,
    kind: Kind,
    issues_until: u64,
    not_after: u64,
    seed: ByteBuf,
}

/// All keys of one moment.
#[derive(Clone)]
struct Keys {
    next: u32,
    /// The oldest first.
    live: Vec<Arc<Issuer>>,
}

/// The live keys of a homeserver. They change while it runs.
pub struct Issuers {
    challenge_digest: [u8; 32],
    current: RwLock<Arc<Keys>>,
}

/// Keys that are to be the live ones, once the batch that they came with is durable.
pub struct Change(Option<Arc<Keys>>);

impl Issuers {
    /// Loads the keys; makes those that are missing or due, and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let keys = load(context).await?.unwrap_or(Keys { next: 1, live: Vec::new() });
        let challenge_digest = challenge_digest(context.domain).map_err(damaged)?;
        let issuers = Self { challenge_digest, current: RwLock::new(Arc::new(keys)) };
        // Nothing is issued before the batch is durable: the homeserver starts when it is.
        let change = issuers.maintain(context, batch)?;
        issuers.apply(change);
        Ok(issuers)
    }

    fn keys(&self) -> Arc<Keys> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys as GetCredentials lists them: those that issue before those that only redeem.
    pub fn public(&self) -> Vec<wire::authentication::IssuerKey> {
        let public = |issuer: &Arc<Issuer>| wire::authentication::IssuerKey {
            token_type: TOKEN_TYPE,
            public_key: issuer.key.public_key()[..].into(),
            issues_until: issuer.issues_until,
            not_after: issuer.not_after,
            foreign: issuer.kind == Kind::Foreign,
        };
        self.keys().live.iter().rev().map(public).collect()
    }

    /// The key that issues to `kind` now.
    pub fn issuing(&self, kind: Kind, now: Timestamp) -> Option<Arc<Issuer>> {
        let keys = self.keys();
        let newest = keys.live.iter().rev().find(|issuer| issuer.kind == kind);
        newest.filter(|issuer| issuer.issues_until >= now.seconds()).cloned()
    }

    /// The live key of `kind` whose id ends so, whether or not it still issues.
    pub fn named(&self, kind: Kind, truncated_id: u8, now: Timestamp) -> Option<Arc<Issuer>> {
        let named = |issuer: &&Arc<Issuer>| {
            issuer.kind == kind && issuer.key.truncated_id() == truncated_id && issuer.not_after >= now.seconds()
        };
        self.keys().live.iter().find(named).cloned()
    }

    /// The key that issued a token, if the token is good and the key's time is not over.
    ///
    /// # Errors
    /// `unauthenticated` otherwise. Whether the token was spent is another matter.
    pub fn verify(&self, token: &Token, now: Timestamp) -> Result<Arc<Issuer>, Refusal> {
        let keys = self.keys();
        let issuer = keys.live.iter().find(|issuer| *issuer.key.id() == token.token_key_id);
        let issuer = issuer.filter(|issuer| issuer.not_after >= now.seconds());
        let issuer = issuer.ok_or_else(|| Refusal::unauthenticated("the token is of no key that redeems here now"))?;
        if !issuer.key.verify(token, &self.challenge_digest) {
            return Err(Refusal::unauthenticated("the token is not one of this homeserver"));
        }
        Ok(issuer.clone())
    }

    /// What is due: keys whose time is over go, with what is remembered of their tokens; one that will soon stop to issue
    /// is followed by another. Whoever calls this holds the lock of the keys.
    ///
    /// # Errors
    /// `internal` if a key cannot be made.
    pub fn maintain(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<Change, Refusal> {
        let now = context.now.seconds();
        let before = self.keys();
        let mut keys = Keys::clone(&before);
        keys.live.retain(|issuer| {
            if issuer.not_after < now {
                let spent = |number| Key::new().u32(number);
                batch.delete_range(Table::AsSpentTokens, spent(issuer.number), spent(issuer.number + 1));
            }
            issuer.not_after >= now
        });
        let overlap = OVERLAP.min(context.policy.tokens.key_life.as_secs() / 4);
        for kind in Kind::ALL {
            let newest = keys.live.iter().rev().find(|issuer| issuer.kind == kind);
            let is_due = newest.is_none_or(|issuer| issuer.issues_until < now.saturating_add(overlap));
            if is_due && keys.of(kind) < MAX_KEYS {
                keys.add(kind, context)?;
            }
        }
        if keys.next == before.next && keys.live.len() == before.live.len() {
            return Ok(Change(None));
        }
        keys.store(context, batch)?;
        Ok(Change(Some(Arc::new(keys))))
    }

    /// A new key of a kind takes over at once. Whoever calls this holds the lock of the keys.
    ///
    /// # Errors
    /// `quota_exceeded` if tokens of [`MAX_ROTATED`] keys are still redeemed.
    pub fn rotate(&self, kind: Kind, context: &mut Context<'_>, batch: &mut Batch) -> Result<Change, Refusal> {
        let mut keys = Keys::clone(&self.keys());
        if keys.of(kind) >= MAX_ROTATED {
            return Err(Refusal::quota_exceeded("there are 6 issuer keys already whose tokens are still redeemed"));
        }
        keys.add(kind, context)?;
        keys.store(context, batch)?;
        Ok(Change(Some(Arc::new(keys))))
    }

    /// The batch is durable: its keys are the live ones.
    pub fn apply(&self, change: Change) {
        if let Change(Some(keys)) = change {
            *self.current.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
    }
}

impl Keys {
    fn of(&self, kind: Kind) -> usize {
        self.live.iter().filter(|issuer| issuer.kind == kind).count()
    }

    /// Adds a key; those before it issue no longer.
    fn add(&mut self, kind: Kind, context: &mut Context<'_>) -> Result<(), Refusal> {
        let now = context.now.seconds();
        let life = context.policy.tokens.key_life.as_secs();
        let key = loop {
            let key = IssuerKey::from_seed(random_secret(context.rng)).map_err(damaged)?;
            // Requests name a key by one byte: no two live ones may share it.
            if self.live.iter().all(|issuer| issuer.key.truncated_id() != key.truncated_id()) {
                break key;
            }
        };
        for issuer in self.live.iter_mut().filter(|issuer| issuer.kind == kind && issuer.issues_until > now) {
            let key = IssuerKey::from_seed(issuer.key.seed().clone()).map_err(damaged)?;
            *issuer = Arc::new(Issuer { issues_until: now, key, ..**issuer });
        }
        let issues_until = now.saturating_add(life);
        let not_after = issues_until.saturating_add(life);
        self.live.push(Arc::new(Issuer { number: self.next, kind, issues_until, not_after, key }));
        self.next += 1;
        Ok(())
    }

    fn store(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let stored = |issuer: &Arc<Issuer>| StoredKey {
            number: issuer.number,
            kind: issuer.kind,
            issues_until: issuer.issues_until,
            not_after: issuer.not_after,
            seed: context.storage_key.wrap(&place(issuer.number), issuer.key.seed().expose(), context.rng).into(),
        };
        let stored = Stored { next: self.next, keys: self.live.iter().map(stored).collect() };
        batch.put(Table::AsKeys, row(), record::encode(VERSION, &stored).map_err(damaged)?);
        Ok(())
    }
}

/// No key of this store is used any more, with what is remembered of their tokens and of how many were issued: of what was
/// redeemed since it was backed up, nothing is known. The next start makes others.
///
/// # Errors
/// [`StoreError`] if the store fails.
pub async fn end_all(store: &Store) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    batch.delete(Table::AsKeys, row());
    for table in [Table::AsSpentTokens, Table::AsAllowances, Table::AsForeignAllowances] {
        batch.delete_range(table, Key::new(), Key::new().bytes([0xff; 64]));
    }
    store.submit(batch)?.await
}

async fn load(context: &Context<'_>) -> Result<Option<Keys>, Refusal> {
    let Some(stored) = context.record::<Stored>(Table::AsKeys, &row(), VERSION).await? else { return Ok(None) };
    let issuer = |stored: StoredKey| {
        let StoredKey { number, kind, issues_until, not_after, seed } = stored;
        let seed = context.storage_key.unwrap(&place(number), &seed).map_err(damaged)?;
        let seed = <[u8; 32]>::try_from(&seed[..]).map(Secret::new).map_err(damaged)?;
        let key = IssuerKey::from_seed(seed).map_err(damaged)?;
        Ok(Arc::new(Issuer { number, kind, issues_until, not_after, key }))
    };
    let live = stored.keys.into_iter().map(issuer).collect::<Result<_, Refusal>>()?;
    Ok(Some(Keys { next: stored.next, live }))
}

fn row() -> Key {
    Key::new().bytes("issuer keys")
}

fn place(number: u32) -> Vec<u8> {
    [&b"as_keys/issuer keys/"[..], &number.to_be_bytes()].concat()
}
