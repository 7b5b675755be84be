//! The table `[federation]` of the configuration: how other homeservers are found.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::NodeError;
use crate::{
    base::Domain,
    transport::{Place, PrivateAddresses, Routes},
};

/// The table `[federation]` as it is written.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Table {
    allow_private_addresses: bool,
    peers: BTreeMap<String, String>,
}

/// What an operator decides about other homeservers.
#[derive(Clone, Debug, Default)]
pub struct Federation {
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
        let peers = self.peers.into_iter().map(peer).collect::<Result<_, _>>()?;
        Ok(Federation { allow_private_addresses: self.allow_private_addresses, peers })
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

/// The table as `bennu init` writes it: commented out, with the defaults.
pub fn template() -> String {
    format!(
        "\n# Other homeservers are found by DNS: SRV records _bennu._udp, else the domain itself on port 9420.\n\
         [federation]\n\
         # allow_private_addresses = {private}  # whether DNS may lead to addresses that are not on the public internet\n\
         \n\
         # Where homeservers are, whatever DNS says.\n\
         [federation.peers]\n\
         # \"b.example\" = \"192.0.2.1:9420\"\n",
        private = Federation::default().allow_private_addresses,
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
        let uncommented: String = template()
            .lines()
            .map(|line| line.strip_prefix("# ").filter(|rest| rest.contains(" = ")).unwrap_or(line).to_owned() + "\n")
            .collect();
        let said = parse(&uncommented).unwrap();
        assert_eq!(said.allow_private_addresses, Federation::default().allow_private_addresses);
        assert_eq!(said.peers.len(), 1);
        assert!(parse(&template()).unwrap().peers.is_empty());
    }
}
