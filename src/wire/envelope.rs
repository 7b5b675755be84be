//! The envelope of every exchange: version first, then the selector, then the selected body, as in RFC 9420's
//! MLSMessage (`wire-spec/envelope.tls`).

use super::{Encode, Opaque, Text, credential::Signature};
use crate::base::{AliasId, ClientId, Domain, GroupId, QsClientId, QsUserId, Refusal, Status};

/// `bennu10`, the protocol version this crate speaks.
pub const VERSION: u16 = 1;

wire_structs! {
    /// A request: the whole content of the caller's side of a stream.
    pub struct Request {
        /// [`VERSION`].
        pub version: u16,
        /// Code of a [`Method`](super::Method).
        pub method: u16,
        /// Who sends it and how that is proven: none, one, or two (renewal: old and new key).
        pub auth: Vec<Authentication>,
        /// A Privacy Pass token that pays for this and following requests of the connection.
        pub token: Option<Token>,
        /// The struct that the method names.
        pub body: Opaque,
    }

    /// A response: the whole content of the callee's side of a stream.
    pub struct Response {
        /// Code of a [`Status`].
        pub status: u16,
        /// The method's response, or [`ErrorDetail`] for any status but `ok`.
        pub body: Opaque,
    }

    /// What a refused caller learns beside the status.
    pub struct ErrorDetail {
        /// For a developer to read.
        pub message: Text,
        /// When a repeat may succeed, in milliseconds.
        pub retry_after_ms: Option<u32>,
        /// Structure defined by the status (`wire-spec/registries.md`).
        pub detail: Opaque,
    }

    /// A sender and the proof that it is the sender.
    pub struct Authentication {
        /// Who claims to send.
        pub sender: SenderId,
        /// Why that is true.
        pub proof: Proof,
    }

    /// A Privacy Pass token (RFC 9577 section 2.2), type 0x0005.
    pub struct Token {
        /// 0x0005: batched tokens on Ristretto255.
        pub token_type: u16,
        /// Chosen by the client; what the double-spend record remembers.
        pub nonce: [u8; 32],
        /// SHA-256 of the challenge.
        pub challenge_digest: [u8; 32],
        /// SHA-256 of the issuer's public key.
        pub token_key_id: [u8; 32],
        /// The VOPRF output (Nh = 64).
        pub authenticator: [u8; 64],
    }

    /// A leaf of a group.
    pub struct LeafId {
        /// The group.
        pub group: GroupId,
        /// The leaf index.
        pub leaf: u32,
    }

    /// A joiner of a group that has not made its first commit.
    pub struct KeyPackageId {
        /// The group.
        pub group: GroupId,
        /// The KeyPackageRef (RFC 9420 section 5.2) it was added by.
        pub reference: Opaque,
    }

    /// What a request signature covers (label `Request`).
    pub struct RequestTbs {
        /// As in the request.
        pub version: u16,
        /// As in the request.
        pub method: u16,
        /// The sender that the signature proves.
        pub sender: SenderId,
        /// As in the request.
        pub token: Option<Token>,
        /// SHA-256 of the body's bytes.
        pub body_hash: [u8; 32],
        /// From the TLS exporter of the connection (`wire-spec/transport.md`).
        pub channel_binding: [u8; 32],
        /// The QUIC stream that carries the request.
        pub stream: u64,
    }

    /// What a `Bind` signature covers (label `Bind`).
    pub struct BindTbs {
        /// From the TLS exporter of the connection.
        pub channel_binding: [u8; 32],
        /// The key that becomes bound.
        pub key: super::credential::SignaturePublicKey,
    }
}

wire_selects! {
    /// Who sends a request.
    pub enum SenderId: u8 {
        /// A client as the AS knows it.
        AsClient(ClientId) = 1,
        /// An alias.
        AsAlias(AliasId) = 2,
        /// A user as the QS knows it.
        QsUser(QsUserId) = 3,
        /// A client as the QS knows it.
        QsClient(QsClientId) = 4,
        /// A member of a group.
        DsLeaf(LeafId) = 5,
        /// A joiner of a group.
        DsKeyPackage(KeyPackageId) = 6,
        /// Another homeserver, proven by mutual TLS.
        Homeserver(Domain) = 7,
    }

    /// How a sender is proven.
    pub enum Proof: u8 {
        /// Over [`RequestTbs`] with the sender's current key.
        Signature(Signature) = 1,
        /// The sender's current key is bound to this connection.
        Bound = 2,
    }
}

impl Response {
    /// A successful response.
    pub fn ok(body: &impl Encode) -> Self {
        Self { status: Status::Ok as u16, body: body.to_vec().into() }
    }

    /// A refusal.
    pub fn refused(refusal: &Refusal) -> Self {
        let detail = ErrorDetail {
            message: Text(refusal.message.clone().into_owned()),
            retry_after_ms: refusal.retry_after.map(|wait| u32::try_from(wait.as_millis()).unwrap_or(u32::MAX)),
            detail: refusal.detail.clone().into(),
        };
        Self { status: refusal.status as u16, body: detail.to_vec().into() }
    }

    /// What the response says: the method's body, or the refusal.
    ///
    /// # Errors
    /// The refusal; [`Status::Internal`] if the peer's answer is no known status or does not decode.
    pub fn into_result(self) -> Result<bytes::Bytes, Refusal> {
        use super::Decode;
        if self.status == Status::Ok as u16 {
            return Ok(self.body.0);
        }
        let status = Status::from_code(self.status);
        match (status, ErrorDetail::from_bytes(self.body.0)) {
            (Some(status), Ok(detail)) => Err(Refusal {
                status,
                message: detail.message.0.into(),
                retry_after: detail.retry_after_ms.map(|ms| std::time::Duration::from_millis(ms.into())),
                detail: detail.detail.as_slice().to_vec(),
            }),
            _ => Err(Refusal::internal("the peer's answer is not a response of this protocol version")),
        }
    }
}
