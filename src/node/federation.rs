//! The table `[federation]` of the configuration: with whom the homeserver deals, how others are found, and how much waits
//! for them.

use std::{
    collections::BTreeMap,
    sync::{PoisonError, RwLock},
    time::Duration,
};

use async_trait::async_trait;
use serde::Deserialize;

use super::NodeError;
use crate::{
    base::Domain,
    federation::{Dial, Mode, outbox::Limits, peers::Settings},
    transport::{Connection, Context, DialError, Place, PrivateAddresses, Routes},
};

const DAY: u64 = 86_400;

/// The table `[federation]` as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    policy: Mode,
    allow_private_addresses: bool,
    retention_days: u64,
    outbox_messages: u64,
    outbox_bytes: u64,
    longest_pause: u64,
    max_peers: usize,
    max_peers_of_one: usize,
    peers: BTreeMap<String, String>,
}

impl Default for Table {
    fn default() -> Self {
        let (settings, limits) = (Settings::default(), Limits::default());
        Self {
            policy: Mode::default(),
            allow_private_addresses: false,
            retention_days: settings.retention.as_secs() / DAY,
            outbox_messages: limits.messages,
            outbox_bytes: limits.bytes,
            longest_pause: settings.longest_pause.as_secs(),
            max_peers: settings.max_peers,
            max_peers_of_one: settings.max_peers_of_one,
            peers: BTreeMap::new(),
        }
    }
}

/// What an operator decides about other homeservers.
#[derive(Clone, Debug, Default)]
pub struct Federation {
    /// Whether homeservers are dealt with about whom nothing is decided.
    pub mode: Mode,
    /// How they are dealt with.
    pub settings: Settings,
    /// How much may wait for each.
    pub limits: Limits,
    /// Whether DNS may lead to addresses that are not of the public internet.
    pub allow_private_addresses: bool,
    /// Where homeservers are, whatever DNS says. Any address will do.
    pub peers: BTreeMap<Domain, Place>,
}

impl Table {
    /// As the homeserver of the domain `own` uses it.
    ///
    /// # Errors
    /// [`NodeError::Config`] names the setting that is wrong.
    pub fn check(self, own: &Domain) -> Result<Federation, NodeError> {
        let peer = |(name, place): (String, String)| {
            let wrong = |why: String| NodeError::Config(format!("federation.peers.{name:?}: {why}"));
            let domain: Domain = name.parse().map_err(|error| wrong(format!("{error}")))?;
            if domain == *own {
                return Err(wrong("this is the homeserver's own domain".into()));
            }
            let place = place.parse().map_err(|error| wrong(format!("{error}")))?;
            Ok((domain, place))
        };
        for (name, value, least, most) in [
            ("retention_days", self.retention_days, 1, 365),
            ("outbox_messages", self.outbox_messages, 1, 1_000_000_000),
            ("outbox_bytes", self.outbox_bytes, 1 << 20, 1 << 50),
            ("longest_pause", self.longest_pause, 1, DAY),
            ("max_peers", self.max_peers as u64, 1, 1_000_000),
            ("max_peers_of_one", self.max_peers_of_one as u64, 1, 1_000_000),
        ] {
            if !(least..=most).contains(&value) {
                return Err(NodeError::Config(format!("federation.{name} is between {least} and {most}")));
            }
        }
        Ok(Federation {
            mode: self.policy,
            settings: Settings {
                retention: Duration::from_secs(self.retention_days * DAY),
                longest_pause: Duration::from_secs(self.longest_pause),
                max_peers: self.max_peers,
                max_peers_of_one: self.max_peers_of_one,
                ..Settings::default()
            },
            limits: Limits { messages: self.outbox_messages, bytes: self.outbox_bytes, ..Limits::default() },
            allow_private_addresses: self.allow_private_addresses,
            peers: self.peers.into_iter().map(peer).collect::<Result<_, _>>()?,
        })
    }
}

impl Federation {
    /// The ways from the homeserver of the domain `own` to others.
    pub fn routes(&self, own: &Domain) -> Routes {
        let private = if self.allow_private_addresses { PrivateAddresses::Allowed } else { PrivateAddresses::Refused };
        let mut routes = Routes::new().of(own.clone()).private_addresses(private);
        for (domain, place) in &self.peers {
            routes.insert(domain.clone(), place.clone());
        }
        routes
    }
}

/// Reaches other homeservers over QUIC, from the endpoint that this one listens on.
pub struct QuicDial {
    context: Context,
    routes: RwLock<Routes>,
}

impl QuicDial {
    /// From this context, which shows who this is, to others where the routes say.
    pub const fn new(context: Context, routes: Routes) -> Self {
        Self { context, routes: RwLock::new(routes) }
    }

    /// From now on others are there.
    pub fn set_routes(&self, routes: Routes) {
        *self.routes.write().unwrap_or_else(PoisonError::into_inner) = routes;
    }
}

#[async_trait]
impl Dial for QuicDial {
    async fn dial(&self, domain: &Domain) -> Result<Connection, DialError> {
        let routes = self.routes.read().unwrap_or_else(PoisonError::into_inner).clone();
        let route = routes.find(domain).await?;
        self.context.connect(domain, &route).await
    }
}

/// The table as `bennu init` writes it: commented out, with the defaults, but for the policy.
pub fn template(policy: Mode) -> String {
    let table = Table::default();
    format!(
        "\n# Other homeservers are found by DNS: SRV records _bennu._udp, else the domain itself on port 9420.\n\
         [federation]\n\
         {commented}policy = {policy:<24} # \"open\", or \"allowlist\": deal only with those that bennu admin federation allow names\n\
         # retention_days = {retention}                # how long messages wait for a homeserver that does not take them\n\
         # outbox_messages = {messages}          # for one homeserver\n\
         # outbox_bytes = {bytes}          # and their bytes\n\
         # longest_pause = {pause}                # seconds between two attempts to reach a homeserver\n\
         # max_peers = {peers}                  # homeservers that messages may wait for\n\
         # max_peers_of_one = {of_one}             # of them under one registrable domain, unless they are allowed by name\n\
         # allow_private_addresses = {private}  # whether DNS may lead to addresses that are not on the public internet\n\
         \n\
         # Where homeservers are, whatever DNS says.\n\
         [federation.peers]\n\
         # \"b.example\" = \"192.0.2.1:9420\"\n",
        commented = super::config::commented(policy == Mode::default()),
        policy = if policy == Mode::Open { "\"open\"" } else { "\"allowlist\"" },
        retention = table.retention_days,
        messages = table.outbox_messages,
        bytes = table.outbox_bytes,
        pause = table.longest_pause,
        peers = table.max_peers,
        of_one = table.max_peers_of_one,
        private = table.allow_private_addresses,
    )
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::{node::Config, transport::DialError};

    const MINIMAL: &str = "domain = \"a.test\"\n[tls]\ncertificate = \"c.pem\"\nkey = \"/k.pem\"\n";

    fn parse(rest: &str) -> Result<Federation, String> {
        let config = Config::parse(&format!("{MINIMAL}{rest}"), Path::new(""));
        config.map(|config| config.federation).map_err(|error| error.to_string())
    }

    #[tokio::test]
    async fn peers_are_found_where_the_operator_says_and_the_own_domain_nowhere() {
        let federation = parse("[federation.peers]\n\"b.test\" = \"127.0.0.1:7\"\n\"c.test\" = \"::1\"\n").unwrap();
        assert!(!federation.allow_private_addresses);
        let routes = federation.routes(&"a.test".parse().unwrap());
        for (domain, place) in [("b.test", "127.0.0.1:7"), ("c.test", "[::1]:9420")] {
            let route = routes.find(&domain.parse().unwrap()).await.unwrap();
            assert_eq!(route.addresses, [place.parse().unwrap()]);
        }
        assert_eq!(routes.find(&"a.test".parse().unwrap()).await, Err(DialError::Own("a.test".into())));
        assert!(parse("[federation]\nallow_private_addresses = true\n").unwrap().allow_private_addresses);
    }

    #[test]
    fn what_is_wrong_is_refused_and_named() {
        for (text, named) in [
            ("[federation]\ncolour = 1\n", "colour"),
            ("[federation]\nallow_private_addresses = 1\n", "allow_private_addresses"),
            ("[federation]\npolicy = \"closed\"\n", "unknown variant `closed`"),
            ("[federation]\nretention_days = 0\n", "federation.retention_days is between 1 and 365"),
            ("[federation]\noutbox_bytes = 1\n", "federation.outbox_bytes"),
            ("[federation]\nlongest_pause = 86401\n", "federation.longest_pause"),
            ("[federation]\nmax_peers = 0\n", "federation.max_peers"),
            (
                "[federation.peers]\n\"b.test\" = \"127.0.0.1:x\"\n",
                "federation.peers.\"b.test\": \"127.0.0.1:x\" is not",
            ),
            (
                "[federation.peers]\nlocalhost = \"127.0.0.1\"\n",
                "federation.peers.\"localhost\": not a fully qualified",
            ),
            (
                "[federation.peers]\n\"a.test\" = \"127.0.0.1\"\n",
                "federation.peers.\"a.test\": this is the homeserver's own",
            ),
            ("[federation.peers]\nb.test = \"127.0.0.1\"\n", "invalid type"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(named), "{error}");
        }
    }

    #[test]
    fn the_template_says_what_the_defaults_are() {
        let uncommented: String = template(Mode::Open)
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        let said = parse(&uncommented).unwrap();
        assert_eq!(said.allow_private_addresses, Federation::default().allow_private_addresses);
        assert_eq!(said.mode, Mode::Open);
        assert_eq!(format!("{:?}", said.settings), format!("{:?}", Settings::default()));
        assert_eq!(format!("{:?}", said.limits), format!("{:?}", Limits::default()));
        assert_eq!(said.peers.len(), 1);
        assert!(parse(&template(Mode::Open)).unwrap().peers.is_empty());
    }
}
