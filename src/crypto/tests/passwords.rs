//! Passwords and the issuance of tokens, whose steps are those of RFC 9807 and RFC 9497, with what this protocol fills them with.

use rand_core::RngCore as _;

use super::{
    super::{opaque, privacy_pass, random},
    vectors::{Vector, chance, domain, user},
};
use crate::{
    base::Secret,
    wire::{Encode, registry::TOKEN_TYPE},
};

const PASSWORD: &str = "correct horse battery staple";

pub fn all() -> Vec<Vector> {
    vec![login(), issuance()]
}

fn login() -> Vector {
    let (user, mut rng) = (user(1), chance(51));
    let server = opaque::OpaqueServer::generate(&mut rng);
    let (registration, request) = opaque::Registration::start(user.clone(), PASSWORD, &mut rng).unwrap();
    let registration_blind = registration.blind();
    let response = server.start_registration(&user, request.as_slice()).unwrap();
    let record = registration.finish(PASSWORD, response.as_slice(), &mut rng).unwrap();
    let (client, ke1) = opaque::ClientLogin::start(user.clone(), PASSWORD, &mut rng).unwrap();
    let (login_blind, keyshare) = client.secrets();
    let (login, ke2) = server.start_login(&user, Some(record.as_slice()), ke1.as_slice(), &mut rng).unwrap();
    let ke3 = client.finish(PASSWORD, ke2.as_slice(), &mut rng).unwrap();
    login.finish(&user, ke3.as_slice()).unwrap();
    Vector::new("registration and login", "authentication.md, Passwords and Second factor")
        .octets("password", PASSWORD)
        .encoded("client_identity", &user)
        .encoded("server_identity", &user.domain)
        .octets("context", "Bennu 1.0 Login")
        .octets("registration_blind", registration_blind)
        .octets("registration_request", request.as_slice())
        .octets("registration_response", response.as_slice())
        // Client public key, masking key; then the envelope: nonce, tag.
        .octets("envelope_nonce", &record.as_slice()[32 + 64..32 + 64 + 32])
        .octets("registration_record", record.as_slice())
        .octets("login_blind", login_blind)
        .octets("client_nonce", &ke1.as_slice()[32..64])
        .octets("client_private_keyshare", keyshare)
        .octets("ke1", ke1.as_slice())
        .octets("ke2", ke2.as_slice())
        .octets("ke3", ke3.as_slice())
}

fn issuance() -> Vector {
    let mut rng = chance(52);
    let issuer = privacy_pass::IssuerKey::from_seed(Secret::new([0x15; 32])).unwrap();
    let nonces: Vec<[u8; 32]> = (0..3).map(|_| random(&mut rng)).collect();
    let blinds: Vec<[u8; 32]> = (0..3)
        .map(|_| {
            // Small enough to be a scalar whatever is drawn.
            let mut blind = [0; 32];
            rng.fill_bytes(&mut blind[..31]);
            blind
        })
        .collect();
    let (request, waiting) = privacy_pass::Request::with(issuer.public_key(), &domain(), &nonces, &blinds).unwrap();
    let decoded = privacy_pass::TokenRequest::decode(&request).unwrap();
    let response = issuer.issue(&decoded, Secret::new([0x16; 32])).unwrap();
    let tokens = waiting.finish(&response).unwrap();
    let digest = privacy_pass::challenge_digest(&domain()).unwrap();
    assert!(tokens.iter().all(|token| token.token_type == TOKEN_TYPE && issuer.verify(token, &digest)));
    Vector::new("token issuance", "tokens.md, Issuance; lists are one value after the other")
        .octets("issuer_public_key", issuer.public_key())
        .encoded("domain", &domain())
        .octets("nonces", nonces.concat())
        .octets("blinds", blinds.concat())
        .octets("token_request", &request)
        .octets("token_response", &response)
        .octets("tokens", tokens.iter().flat_map(Encode::to_vec).collect::<Vec<_>>())
}
