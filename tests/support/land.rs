//! Several homeservers that know where the others are and trust their certificates, each a process of its own.

use std::{fs, net::SocketAddr, path::PathBuf, time::SystemTime};

use bennu::{
    client::{Client, RegisterOptions},
    node::certificates::{self, DevelopmentCertificates},
};

use super::{Server, Site, command, forwarder::Forwarder, within};

/// Homeservers, and the ways between them.
pub struct Land {
    /// In the order of their domains.
    pub servers: Vec<Server>,
    /// In front of each, the way by which other homeservers reach it, if it is not reached directly.
    pub ways: Vec<Forwarder>,
    /// A certificate for each, by another authority that everybody trusts as well.
    renewals: Vec<DevelopmentCertificates>,
}

impl Land {
    /// Starts homeservers of these domains.
    pub async fn start(domains: &[&str]) -> Self {
        let (mut servers, mut ways) = (Vec::new(), Vec::new());
        for domain in domains {
            let server = Server::start_of(domain, "").await;
            ways.push(Forwarder::to(server.address()).await);
            servers.push(server);
        }
        Self::introduce(servers, ways).await
    }

    /// The same, each at a site of its own and without ways: they reach each other over the network between the sites.
    pub async fn start_at(domains: &[&str], sites: &[Site]) -> Self {
        let mut servers = Vec::new();
        for (domain, site) in domains.iter().zip(sites) {
            servers.push(Server::start_at(site, domain, "").await);
        }
        Self::introduce(servers, Vec::new()).await
    }

    /// Tells every homeserver where the others are, and whom to trust.
    async fn introduce(servers: Vec<Server>, ways: Vec<Forwarder>) -> Self {
        let renewal =
            |server: &Server| certificates::generate(&server.domain().parse().unwrap(), SystemTime::now()).unwrap();
        let renewals: Vec<_> = servers.iter().map(renewal).collect();
        let mut land = Self { servers, ways, renewals };
        let authorities = land.servers.iter().map(|server| fs::read_to_string(server.ca()).unwrap());
        let authorities: String = authorities.chain(land.renewals.iter().map(|of| of.authority.clone())).collect();
        for at in 0..land.servers.len() {
            land.servers[at].stop().await;
            fs::write(land.authorities(at), &authorities).unwrap();
            let config = fs::read_to_string(land.servers[at].config()).unwrap();
            let trusting = config.replace("certs/ca.pem", "certs/authorities.pem");
            assert_ne!(config, trusting);
            let peers: String = (0..land.servers.len())
                .filter(|other| *other != at)
                .map(|other| format!("\"{}\" = \"{}\"\n", land.servers[other].domain(), land.entrance(other)))
                .collect();
            let header = "[federation.peers]\n";
            assert_eq!(trusting.matches(header).count(), 1);
            // Homeservers that are tried again after seconds at the latest, so that tests need not wait.
            let config = trusting.replace(header, &format!("{header}{peers}"));
            let config = config.replace("[federation]\n", "[federation]\nlongest_pause = 2\n");
            fs::write(land.servers[at].config(), config).unwrap();
            land.servers[at].restart().await;
        }
        land
    }

    /// Where other homeservers reach one of them.
    fn entrance(&self, at: usize) -> SocketAddr {
        self.ways.get(at).map_or(self.servers[at].address(), Forwarder::address)
    }

    /// The file with the certificates of all authorities that a homeserver trusts.
    pub fn authorities(&self, at: usize) -> PathBuf {
        self.servers[at].path("server/certs/authorities.pem")
    }

    /// Gives a homeserver its other certificate.
    pub async fn renew_certificate(&self, at: usize) {
        let certs = self.servers[at].path("server/certs");
        fs::write(certs.join("server.pem"), &self.renewals[at].server_chain).unwrap();
        fs::write(certs.join("server.key.pem"), &*self.renewals[at].server_key).unwrap();
        self.servers[at].hang_up().await;
    }

    /// Runs a command of the operator of a homeserver.
    pub async fn admin(&self, at: usize, arguments: &[&str]) -> Vec<serde_json::Value> {
        let run =
            command().args(["admin", "--json", "--config"]).arg(self.servers[at].config()).args(arguments).output();
        let said = within(arguments, run).await.unwrap();
        assert!(said.status.success(), "{said:?}");
        let lines = String::from_utf8(said.stdout).unwrap();
        lines.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// How a client is registered at one of them: it reaches all of them directly.
    pub fn registration(&self, at: usize, name: &str) -> RegisterOptions {
        let places = self.servers.iter().map(|server| (server.domain().parse().unwrap(), server.address().to_string()));
        let ca = Some(fs::read(self.authorities(at)).unwrap());
        RegisterOptions { places: places.collect(), ca, ..self.servers[at].registration(name) }
    }

    /// A new client at one of them.
    pub async fn register(&self, at: usize, name: &str) -> Client {
        let home = self.servers[at].path(name);
        within("registration", Client::register(&home, self.registration(at, name))).await.unwrap()
    }
}
