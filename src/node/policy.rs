//! The tables `[registration]`, `[tokens]`, `[queues]`, `[groups]`, `[push]` and `[rates]` of the configuration: what an operator
//! decides about who may register, what requests cost and how often they may be made, how long groups are kept, and how
//! devices are woken.

use std::{collections::BTreeMap, time::Duration};

use serde::Deserialize;

use super::NodeError;
use crate::{
    service::policy::{self, Groups, Push, Queues, Rate, Rates},
    wire::{Method, method::Credit, server::RegistrationPolicy},
};

/// The table `[registration]`.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Registration {
    policy: Admission,
}

/// Who may register.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
pub enum Admission {
    /// Anybody.
    #[default]
    Open,
    /// Whoever has an invitation code.
    Invitation,
    /// Nobody.
    Closed,
}

impl Admission {
    /// As the homeserver uses it.
    pub const fn policy(self) -> RegistrationPolicy {
        match self {
            Self::Open => RegistrationPolicy::Open,
            Self::Invitation => RegistrationPolicy::Invitation,
            Self::Closed => RegistrationPolicy::Closed,
        }
    }

    /// As it is written.
    const fn name(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Invitation => "invitation",
            Self::Closed => "closed",
        }
    }
}

impl Registration {
    /// As the homeserver uses it.
    pub const fn policy(&self) -> RegistrationPolicy {
        self.policy.policy()
    }
}

/// The table `[tokens]`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Tokens {
    required: bool,
    credit_per_token: u32,
    allowance: u32,
    foreign_allowance: u32,
    foreign_domain_allowance: u32,
    foreign_domain_max: u32,
    foreign_new_domains: u32,
    period_hours: u64,
    key_life_days: u64,
    prices: BTreeMap<String, u32>,
}

impl Default for Tokens {
    fn default() -> Self {
        let tokens = policy::Tokens::default();
        Self {
            required: tokens.required,
            credit_per_token: tokens.credit_per_token,
            allowance: tokens.allowance,
            foreign_allowance: tokens.foreign_allowance,
            foreign_domain_allowance: tokens.foreign_domain_allowance,
            foreign_domain_max: tokens.foreign_domain_max,
            foreign_new_domains: tokens.foreign_new_domains,
            period_hours: tokens.period.as_secs() / 3_600,
            key_life_days: tokens.key_life.as_secs() / 86_400,
            prices: BTreeMap::new(),
        }
    }
}

impl Tokens {
    /// As the homeserver uses them.
    ///
    /// # Errors
    /// [`NodeError::Config`] names the setting that is out of bounds.
    pub fn check(self) -> Result<policy::Tokens, NodeError> {
        within("tokens.credit_per_token", self.credit_per_token.into(), 1, 100_000)?;
        within("tokens.allowance", self.allowance.into(), 1, 1_000_000)?;
        within("tokens.foreign_allowance", self.foreign_allowance.into(), 0, 1_000_000)?;
        within("tokens.foreign_domain_allowance", self.foreign_domain_allowance.into(), 0, 100_000_000)?;
        let (least, most) = (self.foreign_domain_allowance.into(), 100_000_000);
        within("tokens.foreign_domain_max", self.foreign_domain_max.into(), least, most)?;
        within("tokens.foreign_new_domains", self.foreign_new_domains.into(), 0, 100_000)?;
        within("tokens.period_hours", self.period_hours, 1, 24 * 366)?;
        within("tokens.key_life_days", self.key_life_days, 1, 366)?;
        let price = |(name, price): (String, u32)| {
            let method = Method::ALL.iter().find(|method| method.name() == name);
            let method =
                method.ok_or_else(|| NodeError::Config(format!("tokens.prices.{name}: there is no such method")))?;
            if method.credit() == Credit::Exempt {
                return Err(NodeError::Config(format!("tokens.prices.{name}: this method never costs anything")));
            }
            // One token pays for any request, so that no client has to send several.
            within(&format!("tokens.prices.{name}"), price.into(), 0, self.credit_per_token.into())?;
            Ok((*method, price))
        };
        Ok(policy::Tokens {
            required: self.required,
            credit_per_token: self.credit_per_token,
            allowance: self.allowance,
            foreign_allowance: self.foreign_allowance,
            foreign_domain_allowance: self.foreign_domain_allowance,
            foreign_domain_max: self.foreign_domain_max,
            foreign_new_domains: self.foreign_new_domains,
            period: Duration::from_secs(self.period_hours * 3_600),
            key_life: Duration::from_secs(self.key_life_days * 86_400),
            prices: self.prices.into_iter().map(price).collect::<Result<_, _>>()?,
        })
    }
}

/// Checks the table `[rates]`.
///
/// # Errors
/// [`NodeError::Config`] names the setting that is out of bounds.
pub fn check_rates(rates: &Rates) -> Result<(), NodeError> {
    Rate::ALL
        .iter()
        .try_for_each(|rate| within(&format!("rates.{}", rate.name()), rates.per_hour(*rate).into(), 1, 1_000_000))
}

/// Checks the table `[groups]`.
///
/// # Errors
/// As [`check_rates`].
pub fn check_groups(groups: &Groups) -> Result<(), NodeError> {
    // Clients commit at least once in 30 days.
    within("groups.inactive_days", groups.inactive_days.into(), 35, 3_650)?;
    within("groups.unused_months", groups.unused_months.into(), 1, 120)
}

/// Checks the table `[queues]`.
///
/// # Errors
/// As [`check_rates`].
pub fn check_queues(queues: &Queues) -> Result<(), NodeError> {
    within("queues.inactive_days", queues.inactive_days.into(), 7, 3_650)
}

/// Checks the table `[push]`.
///
/// # Errors
/// As [`check_rates`].
pub fn check_push(push: &Push) -> Result<(), NodeError> {
    within("push.min_interval", push.min_interval, 1, 3_600)?;
    within("push.ttl", push.ttl.into(), 0, 28 * 86_400)?;
    let is_url = |url: &String| ["mailto:", "https:"].iter().any(|scheme| url.starts_with(scheme)) && url.len() <= 256;
    match &push.contact {
        Some(contact) if !is_url(contact) => {
            Err(NodeError::Config("push.contact is a mailto: or https: URL of at most 256 bytes".into()))
        }
        _ => Ok(()),
    }
}

fn within(name: &str, value: u64, least: u64, most: u64) -> Result<(), NodeError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(NodeError::Config(format!("{name} is between {least} and {most}")))
}

/// The tables as `bennu init` writes them: commented out, with the defaults, but for who may register.
pub fn template(registration: Admission) -> String {
    let (tokens, rates) = (Tokens::default(), Rates::default());
    let (queues, groups, push) = (Queues::default(), Groups::default(), Push::default());
    let mut text = format!(
        "\n[registration]\n\
         # Who may register: \"open\", \"invitation\" (bennu admin invite create) or \"closed\".\n\
         {commented}policy = \"{admission}\"\n\
         \n[tokens]\n\
         # required = {required}              # whether requests cost credit, which tokens buy\n\
         # credit_per_token = {per_token}        # on the connection that a token is sent on\n\
         # allowance = {allowance}             # tokens for one client in one period\n\
         # foreign_allowance = {foreign}      # for one client of another homeserver\n\
         # foreign_domain_allowance = {domain}  # for all clients of a homeserver that is new here; grows with use\n\
         # foreign_domain_max = {most}    # to this\n\
         # foreign_new_domains = {new}     # homeservers that are new in one period\n\
         # period_hours = {period}\n\
         # key_life_days = {life}           # how long a key issues; its tokens are good for as long again\n\
         \n\
         # Credit that requests cost, where it is not 1. Nothing (0) or at most credit_per_token.\n\
         [tokens.prices]\n\
         # AsEnqueue = 1\n\
         \n[queues]\n\
         # inactive_days = {silent}          # after so long without a request of its client a queue is dropped\n\
         \n[groups]\n\
         # inactive_days = {inactive}          # after so long without a sign of life a member's removal is proposed\n\
         # unused_months = {unused}          # after so long a group is dropped\n\
         \n\
         # How devices are woken that are not connected: through the push service that each has chosen (Web Push).\n\
         [push]\n\
         # enabled = {enabled}\n\
         # min_interval = {interval}          # seconds from one push of a device to the next\n\
         # ttl = {ttl}               # seconds for which a push service keeps a push\n\
         # contact = \"mailto:operator@example.org\" # told to push services; the home domain if not set\n\
         # allow_private_addresses = {private}  # for push services that are not on the public internet\n\
         \n\
         # How often in an hour.\n\
         [rates]\n",
        commented = super::config::commented(registration == Admission::default()),
        admission = registration.name(),
        required = tokens.required,
        per_token = tokens.credit_per_token,
        allowance = tokens.allowance,
        foreign = tokens.foreign_allowance,
        domain = tokens.foreign_domain_allowance,
        most = tokens.foreign_domain_max,
        new = tokens.foreign_new_domains,
        period = tokens.period_hours,
        life = tokens.key_life_days,
        silent = queues.inactive_days,
        inactive = groups.inactive_days,
        unused = groups.unused_months,
        enabled = push.enabled,
        interval = push.min_interval,
        ttl = push.ttl,
        private = push.allow_private_addresses,
    );
    for rate in Rate::ALL {
        text += &format!("# {} = {}\n", rate.name(), rates.per_hour(*rate));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::node::Config;

    const MINIMAL: &str = "domain = \"a.test\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\n";

    fn parse(rest: &str) -> Result<policy::Policy, String> {
        let config = Config::parse(&format!("{MINIMAL}{rest}"), Path::new(""));
        config.map(|config| config.policy).map_err(|error| error.to_string())
    }

    #[test]
    fn what_an_operator_sets_becomes_the_policy() {
        let policy = parse(
            "[tokens]\nrequired = true\ncredit_per_token = 4\nallowance = 7\nperiod_hours = 2\nkey_life_days = 3\n\
             foreign_allowance = 5\nforeign_domain_allowance = 50\nforeign_domain_max = 60\nforeign_new_domains = 2\n\
             [tokens.prices]\nAsEnqueue = 4\nDsSendMessage = 0\n[rates]\nlogins_per_account = 3\n",
        )
        .unwrap();
        assert_eq!((policy.tokens.credit_per_token, policy.tokens.allowance), (4, 7));
        assert_eq!(policy.tokens.period, Duration::from_secs(7_200));
        let foreign = (policy.tokens.foreign_domain_allowance, policy.tokens.foreign_domain_max);
        assert_eq!((policy.tokens.foreign_allowance, foreign), (5, (50, 60)));
        assert_eq!(policy.tokens.foreign_new_domains, 2);
        assert_eq!(policy.tokens.key_life, Duration::from_secs(3 * 86_400));
        assert_eq!(policy.tokens.price(Method::AsEnqueue), 4);
        assert_eq!(policy.tokens.price(Method::DsSendMessage), 0);
        assert_eq!(policy.tokens.price(Method::DsAddUsers), 1);
        assert_eq!(policy.rates.per_hour(Rate::AccountLogins), 3);
        assert_eq!(policy.rates.per_hour(Rate::AddressLogins), Rates::default().logins_per_address);
        assert!(!parse("[tokens]\nrequired = false\n").unwrap().tokens.required);
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_and_named() {
        for (text, named) in [
            ("[tokens]\ncredit_per_token = 0\n", "tokens.credit_per_token is between 1 and 100000"),
            ("[tokens]\nallowance = 1000001\n", "tokens.allowance"),
            ("[tokens]\nforeign_domain_max = 1999\n", "tokens.foreign_domain_max is between 2000 and 100000000"),
            ("[tokens]\nforeign_allowance = 1000001\n", "tokens.foreign_allowance"),
            ("[tokens]\nforeign_domain_allowance = 100000001\n", "tokens.foreign_domain_allowance"),
            ("[tokens]\nforeign_new_domains = 100001\n", "tokens.foreign_new_domains"),
            ("[tokens]\nperiod_hours = 0\n", "tokens.period_hours"),
            ("[tokens]\nkey_life_days = 18446744073709551\n", "tokens.key_life_days"),
            ("[tokens]\ncolour = 1\n", "colour"),
            ("[tokens.prices]\nAsEnqueue = 33\n", "tokens.prices.AsEnqueue is between 0 and 32"),
            ("[tokens.prices]\nAsListen = 1\n", "tokens.prices.AsListen: this method never costs anything"),
            ("[tokens.prices]\nNothing = 1\n", "tokens.prices.Nothing: there is no such method"),
            ("[push]\nmin_interval = 0\n", "push.min_interval is between 1 and 3600"),
            ("[push]\nttl = 2419201\n", "push.ttl"),
            ("[push]\ncontact = \"operator\"\n", "push.contact"),
            ("[rates]\noffers_per_queue = 0\n", "rates.offers_per_queue is between 1 and 1000000"),
            ("[rates]\noffers = 5\n", "offers"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_template_says_what_the_defaults_are() {
        let uncommented: String = template(Admission::Open)
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        let (said, default) = (parse(&uncommented).unwrap(), policy::Policy::default());
        assert_eq!(format!("{:?}", said.rates), format!("{:?}", default.rates));
        let tokens = policy::Tokens { prices: vec![(Method::AsEnqueue, 1)], ..default.tokens };
        assert_eq!(format!("{:?}", said.tokens), format!("{tokens:?}"));
        let push = Push { contact: Some("mailto:operator@example.org".into()), ..default.push };
        assert_eq!(format!("{:?}", said.push), format!("{push:?}"));
        assert!(parse(&template(Admission::Open)).is_ok());
    }
}
