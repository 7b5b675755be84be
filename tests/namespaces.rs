//! Three homeservers, each a host of its own in a network that is slow, loses packets and falls apart while people on all
//! of them talk, and while it lies apart homeservers are killed: everything that was acknowledged to a sender is in the
//! hands of everybody else, once, and in the order of the group's DS.
#![cfg(feature = "cli")]

mod support;

use std::time::Instant;

use support::{
    below, connect,
    forwarder::Forwarder,
    group,
    land::Land,
    network::{Network, left_out},
    rng,
    talk::{Sent, Talk},
};

const DOMAINS: [&str; 3] = ["a.test", "b.test", "c.test"];

/// How a homeserver is parted from others.
#[derive(Clone, Copy, Debug)]
enum Cut {
    /// From everybody.
    Off(usize),
    /// The second from the first, while clients reach both.
    Between(usize, usize),
}

impl Cut {
    fn make(self, network: Option<&Network>, land: &Land) {
        match (network, self) {
            (Some(network), Self::Off(at)) => network.cut_off(at),
            (Some(network), Self::Between(one, other)) => network.cut_between(one, other),
            (None, Self::Off(at) | Self::Between(_, at)) => land.ways[at].close(),
        }
    }
}

/// Makes everything pass again, as well as it did.
fn heal(network: Option<&Network>, land: &Land) {
    match network {
        Some(network) => network.heal(),
        None => land.ways.iter().for_each(|way| {
            way.heal();
            way.lose_one_in(20);
        }),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_slow_and_loses_packets_and_falls_apart_loses_no_message() {
    const EACH: u64 = 50;
    const TOTAL: u64 = 2 * DOMAINS.len() as u64 * EACH;
    let mut rng = rng("namespaces");
    let network = Network::new(DOMAINS.len() as u8)
        .inspect_err(|why| left_out("network namespaces (homeservers are on loopback, parted in user space)", why))
        .ok();
    let mut land = match &network {
        Some(network) => Land::start_at(&DOMAINS, &network.sites()).await,
        None => Land::start(&DOMAINS).await,
    };
    let mut clients = Vec::new();
    for at in (0..DOMAINS.len()).chain(0..DOMAINS.len()) {
        let name = format!("user {} of {}", clients.len(), DOMAINS[at]);
        clients.push(land.register(at, &name).await);
    }
    for client in &clients[1..] {
        connect(&clients[0], client).await;
    }
    let chat = group(&clients.iter().collect::<Vec<_>>()).await;

    let lossy = match network.as_ref().map(Network::deteriorate) {
        Some(Ok(how)) => {
            println!("namespaces: {how}");
            true
        }
        Some(Err(why)) => {
            left_out("delay and loss", &why);
            false
        }
        None => {
            heal(None, &land);
            true
        }
    };
    let started = Instant::now();
    let talk = Talk::start(&clients, &chat, &[EACH; 2 * DOMAINS.len()]);
    // The first homeserver has the group. Who is killed is one that is cut off, and in the end that of the group.
    let (one, other) = if below(&mut rng, 2) == 0 { (1, 2) } else { (2, 1) };
    let rounds =
        [(Cut::Between(0, one), one, one), (Cut::Off(other), other, other), (Cut::Between(0, other), other, 0)];
    for (round, (cut, parted, killed)) in (0..).zip(rounds) {
        let point = (1 + 3 * round) * TOTAL / 10;
        talk.reach(point).await;
        cut.make(network.as_ref(), &land);
        talk.reach(point + TOTAL / 10).await;
        let peers = land.admin(0, &["federation", "peers"]).await;
        let peer = peers.iter().find(|peer| peer["domain"] == DOMAINS[parted]).expect("it is a peer");
        assert!(peer["waiting"].as_u64() > Some(0), "{cut:?} parts nobody: {peers:?}");
        land.servers[killed].kill().await;
        // It finds its port and its data free: the process that was killed is the homeserver.
        land.servers[killed].restart().await;
        talk.reach(point + TOTAL / 5).await;
        heal(network.as_ref(), &land);
        println!("namespaces: {cut:?}, {killed} killed, after {:.1} s", started.elapsed().as_secs_f64());
    }
    let Sent { acknowledged, delayed, slowest } = talk.end().await;
    let lost = match &network {
        Some(network) => network.lost(),
        None => land.ways.iter().map(Forwarder::lost).sum(),
    };
    assert!(lost > 0 || !lossy, "the network was not as bad as it was told to be");
    println!(
        "namespaces: {TOTAL} messages, {acknowledged} acknowledged at once, {delayed} later, all received by the five \
         others; {lost} packets lost where the network was whole; {:.1} s; slowest acknowledgement {:.1} s",
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64(),
    );
    drop(land);
    if let Some(network) = network {
        network.delete();
    }
}
