//! The chain holds link by link, and each broken link is noticed.

use super::*;
use crate::{crypto::system_rng, wire::authentication::Revocation};

const NOW: Timestamp = Timestamp(1_790_000_000_000);

struct Chain {
    root_key: SigningKey,
    intermediate_key: SigningKey,
    client_key: SigningKey,
    credentials: Credentials,
    client: ClientCredential,
}

fn validity(days: u64) -> Validity {
    Validity { not_before: NOW.seconds() - 60, not_after: NOW.seconds() + days * 86_400 }
}

fn client_id(domain: &str) -> ClientId {
    let user = crate::base::UserId { uuid: [1; 16], domain: domain.parse().unwrap() };
    ClientId { user, client: [2; 16] }
}

fn chain() -> Chain {
    let mut rng = system_rng();
    let mut key = || SigningKey::generate(&mut rng).unwrap();
    let (root_key, intermediate_key, client_key) = (key(), key(), key());
    let domain: Domain = "a.test".parse().unwrap();
    let root = issue_root(domain.clone(), validity(1_000), &root_key);
    let intermediate = request_intermediate(domain, validity(500), &root, &intermediate_key);
    let intermediate = issue_intermediate(intermediate, &root_key);
    let request = request_client(client_id("a.test"), validity(100), &intermediate, &client_key, None);
    check_client_request(&request, &intermediate, NOW).unwrap();
    let client = issue_client(request, &intermediate_key);
    let credentials = Credentials {
        roots: vec![root],
        successions: vec![],
        intermediates: vec![intermediate],
        revoked: vec![],
        issuer_keys: vec![],
        incarnation: [1; 16],
    };
    Chain { root_key, intermediate_key, client_key, credentials, client }
}

impl Chain {
    fn authority(&self) -> Result<Authority, CryptoError> {
        Authority::verify("a.test".parse().unwrap(), &self.credentials, &[], NOW)
    }
}

#[test]
fn a_leaf_is_traced_back_to_its_root() {
    let mut rng = system_rng();
    let chain = chain();
    let client = chain.authority().unwrap().verify_client(&chain.client, NOW).unwrap();
    let leaf_key = SigningKey::generate(&mut rng).unwrap().verifying_key();
    let days = DayValidity { not_before: NOW.day().0, not_after: NOW.day().0 + 10 };
    let (leaf, secret) = issue_leaf(&chain.client, &chain.client_key, leaf_key.clone(), None, days, &mut rng);

    let group_key = random_secret(&mut rng);
    let sealed = seal_chain(&group_key, &leaf_key, &secret, &mut rng);
    let opened = open_chain(&group_key, &leaf_key, &sealed).unwrap();
    assert_eq!(opened, secret);
    let other_key = SigningKey::generate(&mut rng).unwrap().verifying_key();
    assert!(open_chain(&group_key, &other_key, &sealed).is_err(), "bound to its leaf");

    let verified = client.verify_leaf(&leaf, &opened.signature_encryption_key, NOW.day()).unwrap();
    assert_eq!(verified, VerifiedLeaf { client: client_id("a.test"), identity: leaf.identity });

    let expired = client.verify_leaf(&leaf, &opened.signature_encryption_key, NOW.day().plus(11));
    assert_eq!(expired, Err(CryptoError::Expired));
    let mut stolen = leaf.clone();
    stolen.identity[0] ^= 1;
    assert!(client.verify_leaf(&stolen, &opened.signature_encryption_key, NOW.day()).is_err());
    let mut stolen = leaf;
    stolen.verifying_key = other_key;
    assert!(client.verify_leaf(&stolen, &opened.signature_encryption_key, NOW.day()).is_err());
}

#[test]
fn a_broken_or_foreign_link_is_refused() {
    let chain = chain();
    assert!(Authority::verify("b.test".parse().unwrap(), &chain.credentials, &[], NOW).is_err(), "another domain");

    let mut forged = chain.credentials.clone();
    forged.roots[0].payload.validity.not_after += 1;
    assert!(Authority::verify("a.test".parse().unwrap(), &forged, &[], NOW).is_err());

    let mut forged = chain.credentials.clone();
    forged.intermediates[0].signature =
        chain.intermediate_key.sign(SignatureLabel::AsIntermediateCredential, &forged.intermediates[0].request);
    assert!(Authority::verify("a.test".parse().unwrap(), &forged, &[], NOW).is_err(), "signed by itself");

    let authority = chain.authority().unwrap();
    let mut forged = chain.client.clone();
    forged.request.payload.client.user.uuid = [9; 16];
    assert!(authority.verify_client(&forged, NOW).is_err());

    // The right content under the label of another type.
    let mut confused = chain.client.clone();
    confused.signature = chain.intermediate_key.sign(SignatureLabel::ClientRequest, &confused.request);
    assert!(authority.verify_client(&confused, NOW).is_err());
    let mut by_root = chain.client.clone();
    by_root.signature = chain.root_key.sign(SignatureLabel::ClientCredential, &by_root.request);
    assert!(authority.verify_client(&by_root, NOW).is_err());
}

#[test]
fn revoked_and_expired_credentials_are_refused() {
    let mut chain = chain();
    let late = Timestamp(NOW.0 + 101 * 86_400_000);
    assert_eq!(chain.authority().unwrap().verify_client(&chain.client, late), Err(CryptoError::Expired));
    for (reason, error) in
        [(RevocationReason::Revoked, CryptoError::Revoked), (RevocationReason::OnHold, CryptoError::OnHold)]
    {
        chain.credentials.revoked = vec![Revocation { credential: fingerprint(&chain.client), reason }];
        let authority = chain.authority().unwrap();
        assert_eq!(authority.verify_client(&chain.client, NOW), Err(error));
        assert_eq!(authority.revocation(&fingerprint(&chain.client)), Some(reason));
    }
    let credential = fingerprint(&chain.credentials.intermediates[0]);
    chain.credentials.revoked = vec![Revocation { credential, reason: RevocationReason::Revoked }];
    assert_eq!(chain.authority().unwrap_err(), CryptoError::UnknownSigner);
}

#[test]
fn the_root_signs_only_what_is_its_own_to_sign() {
    let mut rng = system_rng();
    let Chain { root_key, intermediate_key: key, credentials, .. } = chain();
    let (root, a_test) = (&credentials.roots[0], || -> Domain { "a.test".parse().unwrap() });
    let request = |domain: Domain, validity: Validity| request_intermediate(domain, validity, root, &key);
    let sign = |request: AsIntermediateRequest| sign_intermediate(request, root, &root_key);
    let signed = sign(request(a_test(), validity(1_000))).unwrap();
    assert_eq!(check_intermediate(&signed, &[root], NOW), Ok(()));
    assert_eq!(sign(request("b.test".parse().unwrap(), validity(500))), Err(CryptoError::Subject));
    assert_eq!(sign(request(a_test(), validity(1_001))), Err(CryptoError::Expired));
    let backwards = Validity { not_before: NOW.seconds() + 10, not_after: NOW.seconds() };
    assert_eq!(sign(request(a_test(), backwards)), Err(CryptoError::Expired));
    let mut forged = request(a_test(), validity(500));
    forged.payload.verifying_key = root_key.verifying_key();
    assert_eq!(sign(forged), Err(CryptoError::Invalid));

    let other_key = SigningKey::generate(&mut rng).unwrap();
    let good = || request(a_test(), validity(500));
    assert_eq!(sign_intermediate(good(), root, &other_key), Err(CryptoError::UnknownSigner));
    let other_root = issue_root(a_test(), validity(2_000), &root_key);
    assert_eq!(sign_intermediate(good(), &other_root, &root_key), Err(CryptoError::UnknownSigner), "of the same key");
    let mut wider = root.clone();
    wider.payload.validity = validity(2_000);
    let for_wider = request_intermediate(a_test(), validity(1_500), &wider, &key);
    assert_eq!(sign_intermediate(for_wider, &wider, &root_key), Err(CryptoError::Invalid), "it never signed that");
}

#[test]
fn a_request_for_more_than_the_signer_has_is_refused() {
    let chain = chain();
    let signer = &chain.credentials.intermediates[0];
    let check = |client: ClientId, validity: Validity| {
        check_client_request(&request_client(client, validity, signer, &chain.client_key, None), signer, NOW)
    };
    assert_eq!(check(client_id("a.test"), validity(100)), Ok(()));
    assert_eq!(check(client_id("a.test"), validity(501)), Err(CryptoError::Expired));
    assert_eq!(check(client_id("b.test"), validity(100)), Err(CryptoError::Subject));
    let backwards = Validity { not_before: NOW.seconds() + 10, not_after: NOW.seconds() };
    assert_eq!(check(client_id("a.test"), backwards), Err(CryptoError::Expired));
    let mut forged = request_client(client_id("a.test"), validity(100), signer, &chain.client_key, None);
    forged.payload.client.client = [3; 16];
    assert_eq!(check_client_request(&forged, signer, NOW), Err(CryptoError::Invalid));
}
