//! A hole in the network, to be opened at will: passes UDP packets on between clients and a homeserver, or loses those
//! that come back, so that the homeserver carries out what it was asked for and nobody hears of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
};

const PACKET: usize = 64 << 10;

type Rule = Box<dyn FnMut() -> bool + Send>;

#[derive(Default)]
struct Shared {
    /// Whether nothing passes, in either direction.
    closed: AtomicBool,
    /// Of so many packets one is lost, in either direction; of 0 none.
    one_in: AtomicU64,
    passed: AtomicU64,
    /// Asked for each packet that comes back: whether it is lost.
    rule: Mutex<Option<Rule>>,
    lost: AtomicU64,
}

/// Passes packets on as long as it lives.
pub struct Forwarder {
    address: SocketAddr,
    shared: Arc<Shared>,
    task: AbortHandle,
}

impl Forwarder {
    /// In front of a homeserver.
    pub async fn to(homeserver: SocketAddr) -> Self {
        let front = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
        let address = front.local_addr().unwrap();
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(there(front, homeserver, shared.clone())).abort_handle();
        Self { address, shared, task }
    }

    /// Where clients are to look for the homeserver.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on nothing comes back.
    pub fn lose_replies(&self) {
        self.lose_replies_once(|| true);
    }

    /// From the first packet for which `begun` is true nothing comes back.
    pub fn lose_replies_once(&self, mut begun: impl FnMut() -> bool + Send + 'static) {
        let mut has_begun = false;
        let rule = move || {
            has_begun = has_begun || begun();
            has_begun
        };
        *self.shared.rule.lock().unwrap() = Some(Box::new(rule));
    }

    /// From now on nothing passes, in either direction.
    pub fn close(&self) {
        self.shared.closed.store(true, Ordering::SeqCst);
    }

    /// From now on every so many-th packet is lost, in either direction.
    pub fn lose_one_in(&self, many: u64) {
        self.shared.one_in.store(many, Ordering::SeqCst);
    }

    /// From now on everything passes.
    pub fn heal(&self) {
        *self.shared.rule.lock().unwrap() = None;
        self.shared.closed.store(false, Ordering::SeqCst);
        self.shared.one_in.store(0, Ordering::SeqCst);
    }

    /// Packets that were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
    }
}

impl Shared {
    /// Whether a packet is lost, whatever its direction.
    fn loses(&self) -> bool {
        let (number, one_in) = (self.passed.fetch_add(1, Ordering::SeqCst), self.one_in.load(Ordering::SeqCst));
        let lost = self.closed.load(Ordering::SeqCst) || (one_in > 0 && number.is_multiple_of(one_in));
        self.lost.fetch_add(u64::from(lost), Ordering::SeqCst);
        lost
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn there(front: Arc<UdpSocket>, homeserver: SocketAddr, shared: Arc<Shared>) {
    let mut clients: HashMap<SocketAddr, Arc<UdpSocket>> = HashMap::new();
    // Dropped with this task, and with it the ways back.
    let mut ways_back = JoinSet::new();
    let mut packet = vec![0; PACKET];
    loop {
        // What the operating system says of an earlier packet (nobody listens) is no concern of this one.
        let Ok((length, client)) = front.recv_from(&mut packet).await else { continue };
        if let Entry::Vacant(new) = clients.entry(client) {
            let onwards = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
            onwards.connect(homeserver).await.unwrap();
            ways_back.spawn(back(onwards.clone(), front.clone(), client, shared.clone()));
            new.insert(onwards);
        }
        if !shared.loses() {
            let _ = clients[&client].send(&packet[..length]).await;
        }
    }
}

async fn back(onwards: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, shared: Arc<Shared>) {
    let mut packet = vec![0; PACKET];
    loop {
        let Ok(length) = onwards.recv(&mut packet).await else { continue };
        let lost = shared.rule.lock().unwrap().as_mut().is_some_and(|rule| rule());
        if lost {
            shared.lost.fetch_add(1, Ordering::SeqCst);
        } else if !shared.loses() {
            let _ = front.send_to(&packet[..length], client).await;
        }
    }
}
