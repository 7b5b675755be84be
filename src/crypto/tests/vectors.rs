//! Makes `wire-spec/vectors/cryptography.json`: every construction of `wire-spec/cryptography.md` with fixed keys, and what
//! comes out of it on the way. Whatever is in between is computed here from the text of the specification, and compared with
//! what the crate gives.

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};

use super::{
    super::{
        aead,
        hpke::{self, HpkePrivateKey},
        proof, random, random_secret,
        ratchet::Ratchet,
        sha256,
        signature::{SigningKey, verify},
    },
    credentials, passwords, services,
};
use crate::{
    base::{ClientId, Domain, GroupId, QsClientId, Secret, UserId},
    wire::{
        Authentication, Encode, Method, Opaque, Proof, Request, SenderId, VERSION,
        content::UserProfile,
        credential::HpkeCiphertext,
        envelope::{BindTbs, RequestTbs},
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, OFFER_FLOOR, pad, pad_value},
        queue::{Dequeue, EntryAad, EntryKind},
        server::BoundKey,
        tests::{compare_vectors, hex},
    },
};

const FILE: &str = "wire-spec/vectors/cryptography.json";

/// A construction: what goes in, what comes out, in the order in which it is computed.
#[derive(Clone)]
pub struct Vector(Vec<String>);

impl Vector {
    pub fn new(construction: &str, about: &str) -> Self {
        Self(Vec::new()).text("construction", construction).text("about", about)
    }

    pub fn text(mut self, name: &str, text: &str) -> Self {
        self.0.push(format!(r#"    "{name}": "{text}""#));
        self
    }

    pub fn number(mut self, name: &str, number: u64) -> Self {
        self.0.push(format!(r#"    "{name}": {number}"#));
        self
    }

    pub fn octets(self, name: &str, octets: impl AsRef<[u8]>) -> Self {
        self.text(name, &hex(octets.as_ref()))
    }

    pub fn encoded(self, name: &str, value: &impl Encode) -> Self {
        self.octets(name, value.to_vec())
    }

    pub fn secret<const N: usize>(self, name: &str, secret: &Secret<N>) -> Self {
        self.octets(name, secret.expose())
    }
}

#[test]
fn vectors_of_cryptography_are_what_is_implemented() {
    let mut all = [signatures(), requests(), keys(), hpke_and_padding(), ratchet()].concat();
    all.extend(credentials::all());
    all.extend(services::all());
    all.extend(passwords::all());
    let objects: Vec<_> = all.into_iter().map(|Vector(lines)| format!("  {{\n{}\n  }}", lines.join(",\n"))).collect();
    compare_vectors(FILE, &objects);
}

pub fn chance(seed: u8) -> ChaCha8Rng {
    ChaCha8Rng::from_seed([seed; 32])
}

pub fn key(seed: u8) -> SigningKey {
    SigningKey::from_seed(Secret::new([seed; 32])).unwrap()
}

pub fn domain() -> Domain {
    "example.org".parse().unwrap()
}

pub fn user(number: u8) -> UserId {
    UserId { uuid: [number; 16], domain: domain() }
}

pub fn client(number: u8) -> ClientId {
    ClientId { user: user(number), client: [number | 0x80; 16] }
}

pub fn group() -> GroupId {
    GroupId { uuid: [0x67; 16], domain: domain() }
}

/// cryptography.md, "Signatures".
pub fn sign_content(label: SignatureLabel, content: &[u8]) -> Vec<u8> {
    [Opaque::from(label.as_str().as_bytes()).to_vec(), Opaque::from(content).to_vec()].concat()
}

fn signatures() -> Vec<Vector> {
    let (key, binding) = (key(1), [0xcb; 32]);
    let tbs = BindTbs { channel_binding: binding, key: key.verifying_key() };
    let BoundKey { key: public, signature } = proof::bind(&key, &binding);
    assert_eq!(signature, key.sign(SignatureLabel::Bind, &tbs));
    assert!(verify(&public, SignatureLabel::Request, &tbs, &signature).is_err());
    vec![
        Vector::new("bind", "authentication.md, Proofs, bound; cryptography.md, Signatures")
            .octets("seed", [1; 32])
            .octets("public_key", public.as_slice())
            .octets("channel_binding", binding)
            .text("label", SignatureLabel::Bind.as_str())
            .encoded("bind_tbs", &tbs)
            .octets("sign_content", sign_content(SignatureLabel::Bind, &tbs.to_vec()))
            .octets("signature", signature.as_slice())
            .encoded("bound_key", &BoundKey { key: public, signature }),
    ]
}

fn requests() -> Vec<Vector> {
    let (key, binding, stream) = (key(2), [0xcb; 32], 8);
    let sender = SenderId::QsClient(QsClientId([0x51; 16]));
    let body = Dequeue { incarnation: [0; 16], start: 0, max: 100 }.to_vec();
    let method = Method::QsDequeue as u16;
    let context = proof::RequestContext { method, token: None, body: &body, binding: &binding, stream };
    let auth = context.sign(sender.clone(), &key);
    let tbs = RequestTbs {
        version: VERSION,
        method,
        sender,
        token: None,
        body_hash: sha256(&body),
        channel_binding: binding,
        stream,
    };
    let signature = key.sign(SignatureLabel::Request, &tbs);
    assert_eq!(auth, Authentication { sender: tbs.sender.clone(), proof: Proof::Signature(signature.clone()) });
    let request = Request { version: VERSION, method, auth: vec![auth], token: None, body: body.clone().into() };
    vec![
        Vector::new("signed request", "authentication.md, Proofs, signature")
            .octets("seed", [2; 32])
            .octets("public_key", key.verifying_key().as_slice())
            .octets("channel_binding", binding)
            .number("stream", stream)
            .octets("body", &body)
            .octets("body_hash", sha256(&body))
            .encoded("request_tbs", &tbs)
            .octets("sign_content", sign_content(SignatureLabel::Request, &tbs.to_vec()))
            .octets("signature", signature.as_slice())
            .encoded("request", &request),
    ]
}

/// AES-256-GCM with a key and a nonce.
fn aes(key: &[u8], nonce: &[u8], aad: &[u8], plaintext: &[u8]) -> Vec<u8> {
    let cipher = LessSafeKey::new(UnboundKey::new(&AES_256_GCM, key).unwrap());
    let mut out = plaintext.to_vec();
    cipher
        .seal_in_place_append_tag(Nonce::try_assume_unique_for_key(nonce).unwrap(), Aad::from(aad), &mut out)
        .unwrap();
    out
}

/// A sealed value with what leads to it.
pub fn seal_steps(
    vector: Vector,
    long_lived: &Secret,
    label: KeyLabel,
    aad: &[u8],
    plaintext: &[u8],
    rng: &mut ChaCha8Rng,
) -> Vector {
    let salt: [u8; 16] = random(&mut rng.clone());
    let sealed = aead::seal(long_lived, label, aad, plaintext, rng);
    let material: Secret<44> = aead::derive(long_lived, &salt, label);
    let (once, nonce) = material.expose().split_at(32);
    assert_eq!(sealed, [&salt[..], &aes(once, nonce, aad, plaintext)].concat());
    vector
        .secret("key", long_lived)
        .text("label", label.as_str())
        .octets("associated_data", aad)
        .octets("plaintext", plaintext)
        .octets("salt", salt)
        .octets("derived_key", once)
        .octets("derived_nonce", nonce)
        .octets("sealed", &sealed)
}

fn keys() -> Vec<Vector> {
    let secret = Secret::new([0x0d; 32]);
    let derived: Secret = aead::derive(&secret, b"salt", KeyLabel::UserProfile);
    let unsalted: Secret = aead::derive(&secret, b"", KeyLabel::UserProfile);
    let derive = |salt: &[u8], derived: &Secret| {
        Vector::new("derive", "cryptography.md, Derivation")
            .secret("key", &secret)
            .octets("salt", salt)
            .text("label", KeyLabel::UserProfile.as_str())
            .secret("derived", derived)
    };
    let profile = UserProfile { name: "Alice".into(), picture: None };
    let seal = Vector::new("sealed user profile", "cryptography.md, Sealing; content.tls, UserProfile")
        .encoded("value", &profile);
    let (label, aad) = (KeyLabel::UserProfile, user(1).to_vec());
    let seal = seal_steps(seal, &secret, label, &aad, &pad_value(&profile, MESSAGE_FLOOR), &mut chance(3));
    let blocklist = Secret::new([0x0b; 32]);
    let blocked = aead::blocked_group(&blocklist, &group().to_vec());
    let block = Vector::new("blocked group", "queuing.md, Blocklist")
        .secret("blocklist_key", &blocklist)
        .encoded("group", &group())
        .octets("blocked_group", blocked);
    vec![derive(b"salt", &derived), derive(b"", &unsalted), seal, block]
}

/// An HPKE encryption with what leads to it. The first 32 octets that are drawn are the sender's ephemeral key.
pub fn hpke_sealed(
    vector: Vector,
    to: &HpkePrivateKey,
    label: HpkeLabel,
    context: &[u8],
    aad: &[u8],
    plaintext: &[u8],
    rng: &mut ChaCha8Rng,
) -> (Vector, HpkeCiphertext) {
    let ephemeral = random_secret(&mut rng.clone());
    let sealed = hpke::seal(&to.public_key(), label, context, aad, plaintext, rng).unwrap();
    assert_eq!(to.open(label, context, aad, &sealed).unwrap(), plaintext);
    assert!(to.open(label, b"other", aad, &sealed).is_err());
    let info = [Opaque::from(label.as_str().as_bytes()).to_vec(), Opaque::from(context).to_vec()].concat();
    let vector = vector
        .secret("recipient_private_key", to.secret())
        .octets("recipient_public_key", to.public_key().as_slice())
        .secret("ephemeral_private_key", &ephemeral)
        .text("label", label.as_str())
        .octets("context", context)
        .octets("info", info)
        .octets("associated_data", aad)
        .octets("plaintext", plaintext)
        .octets("kem_output", sealed.kem_output.as_slice())
        .octets("ciphertext", sealed.ciphertext.as_slice());
    (vector, sealed)
}

pub fn private(seed: u8) -> HpkePrivateKey {
    HpkePrivateKey::from_secret(Secret::new([seed; 32])).unwrap()
}

fn hpke_and_padding() -> Vec<Vector> {
    let padding =
        [(0, MESSAGE_FLOOR), (254, MESSAGE_FLOOR), (255, MESSAGE_FLOOR), (1_000, MESSAGE_FLOOR), (3, OFFER_FLOOR)];
    let padded = padding.into_iter().map(|(length, floor)| {
        let content = vec![0x70; length];
        let padded = pad(&content, floor);
        Vector::new("padding", "encoding.md, Padding")
            .number("floor", floor as u64)
            .number("content_length", length as u64)
            .number("padded_length", padded.len() as u64)
            .octets("content", &content)
            .octets("padded", &padded)
    });
    let ear = Secret::<32>::new([0xea; 32]);
    let about = Vector::new("EAR key to a joiner", "cryptography.md, HPKE; delivery.md, Joining by Welcome");
    let reference = sha256(b"a KeyPackageRef");
    let (joiner, _) =
        hpke_sealed(about, &private(4), HpkeLabel::JoinerEarKey, &reference, &[], ear.expose(), &mut chance(4));
    padded.chain([joiner]).collect()
}

/// A queue from its first entry on: messages, a key update, an overflow, and a new secret.
fn ratchet() -> Vec<Vector> {
    let (owner, mut rng, incarnation) = (private(5), chance(5), [0x1c; 16]);
    let aad = |sequence, kind| EntryAad { incarnation, sequence, kind };
    let begin = |aad: &EntryAad, kind: &str| {
        Vector::new("queue entry", "queues.md, Ratchet")
            .text("kind", kind)
            .number("sequence", aad.sequence)
            .encoded("entry_aad", aad)
    };
    let mut vectors = Vec::new();
    let restart = |sequence, rng: &mut ChaCha8Rng, vectors: &mut Vec<Vector>| {
        let aad = aad(sequence, EntryKind::Secret);
        let (ratchet, entry) = Ratchet::start(&owner.public_key(), &aad, rng).unwrap();
        let accepted = Ratchet::accept(&owner, &aad, &entry.ciphertext).unwrap();
        assert!(accepted.secret() == ratchet.secret());
        vectors.push(
            begin(&aad, "secret")
                .secret("queue_private_key", owner.secret())
                .text("label", HpkeLabel::QueueSecret.as_str())
                .octets("ciphertext", entry.ciphertext.as_slice())
                .secret("secret_after", ratchet.secret()),
        );
        ratchet
    };
    let content = |ratchet: &mut Ratchet, aad: EntryAad, kind: &str, content: &[u8], vectors: &mut Vec<Vector>| {
        let before = Secret::<32>::new(*ratchet.secret().expose());
        let once: Secret<32> = aead::derive(&before, &[], KeyLabel::RatchetKey);
        let nonce: Secret<12> = aead::derive(&before, &[], KeyLabel::RatchetNonce);
        let after: Secret<32> = aead::derive(&before, &[], KeyLabel::RatchetSecret);
        let entry = ratchet.seal(&aad, content);
        let padded = pad(content, MESSAGE_FLOOR);
        assert_eq!(entry.ciphertext.as_slice(), aes(once.expose(), nonce.expose(), &aad.to_vec(), &padded));
        assert!(after == *ratchet.secret());
        vectors.push(
            begin(&aad, kind)
                .secret("secret_before", &before)
                .octets("content", content)
                .octets("padded", padded)
                .secret("key", &once)
                .secret("nonce", &nonce)
                .octets("ciphertext", entry.ciphertext.as_slice())
                .secret("secret_after", &after),
        );
    };
    let mut ratchet = restart(0, &mut rng, &mut vectors);
    content(&mut ratchet, aad(1, EntryKind::Message), "message", b"the first message", &mut vectors);
    {
        let (aad, before) = (aad(2, EntryKind::KeyUpdate), Secret::<32>::new(*ratchet.secret().expose()));
        let fresh = random_secret(&mut rng.clone());
        let entry = ratchet.update(&owner.public_key(), &aad, &mut rng).unwrap();
        let rotation: Secret = aead::derive(&before, &[], KeyLabel::RatchetUpdate);
        let after: Secret = aead::derive(&rotation, fresh.expose(), KeyLabel::RatchetSecret);
        assert!(after == *ratchet.secret());
        vectors.push(
            begin(&aad, "key_update")
                .secret("secret_before", &before)
                .secret("queue_private_key", owner.secret())
                .text("label", HpkeLabel::QueueKeyUpdate.as_str())
                .octets("ciphertext", entry.ciphertext.as_slice())
                .secret("randomness", &fresh)
                .secret("ratchet_update", &rotation)
                .secret("secret_after", &after),
        );
    }
    content(&mut ratchet, aad(3, EntryKind::Message), "message", &[0x6d; 300], &mut vectors);
    content(&mut ratchet, aad(4, EntryKind::Overflow), "overflow", &[], &mut vectors);
    restart(5, &mut rng, &mut vectors);
    vectors
}
