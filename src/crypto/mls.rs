//! What the protocol asks of MLS (RFC 9420) beyond OpenMLS: our credential type and extensions, the capabilities every
//! member must have, and reading them out of MLS objects (`wire-spec/mls.md`).

use openmls::group::GroupContext;
use openmls::prelude::{
    Capabilities, Ciphersuite, Credential, CredentialType, Extension, ExtensionType, Extensions, ExternalSender,
    GroupId as MlsGroupId, KeyPackage, KeyPackageIn, LeafNode, ProposalType, ProtocolVersion,
    RequiredCapabilitiesExtension, SenderExtensionIndex, SignaturePublicKey as MlsSignatureKey, UnknownExtension,
    group_info::GroupInfo,
};
pub use openmls_rust_crypto::RustCrypto;
use tls_codec::{DeserializeBytes as _, Serialize as _, Size as _};

use super::{CryptoError, sha256};
use crate::{
    base::{Day, GroupId, limits::MAX_GROUP_INFO_EXTENSIONS},
    wire::{
        Decode, Encode,
        credential::{LeafCredential, SignaturePublicKey},
        delivery::Roles,
        queuing::ClientQueueConfig,
        registry::{GROUP_DATA_EXTENSION, LEAF_CREDENTIAL, QUEUE_CONFIG_EXTENSION, ROLES_EXTENSION},
    },
};

/// What tells an epoch from one of the same number in another history of the group: the first octets of the SHA-256 of its GroupContext
/// (`wire-spec/delivery.md`, "Sending").
///
/// # Errors
/// [`CryptoError::Form`] if it has no encoding, which holds for none that OpenMLS has accepted.
pub fn context_hash(context: &GroupContext) -> Result<[u8; 8], CryptoError> {
    let encoded = context.tls_serialize_detached().map_err(|_| CryptoError::Form)?;
    sha256(&encoded).first_chunk().copied().ok_or(CryptoError::Form)
}

/// The one ciphersuite.
pub const CIPHERSUITE: Ciphersuite = Ciphersuite::MLS_128_DHKEMX25519_AES128GCM_SHA256_Ed25519;

/// Capabilities of every leaf and KeyPackage.
pub fn capabilities() -> Capabilities {
    Capabilities::new(
        Some(&[ProtocolVersion::Mls10]),
        Some(&[CIPHERSUITE]),
        Some(&[
            ExtensionType::LastResort,
            ExtensionType::Unknown(ROLES_EXTENSION),
            ExtensionType::Unknown(GROUP_DATA_EXTENSION),
            ExtensionType::Unknown(QUEUE_CONFIG_EXTENSION),
        ]),
        Some(&[ProposalType::SelfRemove]),
        Some(&[CredentialType::Other(LEAF_CREDENTIAL), CredentialType::Basic]),
    )
}

/// The required capabilities of every group. Basic credentials are what the DS has as an external sender: not all
/// implementations of MLS are content if some member does not list them.
pub fn required_capabilities() -> RequiredCapabilitiesExtension {
    RequiredCapabilitiesExtension::new(
        &[ExtensionType::Unknown(ROLES_EXTENSION), ExtensionType::Unknown(GROUP_DATA_EXTENSION)],
        &[ProposalType::SelfRemove],
        &[CredentialType::Other(LEAF_CREDENTIAL), CredentialType::Basic],
    )
}

/// Whether a group requires what every group must and nothing else, so that whoever can be in one can be in all. The lists
/// have no order (RFC 9420 section 11.1).
pub fn requires_what_it_must(required: &RequiredCapabilitiesExtension) -> bool {
    fn same<T: PartialEq>(one: &[T], other: &[T]) -> bool {
        one.iter().all(|item| other.contains(item)) && other.iter().all(|item| one.contains(item))
    }
    let ours = required_capabilities();
    same(ours.extension_types(), required.extension_types())
        && same(ours.proposal_types(), required.proposal_types())
        && same(ours.credential_types(), required.credential_types())
}

/// The MLS group id of a group: the encoding of its id.
pub fn group_id(group: &GroupId) -> MlsGroupId {
    MlsGroupId::from_slice(&group.to_vec())
}

/// Our leaf credential as an MLS credential.
pub fn credential(leaf: &LeafCredential) -> Credential {
    Credential::new(CredentialType::Other(LEAF_CREDENTIAL), leaf.to_vec())
}

/// The leaf credential in an MLS leaf.
///
/// # Errors
/// [`CryptoError::Form`] if the leaf has another type of credential, or one for another key or ciphersuite.
pub fn leaf_credential(leaf: &LeafNode) -> Result<LeafCredential, CryptoError> {
    leaf_credential_for(leaf.credential(), leaf.signature_key().as_slice())
}

/// The leaf credential in an MLS credential of the leaf with signature key `key`.
///
/// # Errors
/// As [`leaf_credential`].
pub fn leaf_credential_for(credential: &Credential, key: &[u8]) -> Result<LeafCredential, CryptoError> {
    if credential.credential_type() != CredentialType::Other(LEAF_CREDENTIAL) {
        return Err(CryptoError::Form);
    }
    let leaf = LeafCredential::from_slice(credential.serialized_content())?;
    let fits = leaf.verifying_key.as_slice() == key && leaf.ciphersuite == crate::wire::credential::CIPHERSUITE;
    if fits { Ok(leaf) } else { Err(CryptoError::Form) }
}

/// Content of a group context, GroupInfo or KeyPackage extension of one of our types.
fn unknown<'a>(mut extensions: impl Iterator<Item = &'a Extension>, kind: u16) -> Option<&'a [u8]> {
    extensions.find_map(|extension| match extension {
        Extension::Unknown(code, UnknownExtension(content)) if *code == kind => Some(content.as_slice()),
        _ => None,
    })
}

/// The roles in a group context's extensions.
///
/// # Errors
/// [`CryptoError::Form`] if there are none or they do not decode.
pub fn roles<'a>(extensions: impl Iterator<Item = &'a Extension>) -> Result<Roles, CryptoError> {
    Ok(Roles::from_slice(unknown(extensions, ROLES_EXTENSION).ok_or(CryptoError::Form)?)?)
}

/// The sealed group data in a group context's extensions.
pub fn group_data<'a>(extensions: impl Iterator<Item = &'a Extension>) -> Option<&'a [u8]> {
    unknown(extensions, GROUP_DATA_EXTENSION)
}

/// An extension of one of our types.
pub fn extension(kind: u16, content: Vec<u8>) -> Extension {
    Extension::Unknown(kind, UnknownExtension(content))
}

/// Checks that a GroupInfo lets others join and has no ratchet tree in it, which the DS sends on its own. What else is in
/// it is nobody's business (RFC 9420 section 13: unknown extensions of a GroupInfo are ignored), within bounds.
///
/// # Errors
/// [`CryptoError::Form`] otherwise.
pub fn check_group_info_extensions(extensions: &Extensions<GroupInfo>) -> Result<(), CryptoError> {
    let fits = extensions.external_pub().is_some()
        && extensions.ratchet_tree().is_none()
        && extensions.tls_serialized_len() <= MAX_GROUP_INFO_EXTENSIONS;
    if fits { Ok(()) } else { Err(CryptoError::Form) }
}

/// The external-senders entry by which a DS may propose removals.
pub fn external_sender(key: &SignaturePublicKey) -> ExternalSender {
    let identity = openmls::prelude::BasicCredential::new(b"Delivery Service".to_vec());
    ExternalSender::new(MlsSignatureKey::from(key.as_slice()), identity.into())
}

/// Where the DS stands among the external senders.
pub fn delivery_service_index() -> SenderExtensionIndex {
    SenderExtensionIndex::new(0)
}

/// A KeyPackage that passed RFC 9420 section 10.1 and this protocol's own rules.
pub struct ValidKeyPackage {
    /// The KeyPackage.
    pub key_package: KeyPackage,
    /// The pseudonymous credential in its leaf.
    pub credential: LeafCredential,
    /// Where its owner's messages go.
    pub queue_config: ClientQueueConfig,
    /// Whether it may be used more than once.
    pub last_resort: bool,
}

impl ValidKeyPackage {
    /// The last day on which both the KeyPackage and its leaf credential are valid.
    pub fn last_day(&self) -> Day {
        self.lifetime_end().min(Day(self.credential.validity.not_after))
    }

    /// The last day of the KeyPackage's lifetime.
    pub fn lifetime_end(&self) -> Day {
        let seconds = self.key_package.life_time().not_after();
        Day(u32::try_from(seconds / 86_400).unwrap_or(u32::MAX))
    }
}

/// Decodes and validates a KeyPackage: signature, lifetime, version, ciphersuite, capabilities, our credential and a
/// queue config.
///
/// # Errors
/// [`CryptoError`] if any of these does not hold.
pub fn validate_key_package(encoded: &[u8]) -> Result<ValidKeyPackage, CryptoError> {
    let key_package = KeyPackageIn::tls_deserialize_exact_bytes(encoded).map_err(|_| CryptoError::Form)?;
    let key_package =
        key_package.validate(&RustCrypto::default(), ProtocolVersion::Mls10).map_err(|_| CryptoError::Invalid)?;
    inspect_key_package(key_package)
}

/// Checks this protocol's own rules on a KeyPackage that OpenMLS has validated.
///
/// # Errors
/// [`CryptoError::Form`] if one does not hold.
pub fn inspect_key_package(key_package: KeyPackage) -> Result<ValidKeyPackage, CryptoError> {
    let leaf = key_package.leaf_node();
    let credential = leaf_credential(leaf)?;
    if key_package.ciphersuite() != CIPHERSUITE || !supports_what_it_must(leaf) {
        return Err(CryptoError::Form);
    }
    let config = unknown(key_package.extensions().iter(), QUEUE_CONFIG_EXTENSION).ok_or(CryptoError::Form)?;
    let queue_config = ClientQueueConfig::from_slice(config)?;
    let last_resort = key_package.last_resort();
    Ok(ValidKeyPackage { credential, queue_config, last_resort, key_package })
}

/// Whether a leaf's capabilities have what is required of every member, and the types of its own extensions, which OpenMLS
/// looks at only when the leaf is added. What else they list is ignored, be it GREASE or not (RFC 9420 sections 7.2, 7.3
/// and 13.5).
fn supports_what_it_must(leaf: &LeafNode) -> bool {
    let (required, capabilities) = (required_capabilities(), leaf.capabilities());
    let is_listed =
        |kind: ExtensionType| kind == ExtensionType::ApplicationId || capabilities.extensions().contains(&kind);
    capabilities.versions().contains(&ProtocolVersion::Mls10)
        && capabilities.ciphersuites().contains(&CIPHERSUITE.into())
        && required.extension_types().iter().all(|wanted| capabilities.extensions().contains(wanted))
        && required.proposal_types().iter().all(|wanted| capabilities.proposals().contains(wanted))
        && required.credential_types().iter().all(|wanted| capabilities.credentials().contains(wanted))
        && leaf.extensions().iter().all(|extension| is_listed(extension.extension_type()))
}

#[cfg(test)]
mod tests;
