//! A hole in the network, to be opened at will: passes UDP packets on between clients and a homeserver, or loses those
//! that come back, so that the homeserver carries out what it was asked for and nobody hears of it.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
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

    /// From now on everything does.
    pub fn heal(&self) {
        *self.shared.rule.lock().unwrap() = None;
    }

    /// Packets that were lost.
    pub fn lost(&self) -> u64 {
        self.shared.lost.load(Ordering::SeqCst)
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
        let _ = clients[&client].send(&packet[..length]).await;
    }
}

async fn back(onwards: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, shared: Arc<Shared>) {
    let mut packet = vec![0; PACKET];
    loop {
        let Ok(length) = onwards.recv(&mut packet).await else { continue };
        let lost = shared.rule.lock().unwrap().as_mut().is_some_and(|rule| rule());
        if lost {
            shared.lost.fetch_add(1, Ordering::SeqCst);
        } else {
            let _ = front.send_to(&packet[..length], client).await;
        }
    }
}
