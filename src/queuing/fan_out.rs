//! Fan-out: takes what the Delivery Service tells its members to their queues. Sealed configs are opened once and
//! remembered in memory; a message that many queues get is stored once.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::{Queuing, forward};
use crate::{
    base::{
        Cache, Day, Refusal, Secret,
        limits::{SHARED_BODY_QUEUES, SHARED_BODY_SIZE},
    },
    crypto::{aead, random, random_secret, sha256, signature::verify},
    service::{Append, Class, Context, Forwarded, Origin, Push, QueueId, damaged},
    store::{Batch, Key, Table},
    wire::{
        Decode, Encode,
        credential::{HpkeCiphertext, SignaturePublicKey},
        federation::{Forward, ForwardedFanOut, MAX_RECIPIENTS},
        label::{HpkeLabel, KeyLabel, SignatureLabel},
        padding::{MESSAGE_FLOOR, pad, unpad_value},
        queue::{FanOut, FanOutContent, QueueMessage, SharedBody},
        queuing::{ClientQueueConfig, QueueConfig},
    },
};

/// Days that a shared body is kept: the longest a queue keeps an entry.
pub const BODY_RETENTION: u32 = 90;

/// What a fan-out adds to an outcome.
#[derive(Default)]
pub struct Delivery {
    /// For the queues here.
    pub appends: Vec<Append>,
    /// For those at other homeservers.
    pub forwards: Vec<Forwarded>,
    /// How many configs lead nowhere.
    pub unreachable: u32,
    /// Whether clients that do not listen are left alone, whatever is sent.
    pub no_push: bool,
}

impl Delivery {
    /// Sends `message` to the queues behind `configs` (encoded [`ClientQueueConfig`]s), each once; what is for other homeservers
    /// is sealed for them. A shared body goes into `batch`. Gives the positions of the configs whose queue is gone for good.
    ///
    /// # Errors
    /// `internal` if the store fails; `overloaded` if it goes to many homeservers and too much is being computed.
    pub async fn add(
        &mut self,
        service: &Queuing,
        context: &mut Context<'_>,
        batch: &mut Batch,
        message: FanOut,
        configs: &[Bytes],
        class: Class,
    ) -> Result<Vec<usize>, Refusal> {
        let (mut queues, mut gone, mut elsewhere) = (BTreeMap::new(), Vec::new(), BTreeMap::new());
        for (at, config) in configs.iter().enumerate() {
            match service.open(context, config).await? {
                Destination::Queue(config) => _ = queues.insert(config.queue, config),
                Destination::Elsewhere(config) => {
                    elsewhere.entry(config.domain.clone()).or_insert_with(Vec::new).push(config);
                }
                Destination::Gone => {
                    self.unreachable += 1;
                    gone.push(at);
                }
                Destination::Nowhere => self.unreachable += 1,
            }
        }
        let (mut forwards, mut reached) = (Vec::new(), Vec::new());
        for (domain, configs) in elsewhere {
            for recipients in configs.chunks(MAX_RECIPIENTS).map(<[_]>::to_vec) {
                reached.push(u32::try_from(recipients.len()).map_err(damaged)?);
                let forward = ForwardedFanOut { message: message.clone(), no_push: self.no_push, recipients };
                forwards.push((domain.clone(), Forward::FanOut(forward)));
            }
        }
        for (sealed, recipients) in forward::seal_all(context, forwards, class).await?.into_iter().zip(reached) {
            match sealed {
                Some(sealed) => self.forwards.push(sealed),
                None => self.unreachable += recipients,
            }
        }
        let group = Bytes::from(message.group.to_vec());
        let pushes = pushes(&message.content) && !self.no_push;
        let content = content(context, batch, message, queues.len());
        self.appends.extend(queues.into_iter().map(|(queue, OpenedConfig { blocklist_key, push, .. })| {
            let origin = Some(Origin { blocklist_key, group: group.clone() });
            Append { queue, content: content.clone(), class, origin, push: push.filter(|_| pushes) }
        }));
        Ok(gone)
    }
}

/// Whether a person would want to be woken for it (`wire-spec/queuing.md`, "Push").
const fn pushes(content: &FanOutContent) -> bool {
    match content {
        FanOutContent::Application(_) | FanOutContent::Welcome(_) => true,
        FanOutContent::Commit(_)
        | FanOutContent::Proposal(_)
        | FanOutContent::GroupDeleted(_)
        | FanOutContent::Restored(_) => false,
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

/// Opened queue configs that are remembered.
const OPENED_CONFIGS: usize = 100_000;

/// The queue configs that were opened lately, by the hash of the sealed config. In memory only.
pub struct Opened {
    configs: Cache<[u8; 32], OpenedConfig>,
    /// Counts the changes of client records: what was read before one is not remembered after it.
    changes: u64,
}

/// What a config says, and until when.
#[derive(Clone)]
struct OpenedConfig {
    queue: QueueId,
    blocklist_key: Secret,
    /// If its client has a push token, and the config the key of it.
    push: Option<Push>,
    /// The last day on which both keys that it rests on are good.
    until: Day,
}

impl Default for Opened {
    fn default() -> Self {
        Self { configs: Cache::new(OPENED_CONFIGS), changes: 0 }
    }
}

impl Opened {
    /// Forgets all configs.
    pub fn forget_all(&mut self) {
        self.changes += 1;
        self.configs.retain(|_| false);
    }

    /// Forgets the configs that lead to a queue.
    pub fn forget(&mut self, queue: QueueId) {
        self.changes += 1;
        self.configs.retain(|config| config.queue != queue);
    }
}

/// Where a config leads.
enum Destination {
    /// To a queue.
    Queue(OpenedConfig),
    /// To another homeserver.
    Elsewhere(ClientQueueConfig),
    /// To a queue that there was.
    Gone,
    /// It does not open, or was not made by the client that it names.
    Nowhere,
}

impl Queuing {
    /// The queue behind an encoded config: opened, its signature checked against the client record. Of one that was opened
    /// lately nothing is decoded.
    async fn open(&self, context: &Context<'_>, config: &Bytes) -> Result<Destination, Refusal> {
        let (name, today) = (sha256(config), context.now.day());
        let changes = {
            let mut opened = self.opened();
            if let Some(known) = opened.configs.get(&name).filter(|known| known.until >= today) {
                return Ok(Destination::Queue(known.clone()));
            }
            opened.changes
        };
        let config = ClientQueueConfig::from_bytes(config.clone()).map_err(damaged)?;
        if config.domain != *context.domain {
            return Ok(Destination::Elsewhere(config));
        }
        let Some((opened, opens_until)) = self.unseal(context, &config) else { return Ok(Destination::Nowhere) };
        let content = &opened.content;
        let Some(record) = super::records::client(context, content.client).await? else {
            return Ok(Destination::Gone);
        };
        let verifies = |(key, _): &(SignaturePublicKey, Day)| {
            verify(key, SignatureLabel::QueueConfig, content, &opened.signature).is_ok()
        };
        let Some((_, signed_until)) = record.config_keys(today).find(verifies) else {
            return Ok(Destination::Nowhere);
        };
        let (queue, until) = (QueueId::client(content.client), opens_until.min(signed_until));
        let token_key = content.push_token_key.clone().filter(|_| record.push_token.is_some());
        let push = token_key.map(|token_key| Push { client: content.client, token_key });
        let known = OpenedConfig { queue, blocklist_key: content.blocklist_key.clone(), push, until };
        let mut opened = self.opened();
        if opened.changes == changes {
            opened.configs.insert(name, known.clone());
        }
        Ok(Destination::Queue(known))
    }

    /// What is in a config, and the last day of the key that it is sealed to.
    fn unseal(&self, context: &Context<'_>, config: &ClientQueueConfig) -> Option<(QueueConfig, Day)> {
        let of = self.config_keys.find(&config.key_id, context.now.day())?;
        let sealed = HpkeCiphertext { kem_output: config.kem_output.clone(), ciphertext: config.ciphertext.clone() };
        let aad = config.domain.to_vec();
        let padded = of.key.open(HpkeLabel::QueueConfig, &[], &aad, &sealed).ok()?;
        unpad_value(padded, MESSAGE_FLOOR).ok().map(|config| (config, of.until))
    }
}
