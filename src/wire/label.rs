//! The registry of labels: every signature, derived key and HPKE use has one of its own, so that no output can be taken
//! for another. On the wire each is preceded by `Bennu 1.0 `, as RFC 9420 does with `MLS 1.0 `.

macro_rules! labels {
    ($(#[$group:meta])* $kind:ident { $($(#[$doc:meta])* $name:ident = $text:literal;)* }) => {
        $(#[$group])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $kind { $($(#[$doc])* $name,)* }

        impl $kind {
            /// Every label of this kind.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The label with its prefix.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => concat!("Bennu 1.0 ", $text),)* }
            }
        }
    };
}

labels! {
    /// What a signature is for.
    SignatureLabel {
        /// A [`RequestTbs`](super::envelope::RequestTbs).
        Request = "Request";
        /// A [`BindTbs`](super::envelope::BindTbs).
        Bind = "Bind";
        /// The payload of an AS credential.
        AsCredential = "AsCredential";
        /// Fingerprint of a root credential, by the root that vouches for it.
        RootSuccession = "RootSuccession";
        /// The payload of an intermediate credential, by its own key.
        AsIntermediateRequest = "AsIntermediateRequest";
        /// A signed request for an intermediate credential, by the AS credential.
        AsIntermediateCredential = "AsIntermediateCredential";
        /// The payload of a client credential, by its own key.
        ClientRequest = "ClientRequest";
        /// The payload of a client credential, by the key that it takes the place of.
        ClientRenewal = "ClientRenewal";
        /// A signed client request, by the intermediate credential.
        ClientCredential = "ClientCredential";
        /// A [`LeafTbs`](super::credential::LeafTbs), by the client credential.
        LeafCredential = "LeafCredential";
        /// A [`ConnectionPackageTbs`](super::connection::ConnectionPackageTbs), by the client credential.
        ConnectionPackage = "ConnectionPackage";
        /// A [`ConnectionOfferTbs`](super::connection::ConnectionOfferTbs), by the client credential.
        ConnectionOffer = "ConnectionOffer";
        /// A [`WelcomeAttributionTbs`](super::connection::WelcomeAttributionTbs), by the client credential.
        WelcomeAttribution = "WelcomeAttribution";
        /// A [`QueueConfigContent`](super::queuing::QueueConfigContent), by the QS client record key.
        QueueConfig = "QueueConfig";
        /// A [`QsToQsTbs`](super::federation::QsToQsTbs), by the key of the QS that sends it.
        QsToQs = "QsToQs";
        /// A [`QueueGoneTbs`](super::federation::QueueGoneTbs), by the key of the QS of the config's domain.
        QueueGone = "QueueGone";
    }
}

labels! {
    /// What a derived key is for (HKDF info).
    KeyLabel {
        /// Group state at rest, from the EAR key.
        GroupHead = "group head";
        /// Group log (checkpoints and deltas), from the EAR key.
        GroupLog = "group log";
        /// Idempotency rows: their names.
        IdempotencyName = "idempotency name";
        /// Idempotency rows: their content.
        IdempotencyContent = "idempotency content";
        /// The MAC on a group id ticket.
        GroupTicket = "group ticket";
        /// Ratchet: the next secret.
        RatchetSecret = "ratchet secret";
        /// Ratchet: the AEAD key of one entry.
        RatchetKey = "ratchet key";
        /// Ratchet: the AEAD nonce of one entry.
        RatchetNonce = "ratchet nonce";
        /// Ratchet: the secret that a key update mixes into.
        RatchetUpdate = "ratchet update";
        /// A member's chain, from the group's credential key or the friendship encryption key.
        LeafChain = "leaf chain";
        /// A member's user-profile key, from the group's credential key.
        ProfileKey = "profile key";
        /// The joiner's friendship package in the AAD of its external commit, from the credential key.
        FriendshipPackage = "friendship package";
        /// The group's name and picture, from the credential key.
        GroupData = "group data";
        /// A leaf's signature, from its signature encryption key.
        LeafSignature = "leaf signature";
        /// A user profile, from the profile key.
        UserProfile = "user profile";
        /// A welcome attribution, from the joiner's welcome attribution key.
        WelcomeAttribution = "welcome attribution";
        /// A shared body, from its own random key.
        SharedBody = "shared body";
        /// A push token, from the client's push token key.
        PushToken = "push token";
        /// A server's secret at rest, from the data directory's key.
        AtRest = "at rest";
        /// The key of stateless resets (RFC 9000 section 10.3), from the data directory's key.
        StatelessReset = "stateless reset";
        /// Name of an alias in the database.
        AliasName = "alias name";
        /// Name of an invitation code in the database.
        InvitationName = "invitation name";
        /// Name of a client of another homeserver in the database.
        ForeignClientName = "foreign client name";
        /// Name of a group in a blocklist.
        Blocklist = "blocklist";
    }
}

labels! {
    /// What an HPKE encryption is for (info).
    HpkeLabel {
        /// The first secret of a queue, or of one restored.
        QueueSecret = "queue secret";
        /// The randomness of a key update.
        QueueKeyUpdate = "queue key update";
        /// A queue config, to the QS.
        QueueConfig = "queue config";
        /// A connection offer, to a connection package.
        ConnectionOffer = "connection offer";
        /// A declined offer, to the offer's reply key.
        ConnectionDecline = "connection decline";
        /// A group's EAR key, to a joiner's init key.
        JoinerEarKey = "joiner EAR key";
        /// A message to the QS of another homeserver.
        Forward = "forward";
        /// A report about a group, to the group's report key.
        GroupReport = "group report";
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn no_two_labels_are_equal() {
        let all = SignatureLabel::ALL.iter().map(|l| l.as_str());
        let all = all.chain(KeyLabel::ALL.iter().map(|l| l.as_str()));
        let all: Vec<_> = all.chain(HpkeLabel::ALL.iter().map(|l| l.as_str())).collect();
        // A signature label and an HPKE label may share a word, but not the case-folded text.
        let distinct: HashSet<_> = all.iter().collect();
        assert_eq!(distinct.len(), all.len());
    }
}
