//! TLS: names, certificates, key exchange, channel binding, isolation.

use rustls::{
    NamedGroup,
    crypto::aws_lc_rs::kx_group,
    quic::{ClientConnection, ServerConnection, Version},
};
use rustls_pki_types::{CertificateDer, ServerName};

use super::*;
use crate::transport::{Closed, DialError, context::Dialling};

fn refused(result: Result<Connection, DialError>) -> String {
    match result {
        Err(DialError::Certificate(reason) | DialError::Handshake(Closed::Failed(reason))) => reason,
        Err(other) => panic!("{other}"),
        Ok(_) => panic!("connected"),
    }
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let server = server(Settings::default(), None);
    let reason = refused(server.context().connect(&"b.test".parse().unwrap(), &server.route).await);
    assert!(reason.contains("not valid for name"), "{reason}");
}

#[tokio::test]
async fn a_certificate_of_an_unknown_authority_is_refused() {
    let server = server(Settings::default(), None);
    let context = Context::new(tls::roots(&[]).unwrap(), Settings::default()).unwrap();
    let reason = refused(context.connect(&"a.test".parse().unwrap(), &server.route).await);
    assert!(reason.contains("UnknownIssuer"), "{reason}");
}

#[tokio::test]
async fn only_bennu_is_spoken() {
    let server = server(Settings::default(), None);
    for protocols in [vec![], vec![b"h3".to_vec()], vec![b"bennu/2".to_vec()]] {
        let mut config = tls::client_config(server.roots.clone(), None).unwrap();
        config.alpn_protocols = protocols;
        let config = quinn::crypto::rustls::QuicClientConfig::try_from(config).unwrap();
        let config = quinn::ClientConfig::new(Arc::new(config));
        let dialler = Endpoint::bind(loopback(), Settings::default()).unwrap();
        let address = server.route.addresses[0];
        let reason = refused(dialler.dial(Dialling { config, own: None }, address, &"a.test".parse().unwrap()).await);
        assert!(reason.contains("application protocol") || reason.contains("120"), "{reason}");
    }
}

#[tokio::test]
async fn both_ends_have_the_same_binding_and_no_two_connections_do() {
    let server = server(Settings::default(), None);
    let context = server.context();
    let mut bindings = Vec::new();
    // The second resumes the session of the first.
    for _ in 0..2 {
        let connection = context.connect(&"a.test".parse().unwrap(), &server.route).await.unwrap();
        assert_eq!(call(&connection, request(WHO, b"")).await.unwrap(), connection.binding()[..]);
        bindings.push(*connection.binding());
    }
    assert_ne!(bindings[0], bindings[1]);

    let host = memory::Host::new(server.steered.handler.clone(), Settings::default());
    let (one, two) = (host.connect(), host.connect());
    assert_eq!(call(&one, request(WHO, b"")).await.unwrap(), one.binding()[..]);
    assert_ne!(one.binding(), two.binding());
}

#[tokio::test]
async fn a_homeservers_certificate_proves_its_domain_also_when_the_session_is_resumed() {
    let (peers, identity) = certificates_for("b.test");
    let server = server(Settings::default(), Some(peers));
    let dialler = Endpoint::bind(loopback(), Settings::default()).unwrap();
    let context = Context::on(dialler, server.roots.clone(), Some(identity)).unwrap();
    for _ in 0..2 {
        let connection = context.connect(&"a.test".parse().unwrap(), &server.route).await.unwrap();
        assert_eq!(call(&connection, request(WHO, b"")).await.unwrap()[32..], b"b.test "[..]);
    }
}

#[tokio::test]
async fn a_homeservers_certificate_of_an_unknown_authority_is_refused() {
    let (_, identity) = certificates_for("b.test");
    let server = server(Settings::default(), None);
    let dialler = Endpoint::bind(loopback(), Settings::default()).unwrap();
    let context = Context::on(dialler, server.roots.clone(), Some(identity)).unwrap();
    // In TLS 1.3 the client is done before the server has judged its certificate.
    match context.connect(&"a.test".parse().unwrap(), &server.route).await {
        Ok(connection) => assert!(matches!(connection.closed().await, Closed::Failed(_))),
        error => drop(refused(error)),
    }
}

#[tokio::test]
async fn one_endpoint_serves_and_dials() {
    let (a_roots, a_identity) = certificates_for("a.test");
    let (b_roots, b_identity) = certificates_for("b.test");
    let (a, b) = (serving(a_identity.clone(), b_roots.clone()), serving(b_identity.clone(), a_roots.clone()));
    for (from, identity, roots, to, domain, proven) in
        [(&a, a_identity, b_roots, &b, "b.test", "a.test "), (&b, b_identity, a_roots, &a, "a.test", "b.test ")]
    {
        let context = Context::on(from.clone(), roots, Some(identity)).unwrap();
        let route = Route::from(to.local_addr().unwrap());
        let connection = context.connect(&domain.parse().unwrap(), &route).await.unwrap();
        assert_eq!(call(&connection, request(WHO, b"")).await.unwrap()[32..], *proven.as_bytes());
    }
}

#[tokio::test]
async fn isolation_contexts_have_different_ports() {
    let server = server(Settings::default(), None);
    let (one, two) = (server.context(), server.context());
    assert_ne!(one.local_addr().unwrap().port(), two.local_addr().unwrap().port());
}

#[tokio::test]
async fn a_silent_address_does_not_keep_the_next_from_being_tried() {
    let server = server(Settings::default(), None);
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let route = Route { addresses: vec![silent.local_addr().unwrap(), server.route.addresses[0]] };
    assert!(server.context().connect(&"a.test".parse().unwrap(), &route).await.is_ok());
}

#[test]
fn a_certificate_without_a_domain_or_with_a_wildcard_only_proves_nothing() {
    use rcgen::{CertificateParams, KeyPair};
    let key = KeyPair::generate().unwrap();
    for (names, proven) in [
        (vec![], None),
        (vec!["*.b.test".to_string()], None),
        (vec!["localhost".to_string()], None),
        (vec!["*.b.test".to_string(), "B.test".to_string(), "c.test".to_string()], Some(vec!["b.test", "c.test"])),
    ] {
        let authority = rcgen::CertifiedIssuer::self_signed(
            {
                let mut params = CertificateParams::new(vec![]).unwrap();
                params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
                params
            },
            KeyPair::generate().unwrap(),
        )
        .unwrap();
        let leaf = CertificateParams::new(names).unwrap().signed_by(&key, &authority).unwrap();
        let roots = tls::roots(&[CertificateDer::from(authority.der().to_vec())]).unwrap();
        let verifier = peers(roots);
        let domains = verifier.domains(leaf.der(), &[], rustls_pki_types::UnixTime::now());
        let domains = domains.ok().map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(domains, proven.map(|all| all.into_iter().map(String::from).collect()));
    }
}

/// A TLS handshake without a network; which key exchange it came to.
fn key_exchange(client: rustls::ClientConfig, server: rustls::ServerConfig) -> Result<NamedGroup, rustls::Error> {
    let name = ServerName::try_from("a.test").unwrap();
    let mut client = ClientConnection::new(Arc::new(client), Version::V1, name, vec![]).unwrap();
    let mut server = ServerConnection::new(Arc::new(server), Version::V1, vec![]).unwrap();
    // The bytes of each encryption level are handed over on their own, as QUIC does.
    for _ in 0..8 {
        let mut bytes = Vec::new();
        client.write_hs(&mut bytes);
        server.read_hs(&bytes)?;
        bytes.clear();
        server.write_hs(&mut bytes);
        client.read_hs(&bytes)?;
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    Ok(server.negotiated_key_exchange_group().unwrap().name())
}

#[test]
fn the_key_exchange_is_hybrid_post_quantum_or_at_least_x25519() {
    let (roots, identity) = certificates_for("a.test");
    let server = || tls::server_config(identity.clone(), peers(roots.clone())).unwrap();
    let client = tls::client_config(roots.clone(), None).unwrap();
    assert_eq!(key_exchange(client, server()), Ok(NamedGroup::X25519MLKEM768));

    let only = |group| {
        let mut provider = rustls::crypto::aws_lc_rs::default_provider();
        provider.kx_groups = vec![group];
        let mut config = rustls::ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .with_root_certificates(roots.clone())
            .with_no_client_auth();
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        config
    };
    assert_eq!(key_exchange(only(kx_group::X25519), server()), Ok(NamedGroup::X25519));
    assert!(key_exchange(only(kx_group::SECP256R1), server()).is_err());
}

#[test]
fn the_platforms_authorities_go_before_those_built_in_which_are_there_if_it_has_none() {
    use tls::RootSource;
    let made = crate::node::certificates::generate(&"a.test".parse().unwrap(), SystemTime::now()).unwrap();
    let mut platform = tls::certificates(made.authority.as_bytes()).unwrap();
    platform.push(CertificateDer::from(vec![0; 10]));
    let (roots, source) = tls::public_roots(platform);
    assert_eq!((roots.len(), source), (1, RootSource::Platform));
    for unusable in [vec![], vec![CertificateDer::from(vec![0; 10])]] {
        let (roots, source) = tls::public_roots(unusable);
        assert_eq!((roots.len(), source), (webpki_roots::TLS_SERVER_ROOTS.len(), RootSource::BuiltIn));
    }
}

#[tokio::test]
async fn a_way_that_leads_to_oneself_is_refused() {
    let (roots, identity) = certificates_for("a.test");
    let endpoint = serving(identity.clone(), roots.clone());
    let context = Context::on(endpoint.clone(), roots, Some(identity)).unwrap();
    let route = Route::from(endpoint.local_addr().unwrap());
    // Twice: nor is a session with oneself resumed.
    for _ in 0..2 {
        let own = context.connect(&"a.test".parse().unwrap(), &route).await;
        assert_eq!(own.err(), Some(DialError::Own("a.test".into())));
    }
    // The domain of another, whose DNS leads here.
    let reason = refused(context.connect(&"b.test".parse().unwrap(), &route).await);
    assert!(reason.contains("not valid for name"), "{reason}");
}

#[tokio::test]
async fn a_certificate_for_two_domains_does_not_make_oneself_the_other() {
    let (roots, identity) = certificate(&["a.test", "b.test"], SystemTime::now() + YEAR);
    let endpoint = serving(identity.clone(), roots.clone());
    let context = Context::on(endpoint.clone(), roots, Some(identity)).unwrap();
    let route = Route::from(endpoint.local_addr().unwrap());
    let own = context.connect(&"b.test".parse().unwrap(), &route).await;
    assert_eq!(own.err(), Some(DialError::Own("b.test".into())));
}

/// Real time: the second address is tried long before the first has been given up.
#[tokio::test]
async fn an_address_that_fails_is_followed_by_the_next_at_once() {
    let server = server(Settings::default(), None);
    let (roots, identity) = certificates_for("b.test");
    let other = serving(identity, roots);
    let bad = other.local_addr().unwrap();
    let mut addresses = vec![bad; 30];
    addresses.push(server.route.addresses[0]);
    let begun = std::time::Instant::now();
    assert!(server.context().connect(&"a.test".parse().unwrap(), &Route { addresses }).await.is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5), "30 staggers are 9 s: {:?}", begun.elapsed());
}

#[tokio::test]
async fn of_several_failures_the_one_about_the_certificate_is_told() {
    let server = server(Settings { handshake_deadline: Duration::from_secs(1), ..Settings::default() }, None);
    let silent = std::net::UdpSocket::bind(loopback()).unwrap();
    let settings = Settings { handshake_deadline: Duration::from_secs(1), ..Settings::default() };
    let context = Context::new(server.roots.clone(), settings).unwrap();
    let addresses = vec![server.route.addresses[0], silent.local_addr().unwrap()];
    let reason = refused(context.connect(&"b.test".parse().unwrap(), &Route { addresses }).await);
    assert!(reason.contains("not valid for name"), "{reason}");
}
