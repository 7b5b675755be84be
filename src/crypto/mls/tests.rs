//! What other implementations of MLS may do and OpenMLS does not, and what nobody may.

use openmls::prelude::{ExternalPubExtension, HpkePublicKey, Lifetime, RatchetTreeExtension};
use openmls_rust_crypto::OpenMlsRustCrypto;
use tls_codec::{Deserialize as _, Serialize as _};

use super::*;
use crate::{
    base::{Clock as _, SystemClock, hex},
    crypto::{random, signature::SigningKey, system_rng},
    wire::credential::DayValidity,
};

/// Of the values that RFC 9420 section 13.5 reserves.
const GREASE: u16 = 0x5A5A;

/// Neither known nor GREASE.
const UNKNOWN: u16 = 0xF0C0;

/// What is in capabilities, to be changed.
#[derive(Clone)]
struct Lists {
    versions: Vec<ProtocolVersion>,
    ciphersuites: Vec<Ciphersuite>,
    extensions: Vec<ExtensionType>,
    proposals: Vec<ProposalType>,
    credentials: Vec<CredentialType>,
}

impl Lists {
    fn ours() -> Self {
        let ours = capabilities();
        Self {
            versions: ours.versions().to_vec(),
            ciphersuites: vec![CIPHERSUITE],
            extensions: ours.extensions().to_vec(),
            proposals: ours.proposals().to_vec(),
            credentials: ours.credentials().to_vec(),
        }
    }

    fn capabilities(&self) -> Capabilities {
        let Self { versions, ciphersuites, extensions, proposals, credentials } = self;
        Capabilities::new(Some(versions), Some(ciphersuites), Some(extensions), Some(proposals), Some(credentials))
    }
}

/// The encoded KeyPackage of a client with these capabilities, with extensions beside the queue config's.
fn key_package(capabilities: Capabilities, more: Vec<Extension>, in_leaf: Vec<Extension>) -> Vec<u8> {
    let (provider, mut rng) = (OpenMlsRustCrypto::default(), system_rng());
    let key = SigningKey::generate(&mut rng).unwrap();
    let today = SystemClock.now().day();
    let leaf = LeafCredential {
        identity: random(&mut rng),
        ciphersuite: crate::wire::credential::CIPHERSUITE,
        validity: DayValidity { not_before: today.minus(1).0, not_after: today.plus(30).0 },
        verifying_key: key.verifying_key(),
        sealed_signature: vec![7; 100].into(),
    };
    let config = ClientQueueConfig {
        domain: "a.test".parse().unwrap(),
        key_id: random(&mut rng),
        kem_output: vec![7; 32].into(),
        ciphertext: vec![7; 300].into(),
    };
    let mut extensions = more;
    extensions.push(extension(QUEUE_CONFIG_EXTENSION, config.to_vec()));
    let with_key = openmls::prelude::CredentialWithKey {
        credential: credential(&leaf),
        signature_key: leaf.verifying_key.as_slice().into(),
    };
    let package = KeyPackage::builder()
        .key_package_lifetime(Lifetime::init(today.minus(1).start().seconds(), today.plus(90).start().seconds()))
        .key_package_extensions(Extensions::from_vec(extensions).unwrap())
        .leaf_node_extensions(Extensions::from_vec(in_leaf).unwrap())
        .leaf_node_capabilities(capabilities)
        .build(CIPHERSUITE, &provider, &key, with_key)
        .unwrap();
    package.key_package().tls_serialize_detached().unwrap()
}

#[test]
fn a_key_package_with_grease_and_unknown_values_in_any_order_is_valid() {
    let mut lists = Lists::ours();
    lists.versions.insert(0, ProtocolVersion::from(GREASE));
    lists.extensions.insert(0, ExtensionType::from(GREASE));
    lists.extensions.push(ExtensionType::from(UNKNOWN));
    lists.extensions.reverse();
    lists.proposals.insert(0, ProposalType::from(GREASE));
    lists.proposals.insert(0, ProposalType::from(UNKNOWN));
    lists.credentials.insert(0, CredentialType::from(GREASE));
    lists.credentials.reverse();
    // Among the ciphersuites, too.
    let capabilities = lists.capabilities().with_grease(&RustCrypto::default());
    assert_eq!(capabilities.ciphersuites().len(), 2);
    let unknown = || vec![extension(UNKNOWN, vec![1, 2, 3])];
    let encoded = key_package(capabilities, unknown(), unknown());
    let valid = validate_key_package(&encoded).unwrap();
    assert!(!valid.last_resort);
    assert_eq!(valid.queue_config.ciphertext.as_slice().len(), 300);
    assert_eq!(valid.key_package.tls_serialize_detached().unwrap(), encoded);
}

#[test]
fn a_key_package_that_lacks_what_every_group_needs_is_refused() {
    type Change = fn(&mut Lists);
    let changes: [Change; 6] = [
        |lists| lists.versions = vec![ProtocolVersion::from(GREASE)],
        |lists| lists.ciphersuites = vec![Ciphersuite::MLS_128_DHKEMP256_AES128GCM_SHA256_P256],
        |lists| lists.extensions.retain(|kind| *kind != ExtensionType::Unknown(ROLES_EXTENSION)),
        |lists| lists.extensions.retain(|kind| *kind != ExtensionType::Unknown(GROUP_DATA_EXTENSION)),
        |lists| lists.proposals = vec![ProposalType::from(GREASE)],
        |lists| lists.credentials.retain(|kind| *kind != CredentialType::Basic),
    ];
    for (number, change) in changes.into_iter().enumerate() {
        let mut lists = Lists::ours();
        change(&mut lists);
        let refused = validate_key_package(&key_package(lists.capabilities(), Vec::new(), Vec::new()));
        assert_eq!(refused.err(), Some(CryptoError::Form), "change {number}");
    }
    let complete = key_package(Lists::ours().capabilities(), Vec::new(), Vec::new());
    assert!(validate_key_package(&complete).is_ok());
}

#[test]
fn required_capabilities_have_no_order_but_are_the_same_everywhere() {
    let ours = required_capabilities();
    let (extensions, proposals, credentials) = (ours.extension_types(), ours.proposal_types(), ours.credential_types());
    let reversed: Vec<_> = extensions.iter().rev().copied().collect();
    assert_ne!(reversed, extensions);
    assert!(requires_what_it_must(&RequiredCapabilitiesExtension::new(&reversed, proposals, credentials)));

    let fewer = &extensions[1..];
    let more = [extensions, &[ExtensionType::from(UNKNOWN)]].concat();
    let either = [credentials, &[CredentialType::X509]].concat();
    for (extensions, proposals, credentials) in [
        (fewer, proposals, credentials),
        (&more, proposals, credentials),
        (extensions, &[], credentials),
        (extensions, proposals, &either),
    ] {
        let other = RequiredCapabilitiesExtension::new(extensions, proposals, credentials);
        assert!(!requires_what_it_must(&other), "{other:?}");
    }
}

#[test]
fn a_group_info_may_have_anything_beside_its_key_but_a_tree() {
    let key = || Extension::ExternalPub(ExternalPubExtension::new(HpkePublicKey::from(vec![7; 32])));
    let check = |extensions| check_group_info_extensions(&Extensions::from_vec(extensions).unwrap());
    let sized = |bytes| extension(UNKNOWN, vec![0; bytes]);
    assert_eq!(check(vec![key()]), Ok(()));
    assert_eq!(check(vec![extension(GREASE, vec![7; 50]), key(), sized(0)]), Ok(()));
    assert_eq!(check(vec![extension(GREASE, vec![7; 50])]), Err(CryptoError::Form));
    let published: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/vectors/mls/tree-validation.json")).unwrap();
    let tree = hex::decode(published[0]["tree"].as_str().unwrap()).unwrap();
    let tree = RatchetTreeExtension::tls_deserialize_exact(&tree[..]).unwrap();
    assert_eq!(check(vec![key(), Extension::RatchetTree(tree)]), Err(CryptoError::Form));

    // Length, 2 + 1 + 33 for the key, 2 + 2 + n for the other.
    let room = MAX_GROUP_INFO_EXTENSIONS - 2 - 36 - 4;
    assert_eq!(check(vec![key(), sized(room)]), Ok(()));
    assert_eq!(check(vec![key(), sized(room + 1)]), Err(CryptoError::Form));
}
