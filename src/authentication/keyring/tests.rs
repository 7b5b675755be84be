//! Keys are replaced while others are in use, and whoever knew the old ones believes the new ones.

use super::*;
use crate::wire::authentication::{Revocation, RevocationReason};
use crate::{
    crypto::{credential::Authority, system_rng},
    wire::authentication::Credentials,
};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

fn domain() -> Domain {
    "a.test".parse().unwrap()
}

fn keyring() -> Keyring {
    Keyring::create(&domain(), NOW, &mut system_rng()).unwrap()
}

fn credentials(keyring: &Keyring) -> Credentials {
    Credentials {
        roots: keyring.roots().iter().map(|root| root.credential.clone()).collect(),
        successions: keyring.successions().to_vec(),
        intermediates: keyring.intermediates().cloned().collect(),
        revoked: Vec::new(),
        issuer_keys: Vec::new(),
        incarnation: [1; 16],
    }
}

fn believe(keyring: &Keyring, known: &[Fingerprint]) -> Result<Authority, crate::crypto::CryptoError> {
    Authority::verify(domain(), &credentials(keyring), known, NOW)
}

fn first_root(keyring: &Keyring) -> Fingerprint {
    fingerprint(&keyring.roots()[0].credential)
}

#[test]
fn after_a_rotation_both_intermediates_are_valid_and_the_newer_is_preferred() {
    let mut keyring = keyring();
    let old = keyring.intermediates().next().unwrap().clone();
    keyring.rotate_intermediate(NOW, &mut system_rng()).unwrap();
    let authority = believe(&keyring, &[]).unwrap();
    assert_ne!(authority.preferred(), Some(&old));
    assert!(keyring.signer(&fingerprint(&old), NOW).unwrap().is_some());
    let late = Timestamp(NOW.0 + 3 * 365 * 86_400_000);
    assert!(keyring.signer(&fingerprint(&old), late).unwrap().is_none(), "expired");
    assert_eq!(
        keyring.remove(&fingerprint(&old), false),
        Ok(vec![(fingerprint(&old), old.request.payload.validity.not_after)])
    );
    assert!(keyring.signer(&fingerprint(&old), NOW).unwrap().is_none());
    let preferred = fingerprint(keyring.intermediates().next().unwrap());
    assert_eq!(keyring.remove(&preferred, true).unwrap_err().status, Status::Forbidden);
    assert_eq!(keyring.remove(&[7; 32], true).unwrap_err().status, Status::NotFound);
}

#[test]
fn a_new_root_is_believed_by_whoever_knew_the_first_and_no_other_root_is() {
    let mut keyring = keyring();
    let first = first_root(&keyring);
    keyring.rotate_root(&domain(), NOW, &mut system_rng()).unwrap();
    keyring.rotate_root(&domain(), NOW, &mut system_rng()).unwrap();
    let authority = believe(&keyring, &[first]).unwrap();
    assert_eq!(authority.roots().len(), 3, "through the one in between");
    assert_eq!(authority.preferred(), keyring.intermediates().next());
    assert!(keyring.roots().iter().skip(1).all(|root| !root.is_here()), "keys with nothing to sign are gone");

    // Somebody else's roots beside the known one, without its word for them.
    let stranger = self::keyring();
    let mut forged = credentials(&stranger);
    forged.roots.push(keyring.roots().last().unwrap().credential.clone());
    assert!(Authority::verify(domain(), &forged, &[first], NOW).is_err());
    let mut succession = keyring.successions()[0].clone();
    succession.predecessor = first;
    succession.successor = first_root(&stranger);
    forged.successions = vec![succession];
    assert!(Authority::verify(domain(), &forged, &[first], NOW).is_err(), "a word for another");
    // A revoked root vouches for nobody.
    let mut revoked = credentials(&keyring);
    revoked.revoked = vec![Revocation { credential: first, reason: RevocationReason::Revoked }];
    assert!(Authority::verify(domain(), &revoked, &[first], NOW).is_err());
}

#[test]
fn an_intermediate_can_be_signed_where_the_root_key_is_kept() {
    let mut keyring = keyring();
    let root = keyring.roots()[0].credential.clone();
    let key = keyring.export_root().unwrap();
    assert_eq!(keyring.forget_root(&Secret::new([1; 32])).unwrap_err().status, Status::Forbidden);
    keyring.forget_root(&key).unwrap();
    assert_eq!(keyring.export_root().unwrap_err().status, Status::Forbidden);
    let refused = keyring.rotate_intermediate(NOW, &mut system_rng()).unwrap_err();
    assert_eq!(refused.status, Status::Forbidden);

    let request = keyring.request_intermediate(NOW, &mut system_rng()).unwrap();
    let signed = issue_intermediate(request, &signing_key(&key).unwrap());
    let wrong_key = SigningKey::generate(&mut system_rng()).unwrap();
    let forged = issue_intermediate(signed.request.clone(), &wrong_key);
    assert_eq!(keyring.import_intermediate(forged, NOW).unwrap_err().status, Status::Forbidden);
    keyring.import_intermediate(signed.clone(), NOW).unwrap();
    assert_eq!(keyring.intermediates().next(), Some(&signed));
    assert_eq!(keyring.import_intermediate(signed.clone(), NOW).unwrap_err().status, Status::NotFound, "used up");
    assert_eq!(believe(&keyring, &[fingerprint(&root)]).unwrap().preferred(), Some(&signed));

    assert_eq!(keyring.import_root(Secret::new([1; 32])).unwrap_err().status, Status::Forbidden);
    keyring.import_root(key).unwrap();
    keyring.rotate_intermediate(NOW, &mut system_rng()).unwrap();
}

#[test]
fn an_intermediate_is_due_while_a_client_credential_still_fits_and_there_is_a_bound() {
    let mut keyring = keyring();
    assert!(!keyring.is_due(NOW));
    assert!(keyring.is_due(Timestamp(NOW.0 + 400 * 86_400_000)));
    for _ in 1..MAX_CREDENTIALS {
        keyring.rotate_intermediate(NOW, &mut system_rng()).unwrap();
    }
    assert_eq!(keyring.rotate_intermediate(NOW, &mut system_rng()).unwrap_err().status, Status::QuotaExceeded);
    // Those that have expired make room.
    keyring.rotate_intermediate(Timestamp(NOW.0 + 3 * 365 * 86_400_000), &mut system_rng()).unwrap();
    assert_eq!(keyring.intermediates().count(), 1);
}

#[test]
fn a_credential_that_expires_is_replaced_in_time_and_not_before() {
    let mut keyring = keyring();
    let day = |days: u64| Timestamp(NOW.0 + days * 86_400_000);
    let rng = &mut system_rng();
    assert!(!keyring.is_due(NOW) && !keyring.is_root_due(NOW));
    assert!(keyring.is_due(day(400)), "a client credential of a year does not fit into it");
    keyring.rotate_intermediate(day(400), rng).unwrap();
    assert!(!keyring.is_due(day(400)));
    // Close to the end of its root an intermediate cannot last longer: the root is replaced, or if it cannot be, nothing.
    let late = day(10 * 365 - 300);
    assert!(keyring.is_due(late) && keyring.is_root_due(late));
    keyring.rotate_intermediate(late, rng).unwrap();
    assert!(!keyring.is_due(late));
    keyring.rotate_root(&domain(), late, rng).unwrap();
    assert!(!keyring.is_due(late) && !keyring.is_root_due(late));
}

#[test]
fn a_root_is_revoked_with_all_that_it_signed_by_whoever_is_sure() {
    let mut keyring = keyring();
    let rng = &mut system_rng();
    let (root, under_it) = (first_root(&keyring), fingerprint(keyring.intermediates().next().unwrap()));
    let waiting = keyring.request_intermediate(NOW, rng).unwrap();
    let old_key = keyring.export_root().unwrap();
    keyring.rotate_root(&domain(), NOW, rng).unwrap();
    let refused = keyring.remove(&root, false).unwrap_err();
    assert!(refused.status == Status::Forbidden && refused.message.contains("sure"), "{refused:?}");
    // What signs now rests on it: a request from before its successor, answered late.
    let mut late = keyring.clone();
    late.import_intermediate(issue_intermediate(waiting, &signing_key(&old_key).unwrap()), NOW).unwrap();
    assert_eq!(late.remove(&root, true).unwrap_err().status, Status::Forbidden);
    let removed: Vec<_> = keyring.remove(&root, true).unwrap().into_iter().map(|(name, _)| name).collect();
    assert_eq!(removed, [root, under_it]);
    assert_eq!((keyring.roots().len(), keyring.intermediates().count(), keyring.successions().len()), (1, 1, 0));
}
