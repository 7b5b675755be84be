//! What people write, see and are called: plaintexts that only clients handle (`wire-spec/content.tls`).

use super::{Opaque, Text, connection::FriendshipPackage};

wire_structs! {
    /// The plaintext of an MLS application message, padded ([`padding`](super::padding)).
    pub struct ApplicationMessage {
        /// Random; receivers drop repeats.
        pub id: [u8; 16],
        /// When the sender sent it, in milliseconds since the Unix epoch.
        pub sent: u64,
        /// What.
        pub content: Content,
    }

    /// A user as other people see it.
    pub struct UserProfile {
        /// Display name.
        pub name: Text,
        /// Picture, in a format that the client recognises.
        pub picture: Option<Opaque>,
    }

    /// A group as its members see it.
    pub struct GroupData {
        /// Its name.
        pub name: Text,
        /// Picture, in a format that the client recognises.
        pub picture: Option<Opaque>,
    }

    /// A file.
    pub struct File {
        /// Its name, without a path.
        pub name: Text,
        /// Its bytes.
        pub bytes: Opaque,
    }
}

wire_selects! {
    /// What a message contains. Receivers skip kinds they do not know.
    pub enum Content: u16 {
        /// Text.
        Text(Text) = 1,
        /// Bytes that are not text, or too long for it.
        File(File) = 2,
        /// For contacts, from now on. In connection groups only; not shown.
        Friendship(FriendshipPackage) = 3,
    }
}
