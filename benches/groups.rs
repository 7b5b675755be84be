//! What a group costs its homeserver by its size, in microseconds from the whole request to the whole answer: a message, a commit
//! with an update path, adding one member, removing one, and what whoever comes back from outside is given. Each member has a
//! queue of its own; storage is the in-memory engine (`cargo bench --bench groups`).

mod support;

use bennu::{
    base::Domain,
    dispatch::Service,
    store::MemoryEngine,
    transport::memory::Host,
    wire::{
        delivery::{GetExternalCommitInfo, RemoveUsers, UpdateClient},
        method::call,
    },
};
use support::{Group, Queue, median};

/// Members of the groups that are measured.
const SIZES: [usize; 4] = [10, 100, 1_000, 5_000];

/// Members added in one commit while a group is built.
const AT_ONCE: usize = 1_000;

/// Requests of each kind, of which the median is shown.
const ROUNDS: usize = 9;

fn domain() -> Domain {
    "bench.test".parse().unwrap()
}

async fn homeserver() -> Host<Service> {
    support::homeserver(domain(), MemoryEngine::new()).await.0
}

async fn add(group: &mut Group, count: usize) -> u128 {
    let mut configs = Vec::with_capacity(count);
    for _ in 0..count {
        configs.push(Queue::create(&group.connection, &domain()).await.config);
    }
    group.add(&configs).await
}

async fn remove(group: &mut Group) -> u128 {
    let last = group.state.members().map(|member| member.index.u32()).max().unwrap();
    let (commit, _) = group.commit(Vec::new(), vec![last], false);
    let (_, time) = group.ask::<call::DsRemoveUsers>(&RemoveUsers { commit }).await;
    group.merge();
    time
}

async fn update(group: &mut Group) -> u128 {
    let (commit, _) = group.commit(Vec::new(), Vec::new(), true);
    let (_, time) = group.ask::<call::DsUpdateClient>(&UpdateClient { commit, queue_config: None }).await;
    group.merge();
    time
}

async fn info(group: &Group) -> u128 {
    let access = group.access.clone();
    group.ask::<call::DsExternalCommitInfo>(&GetExternalCommitInfo { access }).await.1
}

#[tokio::main]
async fn main() {
    println!("members   message    update       add    remove      info   (us, medians of {ROUNDS})");
    for size in SIZES {
        let host = homeserver().await;
        let mut group = Group::create(host.connect()).await;
        while group.state.members().count() < size {
            let missing = size - group.state.members().count();
            add(&mut group, missing.min(AT_ONCE)).await;
        }
        // The first update path is the only one to everybody on their own.
        update(&mut group).await;
        let mut times: [Vec<u128>; 5] = Default::default();
        for _ in 0..ROUNDS {
            let message = group.prepare();
            times[0].push(group.send(&message).await);
            times[1].push(update(&mut group).await);
            times[2].push(add(&mut group, 1).await);
            times[3].push(remove(&mut group).await);
            times[4].push(info(&group).await);
        }
        let [message, update, add, remove, info] = times.map(median);
        println!("{size:>7} {message:>9} {update:>9} {add:>9} {remove:>9} {info:>9}");
    }
}
