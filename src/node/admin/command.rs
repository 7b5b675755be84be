//! What can be asked on the admin socket: an object of JSON, whose `command` says which of these it is.

use serde::{Deserialize, Serialize};
use zeroize::Zeroize as _;

/// A root's key on its way, in hexadecimal. Never printed, and wiped.
#[derive(Clone, Serialize, Deserialize, PartialEq, Eq)]
#[serde(transparent)]
pub struct RootKey(pub(super) String);

impl From<String> for RootKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl std::fmt::Debug for RootKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RootKey")
    }
}

impl Drop for RootKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

/// What an operator asks for.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(tag = "command", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Command {
    /// Lists users.
    UserList {},
    /// Takes a user out of use.
    UserDisable {
        /// Who, as `<uuid>@<domain>`.
        user: String,
    },
    /// Takes a user back into use.
    UserEnable {
        /// Who.
        user: String,
    },
    /// Deletes a user.
    UserDelete {
        /// Who.
        user: String,
    },
    /// Deletes an alias.
    AliasDelete {
        /// Which, as people write it.
        alias: String,
    },
    /// Counts what there is.
    Stats {},
    /// Says what is logged, after it was changed if that is wanted.
    Log {
        /// As in `RUST_LOG`.
        filter: Option<String>,
    },
    /// Takes in nobody new, or everybody again.
    Drain {
        /// Whether everybody.
        undo: bool,
    },
    /// Holds the files of the database as of this moment, until whoever has asked goes away.
    Snapshot {},
    /// Gives what the page shows.
    Figures {},
    /// Makes an invitation code.
    InviteCreate {
        /// How many may register with it.
        uses: u32,
        /// For how many days.
        days: u32,
        /// For the operator.
        note: String,
    },
    /// Lists invitation codes.
    InviteList {},
    /// Takes an invitation code back.
    InviteRevoke {
        /// Which, as it is listed.
        id: String,
    },
    /// Lists the AS's credentials.
    KeysList {},
    /// Puts a new key into use.
    KeysRotate {
        /// Which kind.
        key: Rotation,
    },
    /// Makes a key for an intermediate, and gives the request to sign with the root that it is for.
    KeysRequest {},
    /// Takes in the signed answer to the last request.
    KeysImport {
        /// The encoded credential, in hexadecimal.
        credential: String,
    },
    /// Gives the root's key.
    KeysExportRoot {},
    /// Takes the root's key away from whoever shows it: it is kept elsewhere.
    KeysForgetRoot {
        /// The key, in hexadecimal.
        key: RootKey,
    },
    /// Takes the root's key back.
    KeysImportRoot {
        /// The key, in hexadecimal.
        key: RootKey,
    },
    /// Deals with a homeserver, whatever holds for those without a decision.
    FederationAllow {
        /// Its home domain.
        domain: String,
    },
    /// Deals with a homeserver no more; what goes on with it ends.
    FederationBlock {
        /// Its home domain.
        domain: String,
    },
    /// Takes a decision about a homeserver back.
    FederationForget {
        /// Its home domain.
        domain: String,
    },
    /// Lists the decisions, with what holds for those without one first.
    FederationList {},
    /// Lists the homeservers that something was sent to.
    FederationPeers {},
    /// Revokes a credential of the AS that is not in use for new ones.
    KeysRevoke {
        /// Its fingerprint, in hexadecimal.
        fingerprint: String,
        /// That a root is meant, and what follows is known.
        sure: bool,
    },
}

/// A kind of key that can be put into use.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Rotation {
    /// The root credential, and an intermediate under it.
    Root,
    /// The intermediate credential.
    Intermediate,
    /// The key that issues tokens to the homeserver's own users.
    Tokens,
    /// The key that issues tokens to clients of other homeservers.
    ForeignTokens,
    /// The key that queue configs are sealed to.
    QueueConfigs,
    /// The key that signs what is delivered to other homeservers.
    Deliveries,
}
