//! The table of statuses: what a reply can say, and the error type that carries it from a check to the reply.

use std::{borrow::Cow, fmt, time::Duration};

macro_rules! statuses {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $sentence:literal;)*) => {
        /// Outcome of a request (`wire-spec/registries.md`, "Status values").
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u16)]
        pub enum Status { $(#[doc = $sentence] $variant = $code,)* }

        impl Status {
            /// Every status, in the order of their codes.
            pub const ALL: &[Status] = &[$(Status::$variant),*];

            /// The status of a code on the wire.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$variant),)* _ => None }
            }

            /// The status of a name.
            pub fn from_name(name: &str) -> Option<Self> {
                Self::ALL.iter().copied().find(|status| status.name() == name)
            }

            /// The name used in the specification, logs and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One sentence that says what it means.
            pub const fn sentence(self) -> &'static str {
                match self { $(Self::$variant => $sentence,)* }
            }
        }
    };
}

statuses! {
    Ok = 0, "ok", "The request was carried out.";
    Malformed = 1, "malformed", "The request does not decode, or contradicts itself.";
    UnsupportedVersion = 2, "unsupported_version", "The server does not speak this protocol version.";
    UnknownMethod = 3, "unknown_method", "The server does not know this method.";
    Unauthenticated = 4, "unauthenticated", "The proof of the sender is missing or does not verify.";
    Forbidden = 5, "forbidden", "The sender is known but may not do this.";
    NotFound = 6, "not_found", "There is no such thing, or not for this sender.";
    AlreadyExists = 7, "already_exists", "There is such a thing already.";
    TokenRequired = 8, "token_required", "The request needs a Privacy Pass token.";
    TokenSpent = 9, "token_spent", "The token was redeemed before.";
    WrongEpoch = 10, "wrong_epoch", "The message is not of the group's current epoch.";
    PendingProposals = 11, "pending_proposals", "Stored proposals must be committed first.";
    InvalidMlsMessage = 12, "invalid_mls_message", "The MLS object breaks a rule of RFC 9420 or of the group.";
    TooLarge = 13, "too_large", "The request is larger than its method allows.";
    RateLimited = 14, "rate_limited", "Too many requests of this kind; try again later.";
    Overloaded = 15, "overloaded", "The server cannot take this on now; try again later.";
    QuotaExceeded = 16, "quota_exceeded", "A quota is used up.";
    FederationDenied = 17, "federation_denied", "Policy forbids exchange with that homeserver.";
    RemoteUnreachable = 18, "remote_unreachable", "The other homeserver cannot be reached.";
    Internal = 19, "internal", "The server failed; the failure is in its log.";
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A request refused: nothing of it took effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{status}: {message}")]
pub struct Refusal {
    /// The status to answer with; never [`Status::Ok`].
    pub status: Status,
    /// What exactly is wrong, for a developer. Holds no identity, pseudonym or key.
    pub message: Cow<'static, str>,
    /// When a repeat may succeed.
    pub retry_after: Option<Duration>,
    /// Machine-readable detail, in the encoding that the status defines (`wire-spec/registries.md`).
    pub detail: Vec<u8>,
}

impl Refusal {
    /// A refusal with a message and nothing else.
    pub fn new(status: Status, message: impl Into<Cow<'static, str>>) -> Self {
        Self { status, message: message.into(), retry_after: None, detail: Vec::new() }
    }

    /// The same with machine-readable detail.
    pub fn with_detail(mut self, detail: Vec<u8>) -> Self {
        self.detail = detail;
        self
    }

    /// The same with a time to wait.
    pub fn with_retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }
}

macro_rules! refusals {
    ($($(#[$doc:meta])* $name:ident => $status:ident;)*) => {
        impl Refusal {$(
            $(#[$doc])*
            pub fn $name(message: impl Into<Cow<'static, str>>) -> Self {
                Self::new(Status::$status, message)
            }
        )*}
    };
}

refusals! {
    /// [`Status::Malformed`]
    malformed => Malformed;
    /// [`Status::Unauthenticated`]
    unauthenticated => Unauthenticated;
    /// [`Status::Forbidden`]
    forbidden => Forbidden;
    /// [`Status::NotFound`]
    not_found => NotFound;
    /// [`Status::AlreadyExists`]
    already_exists => AlreadyExists;
    /// [`Status::InvalidMlsMessage`]
    invalid_mls => InvalidMlsMessage;
    /// [`Status::QuotaExceeded`]
    quota_exceeded => QuotaExceeded;
    /// [`Status::Overloaded`]
    overloaded => Overloaded;
    /// [`Status::Internal`]
    internal => Internal;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_names_are_unique_and_invertible() {
        for (index, status) in Status::ALL.iter().enumerate() {
            assert_eq!(Status::from_code(*status as u16), Some(*status));
            assert!(Status::ALL[..index].iter().all(|other| other.name() != status.name()));
        }
        assert_eq!(Status::from_code(u16::MAX), None);
    }
}
