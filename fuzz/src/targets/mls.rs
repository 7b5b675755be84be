//! What RFC 9420 carries, as the services and clients take it from others: messages, trees, KeyPackages, and extensions with
//! our own in them.

use bennu::{
    base::{Clock as _, SystemClock},
    crypto::mls::{self, check_group_info_extensions, group_data, roles, validate_key_package},
    wire::{
        Encode,
        delivery::Roles,
        queuing::ClientQueueConfig,
        registry::{GROUP_DATA_EXTENSION, ROLES_EXTENSION},
    },
};
use openmls::prelude::{Extensions, GroupContext, MlsMessageIn, RatchetTreeIn, group_info::GroupInfo};
use tls_codec::{DeserializeBytes as _, Serialize as _};

use super::homeserver::support::stranger;

/// The first octet says what the others are taken for.
pub fn run(data: &[u8]) {
    let Some((select, octets)) = data.split_first() else { return };
    match select % 5 {
        0 => {
            let Ok(valid) = validate_key_package(octets) else { return };
            assert_eq!(valid.key_package.tls_serialize_detached().expect("what was decoded encodes"), octets);
        }
        1 => drop(MlsMessageIn::tls_deserialize_exact_bytes(octets)),
        2 => drop(RatchetTreeIn::tls_deserialize_exact_bytes(octets)),
        3 => {
            let Ok(extensions) = Extensions::<GroupContext>::tls_deserialize_exact_bytes(octets) else { return };
            let Ok(roles) = roles(extensions.iter()) else { return };
            let again = roles.to_vec();
            assert!(extensions.iter().any(|extension| *extension == mls::extension(ROLES_EXTENSION, again.clone())));
            assert!(group_data(extensions.iter()).is_none_or(|sealed| sealed.len() < octets.len()));
        }
        _ => {
            let Ok(extensions) = Extensions::<GroupInfo>::tls_deserialize_exact_bytes(octets) else { return };
            if check_group_info_extensions(&extensions).is_ok() {
                assert!(extensions.external_pub().is_some() && extensions.ratchet_tree().is_none());
            }
        }
    }
}

/// A KeyPackage, and it as a message; extensions of a group; the rest is for the fuzzer to find. Made anew each time, because
/// KeyPackages have an end.
pub fn seeds() -> Vec<Vec<u8>> {
    let config = ClientQueueConfig {
        // Reason: a constant, which is a domain.
        domain: "a.test".parse().expect("a domain"),
        key_id: [7; 8],
        kem_output: vec![7; 32].into(),
        ciphertext: vec![7; 300].into(),
    };
    let package = stranger(&config, SystemClock.now().day());
    let key_package = package.tls_serialize_detached().expect("it encodes");
    let roles = mls::extension(ROLES_EXTENSION, Roles { admins: vec![[1; 32]] }.to_vec());
    let data = mls::extension(GROUP_DATA_EXTENSION, vec![7; 32]);
    let extensions = Extensions::<GroupContext>::from_vec(vec![roles, data]).expect("each once");
    let message = [&[0, 1, 0, 5], &key_package[..]].concat();
    let extensions = extensions.tls_serialize_detached().expect("they encode");
    let seed = |select: u8, octets: &[u8]| [&[select], octets].concat();
    vec![seed(0, &key_package), seed(1, &message), seed(2, &[0]), seed(3, &extensions), seed(4, &extensions)]
}
