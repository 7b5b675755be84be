//! Who is behind a key: the credentials of home domains, fetched, pinned and remembered, and chains verified against
//! them.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use rusqlite::{Connection, OptionalExtension};

use super::{
    connector::Isolation,
    error::ClientError,
    event::Event,
    network::{Network, Sender},
    restored,
    state::Database,
};
use crate::{
    base::{Clock, Domain, Secret, Timestamp, UserId},
    crypto::{
        CryptoError, aead,
        credential::{Authority, VerifiedClient, VerifiedLeaf, open_chain},
    },
    wire::{
        Decode, Encode,
        authentication::{Credentials, GetCredentials, RevocationReason},
        credential::{ClientCredential, Fingerprint, LeafCredential},
        delivery::MemberInfo,
        label::KeyLabel,
        method::call,
    },
};

/// Credentials are fetched again when they are older, or when a signer is unknown.
const REFRESH: Duration = Duration::from_secs(24 * 3_600);

/// The own domain's are fetched again after so long, to learn what was revoked.
const REVOCATIONS: Duration = Duration::from_secs(3_600);

/// What is known of another homeserver that cannot be asked is believed when it is older too, but not beyond this,
const EXCUSED: Duration = Duration::from_secs(30 * 24 * 3_600);

/// and for so long, before it is asked again.
const EXCUSE: Duration = Duration::from_secs(600);

/// What is known of home domains.
pub struct Trust {
    known: Mutex<HashMap<Domain, Known>>,
    clock: Arc<dyn Clock>,
}

#[derive(Clone)]
struct Known {
    authority: Arc<Authority>,
    fetched: Timestamp,
    /// Until then its age is excused.
    excused: Timestamp,
}

/// Why a chain was not verified.
#[derive(Debug)]
pub enum Doubt {
    /// The credentials of this domain are not at hand, or not fresh enough to say no.
    Missing(Domain),
    /// It does not verify.
    Invalid(CryptoError),
}

impl From<CryptoError> for Doubt {
    fn from(error: CryptoError) -> Self {
        Self::Invalid(error)
    }
}

impl Trust {
    /// What was stored.
    pub fn load(connection: &Connection, clock: Arc<dyn Clock>) -> Result<Self, ClientError> {
        let mut statement = connection.prepare("SELECT domain, credentials, fetched FROM authorities")?;
        let mut rows = statement.query([])?;
        let mut known = HashMap::new();
        while let Some(row) = rows.next()? {
            let domain: Domain = row.get::<_, String>(0)?.parse().map_err(ClientError::storage)?;
            // What an earlier version of this program stored is fetched again.
            let Ok(credentials) = Credentials::from_slice(&row.get::<_, Vec<u8>>(1)?) else { continue };
            let fetched = Timestamp(row.get::<_, i64>(2)?.cast_unsigned());
            // What is no longer valid is fetched again when it is needed.
            let known_roots = pinned(connection, &domain)?;
            if let Ok(authority) = Authority::verify(domain.clone(), &credentials, &known_roots, clock.now()) {
                known.insert(domain, Known { authority: Arc::new(authority), fetched, excused: Timestamp(0) });
            }
        }
        Ok(Self { known: Mutex::new(known), clock })
    }

    /// The current time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The credentials of a domain, if they are at hand.
    pub fn authority(&self, domain: &Domain) -> Result<Arc<Authority>, Doubt> {
        let known = self.known(domain, REFRESH).or_else(|| self.excused(domain));
        known.ok_or_else(|| Doubt::Missing(domain.clone()))
    }

    /// The homeserver of a domain cannot be asked now: for a while what is known of it will do.
    pub fn excuse(&self, domain: &Domain) {
        let now = self.clock.now();
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get_mut(domain) {
            known.excused = now.after(EXCUSE);
        }
    }

    fn excused(&self, domain: &Domain) -> Option<Arc<Authority>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let is_excused = |known: &&Known| known.excused > now && known.fetched.after(EXCUSED) > now;
        known.get(domain).filter(is_excused).map(|known| known.authority.clone())
    }

    /// Why a credential is not to be believed, if it is known to be revoked.
    pub fn revocation(&self, domain: &Domain, name: &Fingerprint) -> Option<RevocationReason> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(domain)?.authority.revocation(name)
    }

    /// Whether the credentials of a domain should be fetched again, to learn what was revoked.
    pub fn is_stale(&self, domain: &Domain) -> bool {
        self.known(domain, REVOCATIONS).is_none()
    }

    /// Other domains than the own one whose credentials are old.
    pub fn old(&self, home: &Domain) -> Vec<Domain> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        let is_old = |(domain, known): &(&Domain, &Known)| *domain != home && known.fetched.after(REFRESH) <= now;
        known.iter().filter(is_old).map(|(domain, _)| domain.clone()).collect()
    }

    fn known(&self, domain: &Domain, age: Duration) -> Option<Arc<Authority>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let now = self.clock.now();
        known.get(domain).filter(|known| known.fetched.after(age) > now).map(|known| known.authority.clone())
    }

    /// Fetches the credentials of a domain, checks them against those seen before, and remembers them.
    pub async fn fetch(&self, domain: &Domain, network: &Network, database: &Database) -> Result<(), ClientError> {
        self.fetch_within(domain, network, database, None).await.map(drop)
    }

    /// The same, with an answer that must come so soon; gives what is to be told if the homeserver was restored since the last
    /// time.
    pub async fn fetch_within(
        &self,
        domain: &Domain,
        network: &Network,
        database: &Database,
        limit: Option<Duration>,
    ) -> Result<Vec<Event>, ClientError> {
        let request = GetCredentials {};
        let (isolation, nobody) = (Isolation::Anonymous, Sender::Nobody);
        let credentials = match limit {
            None => network.call::<call::AsGetCredentials>(domain, isolation, nobody, &request).await?,
            Some(limit) => {
                network.call_within::<call::AsGetCredentials>(limit, domain, isolation, nobody, &request).await?
            }
        };
        let now = self.clock.now();
        let name = domain.clone();
        let (authority, events) = database
            .run(move |connection| {
                let known = pinned(connection, &name)?;
                let authority = Authority::verify(name, &credentials, &known, now);
                let authority = authority.map_err(|error| match error {
                    CryptoError::UnknownSigner if !known.is_empty() => ClientError::untrusted(
                        "no root credential of the domain follows from those that were seen before",
                    ),
                    error => error.into(),
                })?;
                let events = remember(connection, &authority, &credentials, now)?;
                Ok::<_, ClientError>((authority, events))
            })
            .await?;
        let known = Known { authority: Arc::new(authority), fetched: now, excused: Timestamp(0) };
        self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(domain.clone(), known);
        Ok(events)
    }

    /// Verifies a client credential.
    pub fn client(&self, credential: &ClientCredential) -> Result<VerifiedClient, Doubt> {
        let domain = &credential.request.payload.client.user.domain;
        match self.authority(domain)?.verify_client(credential, self.now()) {
            // It may be newer than what is known.
            Err(CryptoError::UnknownSigner) => Err(Doubt::Missing(domain.clone())),
            verified => Ok(verified?),
        }
    }

    /// Verifies what members know of a leaf: who is behind it, and the key to its profile.
    pub fn member(
        &self,
        credential_key: &Secret,
        leaf: &LeafCredential,
        info: &MemberInfo,
    ) -> Result<VerifiedMember, Doubt> {
        let chain = open_chain(credential_key, &leaf.verifying_key, info.sealed_chain.as_slice())?;
        let client = self.client(&chain.credential)?;
        let VerifiedLeaf { .. } = client.verify_leaf(leaf, &chain.signature_encryption_key, self.now().day())?;
        Ok(VerifiedMember { client, profile_key: open_profile_key(credential_key, leaf, info) })
    }
}

/// A member whose chain was verified.
pub struct VerifiedMember {
    /// Who.
    pub client: VerifiedClient,
    /// Opens its profile, if it gave a key that opens at all.
    pub profile_key: Option<Secret>,
}

impl VerifiedMember {
    /// The user.
    pub const fn user(&self) -> &UserId {
        &self.client.client().user
    }
}

fn open_profile_key(credential_key: &Secret, leaf: &LeafCredential, info: &MemberInfo) -> Option<Secret> {
    let (aad, sealed) = (leaf.verifying_key.as_slice(), info.sealed_profile_key.as_slice());
    let opened = aead::open(credential_key, KeyLabel::ProfileKey, aad, sealed).ok()?;
    <[u8; 32]>::try_from(&opened[..]).ok().map(Secret::new)
}

/// The roots of a domain that were seen before: what is believed later must follow from them.
fn pinned(connection: &Connection, domain: &Domain) -> Result<Vec<[u8; 32]>, ClientError> {
    let mut statement = connection.prepare_cached("SELECT root FROM pins WHERE domain = ?")?;
    let mut rows = statement.query([domain.as_str()])?;
    let mut roots = Vec::new();
    while let Some(row) = rows.next()? {
        roots.push(row.get(0)?);
    }
    Ok(roots)
}

/// Remembers what is believed of a domain, and sees to it if its homeserver has another store than the last time.
fn remember(
    connection: &Connection,
    authority: &Authority,
    credentials: &Credentials,
    now: Timestamp,
) -> Result<Vec<Event>, ClientError> {
    let domain = authority.domain().as_str();
    let before = "SELECT credentials FROM authorities WHERE domain = ?";
    let before: Option<Vec<u8>> = connection.query_row(before, [domain], |row| row.get(0)).optional()?;
    let before = before.and_then(|before| Credentials::from_slice(&before).ok());
    for root in authority.roots() {
        connection.execute("INSERT OR IGNORE INTO pins (domain, root) VALUES (?, ?)", (domain, root))?;
    }
    let sql = "INSERT OR REPLACE INTO authorities (domain, credentials, fetched) VALUES (?, ?, ?)";
    connection.execute(sql, (domain, credentials.to_vec(), now.0.cast_signed()))?;
    match before {
        Some(before) if before.incarnation != credentials.incarnation => {
            restored::homeserver(connection, authority.domain(), now)
        }
        _ => Ok(Vec::new()),
    }
}
