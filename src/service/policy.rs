//! What an operator decides: who may register, what tokens buy, and how much of what one address, account or queue gets
//! in an hour. The defaults suit a homeserver that is open to the world.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use crate::{
    base::Timestamp,
    wire::{Method, method::Credit, server::RegistrationPolicy},
};

/// The decisions of an operator.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Who may register.
    pub registration: RegistrationPolicy,
    /// What tokens buy.
    pub tokens: Tokens,
    /// How long groups and their members last without a sign of life.
    pub groups: Groups,
    /// How long queues last without one.
    pub queues: Queues,
    /// How clients that do not listen are woken.
    pub push: Push,
    /// How often.
    pub rates: Rates,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            registration: RegistrationPolicy::Open,
            tokens: Tokens::default(),
            groups: Groups::default(),
            queues: Queues::default(),
            push: Push::default(),
            rates: Rates::default(),
        }
    }
}

/// The policy in force, which can be replaced while the homeserver runs. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct InForce(Arc<RwLock<Arc<Policy>>>);

impl From<Policy> for InForce {
    fn from(policy: Policy) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(policy))))
    }
}

impl InForce {
    /// As it is now. Whoever decides by it twice keeps it.
    pub fn get(&self) -> Arc<Policy> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// From now on it is another.
    pub fn change(&self, change: impl FnOnce(&mut Policy)) {
        // Changed aside: nobody sees half of it.
        let mut policy = Policy::clone(&self.get());
        change(&mut policy);
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(policy);
    }
}

/// How long groups and their members last without a sign of life.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Groups {
    /// Days without one after which the DS proposes to remove a member. Clients give one at least once a month.
    pub inactive_days: u32,
    /// Months after that of its last use in which a group is dropped.
    pub unused_months: u32,
}

impl Default for Groups {
    fn default() -> Self {
        Self { inactive_days: 90, unused_months: 12 }
    }
}

/// How long queues last without a sign of life.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Queues {
    /// Days without a request of its client after which a queue is dropped, and all that is in it.
    pub inactive_days: u32,
}

impl Default for Queues {
    fn default() -> Self {
        Self { inactive_days: 90 }
    }
}

/// How clients that do not listen are woken.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Push {
    /// Whether they are.
    pub enabled: bool,
    /// Seconds from one push of a client to the next, at least.
    pub min_interval: u64,
    /// Seconds for which a push service keeps a push for a device that it cannot reach.
    pub ttl: u32,
    /// Where push services find the operator: a `mailto:` or `https:` URL. The home domain, if there is none.
    pub contact: Option<String>,
    /// Whether push services may have addresses that are not of the public internet.
    pub allow_private_addresses: bool,
}

impl Default for Push {
    fn default() -> Self {
        Self { enabled: true, min_interval: 10, ttl: 7 * 86_400, contact: None, allow_private_addresses: false }
    }
}

/// What Privacy Pass tokens buy, and who gets how many.
#[derive(Clone, Debug)]
pub struct Tokens {
    /// Whether charged methods need credit at all.
    pub required: bool,
    /// Credit that one token buys on the connection that redeems it.
    pub credit_per_token: u32,
    /// Tokens that a client is issued in one period.
    pub allowance: u32,
    /// Tokens that a client of another homeserver is issued in one period.
    pub foreign_allowance: u32,
    /// Tokens that all clients of another homeserver are issued in one period, as long as little is known of it. It grows
    /// by a fifth with every period in which the half of it is used.
    pub foreign_domain_allowance: u32,
    /// What that grows to.
    pub foreign_domain_max: u32,
    /// Homeservers whose clients are issued tokens for the first time in one period.
    pub foreign_new_domains: u32,
    /// Length of a period. Periods begin at multiples of it since the Unix epoch.
    pub period: Duration,
    /// How long one issuing key issues. Its tokens are redeemed for as long again.
    pub key_life: Duration,
    /// Prices that are not 1, for charged methods only.
    pub prices: Vec<(Method, u32)>,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            required: true,
            credit_per_token: 32,
            allowance: 2_000,
            foreign_allowance: 500,
            foreign_domain_allowance: 2_000,
            foreign_domain_max: 200_000,
            foreign_new_domains: 1_000,
            period: Duration::from_secs(24 * 3_600),
            key_life: Duration::from_secs(30 * 24 * 3_600),
            prices: Vec::new(),
        }
    }
}

impl Tokens {
    /// Which period a time is in.
    pub fn period_of(&self, now: Timestamp) -> u64 {
        now.seconds() / self.period.as_secs().max(1)
    }

    /// How long it is to the next period.
    pub fn until_next_period(&self, now: Timestamp) -> Duration {
        let next = (self.period_of(now) + 1).saturating_mul(self.period.as_secs().max(1)).saturating_mul(1_000);
        Duration::from_millis(next.saturating_sub(now.0).max(1))
    }

    /// Credit that a request to a method costs.
    pub fn price(&self, method: Method) -> u32 {
        if !self.required || method.credit() == Credit::Exempt {
            return 0;
        }
        self.prices.iter().find(|(priced, _)| *priced == method).map_or(1, |(_, price)| *price)
    }
}

macro_rules! rates {
    ($($(#[$doc:meta])* $variant:ident, $name:ident = $default:literal, $what:literal;)*) => {
        /// Something that is counted, for each address, account or queue.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Rate { $($(#[$doc])* $variant,)* }

        impl Rate {
            /// Every rate.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// Its name in the configuration.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => stringify!($name),)* }
            }

            /// What there are too many of, for the refusal.
            pub const fn what(self) -> &'static str {
                match self { $(Self::$variant => $what,)* }
            }
        }

        /// How often something may happen in an hour, all at once or spread.
        #[derive(Clone, Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct Rates { $($(#[$doc])* pub $name: u32,)* }

        impl Default for Rates {
            fn default() -> Self {
                Self { $($name: $default,)* }
            }
        }

        impl Rates {
            /// How often in an hour.
            pub const fn per_hour(&self, rate: Rate) -> u32 {
                match rate { $(Rate::$variant => self.$name,)* }
            }
        }
    };
}

rates! {
    /// Halves of registrations, each half counted by itself, from one address.
    Registrations, registrations_per_address = 60, "registrations from this address";
    /// Password log-ins to one account.
    AccountLogins, logins_per_account = 10, "password attempts for this account";
    /// Password log-ins from one address.
    AddressLogins, logins_per_address = 60, "password attempts from this address";
    /// Connection packages of users fetched from one address.
    PackageLookups, package_lookups_per_address = 300, "look-ups of connection packages from this address";
    /// Connection packages of one user fetched by anybody.
    UserPackages, package_lookups_per_user = 100, "look-ups of this user's connection packages";
    /// Profiles fetched from one address.
    ProfileLookups, profile_lookups_per_address = 3_000, "look-ups of profiles from this address";
    /// Aliases registered from one address.
    AliasRegistrations, alias_registrations_per_address = 30, "registrations of aliases from this address";
    /// Look-ups of aliases, whether they exist or not, from one address.
    AliasLookups, alias_lookups_per_address = 60, "look-ups of aliases from this address";
    /// Packages of one alias fetched by anybody.
    AliasPackages, alias_lookups_per_alias = 100, "look-ups of this alias";
    /// Messages put into direct queues and queues of aliases from one address.
    AddressOffers, offers_per_address = 300, "messages to direct queues from this address";
    /// Credentials of other homeservers that are not at hand, for clients of theirs that ask for tokens from one address.
    CredentialLookups, credential_lookups_per_address = 60, "clients of homeservers not known here from this address";
    /// Messages put into one direct queue, or queue of an alias, by anybody.
    QueueOffers, offers_per_queue = 100, "messages to this direct queue";
    /// Messages delivered by one other homeserver, which is slowed down.
    PeerMessages, messages_per_peer = 1_000_000, "messages from this homeserver";
    /// Messages delivered by one other homeserver for one queue config; what is beyond is dropped.
    PeerConfig, peer_messages_per_config = 20_000, "messages from this homeserver for this queue config";
    /// Messages delivered by one other homeserver for one queue; what is beyond is dropped.
    PeerQueue, peer_messages_per_queue = 100_000, "messages from this homeserver for this queue";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_charged_methods_have_a_price_and_only_where_tokens_are_required() {
        let mut tokens = Tokens { prices: vec![(Method::AsEnqueue, 5)], ..Tokens::default() };
        assert_eq!(tokens.price(Method::AsEnqueue), 5);
        assert_eq!(tokens.price(Method::DsSendMessage), 1);
        assert_eq!(tokens.price(Method::AsIssueTokens), 0);
        tokens.required = false;
        assert_eq!(tokens.price(Method::AsEnqueue), 0);
    }
}
