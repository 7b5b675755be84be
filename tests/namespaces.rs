//! Three homeservers, each a host of its own in a network that is slow, loses packets and falls apart while people on all
//! of them talk; homeservers are killed while it lies apart: everything that was acknowledged to a sender is in the hands
//! of everybody else, once, and in the order of the group's DS.
//!
//! It takes root, the `ip` and `tc` of iproute2, and a kernel with network namespaces, bridges and queueing disciplines
//! that lose packets (netem, or else tbf). Where something is missing, a line that begins with `SKIPPED` says so, and the
//! rest is done without it.
#![cfg(feature = "cli")]

mod support;

use std::time::Instant;

use support::{
    below, connect,
    forwarder::Forwarder,
    group,
    land::Land,
    network::{Network, skipped},
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

/// The homeservers, and what lies between them.
struct Ground {
    land: Land,
    /// Without one they are on loopback, and the ways in front of them are as bad as they can be.
    network: Option<Network>,
    /// Whether packets are lost where nothing is cut.
    is_lossy: bool,
}

impl Ground {
    async fn start() -> Self {
        match Network::new(DOMAINS.len() as u8) {
            Ok(network) => {
                let land = Land::start_at(&DOMAINS, &network.sites()).await;
                Self { land, network: Some(network), is_lossy: false }
            }
            Err(why) => {
                skipped("hosts of their own; homeservers are on loopback, and parted by what stands in front", &why);
                Self { land: Land::start(&DOMAINS).await, network: None, is_lossy: false }
            }
        }
    }

    /// Has packets delayed and lost, if that can be.
    fn deteriorate(&mut self) {
        let how = match &self.network {
            Some(network) => network.deteriorate(),
            None => {
                self.land.ways.iter().for_each(|way| way.lose_one_in(20));
                Ok("one packet in 20 is lost on the ways between homeservers")
            }
        };
        match how {
            Ok(how) => println!("namespaces: {how}"),
            Err(ref why) => skipped("delay and loss", why),
        }
        self.is_lossy = how.is_ok();
    }

    fn cut(&self, cut: Cut) {
        match (&self.network, cut) {
            (Some(network), Cut::Off(at)) => network.cut_off(at),
            (Some(network), Cut::Between(one, other)) => network.cut_between(one, other),
            (None, Cut::Off(at) | Cut::Between(_, at)) => self.land.ways[at].close(),
        }
    }

    /// Makes everything pass again, as well as it did.
    fn heal(&mut self) {
        match &self.network {
            Some(network) => network.heal(),
            None => {
                self.land.ways.iter().for_each(Forwarder::heal);
                self.deteriorate();
            }
        }
    }

    /// Ends it, and holds that it was as bad as it was meant to be.
    fn end(self) {
        if self.is_lossy {
            let lost = match &self.network {
                Some(network) => network.lost(),
                None => self.land.ways.iter().map(Forwarder::lost).sum(),
            };
            println!("namespaces: {lost} packets lost");
            assert!(lost > 0);
        }
        drop(self.land);
        if let Some(network) = self.network {
            network.delete();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_network_that_is_slow_and_loses_packets_and_falls_apart_loses_no_message() {
    const MEMBERS: usize = 2 * DOMAINS.len();
    const EACH: u64 = 50;
    const TOTAL: u64 = MEMBERS as u64 * EACH;
    let mut rng = rng("namespaces");
    let mut ground = Ground::start().await;
    let mut clients = Vec::new();
    for number in 0..MEMBERS {
        clients.push(ground.land.register(number % DOMAINS.len(), &format!("user {number}")).await);
    }
    for client in &clients[1..] {
        connect(&clients[0], client).await;
    }
    let chat = group(&clients.iter().collect::<Vec<_>>()).await;
    ground.deteriorate();

    let started = Instant::now();
    let talk = Talk::start(&clients, &chat, &[EACH; MEMBERS]);
    // The first homeserver has the group. One that is cut off is killed, and in the end that of the group.
    let (one, other) = if below(&mut rng, 2) == 0 { (1, 2) } else { (2, 1) };
    let rounds = [(Cut::Between(0, one), one, one), (Cut::Off(other), other, other), (Cut::Between(0, one), one, 0)];
    for (round, (cut, parted, killed)) in (0..).zip(rounds) {
        let point = (1 + 3 * round) * TOTAL / 10;
        talk.reach(point).await;
        ground.cut(cut);
        talk.reach(point + TOTAL / 10).await;
        let peers = ground.land.admin(0, &["federation", "peers"]).await;
        let peer = peers.iter().find(|peer| peer["domain"] == DOMAINS[parted]).expect("it is a peer");
        assert!(peer["waiting"].as_u64() > Some(0), "{cut:?} parts nobody: {peers:?}");
        ground.land.servers[killed].kill().await;
        // It finds its port and its data free: the process that was killed is the homeserver itself.
        ground.land.servers[killed].restart().await;
        talk.reach(point + TOTAL / 5).await;
        ground.heal();
        println!("namespaces: {cut:?} with {killed} killed: over after {:.1} s", started.elapsed().as_secs_f64());
    }
    let Sent { acknowledged, delayed, slowest } = talk.end().await;
    println!(
        "namespaces: {TOTAL} messages, {acknowledged} acknowledged at once, {delayed} later; each received by the {} \
         others, 0 lost, 0 twice; {:.1} s; slowest acknowledgement {:.1} s",
        MEMBERS - 1,
        started.elapsed().as_secs_f64(),
        slowest.as_secs_f64(),
    );
    ground.end();
}
