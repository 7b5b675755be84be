//! The Authentication Service: knows users by their real identity, certifies their keys, and lets them find each other
//! (`wire-spec/authentication.md`). One file per endpoint.

pub mod enqueue;
pub mod finish_registration;
pub mod get_connection_package;
pub mod get_user_profile;
pub mod init_registration;
pub mod issue_tokens;
pub mod issuers;
pub mod publish_connection_packages;
pub mod records;
pub mod update_user_profile;

use crate::{
    base::Refusal,
    crypto::{
        credential::{issue_intermediate, issue_root, request_intermediate},
        opaque::OpaqueServer,
        signature::SigningKey,
    },
    service::{Context, damaged, keys},
    store::{Batch, Key, Table},
    wire::{
        Encode,
        authentication::Credentials,
        credential::{AsCredential, AsIntermediateCredential, Validity},
    },
};

/// How long the first root credential is valid, in seconds: ten years.
const ROOT_VALIDITY: u64 = 10 * 365 * 86_400;

/// How long an intermediate credential is valid, in seconds: two years.
const INTERMEDIATE_VALIDITY: u64 = 2 * 365 * 86_400;

/// Clocks of clients may be behind by this much, in seconds.
const BACKDATE: u64 = 3_600;

/// The service's keys.
pub struct Authentication {
    credentials: Credentials,
    intermediate: AsIntermediateCredential,
    signing_key: SigningKey,
    opaque: OpaqueServer,
    /// Keys that tokens are issued and redeemed with.
    pub issuers: issuers::Issuers,
}

impl Authentication {
    /// Loads the keys and credentials, or makes them and adds them to the batch.
    ///
    /// # Errors
    /// `internal` if they cannot be read.
    pub async fn start(context: &mut Context<'_>, batch: &mut Batch) -> Result<Self, Refusal> {
        let key = |seed| SigningKey::from_seed(seed).map_err(damaged);
        let root_key = key(keys::secret(context, batch, Table::AsKeys, "root key").await?)?;
        let signing_key = key(keys::secret(context, batch, Table::AsKeys, "intermediate key").await?)?;
        let fresh = OpaqueServer::generate(context.rng).to_bytes();
        let opaque = keys::bytes(context, batch, Table::AsKeys, "opaque", &fresh).await?;
        let opaque = OpaqueServer::from_bytes(&opaque).map_err(damaged)?;

        let not_before = context.now.seconds().saturating_sub(BACKDATE);
        let valid_for = |seconds| Validity { not_before, not_after: not_before + seconds };
        let root = match keys::public::<AsCredential>(context, Table::AsKeys, "root credential").await? {
            Some(root) => root,
            None => {
                let root = issue_root(context.domain.clone(), valid_for(ROOT_VALIDITY), &root_key);
                batch.put(Table::AsKeys, Key::new().bytes("root credential"), root.to_vec());
                root
            }
        };
        let stored =
            keys::public::<AsIntermediateCredential>(context, Table::AsKeys, "intermediate credential").await?;
        let intermediate = match stored {
            Some(intermediate) => intermediate,
            None => {
                let validity = valid_for(INTERMEDIATE_VALIDITY);
                let request = request_intermediate(context.domain.clone(), validity, &root, &signing_key);
                let intermediate = issue_intermediate(request, &root_key);
                batch.put(Table::AsKeys, Key::new().bytes("intermediate credential"), intermediate.to_vec());
                intermediate
            }
        };
        let credentials = Credentials {
            roots: vec![root],
            successions: Vec::new(),
            intermediates: vec![intermediate.clone()],
            revoked: Vec::new(),
            issuer_keys: Vec::new(),
        };
        let issuers = issuers::Issuers::start(context, batch).await?;
        Ok(Self { credentials, intermediate, signing_key, opaque, issuers })
    }

    /// The endpoint GetCredentials: everything it takes to verify a user of this domain.
    pub fn credentials(&self) -> Credentials {
        Credentials { issuer_keys: self.issuers.public(), ..self.credentials.clone() }
    }
}
