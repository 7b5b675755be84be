//! What can go wrong for a caller of the SDK: the homeserver refused, nobody answered, or something here forbids it.

use super::tokens::span;
use crate::{
    base::{Refusal, Status},
    crypto::CryptoError,
    transport::{DialError, StreamError, TlsError},
    wire::DecodeError,
};

/// Why an operation of the SDK failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum ClientError {
    /// The homeserver refused the request; nothing of it took effect.
    #[error("{}{}", .0.message, .0.retry_after.map(|wait| format!("; try again in {}", span(wait))).unwrap_or_default())]
    Refused(Refusal),
    /// No answer within the time allowed. What was being sent is kept and sent again with the next command.
    #[error("the homeserver cannot be reached: {0}")]
    Unreachable(String),
    /// What has happened in a group is still on its way from another homeserver. What was being sent is kept and sent again when
    /// it has come.
    #[error("{0}")]
    Late(String),
    /// The homeserver issues no more tokens to this client for so long. What was being sent is kept and sent again with
    /// the next command after that.
    #[error("the allowance of tokens is used up; try again in {}", span(*.0))]
    UsedUp(std::time::Duration),
    /// Something on this side forbids it.
    #[error("{1}")]
    Local(Local, String),
}

/// Kinds of failures on this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Local {
    /// The home holds no registered client.
    NotRegistered,
    /// The home holds a registered client already.
    AlreadyRegistered,
    /// Another process uses the home.
    Busy,
    /// There is no such chat, contact or request here.
    NotFound,
    /// The arguments or the state of the chat do not allow it.
    Invalid,
    /// Something received does not verify.
    Untrusted,
    /// The client's own storage failed.
    Storage,
}

impl Local {
    /// Its name in JSON.
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotRegistered => "not_registered",
            Self::AlreadyRegistered => "already_registered",
            Self::Busy => "busy",
            Self::NotFound => "not_found",
            Self::Invalid => "invalid",
            Self::Untrusted => "untrusted",
            Self::Storage => "storage",
        }
    }
}

impl ClientError {
    /// The name of the failure in JSON: a status of the protocol, `unreachable`, or the name of a [`Local`].
    pub const fn status(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.status.name(),
            Self::Unreachable(_) | Self::Late(_) => "unreachable",
            Self::UsedUp(_) => Status::RateLimited.name(),
            Self::Local(kind, _) => kind.name(),
        }
    }

    /// Whether the homeserver does not take the proof of a sender, however well it is made.
    pub(super) const fn is_unproven(&self) -> bool {
        matches!(self, Self::Refused(refusal) if matches!(refusal.status, Status::Unauthenticated))
    }

    /// Whether the homeserver refused this once only, for a reason that has nothing to do with it.
    pub(super) const fn is_busy(&self) -> bool {
        matches!(self, Self::Refused(refusal) if is_busy(refusal.status))
    }

    /// Whether the same may succeed later, so that nothing is to be given up.
    pub(super) const fn is_passing(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Late(_) | Self::UsedUp(_) | Self::Local(Local::Storage, _))
    }

    pub(super) fn not_found(what: impl Into<String>) -> Self {
        Self::Local(Local::NotFound, what.into())
    }

    pub(super) fn invalid(what: impl Into<String>) -> Self {
        Self::Local(Local::Invalid, what.into())
    }

    pub(super) fn untrusted(what: impl Into<String>) -> Self {
        Self::Local(Local::Untrusted, what.into())
    }

    pub(super) fn storage(what: impl std::fmt::Display) -> Self {
        Self::Local(Local::Storage, format!("the client's storage failed: {what}"))
    }
}

impl From<rusqlite::Error> for ClientError {
    fn from(error: rusqlite::Error) -> Self {
        Self::storage(error)
    }
}

/// Whether a refusal with this status has nothing to do with the request.
pub(super) const fn is_busy(status: Status) -> bool {
    matches!(status, Status::Overloaded | Status::RateLimited | Status::Internal)
}

impl From<std::io::Error> for ClientError {
    fn from(error: std::io::Error) -> Self {
        Self::storage(error)
    }
}

impl From<DecodeError> for ClientError {
    fn from(error: DecodeError) -> Self {
        Self::untrusted(format!("received or stored data does not decode: {error}"))
    }
}

impl From<CryptoError> for ClientError {
    fn from(error: CryptoError) -> Self {
        Self::untrusted(format!("received data {error}"))
    }
}

impl From<DialError> for ClientError {
    fn from(error: DialError) -> Self {
        match error {
            // Kept for later like any other failure to connect: certificates expire and are renewed.
            DialError::Certificate(_) => Self::Unreachable(format!("{error} (is its authority to be given, --ca?)")),
            other => Self::Unreachable(other.to_string()),
        }
    }
}

impl From<StreamError> for ClientError {
    fn from(error: StreamError) -> Self {
        Self::Unreachable(error.to_string())
    }
}

impl From<TlsError> for ClientError {
    fn from(error: TlsError) -> Self {
        Self::invalid(error.to_string())
    }
}
