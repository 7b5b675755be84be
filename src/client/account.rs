//! The account: who this client is to the AS, and under which pseudonym the QS knows it. Made once, stored before it is
//! used.

use rusqlite::Connection;

use super::{
    error::{ClientError, Local},
    state::meta,
};
use crate::{
    base::{ClientId, Day, Domain, QsClientId, QsUserId, Secret},
    crypto::{Rng, credential::issue_leaf, random_secret, signature::SigningKey},
    wire::{
        SenderId,
        connection::FriendshipPackage,
        credential::{ClientCredential, DayValidity, LeafChain, LeafCredential},
    },
};

/// Where the key is that proves the client to the QS.
pub const QUEUING_CLIENT_KEY: &str = "queuing client key";

/// Who the client and its user are to the QS.
pub const PSEUDONYM: &str = "pseudonym";
pub const QUEUING_USER: &str = "pseudonymous user";

/// Where the friendship token is.
pub const FRIENDSHIP_TOKEN: &str = "friendship token";

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
    /// Proves the user to the QS.
    pub queuing_user: SigningKey,
    /// Proves the client to the QS, and signs its queue configs.
    pub queuing_client: SigningKey,
    /// Names groups in the client's blocklist.
    pub blocklist: Secret,
    /// What contacts get.
    pub friendship: FriendshipPackage,
}

const SECRETS: [&str; 8] = [
    "identity key",
    "queuing user key",
    QUEUING_CLIENT_KEY,
    "blocklist key",
    FRIENDSHIP_TOKEN,
    "friendship encryption key",
    "welcome attribution key",
    "user profile key",
];

impl Keys {
    fn from_secrets(mut secret: impl FnMut(&str) -> Result<Secret, ClientError>) -> Result<Self, ClientError> {
        let [identity, user, client, blocklist, token, encryption, attribution, profile] = SECRETS;
        Ok(Self {
            identity: SigningKey::from_seed(secret(identity)?)?,
            queuing_user: SigningKey::from_seed(secret(user)?)?,
            queuing_client: SigningKey::from_seed(secret(client)?)?,
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
    /// Who its user is to the QS.
    pub queuing_user: QsUserId,
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
            pseudonym: meta::require(connection, PSEUDONYM)?,
            queuing_user: meta::require(connection, QUEUING_USER)?,
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

    /// The sender of requests to the QS that are about the user.
    pub const fn queuing_user(&self) -> SenderId {
        SenderId::QsUser(self.queuing_user)
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
