//! The account: who this client is to the AS, and under which pseudonym the QS knows it. Made once, stored before it is
//! used, and not changed afterwards.

use rusqlite::Connection;

use super::{
    error::{ClientError, Local},
    state::meta,
};
use crate::{
    base::{ClientId, Day, Domain, QsClientId, Secret},
    crypto::{Rng, credential::issue_leaf, hpke::HpkePrivateKey, random_secret, signature::SigningKey},
    wire::{
        SenderId,
        connection::FriendshipPackage,
        credential::{ClientCredential, DayValidity, LeafChain, LeafCredential},
    },
};

/// How long a leaf credential is valid, in days.
const LEAF_DAYS: u32 = 365;

/// How far registration has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Nothing has been sent that must be remembered.
    Empty,
    /// The request that makes the user is stored, and may have been sent.
    Prepared,
    /// The AS has certified the user.
    Certified,
    /// The QS knows the client.
    Complete,
}

impl Stage {
    /// The stored stage.
    pub fn load(connection: &Connection) -> Result<Self, ClientError> {
        Ok(match meta::get::<u8>(connection, "stage")? {
            None => Self::Empty,
            Some(1) => Self::Prepared,
            Some(2) => Self::Certified,
            Some(_) => Self::Complete,
        })
    }

    /// Stores the stage.
    pub fn store(self, connection: &Connection) -> Result<(), ClientError> {
        meta::put(connection, "stage", &(self as u8))
    }
}

/// The secrets of an account, all of them random.
pub struct Keys {
    /// The identity key that the AS certifies.
    pub identity: SigningKey,
    /// Opens secrets of the direct queue.
    pub direct_queue: HpkePrivateKey,
    /// Proves the user to the QS.
    pub queuing_user: SigningKey,
    /// Proves the client to the QS, and signs its queue configs.
    pub queuing_client: SigningKey,
    /// Opens secrets of the client's queue.
    pub client_queue: HpkePrivateKey,
    /// Names groups in the client's blocklist.
    pub blocklist: Secret,
    /// What contacts get.
    pub friendship: FriendshipPackage,
}

const SECRETS: [&str; 10] = [
    "identity key",
    "direct queue key",
    "queuing user key",
    "queuing client key",
    "client queue key",
    "blocklist key",
    "friendship token",
    "friendship encryption key",
    "welcome attribution key",
    "user profile key",
];

impl Keys {
    fn from_secrets(mut secret: impl FnMut(&str) -> Result<Secret, ClientError>) -> Result<Self, ClientError> {
        let [identity, direct, user, client, queue, blocklist, token, encryption, attribution, profile] = SECRETS;
        Ok(Self {
            identity: SigningKey::from_seed(secret(identity)?)?,
            direct_queue: HpkePrivateKey::from_secret(secret(direct)?)?,
            queuing_user: SigningKey::from_seed(secret(user)?)?,
            queuing_client: SigningKey::from_seed(secret(client)?)?,
            client_queue: HpkePrivateKey::from_secret(secret(queue)?)?,
            blocklist: secret(blocklist)?,
            friendship: FriendshipPackage {
                friendship_token: secret(token)?,
                friendship_encryption_key: secret(encryption)?,
                welcome_attribution_key: secret(attribution)?,
                user_profile_key: secret(profile)?,
            },
        })
    }

    /// Fresh secrets, which are stored.
    pub fn create(connection: &Connection, rng: &mut dyn Rng) -> Result<Self, ClientError> {
        for name in SECRETS {
            meta::put(connection, name, &random_secret(rng))?;
        }
        Self::load(connection)
    }

    /// Another friendship token, as long as nobody has been given the old one.
    pub fn renew_friendship_token(connection: &Connection, rng: &mut dyn Rng) -> Result<(), ClientError> {
        meta::put(connection, "friendship token", &random_secret(rng))
    }

    /// The stored secrets.
    pub fn load(connection: &Connection) -> Result<Self, ClientError> {
        Self::from_secrets(|name| meta::require(connection, name))
    }
}

/// A registered client.
pub struct Account {
    /// Who it is to the AS.
    pub client: ClientId,
    /// Display name.
    pub name: String,
    /// What the AS certified.
    pub credential: ClientCredential,
    /// Its secrets.
    pub keys: Keys,
    /// Who it is to the QS.
    pub pseudonym: QsClientId,
}

impl Account {
    /// The stored account.
    pub fn load(connection: &Connection) -> Result<Self, ClientError> {
        if Stage::load(connection)? != Stage::Complete {
            let message = "no client is registered in this home".to_owned();
            return Err(ClientError::Local(Local::NotRegistered, message));
        }
        Ok(Self {
            client: meta::require(connection, "client id")?,
            name: meta::require::<crate::wire::Text>(connection, "name")?.0,
            credential: meta::require(connection, "credential")?,
            keys: Keys::load(connection)?,
            pseudonym: meta::require(connection, "pseudonym")?,
        })
    }

    /// The home domain.
    pub const fn domain(&self) -> &Domain {
        &self.client.user.domain
    }

    /// The sender of requests to the AS.
    pub fn identity(&self) -> SenderId {
        SenderId::AsClient(self.client.clone())
    }

    /// The sender of requests to the QS.
    pub const fn queuing_client(&self) -> SenderId {
        SenderId::QsClient(self.pseudonym)
    }

    /// A fresh key and pseudonymous credential for a leaf.
    pub fn new_leaf(
        &self,
        identity: Option<[u8; 32]>,
        today: Day,
        rng: &mut dyn Rng,
    ) -> Result<(SigningKey, LeafCredential, LeafChain), ClientError> {
        let key = SigningKey::generate(rng)?;
        let (leaf, chain) = self.leaf_for(&key, identity, today, rng);
        Ok((key, leaf, chain))
    }

    /// A pseudonymous credential for the key of a leaf.
    pub fn leaf_for(
        &self,
        key: &SigningKey,
        identity: Option<[u8; 32]>,
        today: Day,
        rng: &mut dyn Rng,
    ) -> (LeafCredential, LeafChain) {
        let validity = DayValidity { not_before: today.minus(1).0, not_after: today.plus(LEAF_DAYS).0 };
        issue_leaf(&self.credential, &self.keys.identity, key.verifying_key(), identity, validity, rng)
    }
}
