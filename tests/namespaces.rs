//! Three homeservers, each a host of its own in a network that is slow, loses packets and falls apart while people on all
//! of them talk, and while it lies apart homeservers are killed: everything that was acknowledged to a sender is in the
//! hands of everybody else, once, and in the order of the group's DS.
#![cfg(feature = "cli")]

mod support;

use std::time::Instant;

use support::{
    connect, group,
    land::Land,
    network::{Network, left_out, leftovers},
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
    const EACH: u64 = 30;
    const SERVERS: usize = DOMAINS.len();
    let network = Network::new(SERVERS as u8)
        .inspect_err(|why| {
            left_out("network namespaces (homeservers on loopback, cut off in user space, instead)", why)
        })
        .ok();
    let land = match &network {
        Some(network) => Land::start_at(&DOMAINS, &network.sites()).await,
        None => Land::start(&DOMAINS).await,
    };
}
