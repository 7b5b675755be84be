//! What OpenMLS needs from this client: storage in the transaction at hand, signatures, configuration; and reading and
//! writing MLS objects.

use openmls::messages::group_info::{GroupInfo, VerifiableGroupInfo};
use openmls::prelude::{
    CredentialWithKey, Extension, Extensions, ExternalSender, GroupContext, Lifetime, MlsGroup, MlsGroupJoinConfig,
    MlsMessageBodyIn, MlsMessageIn, OpenMlsProvider, PURE_PLAINTEXT_WIRE_FORMAT_POLICY, RatchetTreeIn,
    SenderRatchetConfiguration, Welcome, WireFormatPolicy,
};
use openmls_sqlite_storage::{Codec, SqliteStorageProvider};
use openmls_traits::storage::StorageProvider as _;
use rusqlite::Connection;
use serde::{Serialize, de::DeserializeOwned};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::{error::ClientError, state::chats::Chat};
use crate::{
    base::{Day, GroupId},
    crypto::{
        mls::{self, RustCrypto},
        signature::SigningKey,
    },
    wire::{
        Decode, Encode, Opaque, Reader,
        credential::{LeafCredential, Signature, SignaturePublicKey},
        delivery::{GroupInfoUpdate, Roles},
        registry::{GROUP_DATA_EXTENSION, ROLES_EXTENSION},
    },
};

/// OpenMLS's stored state is serde; some of its types need a self-describing format.
#[derive(Default)]
pub struct Json;

impl Codec for Json {
    type Error = serde_json::Error;

    fn to_vec<T: Serialize>(value: &T) -> Result<Vec<u8>, Self::Error> {
        serde_json::to_vec(value)
    }

    fn from_slice<T: DeserializeOwned>(slice: &[u8]) -> Result<T, Self::Error> {
        serde_json::from_slice(slice)
    }
}

/// Cryptography and storage for OpenMLS, within one transaction.
pub struct Provider<'a> {
    crypto: RustCrypto,
    storage: SqliteStorageProvider<Json, &'a Connection>,
}

impl<'a> Provider<'a> {
    /// Storage on `connection`.
    pub fn new(connection: &'a Connection) -> Self {
        Self { crypto: RustCrypto::default(), storage: SqliteStorageProvider::new(connection) }
    }
}

impl<'a> OpenMlsProvider for Provider<'a> {
    type CryptoProvider = RustCrypto;
    type RandProvider = RustCrypto;
    type StorageProvider = SqliteStorageProvider<Json, &'a Connection>;

    fn storage(&self) -> &Self::StorageProvider {
        &self.storage
    }

    fn crypto(&self) -> &Self::CryptoProvider {
        &self.crypto
    }

    fn rand(&self) -> &Self::RandProvider {
        &self.crypto
    }
}

/// Commits are public, application messages are encrypted in any case.
pub const WIRE_FORMAT: WireFormatPolicy = openmls::prelude::MIXED_PLAINTEXT_WIRE_FORMAT_POLICY;

/// How groups are joined. The DS orders messages, so that none of an earlier epoch comes after a commit.
pub fn join_config() -> MlsGroupJoinConfig {
    debug_assert_eq!(WIRE_FORMAT.outgoing(), PURE_PLAINTEXT_WIRE_FORMAT_POLICY.outgoing());
    MlsGroupJoinConfig::builder()
        .wire_format_policy(WIRE_FORMAT)
        .use_ratchet_tree_extension(false)
        .sender_ratchet_configuration(sender_ratchets())
        .build()
}

/// How far messages of a sender may be apart: as many in one epoch can get lost before the next one that comes is not opened.
pub fn sender_ratchets() -> SenderRatchetConfiguration {
    // Each is one step of a hash ratchet, which a member can make others take by claiming a message so far ahead.
    const LOST: u32 = 20_000;
    SenderRatchetConfiguration::new(SenderRatchetConfiguration::default().out_of_order_tolerance(), LOST)
}

/// Anything that OpenMLS or its codec says, as a failure of what was received or of the storage.
pub fn failed(error: impl std::fmt::Display) -> ClientError {
    ClientError::untrusted(format!("MLS: {error}"))
}

/// The MLS state of a chat, unless it is lost.
pub fn find(provider: &Provider<'_>, group: &GroupId) -> Result<Option<MlsGroup>, ClientError> {
    Ok(MlsGroup::load(provider.storage(), &mls::group_id(group))?)
}

/// The MLS state of a chat, which must be there.
pub fn load(provider: &Provider<'_>, group: &GroupId) -> Result<MlsGroup, ClientError> {
    find(provider, group)?.ok_or_else(|| ClientError::not_found(format!("there is no MLS state of {group}")))
}

/// Deletes the MLS state of a chat, if there is any.
pub fn delete(provider: &Provider<'_>, group: &GroupId) -> Result<(), ClientError> {
    if let Some(mut found) = find(provider, group)? {
        found.delete(provider.storage())?;
    }
    Ok(())
}

/// The signer of a chat's own leaf.
pub fn signer(chat: &Chat) -> Result<SigningKey, ClientError> {
    Ok(SigningKey::from_seed(chat.leaf_seed.clone())?)
}

/// A leaf credential with its key.
pub fn credential_with_key(leaf: &LeafCredential) -> CredentialWithKey {
    CredentialWithKey { credential: mls::credential(leaf), signature_key: leaf.verifying_key.as_slice().into() }
}

/// A lifetime in whole UTC days, which does not mark a batch.
pub fn lifetime(today: Day) -> Lifetime {
    Lifetime::init(
        today.minus(1).start().seconds(),
        today.plus(crate::base::limits::MAX_KEY_PACKAGE_DAYS).start().seconds(),
    )
}

/// The extensions of a new group's context.
pub fn context_extensions(
    delivery_key: &SignaturePublicKey,
    roles: &Roles,
    group_data: Vec<u8>,
) -> Result<Extensions<GroupContext>, ClientError> {
    let senders: Vec<ExternalSender> = vec![mls::external_sender(delivery_key)];
    Extensions::from_vec(vec![
        Extension::RequiredCapabilities(mls::required_capabilities()),
        Extension::ExternalSenders(senders),
        mls::extension(ROLES_EXTENSION, roles.to_vec()),
        mls::extension(GROUP_DATA_EXTENSION, group_data),
    ])
    .map_err(failed)
}

/// What the DS needs of a new GroupInfo.
pub fn group_info_update(info: &GroupInfo) -> Result<GroupInfoUpdate, ClientError> {
    let extensions = info.extensions().tls_serialize_detached().map_err(failed)?;
    let signature = info.signature().tls_serialize_detached().map_err(failed)?;
    Ok(GroupInfoUpdate { extensions: extensions.into(), signature: Signature::from_slice(&signature)? })
}

/// Decodes an MLSMessage.
pub fn message(bytes: &[u8]) -> Result<MlsMessageIn, ClientError> {
    MlsMessageIn::tls_deserialize_exact_bytes(bytes).map_err(failed)
}

/// Decodes an MLSMessage with a Welcome.
pub fn welcome(bytes: &[u8]) -> Result<Welcome, ClientError> {
    match message(bytes)?.extract() {
        MlsMessageBodyIn::Welcome(welcome) => Ok(welcome),
        _ => Err(ClientError::untrusted("a message that is no Welcome")),
    }
}

/// Decodes an MLSMessage with a GroupInfo.
pub fn group_info(bytes: &[u8]) -> Result<VerifiableGroupInfo, ClientError> {
    match message(bytes)?.extract() {
        MlsMessageBodyIn::GroupInfo(info) => Ok(info),
        _ => Err(ClientError::untrusted("a message that is no GroupInfo")),
    }
}

/// Decodes a ratchet tree.
pub fn ratchet_tree(bytes: &[u8]) -> Result<RatchetTreeIn, ClientError> {
    RatchetTreeIn::tls_deserialize_exact_bytes(bytes).map_err(failed)
}

/// The encrypted group info in an encoded MLSMessage with a Welcome (RFC 9420 section 12.4.3.1): behind version, wire
/// format, cipher suite and secrets.
pub fn encrypted_group_info(welcome: &[u8]) -> Result<Opaque, ClientError> {
    let mut reader = Reader::new(bytes::Bytes::copy_from_slice(welcome));
    let (_version, _wire_format) = (u16::decode(&mut reader)?, u16::decode(&mut reader)?);
    let _cipher_suite = u16::decode(&mut reader)?;
    reader.vector()?;
    let info = Opaque::decode(&mut reader)?;
    reader.finish()?;
    Ok(info)
}

/// Forgets a KeyPackage that nobody may use any more.
pub fn forget_key_package(provider: &Provider<'_>, reference: &[u8]) -> Result<(), ClientError> {
    let encoded = Opaque::from(reference).to_vec();
    let reference = openmls::prelude::KeyPackageRef::tls_deserialize_exact_bytes(&encoded).map_err(failed)?;
    Ok(provider.storage().delete_key_package(&reference)?)
}
