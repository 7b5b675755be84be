//! A hole in the network, to be opened at will: passes UDP packets on between clients and a homeserver, or loses those
//! that come back, so that the homeserver carries out what it was asked for and nobody hears of it.

use std::{
    collections::HashMap,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use tokio::{
    net::UdpSocket,
    task::{AbortHandle, JoinSet},
};

const PACKET: usize = 64 << 10;

#[derive(Default)]
struct Shared {
    replies_are_lost: AtomicBool,
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
        self.shared.replies_are_lost.store(true, Ordering::SeqCst);
    }

    /// From now on everything does.
    pub fn heal(&self) {
        self.shared.replies_are_lost.store(false, Ordering::SeqCst);
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
        if !clients.contains_key(&client) {
            let onwards = Arc::new(UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap());
            onwards.connect(homeserver).await.unwrap();
            ways_back.spawn(back(onwards.clone(), front.clone(), client, shared.clone()));
            clients.insert(client, onwards);
        }
        let _ = clients[&client].send(&packet[..length]).await;
    }
}

async fn back(onwards: Arc<UdpSocket>, front: Arc<UdpSocket>, client: SocketAddr, shared: Arc<Shared>) {
    let mut packet = vec![0; PACKET];
    loop {
        let Ok(length) = onwards.recv(&mut packet).await else { continue };
        if shared.replies_are_lost.load(Ordering::SeqCst) {
            shared.lost.fetch_add(1, Ordering::SeqCst);
        } else {
            let _ = front.send_to(&packet[..length], client).await;
        }
    }
}
