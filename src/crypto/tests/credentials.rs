//! The constructions of `wire-spec/vectors/cryptography.json` that rest on credentials, and those of tokens and names.

use super::{
    super::{aead, alias::Alias, credential as chain, opaque, privacy_pass, sha256},
    vectors::{Vector, chance, client, domain, group, hpke_sealed, key, private, seal_steps, sign_content, user},
};
use crate::{
    base::{QsClientId, Secret, Timestamp},
    wire::{
        Encode, Token,
        authentication::Credentials,
        connection::{
            ConnectionDecline, ConnectionOffer, ConnectionOfferTbs, ConnectionPackage, ConnectionPackageTbs,
            DirectMessage, FriendshipPackage, Recipient, WelcomeAttribution, WelcomeAttributionTbs,
        },
        content::UserProfile,
        credential::{AsCredential, AsIntermediateCredential, CIPHERSUITE, ClientCredential, DayValidity, Validity},
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, OFFER_FLOOR, pad_value},
        queuing::{ClientQueueConfig, QueueConfig, QueueConfigContent},
        registry::TOKEN_TYPE,
    },
};

/// All of them.
pub fn all() -> Vec<Vector> {
    [credentials(), queue_config(), connecting(), attribution(), tokens(), names()].concat()
}

/// Keys and credentials of a domain with one client.
struct Chain {
    root: AsCredential,
    intermediate: AsIntermediateCredential,
    client: ClientCredential,
}

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 86_400;

fn issued() -> Chain {
    let within = |days: u64| Validity { not_before: NOW - DAY * days / 10, not_after: NOW + DAY * days };
    let root = chain::issue_root(domain(), within(3_650), &key(10));
    let request = chain::request_intermediate(domain(), within(365), &root, &key(11));
    let intermediate = chain::issue_intermediate(request, &key(10));
    let request = chain::request_client(client(1), within(90), &intermediate, &key(12), None);
    let client = chain::issue_client(request, &key(11));
    Chain { root, intermediate, client }
}

fn leaf_days() -> DayValidity {
    let today = Timestamp(NOW * 1_000).day();
    DayValidity { not_before: today.0, not_after: today.0 + 90 }
}

fn credentials() -> Vec<Vector> {
    let Chain { root, intermediate, client } = issued();
    let leaf_key = key(13);
    let mut rng = chance(6);
    let (leaf, leaf_chain) =
        chain::issue_leaf(&client, &key(12), leaf_key.verifying_key(), None, leaf_days(), &mut rng);
    let credentials = Credentials {
        roots: vec![root.clone()],
        successions: Vec::new(),
        intermediates: vec![intermediate.clone()],
        revoked: Vec::new(),
        issuer_keys: Vec::new(),
        incarnation: [1; 16],
    };
    let now = Timestamp(NOW * 1_000);
    let authority = chain::Authority::verify(domain(), &credentials, &[], now).unwrap();
    let verified = authority.verify_client(&client, now).unwrap();
    verified.verify_leaf(&leaf, &leaf_chain.signature_encryption_key, now.day()).unwrap();
    let opened = aead::open(
        &leaf_chain.signature_encryption_key,
        KeyLabel::LeafSignature,
        leaf_key.verifying_key().as_slice(),
        leaf.sealed_signature.as_slice(),
    );
    let whole = Vector::new("credential chain", "credentials.md")
        .number("now", NOW)
        .octets("root_seed", [10; 32])
        .octets("intermediate_seed", [11; 32])
        .octets("client_seed", [12; 32])
        .octets("leaf_seed", [13; 32])
        .encoded("as_credential", &root)
        .octets("as_credential_fingerprint", chain::fingerprint(&root))
        .encoded("as_intermediate_credential", &intermediate)
        .octets("as_intermediate_credential_fingerprint", chain::fingerprint(&intermediate))
        .encoded("client_credential", &client)
        .octets("client_credential_fingerprint", chain::fingerprint(&client))
        .secret("signature_encryption_key", &leaf_chain.signature_encryption_key)
        .octets("leaf_signature", opened.unwrap())
        .encoded("leaf_credential", &leaf);
    let (next_root, next_key) = (chain::issue_root(domain(), root.payload.validity.clone(), &key(14)), key(10));
    let succession = Vector::new("root succession", "credentials.md, Rotation")
        .encoded("successor", &next_root)
        .encoded("root_succession", &chain::issue_succession(&root, &next_root, &next_key));
    let renewal = chain::request_client(
        client.request.payload.client.clone(),
        client.request.payload.validity.clone(),
        &intermediate,
        &key(15),
        Some((&client, &key(12))),
    );
    assert!(chain::is_renewal_of(&renewal, &client));
    let renewal = Vector::new("renewal", "credentials.md, Renewal")
        .octets("new_seed", [15; 32])
        .encoded("client_request", &renewal);
    let (credential_key, leaf_public) = (Secret::new([0xcc; 32]), leaf_key.verifying_key());
    let about = Vector::new("sealed chain", "cryptography.md, Sealing; credentials.tls, LeafChain")
        .encoded("value", &leaf_chain);
    let padded = pad_value(&leaf_chain, MESSAGE_FLOOR);
    let sealed =
        seal_steps(about, &credential_key, KeyLabel::LeafChain, leaf_public.as_slice(), &padded, &mut chance(7));
    vec![whole, succession, renewal, sealed]
}

fn queue_config() -> Vec<Vector> {
    let (queuing_key, record) = (private(20), key(21));
    let content = QueueConfigContent {
        client: QsClientId([0x51; 16]),
        blocklist_key: Secret::new([0x0b; 32]),
        push_token_key: None,
        salt: [0x5a; 16],
    };
    let signature = record.sign(SignatureLabel::QueueConfig, &content);
    let config = QueueConfig { content, signature };
    let about = Vector::new("sealed queue config", "queuing.md, Queue configs")
        .octets("record_seed", [21; 32])
        .octets("sign_content", sign_content(SignatureLabel::QueueConfig, &config.content.to_vec()))
        .encoded("queue_config", &config);
    let padded = pad_value(&config, MESSAGE_FLOOR);
    let (vector, sealed) =
        hpke_sealed(about, &queuing_key, HpkeLabel::QueueConfig, &[], &domain().to_vec(), &padded, &mut chance(20));
    let mut key_id = [0; 8];
    key_id.copy_from_slice(&sha256(queuing_key.public_key().as_slice())[..8]);
    let whole =
        ClientQueueConfig { domain: domain(), key_id, kem_output: sealed.kem_output, ciphertext: sealed.ciphertext };
    vec![vector.octets("key_id", key_id).encoded("client_queue_config", &whole)]
}

fn friendship(seed: u8) -> FriendshipPackage {
    let secret = |number: u8| Secret::new([seed + number; 32]);
    FriendshipPackage {
        friendship_token: secret(0),
        friendship_encryption_key: secret(1),
        welcome_attribution_key: secret(2),
        user_profile_key: secret(3),
    }
}

fn connecting() -> Vec<Vector> {
    let Chain { intermediate, client: alice, .. } = issued();
    let (bob_key, package_key, reply_key) = (key(30), private(31), private(32));
    let request =
        chain::request_client(client(2), alice.request.payload.validity.clone(), &intermediate, &bob_key, None);
    let bob = chain::issue_client(request, &key(11));
    let content = ConnectionPackageTbs {
        client: client(2),
        ciphersuite: CIPHERSUITE,
        encryption_key: package_key.public_key(),
        validity: Validity { not_before: NOW - DAY, not_after: NOW + 30 * DAY },
    };
    let signature = bob_key.sign(SignatureLabel::ConnectionPackage, &content);
    let package = ConnectionPackage { content, signature };
    let recipient = Recipient::User(user(2));
    let content = ConnectionOfferTbs {
        credential: alice,
        recipient: recipient.clone(),
        package_hash: sha256(&package.to_vec()),
        offer_id: [0x0f; 16],
        reply_key: reply_key.public_key(),
        group: group(),
        ear_key: Secret::new([0xea; 32]),
        credential_key: Secret::new([0xcc; 32]),
        profile: UserProfile { name: "Alice".into(), picture: None },
        friendship: friendship(0x40),
    };
    let signature = key(12).sign(SignatureLabel::ConnectionOffer, &content);
    let offer = ConnectionOffer { content, signature };
    let about = Vector::new("connection offer", "authentication.md, Connecting")
        .octets("recipient_seed", [30; 32])
        .encoded("recipient_credential", &bob)
        .encoded("connection_package", &package)
        .octets("sender_seed", [12; 32])
        .encoded("connection_offer", &offer);
    let padded = pad_value(&offer, OFFER_FLOOR);
    let context = recipient.to_vec();
    let (vector, sealed) =
        hpke_sealed(about, &package_key, HpkeLabel::ConnectionOffer, &context, &[], &padded, &mut chance(30));
    let message = DirectMessage { key_hash: sha256(package_key.public_key().as_slice()), sealed };
    let offer = vector.encoded("direct_message", &message);

    let decline = ConnectionDecline { offer_id: [0x0f; 16] };
    let about =
        Vector::new("connection decline", "authentication.md, Connecting").encoded("connection_decline", &decline);
    let padded = pad_value(&decline, OFFER_FLOOR);
    let (vector, sealed) =
        hpke_sealed(about, &reply_key, HpkeLabel::ConnectionDecline, &[], &[], &padded, &mut chance(31));
    let message = DirectMessage { key_hash: sha256(reply_key.public_key().as_slice()), sealed };
    let decline = vector.encoded("direct_message", &message);

    let aad = [group().to_vec(), key(13).verifying_key().to_vec()].concat();
    let about =
        Vector::new("friendship package of a joiner", "cryptography.md, Sealing").encoded("value", &friendship(0x50));
    let padded = pad_value(&friendship(0x50), MESSAGE_FLOOR);
    let key = Secret::new([0xcc; 32]);
    let friendship = seal_steps(about, &key, KeyLabel::FriendshipPackage, &aad, &padded, &mut chance(33));
    vec![offer, decline, friendship]
}

fn attribution() -> Vec<Vector> {
    let reference = sha256(b"a KeyPackageRef");
    let content = WelcomeAttributionTbs {
        sender: client(1),
        credential_key: Secret::new([0xcc; 32]),
        group: group(),
        key_package: reference[..].into(),
        group_info_hash: sha256(b"encrypted_group_info"),
    };
    let signature = key(12).sign(SignatureLabel::WelcomeAttribution, &content);
    let attribution = WelcomeAttribution { content, signature };
    let about = Vector::new("welcome attribution", "delivery.md, Joining by Welcome")
        .octets("sender_seed", [12; 32])
        .octets("encrypted_group_info", b"encrypted_group_info")
        .encoded("value", &attribution);
    let padded = pad_value(&attribution, MESSAGE_FLOOR);
    let joiner = Secret::new([0x3a; 32]);
    vec![seal_steps(about, &joiner, KeyLabel::WelcomeAttribution, &reference, &padded, &mut chance(34))]
}

fn tokens() -> Vec<Vector> {
    let issuer = privacy_pass::IssuerKey::from_seed(Secret::new([0x15; 32])).unwrap();
    let challenge_digest = privacy_pass::challenge_digest(&domain()).unwrap();
    let mut token = Token {
        token_type: TOKEN_TYPE,
        nonce: [0x90; 32],
        challenge_digest,
        token_key_id: *issuer.id(),
        authenticator: [0; 64],
    };
    let encoded = token.to_vec();
    let input = &encoded[..encoded.len() - 64];
    token.authenticator = issuer.evaluate(input);
    assert!(issuer.verify(&token, &challenge_digest));
    // tokens.md, "Challenge": vectors with lengths of two and one octets.
    let name = domain().to_string();
    let mut challenge = TOKEN_TYPE.to_be_bytes().to_vec();
    let length = u16::try_from(name.len()).unwrap().to_be_bytes();
    challenge.extend([&length[..], name.as_bytes(), &[0], &length[..], name.as_bytes()].concat());
    assert_eq!(sha256(&challenge), challenge_digest);
    vec![
        Vector::new("token", "tokens.md; RFC 9497 and RFC 9578 for the private key")
            .octets("issuer_seed", [0x15; 32])
            .octets("issuer_public_key", issuer.public_key())
            .octets("token_key_id", issuer.id())
            .octets("token_challenge", challenge)
            .octets("challenge_digest", challenge_digest)
            .octets("token_input", input)
            .octets("authenticator", token.authenticator)
            .encoded("token", &token),
    ]
}

fn names() -> Vec<Vector> {
    let texts = ["alice", "Alice", "a1ice", "under_score", "\u{3b1}\u{3bb}\u{3af}\u{3ba}\u{3b7}\u{3c2}"];
    let aliases = texts.into_iter().map(|text| {
        let alias = Alias::parse(text).unwrap();
        Vector::new("alias id", "authentication.md, Aliases")
            .octets("text", text)
            .octets("canonical", alias.to_string())
            .encoded("domain", &domain())
            .octets("alias_id", alias.id(&domain()).0)
    });
    let mut stretched = [0; 64];
    opaque::client::stretch(&[0x77; 64], &mut stretched).unwrap();
    let password = Vector::new("password stretching", "authentication.md, Passwords")
        .octets("input", [0x77; 64])
        .octets("output", stretched);
    aliases.chain([password]).collect()
}
