//! A client is woken where it has said, also by those who have known it from before.

use tokio::sync::mpsc;

use super::{hostile::Hostile, *};
use crate::{
    client::{ClientError, Local},
    push::{PushError, PushService},
    queuing::records,
    store::{Key, Limit, Table},
    wire::{
        delivery::SendMessage,
        method::call,
        queuing::{PushToken, WebPushSubscription},
    },
};

struct Recorder(mpsc::UnboundedSender<PushToken>);

#[async_trait]
impl PushService for Recorder {
    async fn push(&self, token: &PushToken) -> Result<(), PushError> {
        self.0.send(token.clone()).unwrap();
        Ok(())
    }
}

pub(super) fn subscription(endpoint: &str) -> WebPushSubscription {
    WebPushSubscription { endpoint: endpoint.as_bytes().into(), public_key: [4; 65], auth: Secret::new([5; 16]) }
}

async fn tokens(server: &Homeserver) -> usize {
    server.store().barrier().await.unwrap();
    let rows = server.store().durable().scan(Table::QsClients, Key::new().., Limit::rows(10)).await.unwrap();
    rows.iter().filter(|row| records::decode_client(&row.value).unwrap().push_token.is_some()).count()
}

#[tokio::test]
async fn a_subscription_counts_for_those_who_were_contacts_before_it_and_can_be_taken_back() {
    let server = Homeserver::start().await;
    let (alice, bob) = (server.register("Alice").await, server.register("Bob").await);
    let chat = befriend(&alice, &bob).await;
    let (sender, mut pushed) = mpsc::unbounded_channel();
    let running = tokio::spawn(server.dispatcher().run_pushes(Arc::new(Recorder(sender))));
    assert!(bob.client.push_key().await.unwrap().is_some());

    // Whatever is lost, the last one counts.
    bob.client.set_push(Some(subscription("https://push.test/old"))).await.unwrap();
    server.lose(Method::QsUpdateClient, 1);
    bob.client.set_push(Some(subscription("https://push.test/new"))).await.unwrap();
    assert!(server.lost_all());
    alice.say(&chat, "Wake up").await;
    assert_eq!(pushed.recv().await, Some(PushToken::WebPush(subscription("https://push.test/new"))));
    assert_eq!(tokens(&server).await, 1);

    bob.client.set_push(None).await.unwrap();
    assert_eq!(tokens(&server).await, 0);
    assert_eq!(bob.hear().await, [said("Alice", "Wake up")]);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_whose_sender_does_not_want_it_wakes_nobody() {
    let server = Homeserver::start().await;
    let (alice, bob, carol) =
        (server.register("Alice").await, server.register("Bob").await, server.register("Carol").await);
    let (to_bob, to_carol) = (befriend(&alice, &bob).await, befriend(&alice, &carol).await);
    let (sender, mut pushed) = mpsc::unbounded_channel();
    let running = tokio::spawn(server.dispatcher().run_pushes(Arc::new(Recorder(sender))));
    bob.client.set_push(Some(subscription("https://push.test/bob"))).await.unwrap();
    carol.client.set_push(Some(subscription("https://push.test/carol"))).await.unwrap();
    let chat = to_bob.clone();
    let work = |client: Client| async move { _ = client.send(&chat, Content::Text("quietly".into())).await };
    let request = SendMessage::from_slice(&alice.given_up_at(Method::DsSendMessage, work).await).unwrap();
    let quiet = SendMessage { no_push: true, ..request };
    Hostile::of(&alice, &to_bob).await.send::<call::DsSendMessage>(&quiet).await.unwrap();
    alice.say(&to_carol, "loudly").await;
    // In the order in which they were wanted.
    assert_eq!(pushed.recv().await, Some(PushToken::WebPush(subscription("https://push.test/carol"))));
    assert!(pushed.try_recv().is_err());
    assert_eq!(bob.hear().await, [said("Alice", "quietly")]);
    running.abort();
}

#[tokio::test]
async fn an_endpoint_that_no_push_could_reach_is_refused_at_once() {
    let server = Homeserver::start().await;
    let bob = server.register("Bob").await;
    for endpoint in ["", "http://push.test/", "https://push.test/ä", &format!("https://push.test/{}", "x".repeat(512))]
    {
        let refused = bob.client.set_push(Some(subscription(endpoint))).await.unwrap_err();
        assert!(matches!(refused, ClientError::Local(Local::Invalid, _)), "{endpoint}: {refused}");
    }
    assert_eq!(tokens(&server).await, 0);
}
