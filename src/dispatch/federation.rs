//! What other homeservers deliver: each frame is proven, opened, put into queues and remembered as taken in, all in one
//! batch, and then acknowledged. What was taken in before is acknowledged again and nothing else
//! (`wire-spec/federation.md`, "Delivery").

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, time::sleep};

use super::{Dispatcher, routes::Call, run::Scope};
use crate::{
    base::{Domain, Refusal, Status},
    crypto::{sha256, signature::verify},
    delivery::reports,
    federation::{Known, Mode, Rule, foreign::unreachable, known::row_key, outbox, peers},
    queuing::{fan_out::Delivery, forward},
    service::{Class, Context, Forwarded, Others, Outcome, damaged, policy::Rate, store_failure},
    store::{Batch, Table, record},
    transport::{Code, Frames, Reply, Streaming, codes},
    wire::{
        Authentication, Decode, Encode, Method, Proof, SenderId,
        federation::{
            Deliver, Delivered, Forward, ForwardedFanOut, MAX_FRAME_MESSAGES, MAX_RECIPIENTS, QsToQsFrame,
            QsToQsMessage, QsToQsTbs, QueueGone, QueueGoneTbs,
        },
        label::SignatureLabel,
        method::call,
        queue::{FanOutContent, Incarnation},
        queuing::{ClientQueueConfig, GetQueuingKeys, QueuingKeys},
        server::Done,
    },
};

const INBOX_VERSION: u8 = 1;

/// How often the keys of a homeserver are asked for because a signature does not verify.
const RELEARN: Duration = Duration::from_secs(60);

/// Shortest and longest time after which it is looked again whether more of a homeserver that sends too much, or more at all,
/// can be taken in.
const SHORTEST_WAIT: Duration = Duration::from_millis(100);
const LONGEST_WAIT: Duration = Duration::from_secs(5);

/// Bytes that one batch puts into queues, about.
const MAX_AT_ONCE: usize = 8 << 20;

/// How long a certificate that was shown proves a homeserver: certificates expire, and are withdrawn.
const PROOF_LIFE: Duration = Duration::from_secs(24 * 3_600);

/// What a homeserver has delivered, as stored.
#[derive(Clone, Copy, Serialize, Deserialize)]
struct Inbox {
    incarnation: Incarnation,
    /// The next wanted number.
    next: u64,
}

#[async_trait]
impl Others for Dispatcher {
    fn check(&self, domain: &Domain) -> Result<(), Refusal> {
        self.parts.federation.rules.check(domain)
    }

    async fn keys(&self, domain: &Domain) -> Result<Option<Arc<QueuingKeys>>, Refusal> {
        self.known.find(domain).await.map_err(store_failure)
    }

    async fn undelivered(&self, domain: &Domain) -> Result<Option<u64>, Refusal> {
        let added = self.outbox.oldest(domain).await.map_err(store_failure)?;
        // Both are whole seconds, rounded down.
        Ok(added.map(|added| self.parts.clock.now().seconds().saturating_sub(added) + 1))
    }
}

/// A homeserver that delivers.
pub struct Receiving {
    dispatcher: Arc<Dispatcher>,
    source: Domain,
    incarnation: Incarnation,
    keys: Arc<QueuingKeys>,
    learnt: Option<Instant>,
    rules: watch::Receiver<()>,
    /// Messages before this number have been held against the limits of queues and configs. They are not once more if they have
    /// to be taken in again.
    counted: u64,
    /// When it has to prove itself anew.
    until: Instant,
}

impl Dispatcher {
    /// The endpoint Deliver: how far the sender has come, and what goes on from there.
    ///
    /// # Errors
    /// `unauthenticated` for a source that the connection's certificate does not prove, `not_found` if another homeserver is
    /// asked, `federation_denied` for a source that this one does not deal with, `remote_unreachable` if its keys cannot be had.
    pub(super) async fn deliver(self: Arc<Self>, call: &Call<'_>) -> Result<Reply, Refusal> {
        let Deliver { source, destination, incarnation } = call.body()?;
        let until = call.session.opened + PROOF_LIFE;
        let proves = |auth: &[Authentication]| {
            let sender = SenderId::Homeserver(source.clone());
            auth == [Authentication { sender, proof: Proof::Bound }]
                && call.session.domains.contains(&source)
                && until > Instant::now()
        };
        if !proves(&call.request.auth) || source == self.parts.domain {
            return Err(Refusal::unauthenticated("the certificate of this connection does not prove that homeserver"));
        }
        if destination != self.parts.domain {
            return Err(Refusal::not_found("this is the homeserver of another domain"));
        }
        let rules = self.parts.federation.rules.watch();
        self.check(&source)?;
        let keys = match self.keys(&source).await? {
            Some(keys) => keys,
            None => self.learn(&source).await?,
        };
        self.known.touch(&source, self.parts.clock.now()).await.map_err(store_failure)?;
        // It is there: what waits for it can go now.
        self.peers.hurry(&source);
        let scope = self.peer(&source).await;
        let next = self.inbox(&source, incarnation).await?.next;
        // What another stream has taken in may not be durable yet: the sender deletes what it is told of.
        scope.commit(Outcome::unchanged(Delivered { next })).await?;
        let header = super::encode(Ok(Delivered { next }.to_vec()));
        let receiving =
            Receiving { dispatcher: self, source, incarnation, keys, learnt: None, rules, counted: 0, until };
        Ok(Reply::Stream(header, Box::new(receiving)))
    }

    /// Asks a homeserver for the keys of its QS, and keeps them.
    ///
    /// # Errors
    /// What [`Foreign::ask`](crate::federation::Foreign::ask) refuses; `overloaded` if this homeserver deals with as many
    /// others as it can.
    pub(super) async fn learn(&self, domain: &Domain) -> Result<Arc<QueuingKeys>, Refusal> {
        if !self.peers.takes(domain) {
            return Err(too_many());
        }
        let keys = self.foreign.ask::<call::QsGetKeys>(domain, &GetQueuingKeys {}).await?;
        if !Known::are_of_use(&keys) {
            return Err(unreachable(domain, "it has given no keys that can be used"));
        }
        let is_named = self.parts.federation.rules.is_named(domain);
        if !self.known.learn(domain, keys, is_named, self.parts.clock.now()).await.map_err(store_failure)? {
            return Err(too_many());
        }
        let known = self.known.find(domain).await.map_err(store_failure)?;
        known.ok_or_else(|| damaged("what was learnt is not there"))
    }

    /// Forgets homeservers that there has been nothing to do with for more than a year; how many.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn forget_peers(&self) -> Result<u64, Refusal> {
        let mut forgotten = 0;
        for domain in self.known.silent(self.parts.clock.now()).await.map_err(store_failure)? {
            let _receiving = self.peer(&domain).await;
            let (mut batch, mut opened) = (Batch::new(), self.outbox.open(std::iter::once(&domain)).await);
            if opened.forget(&domain, &mut batch).await.map_err(store_failure)? {
                batch.delete(Table::FedInbox, row_key(&domain));
                self.known.forget(&domain, &mut batch);
                // Whoever needs it sees it at once, and does it again if it is lost.
                drop(self.parts.store.submit(batch).map_err(store_failure)?);
                forgotten += 1;
            }
        }
        Ok(forgotten)
    }

    /// Decides whether this homeserver deals with another, or takes a decision back; what goes on with one that is blocked ends.
    ///
    /// # Errors
    /// `malformed` for this homeserver itself; what [`Rules::decide`](crate::federation::Rules::decide) refuses.
    pub async fn set_federation_rule(&self, domain: Domain, rule: Option<Rule>) -> Result<(), Refusal> {
        if domain == self.parts.domain {
            return Err(Refusal::malformed("this is the homeserver itself"));
        }
        self.parts.federation.rules.decide(&self.parts.store, domain, rule).await
    }

    /// What becomes of homeservers about which nothing is decided, from now on.
    pub fn set_federation_mode(&self, mode: Mode) {
        if self.parts.federation.rules.mode() != mode {
            self.parts.federation.rules.set_mode(mode);
        }
    }

    /// What is dealt with where there is no decision, and all decisions.
    pub fn federation_rules(&self) -> (Mode, Vec<(Domain, Rule)>) {
        let rules = &self.parts.federation.rules;
        (rules.mode(), rules.all())
    }

    /// Delivers nothing to other homeservers any more.
    pub fn end_federation(&self) {
        self.peers.end();
    }

    /// The homeservers that something was ever sent to.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn federation_peers(&self) -> Result<Vec<peers::Peer>, Refusal> {
        self.peers.all().await.map_err(store_failure)
    }

    /// The same, with what waits for each only.
    ///
    /// # Errors
    /// `internal` if the store fails.
    pub async fn federation_heads(&self) -> Result<Vec<(Domain, outbox::Head)>, Refusal> {
        self.outbox.heads().await.map_err(store_failure)
    }

    /// Adds what is for other homeservers to the batch; gives their heads, which stay locked until it is submitted, and for how
    /// many queues nothing more is taken.
    pub(super) async fn forward(
        &self,
        forwards: Vec<Forwarded>,
        batch: &mut Batch,
    ) -> Result<(outbox::Opened<'_>, u32), Refusal> {
        let (now, mut not_taken) = (self.parts.clock.now(), 0);
        let mut opened = self.outbox.open(forwards.iter().map(|forward| &forward.domain)).await;
        for Forwarded { domain, payload, class, recipients } in forwards {
            let is_handshake = class == Class::Handshake;
            let taken = self.peers.takes(&domain)
                && opened.append(&domain, payload, is_handshake, now, batch).await.map_err(store_failure)?;
            not_taken += if taken { 0 } else { recipients };
        }
        Ok((opened, not_taken))
    }

    async fn peer(&self, source: &Domain) -> Scope<'_> {
        self.locked(("peer", source.as_str())).await
    }

    /// How far a homeserver has come in this life of its store.
    async fn inbox(&self, source: &Domain, incarnation: Incarnation) -> Result<Inbox, Refusal> {
        let row = self.parts.store.pending().get(Table::FedInbox, &row_key(source)).await.map_err(store_failure)?;
        let stored = row.map(|row| record::decode::<Inbox>(INBOX_VERSION, &row).map_err(damaged)).transpose()?;
        Ok(stored.filter(|inbox| inbox.incarnation == incarnation).unwrap_or(Inbox { incarnation, next: 0 }))
    }

    /// Takes messages in, as many as fit into one batch and at most so many; gives the next wanted number.
    async fn take_in(&self, of: &Receiving, messages: &[QsToQsMessage], most: usize) -> Result<u64, Refusal> {
        self.room.check(Method::FedDeliver)?;
        let mut scope = self.peer(&of.source).await;
        let mut inbox = self.inbox(&of.source, of.incarnation).await?;
        let (mut batch, mut delivery, mut forwards) = (Batch::new(), Delivery::default(), Vec::new());
        let (before, mut stored) = (inbox.next, 0);
        for message in messages.iter().filter(|message| message.sequence >= before).take(most) {
            inbox.next = message.sequence + 1;
            let (context, known) = (&mut scope.context(), delivery.appends.len());
            let counts = message.sequence >= of.counted;
            match self.queuing.open_forward(context, &of.source, message.payload.clone()) {
                Some(Forward::FanOut(fan_out)) => {
                    let gone = self.take_fan_out(of, context, &mut batch, &mut delivery, fan_out, counts).await?;
                    forwards.extend(gone);
                }
                Some(Forward::QueueGone(gone)) => self.take_gone(of, context, &mut batch, gone).await?,
                // Sealed to a key that is over, or to nobody: there is nothing that could be done about it.
                None => tracing::warn!(peer = %of.source, "a message of another homeserver does not open"),
            }
            stored += delivery.appends[known..].iter().map(|append| append.content.len()).sum::<usize>();
            if stored > MAX_AT_ONCE {
                break;
            }
        }
        if inbox.next == before {
            scope.commit(Outcome::unchanged(Delivered { next: before })).await?;
            return Ok(before);
        }
        put_inbox(&of.source, &inbox, &mut batch)?;
        let Delivery { appends, forwards: mut others, .. } = delivery;
        forwards.append(&mut others);
        scope.commit(Outcome { appends, forwards, ..Outcome::write(batch, Delivered { next: inbox.next }) }).await?;
        Ok(inbox.next)
    }

    /// Goes on behind a message that cannot be taken in at all: those after it do not wait for ever.
    async fn pass_over(&self, of: &Receiving, sequence: u64) -> Result<(), Refusal> {
        tracing::warn!(peer = %of.source, "a message of another homeserver cannot be taken in");
        let scope = self.peer(&of.source).await;
        let inbox = self.inbox(&of.source, of.incarnation).await?;
        let mut batch = Batch::new();
        put_inbox(&of.source, &Inbox { next: inbox.next.max(sequence + 1), ..inbox }, &mut batch)?;
        scope.commit(Outcome::write(batch, Done {})).await.map(drop)
    }

    /// Puts what a DS elsewhere tells its members into their queues here; gives the statements about queues that are gone.
    async fn take_fan_out(
        &self,
        of: &Receiving,
        context: &mut Context<'_>,
        batch: &mut Batch,
        delivery: &mut Delivery,
        fan_out: ForwardedFanOut,
        counts: bool,
    ) -> Result<Vec<Forwarded>, Refusal> {
        let ForwardedFanOut { message, no_push, recipients } = fan_out;
        // A DS speaks of its own groups only, and nothing is passed on to a third homeserver.
        if message.group.domain != of.source || recipients.len() > MAX_RECIPIENTS {
            tracing::warn!(peer = %of.source, "a message of another homeserver breaks the rules");
            return Ok(Vec::new());
        }
        let own = recipients.iter().filter(|config| config.domain == *context.domain);
        let mut recipients: Vec<_> = own.map(|config| Bytes::from(config.to_vec())).collect();
        recipients.retain(|config| {
            let subject = || (of.source.as_str(), sha256(config));
            !counts || self.counters.count(Rate::PeerConfig, subject(), context.now).is_ok()
        });
        let class = match message.content {
            FanOutContent::Application(_) => Class::Application,
            _ => Class::Handshake,
        };
        delivery.no_push = no_push;
        let (group, known) = (message.group.clone(), delivery.appends.len());
        let gone = delivery.add(&self.queuing, context, batch, message, &recipients, class).await?;
        let new = delivery.appends.split_off(known).into_iter();
        let count = |queue| self.counters.count(Rate::PeerQueue, (of.source.as_str(), queue), context.now).is_ok();
        delivery.appends.extend(new.filter(|append| !counts || count(append.queue)));
        let mut statements = Vec::new();
        for config in gone.into_iter().filter_map(|at| recipients.get(at)) {
            let config = ClientQueueConfig::from_bytes(config.clone()).map_err(damaged)?;
            let gone = self.queuing.state_gone(QueueGoneTbs { group: group.clone(), config });
            statements.extend(forward::seal(context, &of.source, Forward::QueueGone(gone), Class::Handshake).await?);
        }
        Ok(statements)
    }

    /// Keeps a report that the queue of a member is gone, which only the QS of its domain can make.
    async fn take_gone(
        &self,
        of: &Receiving,
        context: &mut Context<'_>,
        batch: &mut Batch,
        gone: QueueGone,
    ) -> Result<(), Refusal> {
        let QueueGoneTbs { group, config } = &gone.statement;
        if config.domain != of.source || group.domain != *context.domain || !forward::is_stated_by(&of.keys, &gone) {
            tracing::warn!(peer = %of.source, "a report of another homeserver is not its own");
            return Ok(());
        }
        reports::keep(context, group, config, batch).await
    }
}

#[async_trait]
impl Streaming for Receiving {
    async fn run(mut self: Box<Self>, frames: &mut dyn Frames) -> Code {
        loop {
            let frame = tokio::select! {
                () = sleep(self.until.saturating_duration_since(Instant::now())) => return codes::DONE,
                frame = frames.next() => match frame {
                    Ok(Some(frame)) => frame,
                    Ok(None) => return codes::DONE,
                    Err(error) => return error.code(),
                },
                _ = self.rules.changed() => match self.dispatcher.check(&self.source) {
                    Ok(()) => continue,
                    Err(_) => return codes::DENIED,
                },
            };
            let next = match self.take(frame).await {
                Ok(next) => next,
                Err(code) => return code,
            };
            if frames.send(Delivered { next }.to_vec().into()).await.is_err() {
                return codes::DONE;
            }
        }
    }
}

impl Receiving {
    /// Takes a frame in; gives the next wanted number, which is durable.
    async fn take(&mut self, frame: bytes::Bytes) -> Result<u64, Code> {
        let QsToQsFrame { messages, signature } = QsToQsFrame::from_bytes(frame).map_err(|_| codes::MALFORMED)?;
        let tbs = QsToQsTbs { messages };
        if !self.is_in_order(&tbs.messages) {
            return Err(codes::MALFORMED);
        }
        let proves = |keys: &QueuingKeys| verify(&keys.verifying_key, SignatureLabel::QsToQs, &tbs, &signature).is_ok();
        if !proves(&self.keys) {
            self.learn_again().await;
            if !proves(&self.keys) {
                return Err(codes::UNPROVEN);
            }
        }
        let (mut rest, mut room, mut most) = (&tbs.messages[..], 0, usize::MAX);
        loop {
            if room == 0 {
                room = self.room(rest.len()).await?;
            }
            let next = match self.dispatcher.take_in(self, &rest[..room], most).await {
                Ok(next) => next,
                Err(refusal) if refusal.status == Status::Internal => return Err(codes::INTERNAL),
                Err(refusal) => {
                    let counted = rest[..room].last().map_or(0, |message| message.sequence + 1);
                    self.counted = self.counted.max(counted);
                    if refusal.status == Status::Overloaded {
                        self.wait(refusal.retry_after).await?;
                        continue;
                    }
                    // One of them is to blame.
                    if most > 1 {
                        most = 1;
                        continue;
                    }
                    let sequence = rest.first().ok_or(codes::INTERNAL)?.sequence;
                    self.dispatcher.pass_over(self, sequence).await.map_err(|_| codes::INTERNAL)?;
                    sequence + 1
                }
            };
            let taken = rest.partition_point(|message| message.sequence < next);
            (rest, room) = (&rest[taken..], room.saturating_sub(taken));
            if rest.is_empty() {
                return Ok(next);
            }
        }
    }

    /// Whether a frame is what its sender may send: its own messages to this homeserver, in sequence.
    fn is_in_order(&self, messages: &[QsToQsMessage]) -> bool {
        let own = |message: &QsToQsMessage| {
            message.source == self.source
                && message.destination == self.dispatcher.parts.domain
                && message.incarnation == self.incarnation
                && message.sequence < u64::MAX
        };
        (1..=MAX_FRAME_MESSAGES).contains(&messages.len())
            && messages.iter().all(own)
            && messages.windows(2).all(|pair| pair[0].sequence < pair[1].sequence)
    }

    /// The homeserver may have other keys by now.
    async fn learn_again(&mut self) {
        if self.learnt.is_some_and(|at| at.elapsed() < RELEARN) {
            return;
        }
        self.learnt = Some(Instant::now());
        if let Ok(keys) = self.dispatcher.learn(&self.source).await {
            self.keys = keys;
        }
    }

    /// How many of so many messages may be taken in now. Who sends too much is slowed down, and nothing is lost.
    async fn room(&self, wanted: usize) -> Result<usize, Code> {
        let Dispatcher { parts, counters, .. } = &*self.dispatcher;
        loop {
            let (now, mut room, mut refused) = (parts.clock.now(), 0, None);
            while room < wanted && refused.is_none() {
                match counters.count(Rate::PeerMessages, self.source.as_str(), now) {
                    Ok(()) => room += 1,
                    Err(refusal) => refused = Some(refusal),
                }
            }
            match refused {
                Some(refusal) if room == 0 => self.wait(refusal.retry_after).await?,
                _ => return Ok(room),
            }
        }
    }

    /// Waits before something is tried again, unless the homeserver is not dealt with any more.
    async fn wait(&self, time: Option<Duration>) -> Result<(), Code> {
        sleep(time.unwrap_or(LONGEST_WAIT).clamp(SHORTEST_WAIT, LONGEST_WAIT)).await;
        self.dispatcher.check(&self.source).map_err(|_| codes::DENIED)
    }
}

fn too_many() -> Refusal {
    Refusal::overloaded("this homeserver deals with as many others as it can")
}

fn put_inbox(source: &Domain, inbox: &Inbox, batch: &mut Batch) -> Result<(), Refusal> {
    batch.put(Table::FedInbox, row_key(source), record::encode(INBOX_VERSION, inbox).map_err(damaged)?);
    Ok(())
}
