//! The HPKE keys to which queue configs are sealed. A new one takes over from time to time; those before it open the configs
//! that are out there for as long as one may be used, while clients seal new ones (`wire-spec/queuing.md`, "Queue configs").

use std::sync::{Arc, PoisonError, RwLock};

use super::records::REPLACED_KEY_DAYS;
use crate::{
    base::{Day, Refusal, Secret},
    crypto::{hpke::HpkePrivateKey, random_secret, sha256},
    service::{Context, damaged},
    store::{Batch, Key, Table},
    wire::queuing::{HpkeKeyId, QueuingHpkeKey},
};

/// Days for which a key is the preferred one.
const LIFE_DAYS: u32 = 180;

/// Most keys that open configs at a time.
const MAX_KEYS: usize = 16;

/// Where the keys are, and what their wrapping is bound to.
const ROW: &str = "config keys";
const PLACE: &[u8] = b"qs_keys/config keys";

/// One key.
pub struct ConfigKey {
    /// Its name.
    pub id: HpkeKeyId,
    /// The key.
    pub key: HpkePrivateKey,
    /// When it was made.
    made: Day,
    /// The last day on which it opens configs.
    pub until: Day,
}

/// All keys of one moment, the preferred one first.
type Keys = Vec<Arc<ConfigKey>>;

/// Keys that are to be the live ones, once the batch that they came with is durable.
pub struct Change(Option<Arc<Keys>>);

impl Change {
    /// Whether there is one.
    pub const fn is_one(&self) -> bool {
        self.0.is_some()
    }
}

/// The live keys. They change while the homeserver runs.
pub struct ConfigKeys(RwLock<Arc<Keys>>);

impl ConfigKeys {
    /// Loads the keys, or makes the first one and adds it to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let keys = Self(RwLock::new(Arc::new(load(context).await?)));
        // Nothing is sealed to it before the batch is durable: the homeserver starts when it is.
        let change = keys.maintain(context, batch)?;
        keys.apply(change);
        Ok(keys)
    }

    /// The keys to seal configs to: the preferred one.
    pub fn public(&self) -> Vec<QueuingHpkeKey> {
        let public = |of: &Arc<ConfigKey>| QueuingHpkeKey { key_id: of.id, public_key: of.key.public_key() };
        self.keys().first().map(public).into_iter().collect()
    }

    /// The names of all keys, the preferred one first, and the last day of each.
    pub fn all(&self) -> Vec<(HpkeKeyId, Day)> {
        self.keys().iter().map(|of| (of.id, of.until)).collect()
    }

    /// The key of this name, if it opens configs today.
    pub fn find(&self, id: &HpkeKeyId, today: Day) -> Option<Arc<ConfigKey>> {
        self.keys().iter().find(|of| of.id == *id && of.until >= today).cloned()
    }

    /// What is due: a key that has been the preferred one for long enough is followed by another, and those whose time is over
    /// go. Whoever calls this holds the lock of the keys.
    ///
    /// # Errors
    /// `internal` if a key cannot be made.
    pub fn maintain(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<Change, Refusal> {
        let (keys, today) = (self.keys(), context.now.day());
        let is_due = keys.first().is_none_or(|first| first.made.plus(LIFE_DAYS) <= today);
        let is_over = keys.iter().any(|of| of.until < today);
        match is_due || is_over {
            true => self.change(is_due && keys.len() < MAX_KEYS, context, batch),
            false => Ok(Change(None)),
        }
    }

    /// A new key takes over at once. Whoever calls this holds the lock of the keys.
    ///
    /// # Errors
    /// `quota_exceeded` if 16 keys still open configs.
    pub fn rotate(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<Change, Refusal> {
        let today = context.now.day();
        if self.keys().iter().filter(|of| of.until >= today).count() >= MAX_KEYS {
            return Err(Refusal::quota_exceeded("there are 16 keys already that still open queue configs"));
        }
        self.change(true, context, batch)
    }

    /// The batch is durable: its keys are the live ones.
    pub fn apply(&self, change: Change) {
        if let Change(Some(keys)) = change {
            *self.0.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
    }

    fn keys(&self) -> Arc<Keys> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The keys without those whose time is over, with a new one before them if that is wanted.
    fn change(&self, add: bool, context: &mut Context<'_>, batch: &mut Batch) -> Result<Change, Refusal> {
        let today = context.now.day();
        let mut keys = Keys::clone(&self.keys());
        if add {
            if let Some(first) = keys.first_mut() {
                let until = today.plus(REPLACED_KEY_DAYS);
                *first = Arc::new(ConfigKey::new(first.key.secret().clone(), first.made, until)?);
            }
            keys.insert(0, Arc::new(ConfigKey::new(random_secret(context.rng), today, Day(u32::MAX))?));
        }
        keys.retain(|of| of.until >= today);
        let mut plain = zeroize::Zeroizing::new(Vec::new());
        for of in &keys {
            plain.extend_from_slice(of.key.secret().expose());
            plain.extend_from_slice(&of.made.0.to_be_bytes());
            plain.extend_from_slice(&of.until.0.to_be_bytes());
        }
        batch.put(Table::QsKeys, Key::new().bytes(ROW), context.storage_key.wrap(PLACE, &plain, context.rng));
        Ok(Change(Some(Arc::new(keys))))
    }
}

impl ConfigKey {
    fn new(secret: Secret, made: Day, until: Day) -> Result<Self, Refusal> {
        let key = HpkePrivateKey::from_secret(secret).map_err(damaged)?;
        let mut id = HpkeKeyId::default();
        id.copy_from_slice(&sha256(key.public_key().as_slice())[..8]);
        Ok(Self { id, key, made, until })
    }
}

async fn load(context: &Context<'_>) -> Result<Keys, Refusal> {
    let Some(row) = context.get(Table::QsKeys, &Key::new().bytes(ROW)).await? else { return Ok(Vec::new()) };
    let plain = zeroize::Zeroizing::new(context.storage_key.unwrap(PLACE, &row).map_err(damaged)?.to_vec());
    let (rows, rest) = plain.as_chunks::<40>();
    if !rest.is_empty() {
        return Err(damaged("the keys for queue configs have a wrong length"));
    }
    let key = |row: &[u8; 40]| {
        let (secret, days) = row.split_at(32);
        let day = |at: usize| days[at..at + 4].try_into().map(u32::from_be_bytes).map(Day).map_err(damaged);
        let secret = secret.try_into().map(Secret::new).map_err(damaged)?;
        ConfigKey::new(secret, day(0)?, day(4)?).map(Arc::new)
    };
    rows.iter().map(key).collect()
}
