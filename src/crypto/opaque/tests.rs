//! The server's side of OPAQUE against the test vectors of RFC 9807, Appendix C (ristretto255, SHA-512): registration,
//! login, and the answer for users that do not exist.

use std::collections::HashMap;

use rand_core::{CryptoRng, RngCore};

use super::*;

const VECTORS: &str = include_str!("../../../tests/vectors/rfc9807.txt");

type Vector = HashMap<&'static str, Vec<u8>>;

fn vectors(kind: &str) -> Vec<Vector> {
    let bytes = |text: &str| crate::base::hex::decode(text).unwrap();
    let mut found = Vec::new();
    for section in VECTORS.split("\n[").skip(1).filter(|section| section.contains(kind)) {
        let values = section.lines().filter_map(|line| line.split_once('='));
        found.push(values.map(|(name, value)| (name, bytes(value))).collect());
    }
    found
}

/// Gives out what a vector says was drawn.
struct Scripted(std::collections::VecDeque<u8>);

impl RngCore for Scripted {
    fn next_u32(&mut self) -> u32 {
        unimplemented_draw()
    }

    fn next_u64(&mut self) -> u64 {
        unimplemented_draw()
    }

    fn fill_bytes(&mut self, out: &mut [u8]) {
        out.iter_mut().for_each(|byte| *byte = self.0.pop_front().expect("more is drawn than the vector has"));
    }

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), rand_core::Error> {
        self.fill_bytes(out);
        Ok(())
    }
}

impl CryptoRng for Scripted {}

fn unimplemented_draw() -> ! {
    panic!("only bytes are drawn")
}

fn server(vector: &Vector) -> OpaqueServer {
    let secret = [&vector["oprf_seed"][..], &vector["server_private_key"], &vector["client_public_key"]].concat();
    OpaqueServer::from_bytes(&secret).unwrap()
}

fn identifiers(vector: &Vector) -> Identifiers<'_> {
    let value = |name: &str| vector.get(name).map(Vec::as_slice);
    Identifiers { client: value("client_identity"), server: value("server_identity") }
}

/// KE2 as the server computes it, with the draws of the vector in the order in which they are made.
fn login(vector: &Vector, record: Option<&[u8]>) -> (Login, Opaque) {
    // The masking key of a record that does not exist is drawn in any case, so that both cases take as long.
    let masking_key = vector.get("masking_key").cloned().unwrap_or_else(|| vec![0; 64]);
    let drawn = [&masking_key[..], &vector["masking_nonce"], &vector["server_keyshare_seed"], &vector["server_nonce"]];
    let mut rng = Scripted(drawn.concat().into());
    let parameters = login_parameters(&vector["Context"], identifiers(vector));
    let id = &vector["credential_identifier"];
    let answer = server(vector).start_login_with(id, parameters, record, &vector["KE1"], &mut rng).unwrap();
    assert!(rng.0.is_empty(), "everything that the vector has was drawn");
    answer
}

#[test]
fn registration_and_login_give_what_the_vectors_say() {
    let vectors = vectors("Real");
    assert_eq!(vectors.len(), 2);
    for vector in &vectors {
        let request = RegistrationRequest::<Suite>::deserialize(&vector["registration_request"]).unwrap();
        let answer =
            ServerRegistration::start(&server(vector).setup, request, &vector["credential_identifier"]).unwrap();
        assert_eq!(answer.message.serialize().as_slice(), vector["registration_response"]);
        assert_eq!(check_record(&vector["registration_upload"]), Ok(()));

        let (state, ke2) = login(vector, Some(&vector["registration_upload"]));
        assert_eq!(ke2.as_slice(), vector["KE2"]);
        let finish = |login: Login, ke3: &[u8]| {
            let message = CredentialFinalization::<Suite>::deserialize(ke3).unwrap();
            login.0.finish(message, login_parameters(&vector["Context"], identifiers(vector))).is_ok()
        };
        assert!(finish(state, &vector["KE3"]));
        let mut wrong = vector["KE3"].clone();
        wrong[0] ^= 1;
        let (state, _) = login(vector, Some(&vector["registration_upload"]));
        assert!(!finish(state, &wrong));
    }
}

#[test]
fn a_user_that_does_not_exist_gets_the_answer_of_the_vector() {
    let vectors = vectors("Fake");
    assert_eq!(vectors.len(), 1);
    for vector in &vectors {
        let (_, ke2) = login(vector, None);
        assert_eq!(ke2.as_slice(), vector["KE2"]);
    }
}
