//! What others need to reach this client: connection packages, KeyPackages, and sealed queue configs.

use openmls::prelude::{Extensions, KeyPackage};
use rusqlite::Connection;
use tls_codec::Serialize as _;

use super::{
    account::Account,
    error::ClientError,
    mls::{self, Provider},
    push,
    state::keys::{self, ConnectionKey, PackageKey},
};
use crate::base::ClientId;
use crate::{
    base::{AliasId, Secret, Timestamp},
    crypto::{
        Rng, credential::seal_chain, hpke, hpke::HpkePrivateKey, mls as protocol, random, sha256, signature::SigningKey,
    },
    wire::{
        Encode,
        connection::{AliasPackage, ConnectionPackage, ConnectionPackageTbs},
        credential::{CIPHERSUITE, DayValidity, Validity},
        label::{HpkeLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad_value},
        queuing::{AddPackage, ClientQueueConfig, QueueConfig, QueueConfigContent, QueuingHpkeKey},
        registry::QUEUE_CONFIG_EXTENSION,
    },
};
use openmls::prelude::OpenMlsProvider as _;

/// Connection packages published at a time.
pub const CONNECTION_PACKAGES: u32 = 10;

/// They are replaced so long before they expire, in seconds.
pub const RENEWAL: u64 = 5 * 86_400;

/// How long a connection package may be used, in seconds.
const CONNECTION_PACKAGE_LIFE: u64 = 30 * 86_400;

/// How long a package of an alias may be used, in days.
const ALIAS_PACKAGE_DAYS: u32 = 30;

/// Clocks may differ by this much, in seconds.
pub const CLOCK_SKEW: u64 = 86_400;

/// KeyPackages published at a time, beside one of last resort.
pub const KEY_PACKAGES: u32 = 20;

/// Fresh packages are published when fewer of either kind are left.
pub const LOW_KEY_PACKAGES: u32 = 5;
/// See [`LOW_KEY_PACKAGES`].
pub const LOW_CONNECTION_PACKAGES: u32 = 3;

/// Makes connection packages and remembers their keys. The AS keeps the last one.
pub fn connection_packages(
    connection: &Connection,
    client: &ClientId,
    key: &SigningKey,
    now: Timestamp,
    rng: &mut dyn Rng,
) -> Result<Vec<ConnectionPackage>, ClientError> {
    let seconds = now.seconds();
    let validity = Validity {
        not_before: seconds.saturating_sub(CLOCK_SKEW),
        not_after: seconds.saturating_add(CONNECTION_PACKAGE_LIFE),
    };
    let make = |number| {
        let encryption = HpkePrivateKey::generate(rng)?;
        let content = ConnectionPackageTbs {
            client: client.clone(),
            ciphersuite: CIPHERSUITE,
            encryption_key: encryption.public_key(),
            validity: validity.clone(),
        };
        let signature = key.sign(SignatureLabel::ConnectionPackage, &content);
        let package = ConnectionPackage { content, signature };
        remember(connection, &encryption, &package, validity.not_after, number, None)?;
        Ok(package)
    };
    (0..CONNECTION_PACKAGES).map(make).collect()
}

/// Makes packages of an alias and remembers their keys.
pub fn alias_packages(
    connection: &Connection,
    alias: AliasId,
    now: Timestamp,
    rng: &mut dyn Rng,
) -> Result<Vec<AliasPackage>, ClientError> {
    let (first, last) = (now.day().minus(1), now.day().plus(ALIAS_PACKAGE_DAYS));
    let not_after = u64::from(last.0).saturating_add(1).saturating_mul(86_400).saturating_sub(1);
    let make = |number| {
        let encryption = HpkePrivateKey::generate(rng)?;
        let package = AliasPackage {
            ciphersuite: CIPHERSUITE,
            encryption_key: encryption.public_key(),
            validity: DayValidity { not_before: first.0, not_after: last.0 },
        };
        remember(connection, &encryption, &package, not_after, number, Some(alias))?;
        Ok(package)
    };
    (0..CONNECTION_PACKAGES).map(make).collect()
}

/// Remembers the key of a package.
fn remember(
    connection: &Connection,
    encryption: &HpkePrivateKey,
    package: &impl Encode,
    not_after: u64,
    number: u32,
    alias: Option<AliasId>,
) -> Result<(), ClientError> {
    let stored = ConnectionKey {
        package_hash: sha256(&package.to_vec()),
        secret: encryption.secret().clone(),
        not_after,
        last: number + 1 == CONNECTION_PACKAGES,
        used: 0,
        alias,
    };
    keys::insert_connection_key(connection, &sha256(encryption.public_key().as_slice()), &stored)
}

/// Makes KeyPackages and one of last resort, each unlike the others in everything that the QS can read, and remembers
/// their keys.
pub fn key_packages(
    connection: &Connection,
    account: &Account,
    queuing_key: &QueuingHpkeKey,
    now: Timestamp,
    rng: &mut dyn Rng,
) -> Result<Vec<AddPackage>, ClientError> {
    (0..=KEY_PACKAGES)
        .map(|number| key_package(connection, account, queuing_key, number == KEY_PACKAGES, now, rng))
        .collect()
}

fn key_package(
    connection: &Connection,
    account: &Account,
    queuing_key: &QueuingHpkeKey,
    last_resort: bool,
    now: Timestamp,
    rng: &mut dyn Rng,
) -> Result<AddPackage, ClientError> {
    let provider = Provider::new(connection);
    let (key, leaf, chain) = account.new_leaf(None, now.day(), rng)?;
    let config = queue_config(account, queuing_key, rng)?;
    let extensions =
        Extensions::single(protocol::extension(QUEUE_CONFIG_EXTENSION, config.to_vec())).map_err(mls::failed)?;
    let lifetime = mls::lifetime(now.day());
    let mut builder = KeyPackage::builder()
        .key_package_lifetime(lifetime)
        .key_package_extensions(extensions)
        .leaf_node_capabilities(protocol::capabilities());
    if last_resort {
        builder = builder.mark_as_last_resort();
    }
    let bundle =
        builder.build(protocol::CIPHERSUITE, &provider, &key, mls::credential_with_key(&leaf)).map_err(mls::failed)?;
    let key_package = bundle.into_key_package();
    let reference = key_package.hash_ref(provider.crypto()).map_err(mls::failed)?;
    let stored = PackageKey { leaf_seed: key.seed().clone(), identity: leaf.identity, last_resort };
    keys::insert_package_key(connection, reference.as_slice(), &stored, lifetime.not_after())?;
    let friendship_key = &account.keys.friendship.friendship_encryption_key;
    Ok(AddPackage {
        key_package: key_package.tls_serialize_detached().map_err(mls::failed)?.into(),
        sealed_chain: seal_chain(friendship_key, &leaf.verifying_key, &chain, rng).into(),
    })
}

/// Where this client's messages go, sealed to its own QS and unlike any other such config.
pub fn queue_config(
    account: &Account,
    queuing_key: &QueuingHpkeKey,
    rng: &mut dyn Rng,
) -> Result<ClientQueueConfig, ClientError> {
    let content = QueueConfigContent {
        client: account.pseudonym,
        blocklist_key: Secret::new(*account.keys.blocklist.expose()),
        push_token_key: Some(push::token_key(account)),
        salt: random(rng),
    };
    let signature = account.keys.queuing_client.sign(SignatureLabel::QueueConfig, &content);
    let padded = pad_value(&QueueConfig { content, signature }, MESSAGE_FLOOR);
    let aad = account.domain().to_vec();
    let sealed = hpke::seal(&queuing_key.public_key, HpkeLabel::QueueConfig, &[], &aad, &padded, rng)?;
    Ok(ClientQueueConfig {
        domain: account.domain().clone(),
        key_id: queuing_key.key_id,
        kem_output: sealed.kem_output,
        ciphertext: sealed.ciphertext,
    })
}
