//! Test vectors of the draft's implementations in Rust and Go, those of RFC 9497, and what must be refused.

use privacypass::{Serialize as _, amortized_tokens::AmortizedBatchTokenRequest};
use serde_json::Value;

use super::*;
use crate::crypto::{random_secret, system_rng};

fn hex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect()
}

fn field(vector: &Value, name: &str) -> Vec<u8> {
    hex(vector[name].as_str().unwrap())
}

fn list<const N: usize>(vector: &Value, name: &str) -> Vec<[u8; N]> {
    vector[name].as_array().unwrap().iter().map(|value| hex(value.as_str().unwrap()).try_into().unwrap()).collect()
}

fn domain() -> Domain {
    "a.test".parse().unwrap()
}

fn key(seed: u8) -> IssuerKey {
    IssuerKey::from_seed(Secret::new([seed; 32])).unwrap()
}

fn issue(key: &IssuerKey, request: &[u8]) -> Result<Vec<u8>, CryptoError> {
    key.issue(&TokenRequest::decode(request)?, random_secret(&mut system_rng()))
}

fn tokens(key: &IssuerKey, count: usize) -> Vec<Token> {
    let (request, state) = Request::new(key.public_key(), &domain(), count).unwrap();
    state.finish(&issue(key, &request).unwrap()).unwrap()
}

/// Five vectors of the `privacypass` crate and five of an implementation in Go.
#[test]
fn vectors_of_batched_tokens() {
    let text = include_str!("../../../tests/vectors/privacy_pass_0x0005.json");
    let vectors: Vec<Value> = serde_json::from_str(text).unwrap();
    assert_eq!(vectors.len(), 10);
    for vector in &vectors {
        let secret = field(vector, "sk_s");
        let key = IssuerKey::new(Secret::new([0; 32]), VoprfServer::new_with_key(&secret).unwrap());
        assert_eq!(key.public_key()[..], field(vector, "pk_s"));
        let encoded = field(vector, "token_challenge");
        let challenge = TokenChallenge::deserialize(&encoded).unwrap();
        let digest = challenge.digest().unwrap();
        assert_eq!(digest, sha256(&encoded));
        let request = field(vector, "token_request");
        let decoded = TokenRequest::decode(&request).unwrap();
        assert_eq!(decoded.truncated_key_id(), key.truncated_id());

        // The client, with the vector's nonces and blinds.
        let public = privacypass::common::private::deserialize_public_key::<Ristretto255>(key.public_key()).unwrap();
        let blinds: Vec<_> = list::<32>(vector, "blinds");
        let blinds = blinds.iter().map(|blind| Ristretto255::deserialize_scalar(blind).unwrap()).collect();
        let nonces = list::<32>(vector, "nonces");
        let count = nonces.len();
        let made = AmortizedBatchTokenRequest::<Ristretto255>::issue_token_request_with_params(
            public, &challenge, nonces, blinds,
        );
        let (made, state) = made.unwrap();
        assert_eq!(made.tls_serialize_detached().unwrap(), request);

        // The server: the same elements; the proof has a nonce of its own and is checked by the client.
        let response = key.issue(&decoded, random_secret(&mut system_rng())).unwrap();
        let expected = field(vector, "token_response");
        assert_eq!(response.len(), expected.len());
        assert_eq!(response[..response.len() - 64], expected[..expected.len() - 64]);
        let wanted: Vec<_> = vector["tokens"].as_array().unwrap().iter().map(|it| hex(it.as_str().unwrap())).collect();
        let again = AmortizedBatchTokenRequest::<Ristretto255>::issue_token_request_with_params(
            public,
            &challenge,
            list::<32>(vector, "nonces"),
            list::<32>(vector, "blinds").iter().map(|it| Ristretto255::deserialize_scalar(it).unwrap()).collect(),
        );
        for (state, response) in [(state, &response), (again.unwrap().1, &expected)] {
            let tokens = client::Request { state, tokens: count }.finish(response).unwrap();
            assert_eq!(tokens.iter().map(Encode::to_vec).collect::<Vec<_>>(), wanted);
        }
        for token in &wanted {
            assert!(key.verify(&Token::from_slice(token).unwrap(), &digest));
        }
    }
}

/// RFC 9497 appendix A.1.2: ristretto255-SHA512, VOPRF mode.
#[test]
fn vectors_of_the_voprf() {
    let seed = [0xa3; 32];
    let server = VoprfServer::<Ristretto255>::new_from_seed(&seed, b"test key").unwrap();
    let public = Ristretto255::serialize_elem(server.get_public_key());
    assert_eq!(public[..], hex("c803e2cc6b05fc15064549b5920659ca4a77b2cca6f04f6b357009335476ad4e"));
    for (input, blinded, evaluated, output) in [
        (
            "00",
            "863f330cc1a1259ed5a5998a23acfd37fb4351a793a5b3c090b642ddc439b945",
            "aa8fa048764d5623868679402ff6108d2521884fa138cd7f9c7669a9a014267e",
            "b58cfbe118e0cb94d79b5fd6a6dafb98764dff49c14e1770b566e42402da1a7da4d8527693914139caee5bd03903af43a491351d23b430948dd50cde10d32b3c",
        ),
        (
            "5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a",
            "cc0b2a350101881d8a4cba4c80241d74fb7dcbfde4a61fde2f91443c2bf9ef0c",
            "60a59a57208d48aca71e9e850d22674b611f752bed48b36f7a91b372bd7ad468",
            "8a9a2f3c7f085b65933594309041fc1898d42d0858e59f90814ae90571a6df60356f4610bf816f27afdd84f47719e480906d27ecd994985890e5f539e7ea74b6",
        ),
    ] {
        let blinded = BlindedElement::<Ristretto255>::deserialize(&hex(blinded)).unwrap();
        let prepared: Vec<_> = server.batch_blind_evaluate_prepare(std::iter::once(&blinded)).collect();
        let mut rng = Randomness(ChaCha20Rng::from_seed([1; 32]));
        let mut finished = server.batch_blind_evaluate_finish(&mut rng, std::iter::once(&blinded), &prepared).unwrap();
        let element = finished.messages.next_back().unwrap().serialize();
        assert_eq!(element[..], hex(evaluated));
        assert_eq!(server.evaluate(&hex(input)).unwrap()[..], hex(output));
    }
}

#[test]
fn a_token_is_of_one_key_one_domain_and_every_bit_of_it() {
    let (ours, other) = (key(1), key(2));
    let digest = challenge_digest(&domain()).unwrap();
    let issued = tokens(&ours, 3);
    assert_eq!(issued.len(), 3);
    assert!(issued[0].nonce != issued[1].nonce && issued[1].nonce != issued[2].nonce);
    assert!(issued.iter().all(|token| ours.verify(token, &digest) && !other.verify(token, &digest)));
    let elsewhere = challenge_digest(&"b.test".parse().unwrap()).unwrap();
    assert!(!ours.verify(&issued[0], &elsewhere));
    let encoded = issued[0].to_vec();
    for bit in 0..encoded.len() * 8 {
        let mut changed = encoded.clone();
        changed[bit / 8] ^= 1 << (bit % 8);
        assert!(!ours.verify(&Token::from_slice(&changed).unwrap(), &digest), "bit {bit}");
    }
    // The id of one key on the token of another.
    let renamed = Token { token_key_id: *other.id(), ..issued[0].clone() };
    assert!(!other.verify(&renamed, &digest));
    let again = IssuerKey::from_seed(ours.seed().clone()).unwrap();
    assert!(again.verify(&issued[1], &digest), "the key is what its seed says");
}

#[test]
fn requests_of_another_form_are_refused_before_any_work() {
    let ours = key(1);
    let (request, _) = Request::new(ours.public_key(), &domain(), 2).unwrap();
    assert_eq!(TokenRequest::decode(&request).unwrap().tokens(), 2);
    assert_eq!(request.len(), 2 + 1 + 2 + 2 * 32);
    for length in 0..request.len() {
        assert!(TokenRequest::decode(&request[..length]).is_err(), "{length}");
    }
    assert!(TokenRequest::decode(&[&request[..], &[0]].concat()).is_err());
    let of = |elements: &[Element]| {
        let mut request = vec![0, 5, ours.truncated_id()];
        elements.encode(&mut request);
        request
    };
    assert!(TokenRequest::decode(&of(&[])).is_err());
    assert!(TokenRequest::decode(&of(&[[1; 32]; MAX_BATCH])).is_ok());
    assert!(TokenRequest::decode(&of(&[[1; 32]; MAX_BATCH + 1])).is_err());
    let mut other_type = request.clone();
    other_type[1] = 1;
    assert!(TokenRequest::decode(&other_type).is_err());
    let good: Element = request[5..37].try_into().unwrap();
    let mut high = good;
    high[31] |= 0x80;
    // The identity, no field element, negative, not canonical.
    for bad in [[0; 32], [0xff; 32], [1; 32], high] {
        assert_eq!(issue(&ours, &of(&[good, bad])), Err(CryptoError::Form));
    }
    assert!(Request::new(ours.public_key(), &domain(), 0).is_err());
    assert!(Request::new(ours.public_key(), &domain(), MAX_BATCH + 1).is_err());
    for bad in [&[0; 32][..], &[0xff; 32], &ours.public_key()[..31], &[]] {
        assert!(Request::new(bad, &domain(), 1).is_err());
    }
}

#[test]
fn responses_that_are_not_the_issuers_are_refused() {
    let (ours, other) = (key(1), key(2));
    let ask = || Request::new(ours.public_key(), &domain(), 2).unwrap();
    let (request, state) = ask();
    let response = issue(&ours, &request).unwrap();
    assert_eq!(response.len(), 2 + 2 * 32 + 64);
    assert_eq!(state.finish(&issue(&other, &request).unwrap()), Err(CryptoError::Invalid));
    // The answer to another request.
    assert_eq!(ask().1.finish(&response), Err(CryptoError::Invalid));
    let (one, _) = Request::new(ours.public_key(), &domain(), 1).unwrap();
    let fewer = issue(&ours, &one).unwrap();
    assert_eq!(ask().1.finish(&fewer), Err(CryptoError::Form));
    for length in 0..response.len() {
        assert_eq!(ask().1.finish(&response[..length]), Err(CryptoError::Form), "{length}");
    }
    assert_eq!(ask().1.finish(&[&response[..], &[0]].concat()), Err(CryptoError::Form));
    for at in (2..response.len()).step_by(7) {
        let (request, state) = ask();
        let mut response = issue(&ours, &request).unwrap();
        response[at] ^= 2;
        assert_eq!(state.finish(&response), Err(CryptoError::Invalid), "{at}");
    }
    let identity = [&response[..2], &[0; 64], &response[66..]].concat();
    assert_eq!(ask().1.finish(&identity), Err(CryptoError::Invalid));
}

#[test]
fn issuance_follows_from_its_randomness() {
    let ours = key(1);
    let (request, _) = Request::new(ours.public_key(), &domain(), 2).unwrap();
    let request = TokenRequest::decode(&request).unwrap();
    let with = |seed| ours.issue(&request, Secret::new([seed; 32])).unwrap();
    assert_eq!(with(1), with(1));
    assert_ne!(with(1), with(2));
}
