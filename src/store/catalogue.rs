//! The table of tables: every kind of record the server keeps, its name on disk and how it is used, in one place. A new
//! table is one line here; engines create what an older database lacks.

macro_rules! tables {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $shape:ident;)*) => {
        /// A table of the database: an ordered map of keys to values.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Table { $($(#[$doc])* $variant,)* }

        impl Table {
            /// Every table, in the order in which a batch writes them.
            pub const ALL: &'static [Table] = &[$(Table::$variant),*];

            /// The name on disk; it never changes.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// How the table is used, for tuning.
            pub const fn shape(self) -> Shape {
                match self { $(Self::$variant => Shape::$shape,)* }
            }
        }
    };
}

/// How a table is used. Engines tune by it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Single rows are looked up, often ones that do not exist.
    Points,
    /// Rows are appended in key order, read in ranges and deleted from the front.
    Log,
}

tables! {
    /// About the database itself: format version, incarnation.
    Meta = "meta", Points;
    /// Keys and credentials of the AS.
    AsKeys = "as_keys", Points;
    /// Users as the AS knows them.
    AsUsers = "as_users", Points;
    /// Clients of users as the AS knows them.
    AsClients = "as_clients", Points;
    /// Ids of users that were deleted: nobody is given them again.
    AsDeparted = "as_departed", Points;
    /// Connection packages.
    AsPackages = "as_packages", Log;
    /// Fingerprints of revoked credentials.
    AsRevoked = "as_revoked", Points;
    /// Invitation codes.
    AsInvitations = "as_invitations", Points;
    /// How many tokens clients were issued in the current period.
    AsAllowances = "as_allowances", Points;
    /// The same of clients of other homeservers.
    AsForeignAllowances = "as_foreign_allowances", Points;
    /// How many tokens all clients of another homeserver may be issued, and were.
    AsDomainAllowances = "as_domain_allowances", Points;
    /// Tokens that were redeemed, by issuing key.
    AsSpentTokens = "as_spent_tokens", Points;
    /// Aliases.
    AsAliases = "as_aliases", Points;
    /// Packages of aliases.
    AsAliasPackages = "as_alias_packages", Log;
    /// Heads of queues: sequence number and ratchet.
    Queues = "queues", Points;
    /// Entries of queues, by queue and sequence number.
    QueueEntries = "queue_entries", Log;
    /// Keys of the QS.
    QsKeys = "qs_keys", Points;
    /// Users as the QS knows them.
    QsUsers = "qs_users", Points;
    /// Clients as the QS knows them.
    QsClients = "qs_clients", Points;
    /// Friendship tokens.
    QsTokens = "qs_tokens", Points;
    /// KeyPackages waiting to be given out.
    QsKeyPackages = "qs_key_packages", Log;
    /// Shared bodies.
    QsBodies = "qs_bodies", Points;
    /// Keys of the DS.
    DsKeys = "ds_keys", Points;
    /// Heads of groups.
    DsHeads = "ds_heads", Points;
    /// Trees of groups: checkpoints and what followed them, by group and epoch.
    DsLog = "ds_log", Log;
    /// What is stored about a group in clear.
    DsMeta = "ds_meta", Points;
    /// Ids of deleted groups whose tickets have not expired.
    DsTombstones = "ds_tombstones", Points;
    /// First answers to idempotency keys.
    DsIdempotency = "ds_idempotency", Points;
    /// Reports about groups by other homeservers, sealed to the groups.
    DsReports = "ds_reports", Points;
    /// What is known of other homeservers.
    FedPeers = "fed_peers", Points;
    /// With which homeservers this one deals.
    FedRules = "fed_rules", Points;
    /// Of what waits for other homeservers: numbers and size.
    FedHeads = "fed_heads", Points;
    /// What waits for other homeservers, by homeserver and number.
    FedOutbox = "fed_outbox", Log;
    /// What other homeservers have delivered: the next number of each.
    FedInbox = "fed_inbox", Points;
}

impl Table {
    /// Number of tables.
    pub const COUNT: usize = Self::ALL.len();

    /// Position in [`Table::ALL`].
    pub const fn index(self) -> usize {
        self as usize
    }
}
