//! Discovery against a name server of the tests' own.

mod name_server;

use std::collections::HashSet;

use hickory_resolver::proto::rr::RecordType;
use tokio::time::{advance, pause, resume};

use self::name_server::{Manner, NEGATIVE_TTL, NameServer};
use super::*;
#[cfg(feature = "server")]
use crate::transport::{
    Context, Settings,
    tests::{certificates_for, serving},
};

fn domain(name: &str) -> Domain {
    name.parse().unwrap()
}

fn routes(server: &NameServer) -> Routes {
    Routes::asking(vec![server.address])
}

async fn find(routes: &Routes, name: &str) -> Result<Vec<String>, DialError> {
    routes.find(&domain(name)).await.map(|route| route.addresses.iter().map(ToString::to_string).collect())
}

fn is_lookup(result: &Result<Vec<String>, DialError>) -> bool {
    matches!(result, Err(DialError::Lookup { .. }))
}

/// Lets time pass; what waits for packets does not take it for silence.
async fn later(seconds: u32) {
    pause();
    advance(Duration::from_secs(seconds.into())).await;
    resume();
}

#[tokio::test]
async fn a_static_entry_goes_before_dns_which_is_not_asked() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", 60, (1, 1, 1, "b.test.")).address("b.test.", 60, "1.1.1.1");
    let mut routes = routes(&server);
    routes.insert(domain("a.test"), "127.0.0.1:4433".parse().unwrap());
    assert_eq!(find(&routes, "a.test").await.unwrap(), ["127.0.0.1:4433"]);
    assert_eq!(server.asked(RecordType::SRV), 0);
}

#[tokio::test]
async fn a_static_entry_may_name_a_host_and_that_may_have_any_address() {
    let server = NameServer::start(Manner::Answers).await;
    server.address("inside.test.", 60, "10.0.0.1").address("inside.test.", 60, "fd00::1");
    let mut routes = routes(&server);
    routes.insert(domain("a.test"), "inside.test:7".parse().unwrap());
    routes.insert(domain("b.test"), "localhost".parse().unwrap());
    routes.insert(domain("c.test"), "nowhere.test".parse().unwrap());
    assert_eq!(find(&routes, "a.test").await.unwrap(), ["[fd00::1]:7", "10.0.0.1:7"]);
    assert_eq!(find(&routes, "b.test").await.unwrap(), ["[::1]:9420", "127.0.0.1:9420"]);
    assert_eq!(find(&routes, "c.test").await, Err(DialError::NoAddress("nowhere.test".into())));
    assert_eq!(server.asked(RecordType::SRV), 0);
}

#[tokio::test]
async fn srv_says_host_and_port_in_the_order_of_priority() {
    let server = NameServer::start(Manner::Answers).await;
    server
        .srv("a.test", 60, (20, 0, 3, "backup.test."))
        .srv("a.test", 60, (10, 0, 2, "first.test."))
        .address("backup.test.", 60, "1.1.1.3")
        .address("first.test.", 60, "1.1.1.2")
        .address("a.test.", 60, "1.1.1.1");
    assert_eq!(find(&routes(&server), "a.test").await.unwrap(), ["1.1.1.2:2", "1.1.1.3:3"]);
}

#[tokio::test]
async fn hosts_of_one_priority_share_by_weight_also_while_they_are_remembered() {
    let server = NameServer::start(Manner::Answers).await;
    server
        .srv("a.test", 60, (1, 1, 1, "one.test."))
        .srv("a.test", 60, (1, 9, 1, "two.test."))
        .address("one.test.", 60, "1.1.1.1")
        .address("two.test.", 60, "1.1.1.2");
    let routes = routes(&server);
    let mut firsts = [0; 2];
    // That one of them is never first in a thousand draws has a chance of less than 1 in 10^40.
    for _ in 0..1_000 {
        firsts[usize::from(find(&routes, "a.test").await.unwrap()[0] == "1.1.1.2:1")] += 1;
    }
    assert!(firsts[0] > 0 && firsts[1] > firsts[0], "{firsts:?}");
    assert_eq!(server.asked(RecordType::SRV), 1);
}

#[tokio::test]
async fn a_dot_says_that_there_is_no_homeserver() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", 60, (0, 0, 0, ".")).address("a.test.", 60, "1.1.1.1");
    let routes = routes(&server);
    for _ in 0..2 {
        assert_eq!(find(&routes, "a.test").await, Err(DialError::Unavailable("a.test".into())));
    }
    assert_eq!((server.asked(RecordType::SRV), server.asked(RecordType::A)), (1, 0));
}

#[tokio::test]
async fn without_srv_it_is_the_domain_itself_with_both_families_in_turn() {
    let server = NameServer::start(Manner::Answers).await;
    server
        .address("a.test.", 60, "1.1.1.1")
        .address("a.test.", 60, "1.1.1.2")
        .address("a.test.", 60, "1.1.1.3")
        .address("a.test.", 60, "2606:4700::1")
        .address("a.test.", 60, "2606:4700::2")
        .address("b.test.", 60, "1.1.1.9");
    let found = find(&routes(&server), "a.test").await.unwrap();
    assert_eq!(found, ["[2606:4700::1]:9420", "1.1.1.1:9420", "[2606:4700::2]:9420", "1.1.1.2:9420"]);
    assert_eq!(find(&routes(&server), "b.test").await.unwrap(), ["1.1.1.9:9420"]);
}

#[tokio::test]
async fn aliases_are_followed_and_a_circle_of_them_ends() {
    let server = NameServer::start(Manner::Answers).await;
    server
        .alias("_bennu._udp.a.test.", 60, "_bennu._udp.hoster.test.")
        .srv("hoster.test", 60, (0, 0, 5, "alias.test."))
        .alias("alias.test.", 60, "real.test.")
        .address("real.test.", 60, "1.1.1.1")
        .alias("b.test.", 60, "c.test.")
        .alias("c.test.", 60, "b.test.");
    let (from, to) = ("_bennu._udp.d.test.", "_bennu._udp.e.test.");
    server.alias(from, 60, to).alias(to, 60, from).address("d.test.", 60, "1.1.1.4");
    for manner in [Manner::Answers, Manner::FollowsAliases] {
        server.behave(manner);
        assert_eq!(find(&routes(&server), "a.test").await.unwrap(), ["1.1.1.1:5"]);
        assert_eq!(find(&routes(&server), "b.test").await, Err(DialError::NoAddress("b.test".into())));
        assert_eq!(find(&routes(&server), "d.test").await.unwrap(), ["1.1.1.4:9420"]);
    }
}

#[tokio::test]
async fn answers_hold_for_their_ttl_and_no_longer() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", 300, (0, 0, 5, "b.test.")).address("b.test.", 100, "1.1.1.1");
    let routes = routes(&server);
    let shared = routes.clone();
    for routes in [&routes, &shared, &routes] {
        assert_eq!(find(routes, "a.test").await.unwrap(), ["1.1.1.1:5"]);
    }
    assert_eq!((server.asked(RecordType::SRV), server.asked(RecordType::A)), (1, 1));
    later(95).await;
    find(&routes, "a.test").await.unwrap();
    assert_eq!(server.asked(RecordType::SRV), 1);
    later(10).await;
    find(&routes, "a.test").await.unwrap();
    assert_eq!((server.asked(RecordType::SRV), server.asked(RecordType::A)), (2, 2));
}

#[tokio::test]
async fn that_there_is_nothing_holds_as_long_as_the_zone_says() {
    let server = NameServer::start(Manner::Answers).await;
    let routes = routes(&server);
    for _ in 0..3 {
        assert_eq!(find(&routes, "a.test").await, Err(DialError::NoAddress("a.test".into())));
    }
    assert_eq!((server.asked(RecordType::SRV), server.asked(RecordType::A)), (1, 1));
    server.address("a.test.", 60, "1.1.1.1");
    later(NEGATIVE_TTL + 1).await;
    assert_eq!(find(&routes, "a.test").await.unwrap(), ["1.1.1.1:9420"]);
}

#[tokio::test]
async fn an_answer_with_a_ttl_of_nothing_is_not_remembered() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", 0, (0, 0, 5, "b.test.")).address("b.test.", 60, "1.1.1.1");
    let routes = routes(&server);
    for asked in 1..=2 {
        find(&routes, "a.test").await.unwrap();
        assert_eq!(server.asked(RecordType::SRV), asked);
    }
}

#[tokio::test]
async fn no_ttl_is_believed_beyond_a_day() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", i32::MAX as u32, (0, 0, 5, "b.test.")).address("b.test.", i32::MAX as u32, "1.1.1.1");
    let routes = routes(&server);
    find(&routes, "a.test").await.unwrap();
    later(86_401).await;
    find(&routes, "a.test").await.unwrap();
    assert_eq!(server.asked(RecordType::SRV), 2);
}

/// With the clock paused, waiting for a packet that never comes takes no time.
#[tokio::test(start_paused = true)]
async fn silence_and_garbage_end_within_the_deadline() {
    for manner in [Manner::Silent, Manner::Garbage] {
        let server = NameServer::start(manner).await;
        let begun = Instant::now();
        let found = find(&routes(&server), "a.test").await;
        assert!(is_lookup(&found), "{found:?}");
        assert!(begun.elapsed() <= DEADLINE, "{:?}", begun.elapsed());
    }
}

#[tokio::test]
async fn a_failure_is_no_answer_and_is_not_remembered() {
    let server = NameServer::start(Manner::Fails).await;
    server.address("a.test.", 60, "1.1.1.1");
    let routes = routes(&server);
    let found = find(&routes, "a.test").await;
    assert!(is_lookup(&found), "not taken for the lack of SRV records: {found:?}");
    server.behave(Manner::Truncates);
    let found = find(&routes, "a.test").await;
    assert!(is_lookup(&found), "nor is half an answer: {found:?}");
    server.behave(Manner::Answers);
    assert_eq!(find(&routes, "a.test").await.unwrap(), ["1.1.1.1:9420"]);
}

#[tokio::test]
async fn one_host_that_cannot_be_looked_up_does_not_hide_another() {
    let server = NameServer::start(Manner::Answers).await;
    server
        .srv("a.test", 60, (1, 0, 1, "nowhere.test."))
        .srv("a.test", 60, (2, 0, 1, "inside.test."))
        .srv("a.test", 60, (3, 0, 1, "here.test."))
        .address("inside.test.", 60, "192.168.1.1")
        .address("here.test.", 60, "1.1.1.1");
    assert_eq!(find(&routes(&server), "a.test").await.unwrap(), ["1.1.1.1:1"]);
}

#[tokio::test]
async fn few_of_many_records_and_addresses_are_looked_at() {
    let server = NameServer::start(Manner::Answers).await;
    for n in 0..40u16 {
        server.srv("a.test", 60, (n, 0, 1, &format!("h{n}.test.")));
        for m in 0..20 {
            server.address(&format!("h{n}.test."), 60, &format!("1.1.{n}.{m}"));
        }
    }
    let found = find(&routes(&server), "a.test").await.unwrap();
    assert_eq!(found.len(), MAX_HOSTS * resolver::MAX_ADDRESSES);
    assert_eq!(found.iter().collect::<HashSet<_>>().len(), found.len());
    assert!(found[0].starts_with("1.1.0."), "the best are looked at: {found:?}");
    assert_eq!(server.asked(RecordType::A), MAX_HOSTS);
}

#[tokio::test]
async fn dns_leads_to_the_public_internet_only_unless_that_is_allowed() {
    let server = NameServer::start(Manner::Answers).await;
    let private = [
        "127.0.0.1",
        "10.1.2.3",
        "169.254.169.254",
        "0.0.0.0",
        "224.0.0.1",
        "192.0.2.1",
        "::1",
        "fe80::1",
        "fd00::1",
        "ff02::1",
        "2001:db8::1",
        "::ffff:127.0.0.1",
    ];
    for (n, address) in private.iter().enumerate() {
        // The one by SRV, the other by its own name.
        server.srv(&format!("s{n}.test"), 60, (0, 0, 5, &format!("h{n}.test.")));
        server.address(&format!("h{n}.test."), 60, address);
    }
    server.address("mixed.test.", 60, "10.0.0.1").address("mixed.test.", 60, "1.1.1.1");
    let refusing = routes(&server);
    let allowing = routes(&server).private_addresses(PrivateAddresses::Allowed);
    let home = routes(&server).private_addresses(PrivateAddresses::Of(domain("h1.test")));
    for (n, address) in private.iter().enumerate() {
        let host = format!("h{n}.test");
        for name in [&host, &format!("s{n}.test")] {
            let found = find(&refusing, name).await;
            assert_eq!(found, Err(DialError::PrivateAddress(host.clone())), "{address}");
            assert_eq!(find(&allowing, name).await.unwrap().len(), 1, "{address}");
        }
        assert_eq!(find(&home, &host).await.is_ok(), n == 1, "{address}");
    }
    assert_eq!(find(&refusing, "mixed.test").await.unwrap(), ["1.1.1.1:9420"]);
}

#[tokio::test]
async fn port_0_is_nowhere() {
    let server = NameServer::start(Manner::Answers).await;
    server.srv("a.test", 60, (0, 0, 0, "b.test.")).address("b.test.", 60, "1.1.1.1");
    assert_eq!(find(&routes(&server), "a.test").await, Err(DialError::Unavailable("a.test".into())));
}

#[tokio::test]
async fn a_homeserver_does_not_look_for_itself() {
    let server = NameServer::start(Manner::Answers).await;
    server.address("a.test.", 60, "1.1.1.1");
    let routes = routes(&server).of(domain("a.test"));
    assert_eq!(find(&routes, "a.test").await, Err(DialError::Own("a.test".into())));
    assert_eq!(server.asked(RecordType::SRV), 0);
}

/// Discovery and handshake together: the first address is silent, the others are loopback by permission.
#[cfg(feature = "server")]
#[tokio::test]
async fn dns_decides_where_a_homeserver_is_and_its_certificate_who_it_is() {
    let (roots, identity) = certificates_for("a.test");
    let homeserver = serving(identity.clone(), roots.clone());
    let port = homeserver.local_addr().unwrap().port();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let server = NameServer::start(Manner::Answers).await;
    server
        .srv("a.test", 60, (1, 0, silent.local_addr().unwrap().port(), "host.hoster.test."))
        .srv("a.test", 60, (2, 0, port, "host.hoster.test."))
        .srv("b.test", 60, (1, 0, port, "host.hoster.test."))
        .address("host.hoster.test.", 60, "127.0.0.1");
    let routes = routes(&server).private_addresses(PrivateAddresses::Allowed);

    let client = Context::new(roots.clone(), Settings::default()).unwrap();
    let to_a = routes.find(&domain("a.test")).await.unwrap();
    assert!(client.connect(&domain("a.test"), &to_a).await.is_ok());

    // As the homeserver itself, to which the DNS of another leads.
    let own = Context::on(homeserver, roots, Some(identity)).unwrap();
    let to_b = routes.find(&domain("b.test")).await.unwrap();
    for context in [client, own] {
        let refused = context.connect(&domain("b.test"), &to_b).await.err();
        assert!(matches!(refused, Some(DialError::Certificate(_))), "{refused:?}");
    }
}
