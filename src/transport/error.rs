//! What can go wrong between two peers, without a type of the QUIC library in it.

use super::{Code, codes};

/// Why an exchange, or a read or write in it, failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// The peer reset its side of the stream.
    #[error("the peer reset the stream: {0}")]
    Reset(Code),
    /// The peer does not want to read on.
    #[error("the peer stopped reading: {0}")]
    Stopped(Code),
    /// The connection is gone.
    #[error("{0}")]
    Closed(Closed),
    /// More bytes than allowed; nothing beyond the limit was buffered.
    #[error("larger than the limit of {0} bytes")]
    TooLarge(usize),
    /// Not the framing that the exchange must have.
    #[error("the stream does not follow the framing")]
    Malformed,
    /// The stream ended inside a frame.
    #[error("the stream ended inside a frame")]
    Truncated,
    /// The peer took too long.
    #[error("the peer took too long")]
    Deadline,
    /// This homeserver is stopping: say goodbye and return.
    #[error("the homeserver is shutting down")]
    ShuttingDown,
}

impl StreamError {
    /// The code that tells the peer what was wrong (`wire-spec/registries.md`, "Close codes").
    pub const fn code(&self) -> Code {
        match self {
            Self::TooLarge(_) => codes::TOO_LARGE,
            Self::Malformed | Self::Truncated => codes::MALFORMED,
            Self::Deadline => codes::DEADLINE,
            Self::ShuttingDown => codes::SHUTTING_DOWN,
            // The peer is gone, or has given the stream up.
            Self::Reset(_) | Self::Stopped(_) | Self::Closed(_) => codes::DONE,
        }
    }
}

/// Why a connection ended.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Closed {
    /// This side closed it.
    #[error("the connection was closed here")]
    Here,
    /// The peer closed it with a code.
    #[error("the peer closed the connection: {0}")]
    Peer(Code),
    /// The peer fell silent for longer than the idle time-out.
    #[error("the connection timed out")]
    TimedOut,
    /// TLS or QUIC failed.
    #[error("the connection failed: {0}")]
    Failed(String),
}

/// Why no connection came about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DialError {
    /// The name could not be resolved.
    #[error("cannot resolve {name}: {reason}")]
    Lookup {
        /// What was looked up.
        name: String,
        /// What the resolver said.
        reason: String,
    },
    /// It is this homeserver itself, by its domain or by the certificate that it shows.
    #[error("{0} leads to this homeserver itself")]
    Own(String),
    /// The domain says that it has no homeserver (RFC 2782, target `.`).
    #[error("{0} says that it has no homeserver")]
    Unavailable(String),
    /// DNS leads to addresses that are not of the public internet, and that is not allowed.
    #[error("DNS gives {0} addresses that are not of the public internet")]
    PrivateAddress(String),
    /// No address to try.
    #[error("no address for {0}")]
    NoAddress(String),
    /// The socket could not be opened, or the address cannot be dialled from it.
    #[error("cannot dial: {0}")]
    Socket(String),
    /// The handshake took too long.
    #[error("the handshake took too long")]
    Deadline,
    /// The homeserver's certificate is not one to trust. Trying again does not help.
    #[error("the homeserver's certificate is not to be trusted: {0}")]
    Certificate(String),
    /// The handshake failed: no homeserver there, or not the one that was asked for.
    #[error("{0}")]
    Handshake(Closed),
}

impl DialError {
    /// Whether somebody answered, who is not to be spoken to.
    pub(super) const fn is_about_identity(&self) -> bool {
        matches!(self, Self::Own(_) | Self::Certificate(_))
    }
}

impl From<quinn::ConnectionError> for DialError {
    fn from(error: quinn::ConnectionError) -> Self {
        // TLS alerts that say something of a certificate (RFC 8446 section 6.2), as QUIC carries them (RFC 9001 section
        // 4.8): bad, unsupported, revoked, expired, unknown, of an unknown authority, wrongly signed.
        const CERTIFICATE_ALERTS: [u64; 7] = [0x12a, 0x12b, 0x12c, 0x12d, 0x12e, 0x130, 0x133];
        match error {
            quinn::ConnectionError::TransportError(error) if CERTIFICATE_ALERTS.contains(&error.code.into()) => {
                Self::Certificate(error.reason)
            }
            other => Self::Handshake(other.into()),
        }
    }
}

/// Why a TLS configuration could not be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("TLS: {0}")]
pub struct TlsError(pub(super) String);

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        Self(error.to_string())
    }
}

impl From<quinn::ConnectionError> for Closed {
    fn from(error: quinn::ConnectionError) -> Self {
        match error {
            quinn::ConnectionError::LocallyClosed => Self::Here,
            quinn::ConnectionError::ApplicationClosed(close) => Self::Peer(close.error_code.into()),
            quinn::ConnectionError::TimedOut => Self::TimedOut,
            other => Self::Failed(other.to_string()),
        }
    }
}

impl From<quinn::ConnectionError> for StreamError {
    fn from(error: quinn::ConnectionError) -> Self {
        Self::Closed(error.into())
    }
}

impl From<quinn::ReadError> for StreamError {
    fn from(error: quinn::ReadError) -> Self {
        match error {
            quinn::ReadError::Reset(code) => Self::Reset(code.into()),
            quinn::ReadError::ConnectionLost(error) => error.into(),
            other => Self::Closed(Closed::Failed(other.to_string())),
        }
    }
}

impl From<quinn::WriteError> for StreamError {
    fn from(error: quinn::WriteError) -> Self {
        match error {
            quinn::WriteError::Stopped(code) => Self::Stopped(code.into()),
            quinn::WriteError::ConnectionLost(error) => error.into(),
            other => Self::Closed(Closed::Failed(other.to_string())),
        }
    }
}
