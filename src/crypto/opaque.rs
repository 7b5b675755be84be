//! Passwords by OPAQUE (RFC 9807), registration and login: ristretto255, SHA-512, triple Diffie-Hellman, Argon2id on the client. The
//! server never sees the password, nor anything it could try passwords against without its own secret
//! (`wire-spec/authentication.md`, "Passwords").

use opaque_ke::{
    CipherSuite, CredentialFinalization, CredentialRequest, Identifiers, RegistrationRequest, RegistrationUpload,
    Ristretto255, ServerLoginParameters, ServerRegistration, TripleDh,
};

use super::{CryptoError, Rng};
use crate::{
    base::UserId,
    wire::{Encode, Opaque},
};

struct Suite;

impl CipherSuite for Suite {
    type OprfCs = Ristretto255;
    type KeyExchange = TripleDh<Ristretto255, sha2::Sha512>;
    #[cfg(feature = "client")]
    type Ksf = client::Stretching;
    // Only clients stretch passwords.
    #[cfg(not(feature = "client"))]
    type Ksf = opaque_ke::ksf::Identity;
}

/// The server's OPAQUE secret: seed of every user's OPRF key, and the server's key pair. Losing it makes every password
/// useless.
pub struct OpaqueServer {
    setup: opaque_ke::ServerSetup<Suite>,
    /// Decoded where a user has no record, because decoding one takes time.
    stand_in: Vec<u8>,
}

/// What a record has beside the client's public key: a masking key, and an envelope of nonce and tag.
const AFTER_PUBLIC_KEY: usize = 64 + 32 + 64;

/// What both sides of a login agree on beside the password (RFC 9807, "context").
const LOGIN_CONTEXT: &[u8] = b"Bennu 1.0 Login";

/// A login that waits for the client's proof. It is a secret, and is wiped when it goes.
#[cfg_attr(test, derive(Clone))]
pub struct Login(opaque_ke::ServerLogin<Suite>);

impl OpaqueServer {
    /// A fresh secret.
    pub fn generate(mut rng: &mut dyn Rng) -> Self {
        Self::new(opaque_ke::ServerSetup::new(&mut rng))
    }

    fn new(setup: opaque_ke::ServerSetup<Suite>) -> Self {
        let public_key = setup.keypair().public().serialize();
        let stand_in = [public_key.as_slice(), &[0; AFTER_PUBLIC_KEY]].concat();
        Self { setup, stand_in }
    }

    /// The stored secret.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if it is none.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CryptoError> {
        opaque_ke::ServerSetup::deserialize(bytes).map(Self::new).map_err(|_| CryptoError::Form)
    }

    /// For storing.
    pub fn to_bytes(&self) -> zeroize::Zeroizing<Vec<u8>> {
        self.setup.serialize().to_vec().into()
    }

    /// Answers a RegistrationRequest of `user`. One scalar multiplication.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the request is none (wrong length, not a group element, the identity).
    pub fn start_registration(&self, user: &UserId, request: &[u8]) -> Result<Opaque, CryptoError> {
        let request = RegistrationRequest::<Suite>::deserialize(request).map_err(|_| CryptoError::Form)?;
        let answer = ServerRegistration::start(&self.setup, request, &user.to_vec()).map_err(|_| CryptoError::Form)?;
        Ok(answer.message.serialize().as_slice().into())
    }

    /// Answers a KE1 of `user`, whose RegistrationRecord is `record`: the state that waits for KE3, and the KE2 to send.
    /// Without a record the answer looks and costs the same, and no KE3 will do (RFC 9807 section 6.3.2.2). Costs some
    /// 200 µs.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if the KE1 is none (wrong length, not a group element, the identity).
    pub fn start_login(
        &self,
        user: &UserId,
        record: Option<&[u8]>,
        request: &[u8],
        rng: &mut dyn Rng,
    ) -> Result<(Login, Opaque), CryptoError> {
        let (client, server) = (user.to_vec(), user.domain.to_vec());
        let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
        self.start_login_with(&client, login_parameters(LOGIN_CONTEXT, identifiers), record, request, rng)
    }

    fn start_login_with(
        &self,
        credential_id: &[u8],
        parameters: ServerLoginParameters<'_, '_>,
        record: Option<&[u8]>,
        request: &[u8],
        mut rng: &mut dyn Rng,
    ) -> Result<(Login, Opaque), CryptoError> {
        let request = CredentialRequest::<Suite>::deserialize(request).map_err(|_| CryptoError::Form)?;
        // One is decoded in any case: that takes two percent of the whole, which could be measured.
        let decoded = ServerRegistration::<Suite>::deserialize(record.unwrap_or(&self.stand_in));
        let record = record.is_some().then_some(decoded.map_err(|_| CryptoError::Form)?);
        let start = opaque_ke::ServerLogin::start(&mut rng, &self.setup, record, request, credential_id, parameters);
        let start = start.map_err(|_| CryptoError::Form)?;
        Ok((Login(start.state), start.message.serialize().as_slice().into()))
    }
}

const fn login_parameters<'c, 'i>(context: &'c [u8], identifiers: Identifiers<'i>) -> ServerLoginParameters<'c, 'i> {
    ServerLoginParameters { context: Some(context), identifiers }
}

impl Login {
    /// Checks the KE3 of `user`: whether the password is right.
    ///
    /// # Errors
    /// [`CryptoError::Form`] if it is no KE3, [`CryptoError::Invalid`] if the password is wrong or there is none.
    pub fn finish(self, user: &UserId, finalization: &[u8]) -> Result<(), CryptoError> {
        let (client, server) = (user.to_vec(), user.domain.to_vec());
        let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
        let message = CredentialFinalization::deserialize(finalization).map_err(|_| CryptoError::Form)?;
        let finish = self.0.finish(message, login_parameters(LOGIN_CONTEXT, identifiers));
        finish.map(drop).map_err(|_| CryptoError::Invalid)
    }
}

/// Checks a RegistrationRecord: what is stored is what came.
///
/// # Errors
/// [`CryptoError::Form`] if it is none.
pub fn check_record(record: &[u8]) -> Result<(), CryptoError> {
    RegistrationUpload::<Suite>::deserialize(record).map(drop).map_err(|_| CryptoError::Form)
}

#[cfg(test)]
mod tests;

#[cfg(feature = "client")]
pub use client::{ClientLogin, Registration};

#[cfg(feature = "client")]
pub(super) mod client {
    use opaque_ke::{
        ClientLoginFinishParameters, ClientRegistration, ClientRegistrationFinishParameters, CredentialResponse,
        RegistrationResponse,
        errors::InternalError,
        generic_array::{ArrayLength, GenericArray},
    };

    use super::*;

    /// Argon2id as RFC 9106 section 4 recommends for constrained machines: 64 MiB, 3 passes, 4 lanes, zero salt (the
    /// OPRF is the salt, RFC 9807 section 7).
    #[derive(Default)]
    pub struct Stretching;

    impl opaque_ke::ksf::Ksf for Stretching {
        fn hash<L: ArrayLength<u8>>(&self, input: GenericArray<u8, L>) -> Result<GenericArray<u8, L>, InternalError> {
            let mut output = GenericArray::<u8, L>::default();
            stretch(&input, &mut output).map_err(|_| InternalError::KsfError)?;
            Ok(output)
        }
    }

    /// Argon2id with the parameters of the specification.
    pub(in crate::crypto) fn stretch(input: &[u8], output: &mut [u8]) -> Result<(), argon2::Error> {
        let parameters = argon2::Params::new(64 << 10, 3, 4, Some(output.len()))?;
        argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, parameters)
            .hash_password_into(input, &[0; 16], output)
    }

    /// A client in the middle of registering.
    pub struct Registration {
        state: ClientRegistration<Suite>,
        user: UserId,
    }

    impl Registration {
        /// Starts: the state, and the RegistrationRequest to send.
        ///
        /// # Errors
        /// [`CryptoError::Form`] if the password cannot be blinded, which holds for none of less than 64 KiB.
        pub fn start(user: UserId, password: &str, mut rng: &mut dyn Rng) -> Result<(Self, Opaque), CryptoError> {
            let start = ClientRegistration::start(&mut rng, password.as_bytes()).map_err(|_| CryptoError::Form)?;
            let request = start.message.serialize().as_slice().into();
            Ok((Self { state: start.state, user }, request))
        }

        /// The scalar that blinds the password.
        #[cfg(test)]
        pub(in crate::crypto) fn blind(&self) -> [u8; 32] {
            // In front of the blinded element.
            *self.state.serialize().first_chunk().unwrap()
        }

        /// Makes the RegistrationRecord to upload. Takes a tenth of a second and 64 MiB: call it on a blocking thread.
        ///
        /// # Errors
        /// [`CryptoError::Form`] if the server's answer is none.
        pub fn finish(self, password: &str, response: &[u8], mut rng: &mut dyn Rng) -> Result<Opaque, CryptoError> {
            let response = RegistrationResponse::deserialize(response).map_err(|_| CryptoError::Form)?;
            let (client, server) = (self.user.to_vec(), self.user.domain.to_vec());
            let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
            let parameters = ClientRegistrationFinishParameters::new(identifiers, None);
            let finish = self
                .state
                .finish(&mut rng, password.as_bytes(), response, parameters)
                .map_err(|_| CryptoError::Form)?;
            Ok(finish.message.serialize().as_slice().into())
        }
    }

    /// A client in the middle of logging in.
    pub struct ClientLogin {
        state: opaque_ke::ClientLogin<Suite>,
        user: UserId,
    }

    impl ClientLogin {
        /// Starts: the state, and the KE1 to send.
        ///
        /// # Errors
        /// As [`Registration::start`].
        pub fn start(user: UserId, password: &str, mut rng: &mut dyn Rng) -> Result<(Self, Opaque), CryptoError> {
            let start = opaque_ke::ClientLogin::start(&mut rng, password.as_bytes()).map_err(|_| CryptoError::Form)?;
            let request = start.message.serialize().as_slice().into();
            Ok((Self { state: start.state, user }, request))
        }

        /// The scalar that blinds the password, and the private half of the client's key share.
        #[cfg(test)]
        pub(in crate::crypto) fn secrets(&self) -> ([u8; 32], [u8; 32]) {
            // The blind, KE1 and its secrets: the private key, and the nonce once more.
            let state = self.state.serialize();
            (*state.first_chunk().unwrap(), state[32 + 96..32 + 96 + 32].try_into().unwrap())
        }

        /// Makes the KE3 to send. As costly as [`Registration::finish`].
        ///
        /// # Errors
        /// [`CryptoError::Form`] if the server's answer is none, [`CryptoError::Invalid`] if the password is wrong or
        /// the server is another than at registration.
        pub fn finish(self, password: &str, response: &[u8], mut rng: &mut dyn Rng) -> Result<Opaque, CryptoError> {
            let response = CredentialResponse::deserialize(response).map_err(|_| CryptoError::Form)?;
            let (client, server) = (self.user.to_vec(), self.user.domain.to_vec());
            let identifiers = Identifiers { client: Some(&client), server: Some(&server) };
            let parameters = ClientLoginFinishParameters::new(Some(LOGIN_CONTEXT), identifiers, None);
            let finish = self.state.finish(&mut rng, password.as_bytes(), response, parameters);
            Ok(finish.map_err(|_| CryptoError::Invalid)?.message.serialize().as_slice().into())
        }
    }

    #[cfg(test)]
    mod tests {
        use super::*;
        use crate::crypto::system_rng;

        #[test]
        fn only_the_right_password_logs_in_and_an_unknown_user_looks_like_a_wrong_password() {
            let mut rng = system_rng();
            let server = OpaqueServer::generate(&mut rng);
            let user: UserId = "00112233-4455-6677-8899-aabbccddeeff@a.test".parse().unwrap();
            let (state, request) = Registration::start(user.clone(), "correct horse", &mut rng).unwrap();
            let response = server.start_registration(&user, request.as_slice()).unwrap();
            let record = state.finish("correct horse", response.as_slice(), &mut rng).unwrap();

            let (client, ke1) = ClientLogin::start(user.clone(), "correct horse", &mut rng).unwrap();
            let (login, ke2) = server.start_login(&user, Some(record.as_slice()), ke1.as_slice(), &mut rng).unwrap();
            let ke3 = client.finish("correct horse", ke2.as_slice(), &mut rng).unwrap();
            assert_eq!((ke1.as_slice().len(), ke2.as_slice().len(), ke3.as_slice().len()), (96, 320, 64));
            assert_eq!(login.finish(&user, ke3.as_slice()), Ok(()));

            let (client, ke1) = ClientLogin::start(user.clone(), "wrong horse", &mut rng).unwrap();
            for record in [Some(record.as_slice()), None] {
                let (login, ke2) = server.start_login(&user, record, ke1.as_slice(), &mut rng).unwrap();
                assert_eq!(ke2.as_slice().len(), 320);
                // A proof for another login does not do, nor does rubbish.
                assert_eq!(login.finish(&user, ke3.as_slice()), Err(CryptoError::Invalid));
            }
            let (login, ke2) = server.start_login(&user, Some(record.as_slice()), ke1.as_slice(), &mut rng).unwrap();
            assert_eq!(client.finish("wrong horse", ke2.as_slice(), &mut rng), Err(CryptoError::Invalid));
            assert_eq!(login.finish(&user, &ke3.as_slice()[1..]), Err(CryptoError::Form));
            for bad in [&[0; 96][..], &[0xff; 96], &ke1.as_slice()[1..]] {
                assert!(server.start_login(&user, None, bad, &mut rng).is_err());
            }
        }

        #[test]
        fn a_registration_gives_a_record_of_the_fixed_size_and_rubbish_is_refused() {
            let mut rng = system_rng();
            let server = OpaqueServer::generate(&mut rng);
            let server = OpaqueServer::from_bytes(&server.to_bytes()).unwrap();
            let user: UserId = "00112233-4455-6677-8899-aabbccddeeff@a.test".parse().unwrap();
            let (state, request) = Registration::start(user.clone(), "correct horse", &mut rng).unwrap();
            assert_eq!(request.as_slice().len(), 32);
            let response = server.start_registration(&user, request.as_slice()).unwrap();
            assert_eq!(response.as_slice().len(), 64);
            let record = state.finish("correct horse", response.as_slice(), &mut rng).unwrap();
            assert_eq!(record.as_slice().len(), 192);
            assert_eq!(check_record(record.as_slice()), Ok(()));

            assert!(check_record(&record.as_slice()[1..]).is_err());
            assert!(server.start_registration(&user, &[0; 32]).is_err(), "the identity element");
            assert!(server.start_registration(&user, &[0xff; 32]).is_err(), "no group element");
            assert!(server.start_registration(&user, &[1; 31]).is_err());
        }
    }
}
