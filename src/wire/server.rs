//! Methods that belong to no service: what the server is, and binding keys to a connection.

use super::credential::{Signature, SignaturePublicKey};
use crate::base::Domain;

wire_structs! {
    /// Asks what the server is and allows.
    pub struct GetServerInfo {}

    /// What the server is and allows.
    pub struct ServerInfo {
        /// The home domain.
        pub domain: Domain,
        /// Protocol versions it speaks.
        pub versions: Vec<u16>,
        /// MLS ciphersuites it accepts.
        pub ciphersuites: Vec<u16>,
        /// Largest request of each method.
        pub method_limits: Vec<MethodLimit>,
        /// Limits of a connection.
        pub connection_limits: ConnectionLimits,
        /// What tokens buy.
        pub token_policy: TokenPolicy,
        /// Who may register.
        pub registration_policy: RegistrationPolicy,
    }

    /// Largest request of a method.
    pub struct MethodLimit {
        /// Code of the method.
        pub method: u16,
        /// In bytes, envelope included.
        pub max_request: u32,
    }

    /// Limits of a connection.
    pub struct ConnectionLimits {
        /// Streams open at once.
        pub max_streams: u32,
        /// After this long without a packet the connection is gone.
        pub idle_timeout_ms: u32,
        /// Keys bound at once.
        pub max_bound_keys: u32,
    }

    /// What tokens buy.
    pub struct TokenPolicy {
        /// Whether requests that are not exempt need credit.
        pub required: bool,
        /// Credit that one token buys.
        pub credit_per_token: u32,
        /// Tokens that a client of this homeserver is issued in one period.
        pub allowance: u32,
        /// Length of a period in seconds; periods begin at multiples of it since the Unix epoch.
        pub period: u32,
        /// Credit that a request costs; nothing for methods that are not here.
        pub prices: Vec<MethodPrice>,
    }

    /// Credit that a request costs.
    pub struct MethodPrice {
        /// Code of the method.
        pub method: u16,
        /// Its price.
        pub credit: u32,
    }

    /// Proves possession of keys for the rest of the connection.
    pub struct Bind {
        /// At most 16 keys at a time.
        pub keys: Vec<BoundKey>,
    }

    /// A key and the proof of its possession.
    pub struct BoundKey {
        /// The key.
        pub key: SignaturePublicKey,
        /// Over [`BindTbs`](super::envelope::BindTbs).
        pub signature: Signature,
    }

    /// Done, and there is nothing to say.
    pub struct Done {}
}

wire_selects! {
    /// Who may register.
    pub enum RegistrationPolicy: u8 {
        /// Anybody.
        Open = 1,
        /// Whoever has an invitation code.
        Invitation = 2,
        /// Nobody.
        Closed = 3,
    }
}
