//! Several homeservers that know where the others are and trust their certificates, each a process of its own.

use std::{fs, path::PathBuf, time::SystemTime};

use bennu::{
    client::{Client, RegisterOptions},
    node::certificates::{self, DevelopmentCertificates},
};

use super::{Server, forwarder::Forwarder, within};

/// Homeservers, and the ways between them.
pub struct Land {
    /// In the order of their domains.
    pub servers: Vec<Server>,
    /// In front of each, the way by which other homeservers reach it.
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
        let renewal = |domain: &&str| certificates::generate(&domain.parse().unwrap(), SystemTime::now()).unwrap();
        let renewals: Vec<_> = domains.iter().map(renewal).collect();
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
                .map(|other| format!("\"{}\" = \"{}\"\n", land.servers[other].domain(), land.ways[other].address()))
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
