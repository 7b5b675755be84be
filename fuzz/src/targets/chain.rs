//! Chains of credentials as whoever meets a stranger verifies them: against a model where the signatures are good, and with
//! octets changed, when nothing may verify that was not signed.

use std::sync::LazyLock;

use bennu::{
    base::{ClientId, Day, Domain, Secret, Timestamp, UserId},
    crypto::credential::{
        Authority, fingerprint, issue_client, issue_intermediate, issue_leaf, issue_root, open_chain, request_client,
        request_intermediate, seal_chain,
    },
    crypto::signature::SigningKey,
    wire::{
        Decode, Encode,
        authentication::{Credentials, Revocation, RevocationReason},
        credential::{
            AsCredential, AsIntermediateCredential, ClientCredential, DayValidity, LeafChain, LeafCredential, Validity,
        },
    },
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::input::Input;

const NOW: Timestamp = Timestamp(1_790_000_000_000);

/// Seconds by which something begins or ends before or after now, and whose ends meet.
const OFFSETS: [i64; 8] = [-86_400, -3_600, -1, 0, 1, 3_600, 86_400, 864_000];

struct Chain {
    root_key: SigningKey,
    intermediate_key: SigningKey,
    client_key: SigningKey,
    root: AsCredential,
    intermediate: AsIntermediateCredential,
    client: ClientCredential,
    leaf: LeafCredential,
    secret: LeafChain,
    sealed: Vec<u8>,
}

static CHAIN: LazyLock<Chain> = LazyLock::new(Chain::new);

/// What the sealed chain is sealed under.
static SEALED_UNDER: LazyLock<Secret> = LazyLock::new(|| Secret::new([5; 32]));

/// Reason: any 32 octets make a key.
fn key(octet: u8) -> SigningKey {
    SigningKey::from_seed(Secret::new([octet; 32])).expect("a key")
}

/// Reason: constants, which are domains.
fn domain(name: &str) -> Domain {
    name.parse().expect("a domain")
}

fn client_id(name: &str) -> ClientId {
    ClientId { user: UserId { uuid: [1; 16], domain: domain(name) }, client: [2; 16] }
}

const fn around(before: i64, after: i64) -> Validity {
    let now = NOW.seconds();
    Validity { not_before: now.saturating_add_signed(before), not_after: now.saturating_add_signed(after) }
}

fn days(from: u32, to: u32) -> DayValidity {
    DayValidity { not_before: NOW.day().0 - 4 + from, not_after: NOW.day().0 - 4 + to }
}

impl Chain {
    fn new() -> Self {
        let (root_key, intermediate_key, client_key) = (key(1), key(2), key(3));
        let root = issue_root(domain("a.test"), around(-86_400, 864_000), &root_key);
        let request = request_intermediate(domain("a.test"), around(-3_600, 86_400), &root, &intermediate_key);
        let intermediate = issue_intermediate(request, &root_key);
        let request = request_client(client_id("a.test"), around(-1, 3_600), &intermediate, &client_key, None);
        let client = issue_client(request, &intermediate_key);
        let rng = &mut ChaCha8Rng::seed_from_u64(1);
        let (leaf, secret) = issue_leaf(&client, &client_key, key(4).verifying_key(), None, days(3, 7), rng);
        let sealed = seal_chain(&SEALED_UNDER, &leaf.verifying_key, &secret, rng);
        Self { root_key, intermediate_key, client_key, root, intermediate, client, leaf, secret, sealed }
    }

    fn credentials(&self) -> Credentials {
        Credentials {
            roots: vec![self.root.clone()],
            successions: Vec::new(),
            intermediates: vec![self.intermediate.clone()],
            revoked: Vec::new(),
            issuer_keys: Vec::new(),
            incarnation: [0; 16],
        }
    }

    fn verify(&self, credentials: &Credentials) -> Option<Authority> {
        Authority::verify(domain("a.test"), credentials, &[], NOW).ok()
    }

    /// Reason: that it verifies is what all else is compared with.
    fn authority(&self) -> Authority {
        self.verify(&self.credentials()).expect("a good chain")
    }
}

/// Octets as what is presented.
pub fn run(data: &[u8]) {
    let mut input = Input::new(data);
    match input.below(7) {
        0 => changed_credentials(&mut input),
        1 => changed_client(&mut input),
        2 => changed_leaf(&mut input),
        3 => changed_secret(&mut input),
        4 => signed_intermediate(&mut input),
        5 => signed_client(&mut input),
        _ => signed_leaf(&mut input),
    }
}

/// An encoding with one to four octets changed, or cut, or replaced.
fn changed(input: &mut Input<'_>, mut octets: Vec<u8>) -> Vec<u8> {
    match input.below(8) {
        0 => return input.octets(1_000).to_vec(),
        1 => octets.truncate(input.below(256) << 8 | input.below(256)),
        _ => {}
    }
    for _ in 0..=input.below(4) {
        if !octets.is_empty() {
            let at = (input.below(256) << 8 | input.below(256)) % octets.len();
            octets[at] ^= input.octet();
        }
    }
    octets
}

/// No other root and no other intermediate credential than those that are.
fn changed_credentials(input: &mut Input<'_>) {
    let octets = changed(input, CHAIN.credentials().to_vec());
    let Ok(credentials) = Credentials::from_slice(&octets) else { return };
    let Some(authority) = CHAIN.verify(&credentials) else { return };
    assert!(authority.roots().iter().all(|root| *root == fingerprint(&CHAIN.root)));
    assert!(authority.preferred().is_none_or(|credential| *credential == CHAIN.intermediate));
}

fn changed_client(input: &mut Input<'_>) {
    let octets = changed(input, CHAIN.client.to_vec());
    let Ok(client) = ClientCredential::from_slice(&octets) else { return };
    assert_eq!(CHAIN.authority().verify_client(&client, NOW).is_ok(), client == CHAIN.client);
}

fn changed_leaf(input: &mut Input<'_>) {
    let octets = changed(input, CHAIN.leaf.to_vec());
    let Ok(leaf) = LeafCredential::from_slice(&octets) else { return };
    let client = CHAIN.authority().verify_client(&CHAIN.client, NOW).expect("it is good");
    let verified = client.verify_leaf(&leaf, &CHAIN.secret.signature_encryption_key, NOW.day());
    assert_eq!(verified.is_ok(), leaf == CHAIN.leaf);
}

fn changed_secret(input: &mut Input<'_>) {
    let octets = changed(input, CHAIN.sealed.clone());
    let opened = open_chain(&SEALED_UNDER, &CHAIN.leaf.verifying_key, &octets);
    assert_eq!(opened.is_ok(), octets == CHAIN.sealed);
}

fn offset(input: &mut Input<'_>) -> i64 {
    OFFSETS[input.below(OFFSETS.len())]
}

/// Within, both ends counted, and not empty.
const fn within(inner: &Validity, outer: &Validity) -> bool {
    outer.not_before <= inner.not_before && inner.not_before <= inner.not_after && inner.not_after <= outer.not_after
}

const fn is_now(validity: &Validity) -> bool {
    validity.not_before <= NOW.seconds() && NOW.seconds() <= validity.not_after
}

/// An intermediate credential with good signatures, perhaps by the wrong key, for another domain, or at another time.
fn signed_intermediate(input: &mut Input<'_>) {
    let (validity, is_ours, is_signed) = (around(offset(input), offset(input)), input.below(4) > 0, input.below(4) > 0);
    let name = if is_ours { "a.test" } else { "b.test" };
    let request = request_intermediate(domain(name), validity.clone(), &CHAIN.root, &CHAIN.intermediate_key);
    let intermediate = issue_intermediate(request, if is_signed { &CHAIN.root_key } else { &CHAIN.client_key });
    let mut credentials = Credentials { intermediates: vec![intermediate.clone()], ..CHAIN.credentials() };
    let is_revoked = input.below(4) == 0;
    if is_revoked {
        let revoked = fingerprint(&intermediate);
        credentials.revoked.push(Revocation { credential: revoked, reason: RevocationReason::Revoked });
    }
    let is_good =
        is_ours && is_signed && !is_revoked && within(&validity, &CHAIN.root.payload.validity) && is_now(&validity);
    assert_eq!(CHAIN.verify(&credentials).is_some(), is_good, "{intermediate:?}");
}

/// A client's.
fn signed_client(input: &mut Input<'_>) {
    let (validity, is_ours, is_signed) = (around(offset(input), offset(input)), input.below(4) > 0, input.below(4) > 0);
    let id = client_id(if is_ours { "a.test" } else { "b.test" });
    let request = request_client(id, validity.clone(), &CHAIN.intermediate, &CHAIN.client_key, None);
    let client = issue_client(request, if is_signed { &CHAIN.intermediate_key } else { &CHAIN.root_key });
    let mut credentials = CHAIN.credentials();
    let reason = [None, None, Some(RevocationReason::OnHold), Some(RevocationReason::Revoked)][input.below(4)];
    credentials.revoked.extend(reason.map(|reason| Revocation { credential: fingerprint(&client), reason }));
    let is_good = is_ours
        && is_signed
        && reason.is_none()
        && within(&validity, &CHAIN.intermediate.request.payload.validity)
        && is_now(&validity);
    let authority = CHAIN.verify(&credentials).expect("the rest is good");
    assert_eq!(authority.verify_client(&client, NOW).is_ok(), is_good, "{client:?}");
}

/// A leaf's.
fn signed_leaf(input: &mut Input<'_>) {
    let (from, to) = (input.below(9) as u32, input.below(9) as u32);
    let (is_signed, is_opened) = (input.below(4) > 0, input.below(4) > 0);
    let by = if is_signed { &CHAIN.client_key } else { &CHAIN.intermediate_key };
    let rng = &mut ChaCha8Rng::seed_from_u64(2);
    let (leaf, secret) = issue_leaf(&CHAIN.client, by, key(4).verifying_key(), None, days(from, to), rng);
    let client = CHAIN.authority().verify_client(&CHAIN.client, NOW).expect("it is good");
    let other = &CHAIN.secret.signature_encryption_key;
    let under = if is_opened { &secret.signature_encryption_key } else { other };
    let today = Day(NOW.day().0);
    let is_good = is_signed && is_opened && from <= 4 && 4 <= to;
    assert_eq!(client.verify_leaf(&leaf, under, today).is_ok(), is_good, "{leaf:?}");
}
