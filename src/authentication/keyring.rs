//! The AS's own credentials: roots, intermediates, and the keys that are here. Each can be replaced while the other is in
//! use; the root's key can be kept elsewhere (`wire-spec/credentials.md`, "Rotation").

use serde::{Deserialize, Serialize};

use crate::{
    base::{Domain, Refusal, Secret, Status, Timestamp},
    crypto::{
        Rng,
        credential::{
            check_intermediate, fingerprint, issue_intermediate, issue_root, issue_succession, request_intermediate,
        },
        random_secret,
        signature::SigningKey,
    },
    service::{Context, damaged},
    store::{Batch, Key, Table, record},
    wire::{
        Decode, Encode,
        credential::{
            AsCredential, AsIntermediateCredential, AsIntermediateRequest, Fingerprint, RootSuccession, Validity,
        },
    },
};

const VERSION: u8 = 1;

/// Where the keyring is, and what it is wrapped for.
const NAME: &str = "keyring";

/// How long a root credential is valid, in seconds: ten years.
const ROOT_VALIDITY: u64 = 10 * 365 * 86_400;

/// How long an intermediate credential is valid, in seconds: two years.
const INTERMEDIATE_VALIDITY: u64 = 2 * 365 * 86_400;

/// An intermediate with less than this left is replaced by itself, if the root's key is here: in seconds, a year and a
/// month, so that a client credential of a year fits into it.
const INTERMEDIATE_RESERVE: u64 = 395 * 86_400;

/// Clocks of clients may be behind by this much, in seconds.
const BACKDATE: u64 = 86_400;

/// Most credentials of either kind at a time.
const MAX_CREDENTIALS: usize = 8;

/// A root credential, and its key unless that is kept elsewhere.
#[derive(Clone)]
pub struct Root {
    /// The credential.
    pub credential: AsCredential,
    key: Option<Secret>,
}

/// An intermediate credential and its key.
#[derive(Clone)]
struct Intermediate {
    credential: AsIntermediateCredential,
    key: Secret,
}

/// The credentials of an AS, the preferred ones first.
#[derive(Clone)]
pub struct Keyring {
    roots: Vec<Root>,
    successions: Vec<RootSuccession>,
    intermediates: Vec<Intermediate>,
    /// The key for which a request was exported that has not come back signed.
    requested: Option<Secret>,
}

/// The keyring as stored, wrapped.
#[derive(Serialize, Deserialize)]
struct Stored {
    roots: Vec<(Vec<u8>, Option<Bare>)>,
    successions: Vec<Vec<u8>>,
    intermediates: Vec<(Vec<u8>, Bare)>,
    requested: Option<Bare>,
}

/// A secret on its way to or from what is stored, wiped when it is there.
#[derive(Serialize, Deserialize, zeroize::Zeroize, zeroize::ZeroizeOnDrop)]
#[serde(transparent)]
struct Bare([u8; 32]);

impl From<&Secret> for Bare {
    fn from(secret: &Secret) -> Self {
        Self(*secret.expose())
    }
}

impl From<Bare> for Secret {
    fn from(bare: Bare) -> Self {
        Self::new(bare.0)
    }
}

impl Keyring {
    /// A first root with a first intermediate.
    ///
    /// # Errors
    /// `internal` if no key can be made.
    pub fn create(domain: &Domain, now: Timestamp, rng: &mut dyn Rng) -> Result<Self, Refusal> {
        let root = new_root(domain, now, rng)?;
        let mut keyring =
            Self { roots: vec![root], successions: Vec::new(), intermediates: Vec::new(), requested: None };
        keyring.rotate_intermediate(now, rng)?;
        Ok(keyring)
    }

    /// The stored keyring, if there is one.
    ///
    /// # Errors
    /// `internal` if it cannot be read.
    pub async fn load(context: &Context<'_>) -> Result<Option<Self>, Refusal> {
        let Some(wrapped) = context.get(Table::AsKeys, &key()).await? else { return Ok(None) };
        let row = context.storage_key.unwrap(NAME.as_bytes(), &wrapped).map_err(damaged)?;
        let stored: Stored = record::decode(VERSION, &row).map_err(damaged)?;
        let root = |(credential, key): (Vec<u8>, Option<Bare>)| {
            let credential = AsCredential::from_slice(&credential).map_err(damaged)?;
            Ok(Root { credential, key: key.map(Secret::from) })
        };
        let intermediate = |(credential, key): (Vec<u8>, Bare)| {
            let credential = AsIntermediateCredential::from_slice(&credential).map_err(damaged)?;
            Ok(Intermediate { credential, key: key.into() })
        };
        let succession = |bytes: Vec<u8>| RootSuccession::from_slice(&bytes).map_err(damaged);
        Ok(Some(Self {
            roots: stored.roots.into_iter().map(root).collect::<Result<_, Refusal>>()?,
            successions: stored.successions.into_iter().map(succession).collect::<Result<_, Refusal>>()?,
            intermediates: stored.intermediates.into_iter().map(intermediate).collect::<Result<_, Refusal>>()?,
            requested: stored.requested.map(Secret::from),
        }))
    }

    /// Adds the keyring to the batch.
    ///
    /// # Errors
    /// `internal` if it cannot be encoded.
    pub fn save(&self, context: &mut Context<'_>, batch: &mut Batch) -> Result<(), Refusal> {
        let stored = Stored {
            roots: self
                .roots
                .iter()
                .map(|root| (root.credential.to_vec(), root.key.as_ref().map(Bare::from)))
                .collect(),
            successions: self.successions.iter().map(Encode::to_vec).collect(),
            intermediates: self.intermediates.iter().map(|of| (of.credential.to_vec(), Bare::from(&of.key))).collect(),
            requested: self.requested.as_ref().map(Bare::from),
        };
        let row = zeroize::Zeroizing::new(record::encode(VERSION, &stored).map_err(damaged)?);
        batch.put(Table::AsKeys, key(), context.storage_key.wrap(NAME.as_bytes(), &row, context.rng));
        Ok(())
    }

    /// The roots, the preferred one first.
    pub fn roots(&self) -> &[Root] {
        &self.roots
    }

    /// Which root has vouched for which other.
    pub fn successions(&self) -> &[RootSuccession] {
        &self.successions
    }

    /// The intermediates, the preferred one first.
    pub fn intermediates(&self) -> impl Iterator<Item = &AsIntermediateCredential> {
        self.intermediates.iter().map(|of| &of.credential)
    }

    /// The intermediate with this fingerprint and its key, if it is valid now.
    ///
    /// # Errors
    /// `internal` if its key is not usable.
    pub fn signer(
        &self,
        name: &Fingerprint,
        now: Timestamp,
    ) -> Result<Option<(&AsIntermediateCredential, SigningKey)>, Refusal> {
        let found = self.intermediates.iter().find(|of| fingerprint(&of.credential) == *name);
        let Some(found) = found.filter(|of| of.credential.request.payload.validity.covers(now)) else {
            return Ok(None);
        };
        Ok(Some((&found.credential, signing_key(&found.key)?)))
    }

    /// Whether the preferred intermediate should be replaced, by one that is valid for longer.
    pub fn is_due(&self, now: Timestamp) -> bool {
        let latest = self.roots.first().map_or(0, |root| root.credential.payload.validity.not_after);
        let wanted = now.seconds().saturating_add(INTERMEDIATE_RESERVE).min(latest);
        let preferred = self.intermediates.first();
        preferred.is_none_or(|of| of.credential.request.payload.validity.not_after < wanted)
    }

    /// Whether the preferred root should be replaced: an intermediate of full length does not fit into it any more.
    pub fn is_root_due(&self, now: Timestamp) -> bool {
        let wanted = now.seconds().saturating_add(INTERMEDIATE_VALIDITY);
        self.roots.first().is_some_and(|root| root.credential.payload.validity.not_after < wanted)
    }

    /// Makes an intermediate that signs from now on. Those before it stay valid.
    ///
    /// # Errors
    /// `forbidden` if the root's key is not here, `quota_exceeded` if there are too many.
    pub fn rotate_intermediate(&mut self, now: Timestamp, rng: &mut dyn Rng) -> Result<(), Refusal> {
        let root = self.preferred_root()?;
        let root_key = root_key(root)?;
        let key = random_secret(rng);
        let request = request(root, now, &signing_key(&key)?);
        let credential = issue_intermediate(request, &root_key);
        self.prefer(Intermediate { credential, key }, now)
    }

    /// Makes a root, has the one before vouch for it, and makes an intermediate under it. The key of the root before is
    /// wiped: it has nothing more to sign.
    ///
    /// # Errors
    /// As [`Self::rotate_intermediate`].
    pub fn rotate_root(&mut self, domain: &Domain, now: Timestamp, rng: &mut dyn Rng) -> Result<(), Refusal> {
        let old = self.preferred_root()?;
        let old_key = root_key(old)?;
        let new = new_root(domain, now, rng)?;
        let succession = issue_succession(&old.credential, &new.credential, &old_key);
        self.roots.retain(|root| root.credential.payload.validity.not_after >= now.seconds());
        if self.roots.len() >= MAX_CREDENTIALS {
            return Err(too_many());
        }
        self.roots.iter_mut().for_each(|root| root.key = None);
        self.roots.insert(0, new);
        self.successions.insert(0, succession);
        let known: Vec<_> = self.roots.iter().map(|root| fingerprint(&root.credential)).collect();
        self.successions.retain(|of| known.contains(&of.successor) && known.contains(&of.predecessor));
        self.rotate_intermediate(now, rng)
    }

    /// Makes a key for an intermediate, and the request for whoever has the root's key to sign.
    ///
    /// # Errors
    /// `internal` if no key can be made.
    pub fn request_intermediate(
        &mut self,
        now: Timestamp,
        rng: &mut dyn Rng,
    ) -> Result<AsIntermediateRequest, Refusal> {
        let key = random_secret(rng);
        let request = request(self.preferred_root()?, now, &signing_key(&key)?);
        self.requested = Some(key);
        Ok(request)
    }

    /// Takes in the signed answer to the last request: it signs from now on.
    ///
    /// # Errors
    /// `not_found` if nothing was requested, `forbidden` if the credential is not the answer to it or does not verify.
    pub fn import_intermediate(&mut self, credential: AsIntermediateCredential, now: Timestamp) -> Result<(), Refusal> {
        let key = self.requested.take();
        let key = key.ok_or_else(|| Refusal::not_found("no intermediate credential was requested"))?;
        let roots: Vec<_> = self.roots.iter().map(|root| &root.credential).collect();
        let fits = credential.request.payload.verifying_key == signing_key(&key)?.verifying_key()
            && check_intermediate(&credential, &roots, now).is_ok();
        if !fits {
            self.requested = Some(key);
            return Err(Refusal::forbidden("it is not a valid answer to the last request"));
        }
        self.prefer(Intermediate { credential, key }, now)
    }

    /// The key of the preferred root, to be kept elsewhere. It is here until [`Self::forget_root`].
    ///
    /// # Errors
    /// `forbidden` if it is not here.
    pub fn export_root(&self) -> Result<Secret, Refusal> {
        self.preferred_root()?.key.clone().ok_or_else(key_elsewhere)
    }

    /// The key of the preferred root is kept elsewhere from now on.
    ///
    /// # Errors
    /// `forbidden` if it is not here, or this is not it: whoever asks must have it.
    pub fn forget_root(&mut self, key: &Secret) -> Result<(), Refusal> {
        if self.export_root()? != *key {
            return Err(Refusal::forbidden("it is not the key of the preferred root"));
        }
        self.roots.iter_mut().for_each(|root| root.key = None);
        Ok(())
    }

    /// Takes the key of the preferred root back.
    ///
    /// # Errors
    /// `forbidden` if it is another key.
    pub fn import_root(&mut self, key: Secret) -> Result<(), Refusal> {
        let public = signing_key(&key)?.verifying_key();
        match self.roots.first_mut() {
            Some(root) if root.credential.payload.verifying_key == public => {
                root.key = Some(key);
                Ok(())
            }
            _ => Err(Refusal::forbidden("it is not the key of the preferred root")),
        }
    }

    /// Takes an intermediate or root out of use that is to be revoked: it and what it signed, each with the last second
    /// in which it would be valid. A root takes its successions with it, so that whoever has not looked since it was
    /// rotated knows no root any more: one must be `sure`.
    ///
    /// # Errors
    /// `not_found` if there is none of this name, `forbidden` for the preferred ones and what the preferred ones rest on:
    /// another must take their place first.
    pub fn remove(&mut self, name: &Fingerprint, sure: bool) -> Result<Vec<(Fingerprint, u64)>, Refusal> {
        if let Some(at) = self.intermediates.iter().position(|of| fingerprint(&of.credential) == *name) {
            if at == 0 {
                return Err(preferred());
            }
            return Ok(vec![self.intermediates.remove(at).revocation()]);
        }
        let at = self.roots.iter().position(|root| fingerprint(&root.credential) == *name);
        let at = at.ok_or_else(|| Refusal::not_found("there is no credential of this fingerprint"))?;
        let signed = |of: &Intermediate| of.credential.request.payload.signer == *name;
        if at == 0 || self.intermediates.first().is_some_and(signed) {
            return Err(preferred());
        }
        if !sure {
            return Err(Refusal::forbidden(
                "clients that have not connected since this root was rotated would be shut out for good: say that you are sure",
            ));
        }
        self.successions.retain(|of| of.successor != *name && of.predecessor != *name);
        let root = self.roots.remove(at);
        let mut removed = vec![(*name, root.credential.payload.validity.not_after)];
        removed.extend(self.intermediates.extract_if(.., |of| signed(of)).map(|of| of.revocation()));
        Ok(removed)
    }

    fn preferred_root(&self) -> Result<&Root, Refusal> {
        self.roots.first().ok_or_else(|| damaged("a keyring without a root"))
    }

    fn prefer(&mut self, new: Intermediate, now: Timestamp) -> Result<(), Refusal> {
        let live = |of: &Intermediate| of.credential.request.payload.validity.not_after >= now.seconds();
        if self.intermediates.iter().filter(|of| live(of)).count() >= MAX_CREDENTIALS {
            return Err(too_many());
        }
        self.intermediates.retain(live);
        self.intermediates.insert(0, new);
        Ok(())
    }
}

impl Intermediate {
    /// What is listed when it is revoked.
    fn revocation(&self) -> (Fingerprint, u64) {
        (fingerprint(&self.credential), self.credential.request.payload.validity.not_after)
    }
}

impl Root {
    /// Whether its key is here.
    pub const fn is_here(&self) -> bool {
        self.key.is_some()
    }
}

fn key() -> Key {
    Key::new().bytes(NAME)
}

fn signing_key(secret: &Secret) -> Result<SigningKey, Refusal> {
    SigningKey::from_seed(secret.clone()).map_err(damaged)
}

fn root_key(root: &Root) -> Result<SigningKey, Refusal> {
    signing_key(root.key.as_ref().ok_or_else(key_elsewhere)?)
}

fn new_root(domain: &Domain, now: Timestamp, rng: &mut dyn Rng) -> Result<Root, Refusal> {
    let key = random_secret(rng);
    let credential = issue_root(domain.clone(), validity(now, ROOT_VALIDITY), &signing_key(&key)?);
    Ok(Root { credential, key: Some(key) })
}

/// The request for an intermediate under a root, valid for as long as the root allows.
fn request(root: &Root, now: Timestamp, key: &SigningKey) -> AsIntermediateRequest {
    let within = &root.credential.payload.validity;
    let wanted = validity(now, INTERMEDIATE_VALIDITY);
    let validity = Validity {
        not_before: wanted.not_before.max(within.not_before),
        not_after: wanted.not_after.min(within.not_after),
    };
    request_intermediate(root.credential.payload.domain.clone(), validity, &root.credential, key)
}

fn validity(now: Timestamp, seconds: u64) -> Validity {
    let not_before = now.seconds().saturating_sub(BACKDATE);
    Validity { not_before, not_after: not_before.saturating_add(seconds) }
}

fn too_many() -> Refusal {
    Refusal::quota_exceeded("there are eight credentials in use already: revoke one first")
}

fn key_elsewhere() -> Refusal {
    Refusal::new(
        Status::Forbidden,
        "the key of the root is kept elsewhere: request an intermediate, and import it signed",
    )
}

fn preferred() -> Refusal {
    Refusal::forbidden("it is in use for new credentials: rotate it first")
}

#[cfg(test)]
mod tests;
