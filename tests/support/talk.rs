//! A conversation that all members of a group keep up while anything happens to the homeservers, and the proof that
//! nothing of it was lost, came twice, or came in another order.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::{Duration, Instant},
};

use bennu::{
    base::{GroupId, UserId},
    client::{Client, ClientError, Events},
};
use tokio::{sync::watch, task::JoinSet};

use super::{PATIENCE, fetch, read, text, user, within};

/// What was sent, and what the senders were told of it.
#[derive(Default)]
pub struct Sent {
    /// Sends that were acknowledged at once.
    pub acknowledged: u64,
    /// Sends of which the caller was told that they wait here.
    pub delayed: u64,
    /// How long the slowest acknowledgement took.
    pub slowest: Duration,
}

/// Messages that one member received, in the order in which they came: sender and text.
type Received = VecDeque<(UserId, String)>;

/// All members send, one message after another, and listen to each other.
pub struct Talk {
    clients: Vec<Client>,
    /// How many messages each member sends.
    shares: BTreeMap<UserId, u64>,
    count: Arc<watch::Sender<u64>>,
    senders: JoinSet<Sent>,
    receivers: JoinSet<(UserId, Received, Events)>,
}

impl Talk {
    /// Begins it: each of these members of a chat sends as many messages as the share in the same place.
    pub fn start(clients: &[Client], chat: &GroupId, shares: &[u64]) -> Self {
        assert_eq!(clients.len(), shares.len());
        let count = Arc::new(watch::Sender::new(0));
        let (mut senders, mut receivers) = (JoinSet::new(), JoinSet::new());
        for (client, &share) in clients.iter().zip(shares) {
            senders.spawn(send_all(client.clone(), chat.clone(), share, count.clone()));
            let expected = shares.iter().sum::<u64>() - share;
            let (client, chat) = (client.clone(), chat.clone());
            receivers.spawn(receive_all(client, chat, expected as usize));
        }
        let shares = clients.iter().map(user).zip(shares.iter().copied()).collect();
        Self { clients: clients.to_vec(), shares, count, senders, receivers }
    }

    /// Waits until so many messages are acknowledged or wait in their senders.
    #[track_caller]
    pub fn reach(&self, point: u64) -> impl Future<Output = ()> {
        let mut count = self.count.subscribe();
        let reached = within(point, async move { count.wait_for(|count| *count >= point).await.map(|_| ()) });
        async move { reached.await.unwrap() }
    }

    /// Waits for its end, and holds that every member has what every other has sent, once, and that there is one order,
    /// that of the DS, in which all have received it.
    pub async fn end(mut self) -> Sent {
        let mut all = Sent::default();
        while let Some(sent) = within("the senders", self.senders.join_next()).await {
            let sent = sent.unwrap();
            all.acknowledged += sent.acknowledged;
            all.delayed += sent.delayed;
            all.slowest = all.slowest.max(sent.slowest);
        }
        // What was not acknowledged waits in its sender's state, and goes out while it listens.
        let (mut orders, mut listening) = (BTreeMap::new(), Vec::new());
        loop {
            let received = match tokio::time::timeout(2 * PATIENCE, self.receivers.join_next()).await {
                Ok(Some(received)) => received,
                Ok(None) => break,
                Err(_) => panic!("not everybody has received everything:{}", self.state().await),
            };
            let (receiver, received, events) = received.unwrap();
            listening.push(events);
            for (sender, share) in self.shares.iter().filter(|(sender, _)| **sender != receiver) {
                let from_sender: Vec<_> =
                    received.iter().filter(|(from, _)| from == sender).map(|(_, text)| text.as_str()).collect();
                let expected: Vec<_> = (0..*share).map(|number| number.to_string()).collect();
                assert_eq!(from_sender, expected, "from {sender} to {receiver}");
            }
            orders.insert(receiver, received);
        }
        assert_one_order(orders);
        // Nothing more comes: what follows next is what is sent next.
        for client in &self.clients {
            assert!(fetch(client).await.is_empty());
            assert_eq!(client.problems().await.unwrap(), Vec::new());
        }
        all
    }
}

impl Talk {
    /// What the members know.
    async fn state(&self) -> String {
        let mut text = String::new();
        for client in &self.clients {
            let (problems, chats) = (client.problems().await.unwrap(), client.chats().await.unwrap());
            let unread = read(client).await;
            text += &format!("\n{}: {problems:?}, not told of: {unread:?}, {chats:?}", user(client));
        }
        text
    }
}

/// Sends messages one after another; each is counted when it is acknowledged or waits in the client.
async fn send_all(client: Client, chat: GroupId, share: u64, count: Arc<watch::Sender<u64>>) -> Sent {
    let mut sent = Sent::default();
    for number in 0..share {
        let started = Instant::now();
        match client.send(&chat, text(number.to_string())).await {
            Ok(receipt) => {
                assert_eq!(receipt.unreached, 0);
                sent.acknowledged += 1;
                sent.slowest = sent.slowest.max(started.elapsed());
            }
            Err(ClientError::Unreachable(_) | ClientError::Late(_)) => sent.delayed += 1,
            Err(error) => panic!("{number}: {error}"),
        }
        count.send_modify(|count| *count += 1);
    }
    sent
}

/// Listens, and gives every message of the chat in the order in which it came, when there are `expected`; and what has to be kept
/// so that the client goes on listening.
async fn receive_all(client: Client, chat: GroupId, expected: usize) -> (UserId, Received, Events) {
    let mut events = client.events();
    let mut received = Received::new();
    while received.len() < expected {
        events.next().await.expect("nobody else listens");
        let messages = read(&client).await;
        received.extend(messages.into_iter().filter(|(of, ..)| *of == chat).map(|(_, from, text)| (from, text)));
    }
    (user(&client), received, events)
}

/// Holds that there is one order of all messages in which everybody received those of the others.
fn assert_one_order(mut orders: BTreeMap<UserId, Received>) {
    while orders.values().any(|order| !order.is_empty()) {
        // Which message is the next of all: it is the next for everybody but its sender.
        let is_next = |message: &&(UserId, String)| {
            orders.iter().all(|(receiver, order)| *receiver == message.0 || order.front() == Some(*message))
        };
        let next = orders.values().filter_map(VecDeque::front).find(is_next).cloned();
        let next = next.unwrap_or_else(|| {
            let fronts: Vec<_> = orders.iter().map(|(receiver, order)| (receiver, order.front())).collect();
            panic!("no order is that of all: {fronts:?}")
        });
        for (_, order) in orders.iter_mut().filter(|(receiver, _)| **receiver != next.0) {
            order.pop_front();
        }
    }
}
