//! Fan-out: takes what the Delivery Service tells its members to their queues. Sealed configs are opened once and
//! remembered in memory; a message that many queues get is stored once.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::Queuing;
use crate::{
    base::{
        Day, Refusal,
        limits::{SHARED_BODY_QUEUES, SHARED_BODY_SIZE},
    },
    crypto::{aead, random, random_secret, sha256, signature::verify},
    service::{Append, Class, Context, QueueId},
    store::{Batch, Key, Table},
    wire::{
        Encode,
        credential::HpkeCiphertext,
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad, unpad_value},
        queue::{FanOut, QueueMessage, SharedBody},
        queuing::{ClientQueueConfig, QueueConfig},
    },
};

/// Days that a shared body is kept: the longest a queue keeps an entry.
pub const BODY_RETENTION: u32 = 90;

/// What a fan-out adds to an outcome.
#[derive(Default)]
pub struct Delivery {
    /// For the queues.
    pub appends: Vec<Append>,
    /// How many configs lead nowhere.
    pub unreachable: u32,
}

impl Delivery {
    /// Sends `message` to the queues behind `configs`, each once. A shared body goes into `batch`. Gives the positions of
    /// the configs whose queue is gone for good.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn add(
        &mut self,
        service: &Queuing,
        context: &mut Context<'_>,
        batch: &mut Batch,
        message: FanOut,
        configs: &[ClientQueueConfig],
        class: Class,
    ) -> Result<Vec<usize>, Refusal> {
        let (mut queues, mut gone) = (BTreeSet::new(), Vec::new());
        for (at, config) in configs.iter().enumerate() {
            match service.open(context, config).await? {
                Destination::Queue(queue) => _ = queues.insert(queue),
                Destination::Gone => {
                    self.unreachable += 1;
                    gone.push(at);
                }
                Destination::Nowhere => self.unreachable += 1,
            }
        }
        let content = content(context, batch, message, queues.len());
        self.appends.extend(queues.into_iter().map(|queue| Append { queue, content: content.clone(), class }));
        Ok(gone)
    }
}

/// The content of the queue entries: the message, or where it is if it is long and goes to many.
fn content(context: &mut Context<'_>, batch: &mut Batch, message: FanOut, queues: usize) -> Bytes {
    if message.encoded_len() <= SHARED_BODY_SIZE || queues <= SHARED_BODY_QUEUES {
        return QueueMessage::FanOut(message).to_vec().into();
    }
    let mut id = random::<16>(context.rng);
    // Ids begin with the day they expire, so that a day's bodies are deleted as one range.
    id[..4].copy_from_slice(&context.now.day().plus(BODY_RETENTION).0.to_be_bytes());
    let key = random_secret(context.rng);
    let padded = pad(&message.to_vec(), MESSAGE_FLOOR);
    let ciphertext = aead::seal(&key, KeyLabel::SharedBody, &id, &padded, context.rng);
    let hash = sha256(&ciphertext);
    batch.put(Table::QsBodies, body_key(id), ciphertext);
    QueueMessage::Shared(SharedBody { id, key, hash }).to_vec().into()
}

/// The last day of a shared body.
pub fn expires(id: [u8; 16]) -> Day {
    let [a, b, c, d, ..] = id;
    Day(u32::from_be_bytes([a, b, c, d]))
}

/// Where a shared body is.
pub fn body_key(id: [u8; 16]) -> Key {
    Key::new().bytes(id)
}

/// Where a config leads.
enum Destination {
    /// To a queue.
    Queue(QueueId),
    /// To a queue that there was.
    Gone,
    /// It is not for this QS, does not open, or was not made by the client that it names.
    Nowhere,
}

impl Queuing {
    /// The queue behind a config: opened, its signature checked against the client record.
    async fn open(&self, context: &Context<'_>, config: &ClientQueueConfig) -> Result<Destination, Refusal> {
        let name = sha256(&config.to_vec());
        if let Some(queue) = self.opened().get(&name) {
            return Ok(Destination::Queue(*queue));
        }
        let Some(opened) = self.unseal(context, config) else { return Ok(Destination::Nowhere) };
        let client = opened.content.client;
        let Some(record) = super::records::client(context, client).await? else { return Ok(Destination::Gone) };
        let label = SignatureLabel::QueueConfig;
        if verify(&record.auth_key(), label, &opened.content, &opened.signature).is_err() {
            return Ok(Destination::Nowhere);
        }
        let queue = QueueId::client(client);
        self.opened().insert(name, queue);
        Ok(Destination::Queue(queue))
    }

    fn unseal(&self, context: &Context<'_>, config: &ClientQueueConfig) -> Option<QueueConfig> {
        if config.domain != *context.domain || config.key_id != self.key_id {
            return None;
        }
        let sealed = HpkeCiphertext { kem_output: config.kem_output.clone(), ciphertext: config.ciphertext.clone() };
        let aad = config.domain.to_vec();
        let padded = self.config_key.open(HpkeLabel::QueueConfig, &[], &aad, &sealed).ok()?;
        unpad_value(padded, MESSAGE_FLOOR).ok()
    }
}
