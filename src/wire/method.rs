//! The table of methods: number, name, request, response, proof, credit, what becomes of a repeat, and size limit of each
//! (`wire-spec/registries.md`, "Methods").
//!
//! Code ranges: 0x00xx server, 0x01xx Authentication Service, 0x02xx Queuing Service, 0x03xx Delivery Service, 0x04xx
//! federation. Numbers left out below belong to methods of the protocol that this version does not have yet.

use bytes::Bytes;

use super::{
    Decode, DecodeError, Encode, authentication as auth, delivery, every::last, federation, queue, queuing, server,
};

/// How the sender of a method is proven.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProofKind {
    /// Not at all; a proof sent along is refused.
    None,
    /// A client credential's key.
    AsClient,
    /// The key in the certificate signing request.
    Request,
    /// Two proofs: the stored client credential's key, and the key in the request that is to replace it.
    Renewal,
    /// A client credential's key, and the user's password by an OPAQUE login that Init2fa started.
    TwoFactors,
    /// The key in a request to register an alias.
    NewAlias,
    /// An alias's key.
    AsAlias,
    /// A QS user record's key.
    QsUser,
    /// A QS client record's key.
    QsClient,
    /// A QS client record's key, or that of the user record that it belongs to.
    QsEither,
    /// A leaf's key, and the group's EAR key.
    Leaf,
    /// The only leaf of a group that does not exist yet.
    FirstLeaf,
    /// The leaf key in the KeyPackage that a joiner was added by.
    KeyPackage,
    /// The group's EAR key alone.
    EarKey,
    /// A user's friendship token.
    FriendshipToken,
    /// A homeserver's certificate, which its connection has shown.
    Homeserver,
}

/// Whether a method needs credit once tokens are required.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Credit {
    /// It does.
    Charged,
    /// It does not.
    Exempt,
}

/// The shape of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One request, one response.
    Once,
    /// A response header, then frames in both directions.
    Streaming,
}

/// What becomes of a request that is made again, octet for octet but for its proof, because its response got lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// It changes nothing, like the first.
    Reads,
    /// It is answered like the first, and everything is as the first has left it.
    Same,
    /// The same, by the idempotency key that both carry.
    Keyed,
    /// It is refused, because the first has taken away what it needs.
    Refused,
    /// It is carried out once more.
    Again,
}

/// A method with its types.
pub trait Call {
    /// Its entry in the table.
    const METHOD: Method;
    /// What is sent.
    type Request: Encode + Decode;
    /// What comes back.
    type Response: Encode + Decode;
}

/// Room for the envelope around a body: two proofs with the longest sender ids, a token, and their framing.
pub const ENVELOPE: usize = 1_536;

macro_rules! methods {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $proof:ident, $credit:ident, $shape:ident, $repeat:ident, $max:expr,
        $request:ty => $response:ty;)*) => {
        /// A method of the protocol.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Method { $($(#[$doc])* $name = $code,)* }

        impl Method {
            /// Every method, in the order of their codes.
            pub const ALL: &[Method] = &[$(Method::$name),*];

            /// The method of a code on the wire.
            pub const fn from_code(code: u16) -> Option<Self> {
                match code { $($code => Some(Self::$name),)* _ => None }
            }

            /// Its name in the specification, logs and metrics.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$name => stringify!($name),)* }
            }

            /// How its sender is proven.
            pub const fn proof(self) -> ProofKind {
                match self { $(Self::$name => ProofKind::$proof,)* }
            }

            /// Whether it needs credit.
            pub const fn credit(self) -> Credit {
                match self { $(Self::$name => Credit::$credit,)* }
            }

            /// The shape of its exchange.
            pub const fn shape(self) -> Shape {
                match self { $(Self::$name => Shape::$shape,)* }
            }

            /// What becomes of a repeat.
            pub const fn repeat(self) -> Repeat {
                match self { $(Self::$name => Repeat::$repeat,)* }
            }

            /// Its largest request in bytes, envelope included.
            pub const fn max_request(self) -> usize {
                ENVELOPE + match self { $(Self::$name => $max,)* }
            }

            /// The struct that is the body of a request to it, and that of its response, by their names in `wire-spec/`.
            pub fn structs(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => (last(stringify!($request)), last(stringify!($response))),)* }
            }

            /// Decodes the body of a request to this method and encodes it again: the same bytes, whatever was
            /// accepted. For fuzzers and conformance tests.
            ///
            /// # Errors
            /// [`DecodeError`] if the body is no request to this method.
            pub fn recode_request(self, body: Bytes) -> Result<Vec<u8>, DecodeError> {
                match self { $(Self::$name => <$request>::from_bytes(body).map(|value| value.to_vec()),)* }
            }

            /// The same for the body of a successful response.
            ///
            /// # Errors
            /// [`DecodeError`] if the body is no response of this method.
            pub fn recode_response(self, body: Bytes) -> Result<Vec<u8>, DecodeError> {
                match self { $(Self::$name => <$response>::from_bytes(body).map(|value| value.to_vec()),)* }
            }
        }

        /// One type per method, by which a caller names it.
        pub mod call {
            use super::*;
            $($(#[$doc])* #[derive(Clone, Copy, Debug)] pub struct $name;

            impl Call for $name {
                const METHOD: Method = Method::$name;
                type Request = $request;
                type Response = $response;
            })*
        }
    };
}

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

methods! {
    /// What the server is and allows.
    ServerInfo = 0x0001, None, Exempt, Once, Reads, 64, server::GetServerInfo => server::ServerInfo;
    /// Proves possession of keys for the rest of the connection.
    Bind = 0x0002, None, Exempt, Once, Same, 4 * KIB, server::Bind => server::Done;

    /// The AS's credentials.
    AsGetCredentials = 0x0101, None, Exempt, Once, Reads, 64, auth::GetCredentials => auth::Credentials;
    /// OPAQUE registration, first half.
    AsInitRegistration = 0x0102, None, Exempt, Once, Reads, KIB, auth::InitRegistration => auth::InitRegistrationResponse;
    /// OPAQUE registration, second half; makes the user.
    AsFinishRegistration = 0x0103, Request, Exempt, Once, Same, 128 * KIB, auth::FinishRegistration => auth::Registered;
    /// Certifies a new identity key before the old credential expires.
    AsRenewCredential = 0x0104, Renewal, Exempt, Once, Same, 8 * KIB, auth::RenewCredential => auth::CredentialRenewed;
    /// Starts an OPAQUE login, the second factor of what follows.
    AsInit2fa = 0x0105, AsClient, Charged, Once, Again, KIB, auth::Init2fa => auth::SecondFactorChallenge;
    /// Replaces the sender's password.
    AsChangePassword = 0x0106, TwoFactors, Charged, Once, Refused, KIB, auth::ChangePassword => server::Done;
    /// Deletes the sender's user and everything that belongs to it.
    AsDeleteUser = 0x0107, TwoFactors, Charged, Once, Refused, KIB, auth::DeleteUser => server::Done;
    /// Replaces the sender's profile.
    AsUpdateUserProfile = 0x0108, AsClient, Charged, Once, Same, 33 * KIB, auth::UpdateUserProfile => server::Done;
    /// A user's profile.
    AsGetUserProfile = 0x0109, None, Exempt, Once, Reads, KIB, auth::GetUserProfile => auth::SealedUserProfile;
    /// Replaces the sender's connection packages.
    AsPublishConnectionPackages = 0x010a, AsClient, Charged, Once, Same, 64 * KIB,
        auth::PublishConnectionPackages => server::Done;
    /// One connection package of a user.
    AsGetConnectionPackage = 0x010b, None, Charged, Once, Again, KIB, auth::GetConnectionPackage => auth::ConnectionPackageOf;
    /// Puts a message into a direct queue.
    AsEnqueue = 0x010c, None, Charged, Once, Again, 64 * KIB, auth::EnqueueDirect => server::Done;
    /// Fetches from the sender's direct queue.
    AsDequeue = 0x010d, AsClient, Exempt, Once, Same, KIB, queue::Dequeue => queue::QueueEntries;
    /// Streams the sender's direct queue.
    AsListen = 0x010e, AsClient, Exempt, Streaming, Same, KIB, queue::Listen => queue::QueueEntries;

    /// Registers an alias, by which its owner can be found.
    AsRegisterAlias = 0x010f, NewAlias, Charged, Once, Same, 32 * KIB, auth::RegisterAlias => auth::AliasRegistered;
    /// Deletes the sending alias and its queue.
    AsDeleteAlias = 0x0110, AsAlias, Charged, Once, Refused, 64, auth::DeleteAlias => server::Done;
    /// Replaces the sending alias's packages.
    AsPublishAliasPackages = 0x0111, AsAlias, Charged, Once, Same, 32 * KIB, auth::PublishAliasPackages => server::Done;
    /// One package of an alias.
    AsGetAliasPackage = 0x0112, None, Charged, Once, Again, KIB, auth::GetAliasPackage => auth::AliasPackageOf;
    /// Puts a message into an alias's queue.
    AsEnqueueAlias = 0x0113, None, Charged, Once, Again, 64 * KIB, auth::EnqueueAlias => server::Done;
    /// Fetches from the sending alias's queue.
    AsDequeueAlias = 0x0114, AsAlias, Exempt, Once, Same, KIB, queue::Dequeue => queue::QueueEntries;
    /// Streams the sending alias's queue.
    AsListenAlias = 0x0115, AsAlias, Exempt, Streaming, Same, KIB, queue::Listen => queue::QueueEntries;
    /// Issues Privacy Pass tokens against the sender's allowance.
    AsIssueTokens = 0x0116, AsClient, Exempt, Once, Same, 8 * KIB, auth::IssueTokens => auth::TokensIssued;

    /// The QS's keys.
    QsGetKeys = 0x0201, None, Exempt, Once, Reads, 64, queuing::GetQueuingKeys => queuing::QueuingKeys;
    /// Creates a user record with its first client.
    QsCreateUser = 0x0202, None, Charged, Once, Same, 4 * KIB, queuing::CreateQueuingUser => queuing::QueuingUserCreated;
    /// Replaces the sending user's key and friendship token.
    QsUpdateUser = 0x0203, QsUser, Charged, Once, Same, KIB, queuing::UpdateQueuingUser => server::Done;
    /// The sending user's record.
    QsGetUser = 0x0204, QsUser, Exempt, Once, Reads, 64, queuing::GetQueuingUser => queuing::QueuingUserRecord;
    /// Deletes the sending user with all its clients.
    QsDeleteUser = 0x0205, QsUser, Charged, Once, Refused, 64, queuing::DeleteQueuingUser => server::Done;
    /// Adds a client to the sending user.
    QsCreateClient = 0x0206, QsUser, Charged, Once, Same, 4 * KIB,
        queuing::CreateQueuingClient => queuing::QueuingClientCreated;
    /// Replaces the sending client's record.
    QsUpdateClient = 0x0207, QsClient, Charged, Once, Same, 4 * KIB, queuing::UpdateQueuingClient => server::Done;
    /// Deletes a client.
    QsDeleteClient = 0x0208, QsEither, Charged, Once, Refused, KIB, queuing::DeleteQueuingClient => server::Done;
    /// Replaces the sending client's blocklist.
    QsUpdateBlocklist = 0x0209, QsClient, Charged, Once, Same, 36 * KIB, queuing::UpdateBlocklist => server::Done;
    /// Replaces the sender's KeyPackages.
    QsPublishKeyPackages = 0x020a, QsClient, Charged, Once, Same, MIB, queuing::PublishKeyPackages => server::Done;
    /// One AddPackage of each client of a user.
    QsGetAddPackages = 0x020b, FriendshipToken, Charged, Once, Again, KIB, queuing::GetAddPackages => queuing::AddPackages;
    /// A shared body.
    QsGetBody = 0x020c, None, Exempt, Once, Reads, KIB, queuing::GetBody => queuing::Body;
    /// Fetches from the sender's queue.
    QsDequeue = 0x020d, QsClient, Exempt, Once, Same, KIB, queue::Dequeue => queue::QueueEntries;
    /// Streams the sender's queue.
    QsListen = 0x020e, QsClient, Exempt, Streaming, Same, KIB, queue::Listen => queue::QueueEntries;

    /// An unused group id.
    DsRequestGroupId = 0x0301, None, Charged, Once, Reads, 64, delivery::RequestGroupId => delivery::GroupTicket;
    /// Creates a group of one.
    DsCreateGroup = 0x0302, FirstLeaf, Charged, Once, Same, 256 * KIB, delivery::CreateGroup => server::Done;
    /// Sends an application message.
    DsSendMessage = 0x0303, Leaf, Charged, Once, Keyed, MIB, delivery::SendMessage => delivery::MessageSent;
    /// Adds members.
    DsAddUsers = 0x0304, Leaf, Charged, Once, Keyed, 8 * MIB, delivery::AddUsers => delivery::CommitAccepted;
    /// Removes members.
    DsRemoveUsers = 0x0305, Leaf, Charged, Once, Keyed, MIB, delivery::RemoveUsers => delivery::CommitAccepted;
    /// Renews the sender's keys.
    DsUpdateClient = 0x0306, Leaf, Charged, Once, Keyed, MIB, delivery::UpdateClient => delivery::CommitAccepted;
    /// Changes roles or group data.
    DsUpdateGroupContext = 0x0307, Leaf, Charged, Once, Keyed, MIB, delivery::UpdateGroupContext => delivery::CommitAccepted;
    /// Replaces the sender's user-profile key.
    DsUpdateProfileKey = 0x0308, Leaf, Charged, Once, Same, 4 * KIB, delivery::UpdateProfileKey => server::Done;
    /// Replaces the sender's queue config.
    DsUpdateQueueInfo = 0x0309, Leaf, Charged, Once, Same, 4 * KIB, delivery::UpdateQueueInfo => server::Done;
    /// Joins a connection group.
    DsJoinConnectionGroup = 0x030a, EarKey, Charged, Once, Keyed, 256 * KIB,
        delivery::JoinConnectionGroup => delivery::CommitAccepted;
    /// Takes a member back in that has lost its state.
    DsResync = 0x030b, Leaf, Charged, Once, Keyed, MIB, delivery::Resync => delivery::CommitAccepted;
    /// Proposes to remove the sender.
    DsSelfRemove = 0x030c, Leaf, Charged, Once, Same, 16 * KIB, delivery::SelfRemove => server::Done;
    /// Removes everybody else and deletes the group.
    DsDeleteGroup = 0x030d, Leaf, Charged, Once, Refused, MIB, delivery::DeleteGroup => delivery::CommitAccepted;
    /// What a Welcome does not contain.
    DsWelcomeInfo = 0x030e, KeyPackage, Charged, Once, Reads, KIB, delivery::GetWelcomeInfo => delivery::WelcomeInfo;
    /// What an external commit needs.
    DsExternalCommitInfo = 0x030f, EarKey, Charged, Once, Reads, KIB,
        delivery::GetExternalCommitInfo => delivery::ExternalCommitInfo;
    /// The DS's key.
    DsGetKeys = 0x0310, None, Exempt, Once, Reads, 64, delivery::GetDeliveryKeys => delivery::DeliveryKeys;

    /// Delivers what waits for the homeserver that is asked.
    FedDeliver = 0x0401, Homeserver, Exempt, Streaming, Same, 12 * MIB, federation::Deliver => federation::Delivered;
}

/// Largest request of the method with this code; of an unknown one, as much as an envelope can hold.
pub fn max_request(code: u16) -> usize {
    Method::from_code(code).map_or(ENVELOPE, Method::max_request)
}

/// Whether the method with this code is a streaming exchange.
pub fn is_streaming(code: u16) -> bool {
    Method::from_code(code).is_some_and(|method| method.shape() == Shape::Streaming)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_invertible_and_limits_fit() {
        for (index, method) in Method::ALL.iter().enumerate() {
            assert_eq!(Method::from_code(*method as u16), Some(*method));
            assert!(Method::ALL[..index].iter().all(|other| (*other as u16) < *method as u16));
            assert!(method.max_request() < crate::base::limits::MAX_RESPONSE);
        }
        assert_eq!(max_request(0xffff), ENVELOPE);
    }
}
