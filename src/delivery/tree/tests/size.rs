//! How large a group can be.

use openmls::prelude::{BasicCredential, CredentialWithKey, MlsGroup, OpenMlsProvider as _};
use openmls_rust_crypto::OpenMlsRustCrypto;

use super::super::*;
use crate::{base::Status, crypto::signature::SigningKey, wire::delivery::WelcomeInfo};

/// A tree with one leaf, and so much said about members.
fn tree() -> Tree {
    let (provider, key) = (OpenMlsRustCrypto::default(), SigningKey::from_seed(Secret::new([1; 32])).unwrap());
    let with_key = CredentialWithKey {
        credential: BasicCredential::new(vec![1]).into(),
        signature_key: key.verifying_key().as_slice().into(),
    };
    let group = MlsGroup::builder().ciphersuite(mls::CIPHERSUITE).build(&provider, &key, with_key).unwrap();
    let public = PublicGroup::load(provider.storage(), group.group_id()).unwrap().unwrap();
    let info = Info { chain: vec![7; 4_000], profile_key: vec![7; 76] };
    let infos = (0..20).map(|leaf| (leaf, info.clone())).collect();
    Tree { public, infos, group_info: GroupInfo { extensions: vec![0], signature: vec![0], signer: 0 } }
}

#[test]
fn a_group_is_no_larger_than_what_a_joiner_is_told_of_it_can_be() {
    let tree = tree();
    let told = WelcomeInfo { ratchet_tree: tree.ratchet_tree().unwrap(), members: tree.member_infos() }.encoded_len();
    let rows = |checkpoint_bytes, delta_bytes| Rows { checkpoint_bytes, delta_bytes, ..Rows::default() };
    let large = rows(MAX_RESPONSE as u64 / 2, 1);
    // It counts a few octets more for each member than there may be.
    assert!(tree.check_size(&large, MAX_RESPONSE - told - 200).is_ok());
    let refused = tree.check_size(&large, MAX_RESPONSE - told + 200).unwrap_err();
    assert_eq!(refused.status, Status::QuotaExceeded);
    assert!(tree.check_size(&rows(MAX_RESPONSE as u64 / 2, 0), MAX_RESPONSE).is_ok(), "too small to be looked at");
}
