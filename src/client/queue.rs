//! Taking in queue entries: each is decrypted, processed and recorded as processed in one transaction. What cannot be
//! used is noted and skipped; what needs something from the network waits for it, and nothing is processed twice.

use std::sync::Arc;

use bytes::Bytes;
use rusqlite::Connection;

use super::{
    account::Account,
    connector::Isolation,
    core::Core,
    direct,
    error::{ClientError, Local},
    event::Event,
    network::Sender,
    receive,
    restored::{self, compare_all, republish},
    resync::went_back,
    state::{
        aliases, inbox,
        outbox::{self, Chore},
        queues::{self, Cursor, Queue},
    },
    strangers::MOMENT,
    trust::{Doubt, Trust},
};
use crate::{
    base::{Domain, Secret, Timestamp},
    crypto::{
        CryptoError, aead,
        hpke::HpkePrivateKey,
        ratchet::{Ratchet, entry_aad},
        sha256,
        signature::SigningKey,
        system_rng,
    },
    wire::{
        Decode, DecodeError, Encode, SenderId,
        delivery::{GetWelcomeInfo, WelcomeInfo},
        envelope::KeyPackageId,
        label::KeyLabel,
        method::call,
        padding::{MESSAGE_FLOOR, unpad},
        queue::{Dequeue, EntryKind, FanOut, Incarnation, QueueEntries, QueueEntry, QueueMessage, SharedBody},
        queuing::GetBody,
    },
};

/// Entries asked for at a time.
const BATCH: u32 = 100;

/// Missing entries that a ratchet is stepped over.
const MAX_STEPS: usize = 100_000;

/// Things one entry may need from the network.
const MAX_NEEDS: u32 = 16;

/// Why an entry was not processed.
pub enum Stop {
    /// Something must be fetched first.
    Need(Box<Need>),
    /// It cannot be used, now or later.
    Bad(String),
    /// This client cannot go on.
    Failed(ClientError),
}

/// What must be fetched.
#[derive(Clone)]
pub enum Need {
    /// The credentials of a domain.
    Authority(Domain),
    /// A message that is stored apart.
    Body(SharedBody),
    /// What a Welcome does not contain.
    Welcome {
        /// The request.
        request: GetWelcomeInfo,
        /// The KeyPackageRef.
        reference: Vec<u8>,
        /// Proves it.
        leaf_seed: Secret,
    },
}

/// The content of an entry, if it has one; why it cannot be read.
type Opened = Result<Option<Bytes>, String>;

/// What was fetched for an entry.
#[derive(Clone, Default)]
pub struct Supplies {
    /// The ciphertext of a message that is stored apart.
    pub body: Option<Bytes>,
    /// What the Welcome does not contain.
    pub welcome: Option<WelcomeInfo>,
    /// Domains whose credentials were asked for.
    asked: Vec<Domain>,
    /// Those of them whose credentials were fetched.
    fetched: Vec<Domain>,
    /// A homeserver that cannot be asked for its credentials now, but may be later.
    pub later: Option<Domain>,
    /// Why the entry will never be usable.
    pub give_up: Option<String>,
}

/// What the processing of an entry works with.
pub struct Work<'a> {
    /// In a transaction.
    pub connection: &'a Connection,
    /// Whose queue it is.
    pub account: &'a Account,
    /// Who is who.
    pub trust: &'a Trust,
    /// What was fetched.
    pub supplies: &'a Supplies,
    /// What to tell when it is done.
    pub events: Vec<Event>,
}

impl Stop {
    /// An entry that cannot be used.
    pub fn bad(why: impl Into<String>) -> Self {
        Self::Bad(why.into())
    }
}

impl From<ClientError> for Stop {
    fn from(error: ClientError) -> Self {
        match error {
            ClientError::Local(Local::NotFound | Local::Invalid | Local::Untrusted, why) => Self::Bad(why),
            error => Self::Failed(error),
        }
    }
}

impl From<rusqlite::Error> for Stop {
    fn from(error: rusqlite::Error) -> Self {
        Self::Failed(error.into())
    }
}

impl From<DecodeError> for Stop {
    fn from(error: DecodeError) -> Self {
        Self::Bad(format!("it does not decode: {error}"))
    }
}

impl From<CryptoError> for Stop {
    fn from(error: CryptoError) -> Self {
        Self::Bad(format!("something in it {error}"))
    }
}

impl From<Doubt> for Stop {
    fn from(doubt: Doubt) -> Self {
        match doubt {
            Doubt::Missing(domain) => Self::Need(Box::new(Need::Authority(domain))),
            Doubt::Invalid(error) => error.into(),
        }
    }
}

impl Core {
    /// Fetches and processes everything that is in a queue now.
    pub async fn drain(self: &Arc<Self>, queue: Queue) -> Result<(), ClientError> {
        loop {
            let cursor = self.database.run(move |connection| queues::load(connection, queue)).await?;
            let request = Dequeue { incarnation: cursor.incarnation, start: cursor.next, max: BATCH };
            let (method, _) = Self::queue_methods(queue);
            let (isolation, sender, key) = self.queue_sender(queue).await?;
            let sender = Sender::Bound(sender, &key);
            let body = request.to_vec().into();
            let answer = self.network.send(self.domain(), isolation, method, sender, body).await?;
            let entries = QueueEntries::from_bytes(answer)?;
            // Asked until nothing comes, so that the last request has deleted what was processed.
            let done = entries.incarnation == cursor.incarnation && entries.entries.is_empty();
            Box::pin(self.take_in(queue, entries)).await?;
            if done {
                return Ok(());
            }
        }
    }

    /// Processes entries; returns the next wanted one. If the queue has a new incarnation, only that is recorded.
    pub async fn take_in(self: &Arc<Self>, queue: Queue, batch: QueueEntries) -> Result<u64, ClientError> {
        let QueueEntries { incarnation, first, entries, .. } = batch;
        let (known, now) =
            (self.database.run(move |connection| queues::load(connection, queue)).await?, self.trust.now());
        if known.incarnation != incarnation {
            let cursor = Cursor::start(incarnation, first);
            let account = self.account();
            let begun = self.database.run(move |connection| {
                queues::store(connection, queue, &cursor)?;
                match known.incarnation == Incarnation::default() {
                    true => Ok(Vec::new()),
                    false => restored::queue_goes_on(connection, &account, queue, now),
                }
            });
            self.publish(begun.await?).await;
            return Ok(first);
        }
        if first > known.next {
            let skipped = self.database.run(move |connection| skip(connection, queue, &mut known.clone(), first, now));
            self.publish(skipped.await?).await;
        }
        for entry in entries {
            self.take_entry(queue, incarnation, entry).await?;
        }
        Ok(self.database.run(move |connection| queues::load(connection, queue)).await?.next)
    }

    /// Who fetches from a queue, and the key that proves it.
    pub async fn queue_sender(&self, queue: Queue) -> Result<(Isolation, SenderId, SigningKey), ClientError> {
        let account = self.account();
        let key = |key: &SigningKey| SigningKey::from_seed(key.seed().clone());
        Ok(match queue {
            Queue::Direct => (Isolation::Identity, account.identity(), key(&account.keys.identity)?),
            Queue::Client => (Isolation::Pseudonym, account.queuing_client(), key(&account.keys.queuing_client)?),
            Queue::Alias(id) => (Isolation::Alias(id), SenderId::AsAlias(id), self.alias_key(id).await?),
        })
    }

    async fn take_entry(
        self: &Arc<Self>,
        queue: Queue,
        incarnation: Incarnation,
        entry: QueueEntry,
    ) -> Result<(), ClientError> {
        self.process(move |work| work.process(queue, incarnation, &entry)).await
    }

    /// Processes something in one transaction, again for everything that is fetched for it.
    pub async fn process(
        self: &Arc<Self>,
        task: impl Fn(&mut Work<'_>) -> Result<(), Stop> + Send + Sync + 'static,
    ) -> Result<(), ClientError> {
        let (mut supplies, task) = (Supplies::default(), Arc::new(task));
        for attempt in 0..MAX_NEEDS {
            if attempt + 2 == MAX_NEEDS {
                supplies.give_up = Some("it needs more than an entry may".into());
            }
            let (core, task, at_hand) = (self.clone(), task.clone(), supplies.clone());
            let process = move |connection: &Connection| {
                let account = core.account();
                let (account, trust) = (&*account, &*core.trust);
                let mut work = Work { connection, account, trust, supplies: &at_hand, events: Vec::new() };
                task(&mut work)?;
                Ok::<_, Stop>(work.events)
            };
            match self.database.run(process).await {
                Ok(events) => {
                    self.publish(events).await;
                    return Ok(());
                }
                Err(Stop::Need(need)) => self.supply(*need, &mut supplies).await?,
                Err(Stop::Bad(why)) => supplies.give_up = Some(why),
                Err(Stop::Failed(error)) => return Err(error),
            }
        }
        Err(ClientError::untrusted("an entry cannot even be skipped"))
    }

    /// Fetches what an entry needs. Only a refusal is final.
    async fn supply(&self, need: Need, supplies: &mut Supplies) -> Result<(), ClientError> {
        let outcome = match need {
            // Once for an entry: what is not known then will not be.
            Need::Authority(domain) if supplies.asked.contains(&domain) => {
                supplies.give_up = Some(format!("the credentials of {domain} cannot be had"));
                return Ok(());
            }
            Need::Authority(domain) if domain != *self.domain() => {
                supplies.asked.push(domain.clone());
                if self.look_up(&domain).await? {
                    supplies.fetched.push(domain);
                } else {
                    supplies.later = Some(domain);
                }
                return Ok(());
            }
            Need::Authority(domain) => {
                supplies.asked.push(domain.clone());
                match self.fetch_authority(&domain).await {
                    Err(ClientError::Refused(_) | ClientError::Local(Local::Untrusted, _)) => return Ok(()),
                    Ok(()) => {
                        supplies.fetched.push(domain);
                        return Ok(());
                    }
                    failed => failed,
                }
            }
            Need::Body(shared) => self.fetch_body(&shared).await.map(|body| supplies.body = Some(body)),
            Need::Welcome { request, reference, leaf_seed } => {
                let domain = request.access.group.domain.clone();
                let fetched = self.fetch_welcome(&request, &reference, leaf_seed).await;
                if let Err(error) = &fetched
                    && self.is_elsewhere(error, &domain)
                {
                    supplies.give_up = Some(format!("what it needs cannot be fetched now: {error}"));
                    supplies.later = Some(domain);
                    return Ok(());
                }
                fetched.map(|info| supplies.welcome = Some(info))
            }
        };
        match outcome {
            Err(ClientError::Refused(refusal)) => {
                supplies.give_up = Some(format!("what it needs was refused: {refusal}"))
            }
            Err(ClientError::Local(Local::Untrusted, why)) => supplies.give_up = Some(why),
            outcome => return outcome,
        }
        Ok(())
    }

    async fn fetch_body(&self, shared: &SharedBody) -> Result<Bytes, ClientError> {
        let request = GetBody { id: shared.id };
        let domain = self.domain();
        let body = self.network.call::<call::QsGetBody>(domain, Isolation::Anonymous, Sender::Nobody, &request).await?;
        Ok(body.ciphertext.0)
    }

    async fn fetch_welcome(
        &self,
        request: &GetWelcomeInfo,
        reference: &[u8],
        leaf_seed: Secret,
    ) -> Result<WelcomeInfo, ClientError> {
        let group = &request.access.group;
        let key = SigningKey::from_seed(leaf_seed)?;
        let sender = SenderId::DsKeyPackage(KeyPackageId { group: group.clone(), reference: reference.into() });
        let sender = Sender::Bound(sender, &key);
        let (domain, isolation) = (&group.domain, self.delivery(group));
        if domain == self.domain() {
            return self.network.call::<call::DsWelcomeInfo>(domain, isolation, sender, request).await;
        }
        self.network.call_within::<call::DsWelcomeInfo>(MOMENT, domain, isolation, sender, request).await
    }
}

impl Work<'_> {
    /// Processes an entry, unless it was processed before.
    fn process(&mut self, queue: Queue, incarnation: Incarnation, entry: &QueueEntry) -> Result<(), Stop> {
        // An alias may have been deleted meanwhile.
        if let Queue::Alias(id) = queue
            && aliases::find(self.connection, &id)?.is_none()
        {
            return Ok(());
        }
        let mut cursor = queues::load(self.connection, queue)?;
        if cursor.incarnation != incarnation || entry.sequence < cursor.next {
            return Ok(());
        }
        self.events.extend(skip(self.connection, queue, &mut cursor, entry.sequence, self.trust.now())?);
        let (ratchet, content) = self.open(queue, &cursor, entry)?;
        if entry.kind == EntryKind::Overflow {
            self.miss(queue)?;
        }
        let next = entry.sequence + 1;
        queues::store(self.connection, queue, &Cursor { incarnation, next, ratchet })?;
        let outcome = match (content, &self.supplies.give_up) {
            (Err(why), _) => self.unreadable(queue, entry.sequence, &why),
            (Ok(Some(content)), Some(why)) => self.put_aside(queue, &content, why),
            (Ok(Some(content)), None) => self.within_savepoint(|work| work.in_turn(queue, content)),
            (Ok(None), _) => Ok(()),
        };
        match outcome {
            Err(Stop::Bad(why)) => {
                // What a gap tells remains.
                self.events.retain(|event| matches!(event, Event::Gap(_) | Event::Problem(_)));
                self.problem(format!("entry {} of the {} queue: {why}", entry.sequence, queue.name()))
            }
            outcome => outcome,
        }
    }

    /// Something of a queue is missing.
    fn miss(&mut self, queue: Queue) -> Result<(), Stop> {
        self.events.push(Event::Gap(queue));
        if queue == Queue::Client {
            compare_all(self.connection, |_| true)?;
        }
        Ok(())
    }

    /// The ratchet is lost, or the homeserver is at fault: the queue is to begin anew, with a secret for another key. What comes
    /// before that is lost.
    fn unreadable(&mut self, queue: Queue, sequence: u64, why: &str) -> Result<(), Stop> {
        if queues::is_restarting(self.connection, queue)? {
            return Ok(());
        }
        self.problem(format!("entry {sequence} of the {} queue: {why}: the queue is started anew", queue.name()))?;
        queues::new_key(self.connection, queue, &mut system_rng())?;
        queues::set_restarting(self.connection, queue, true)?;
        if queue == Queue::Client {
            outbox::add_chore(self.connection, &Chore::Record)?;
        }
        Ok(republish(self.connection, queue)?)
    }

    /// A secret was opened with one of the keys.
    fn started(&mut self, queue: Queue, key: i64) -> Result<(), Stop> {
        queues::retire_keys(self.connection, queue, key)?;
        if queues::is_restarting(self.connection, queue)? {
            queues::set_restarting(self.connection, queue, false)?;
            self.miss(queue)?;
        }
        Ok(())
    }

    /// Whether the credentials of a domain may still be fetched.
    pub fn may_fetch(&self, domain: &Domain) -> bool {
        !self.supplies.asked.contains(domain)
    }

    /// Whether they were, since the entry came: what they do not verify will not verify later either.
    pub fn has_fetched(&self, domain: &Domain) -> bool {
        self.supplies.fetched.contains(domain)
    }

    /// Notes something that could not be used.
    pub fn problem(&mut self, text: String) -> Result<(), Stop> {
        inbox::problem(self.connection, &text, self.trust.now())?;
        self.events.push(Event::Problem(text));
        Ok(())
    }

    /// Whatever `f` wrote is undone if it fails, and nothing else.
    pub fn within_savepoint(&mut self, f: impl FnOnce(&mut Self) -> Result<(), Stop>) -> Result<(), Stop> {
        self.connection.execute_batch("SAVEPOINT entry")?;
        let outcome = f(self);
        let end = if outcome.is_ok() { "RELEASE entry" } else { "ROLLBACK TO entry; RELEASE entry" };
        self.connection.execute_batch(end)?;
        outcome
    }

    /// Opens an entry: the ratchet after it, and its content if it is a message.
    fn open(&mut self, queue: Queue, cursor: &Cursor, entry: &QueueEntry) -> Result<(Option<Ratchet>, Opened), Stop> {
        let aad = entry_aad(cursor.incarnation, entry.sequence, entry.kind.clone());
        let (kind, ciphertext) = (&entry.kind, &entry.ciphertext);
        let Some(ratchet) = cursor.ratchet.as_ref().filter(|_| *kind != EntryKind::Secret) else {
            if *kind != EntryKind::Secret {
                return Ok((None, Err("it comes before any secret".into())));
            }
            return Ok(match self.with_keys(queue, |key| Ratchet::accept(key, &aad, ciphertext))? {
                Some((key, ratchet)) => {
                    self.started(queue, key)?;
                    (Some(ratchet), Ok(None))
                }
                None => (cursor.ratchet.clone(), Err("its secret is for another key".into())),
            });
        };
        if *kind == EntryKind::KeyUpdate {
            return Ok(match self.with_keys(queue, |key| ratchet.accept_update(key, &aad, ciphertext))? {
                Some((_, next)) => (Some(next), Ok(None)),
                None => (Some(ratchet.clone()), Err("its key update is for another key".into())),
            });
        }
        Ok(match ratchet.open(&aad, ciphertext) {
            Ok((next, content)) => (Some(next), Ok((*kind != EntryKind::Overflow).then_some(content))),
            Err(error) => {
                // It is stepped over, so that the next one can be opened.
                let mut ratchet = ratchet.clone();
                ratchet.seal(&aad, &[]);
                (Some(ratchet), Err(format!("it {error}")))
            }
        })
    }

    /// The first of a queue's keys that opens something, by its number, and what that gives.
    fn with_keys<T>(
        &self,
        queue: Queue,
        open: impl Fn(&HpkePrivateKey) -> Result<T, CryptoError>,
    ) -> Result<Option<(i64, T)>, Stop> {
        let keys = queues::keys(self.connection, queue)?;
        Ok(keys.iter().find_map(|(number, key)| Some((*number, open(key).ok()?))))
    }

    /// Takes in the message of an entry.
    pub fn handle(&mut self, queue: Queue, content: Bytes) -> Result<(), Stop> {
        match (queue, QueueMessage::from_bytes(content)?) {
            (Queue::Direct, QueueMessage::Direct(message)) => direct::receive(self, &message, None),
            (Queue::Alias(alias), QueueMessage::Direct(message)) => direct::receive(self, &message, Some(alias)),
            (Queue::Client, QueueMessage::FanOut(message)) => receive::receive(self, message),
            (Queue::Client, QueueMessage::Shared(shared)) => {
                let message = self.shared(shared)?;
                receive::receive(self, message)
            }
            _ => Err(Stop::bad("it is a message for another kind of queue")),
        }
    }

    /// A message that is stored apart.
    pub fn shared(&self, shared: SharedBody) -> Result<FanOut, Stop> {
        let Some(ciphertext) = &self.supplies.body else {
            return Err(Stop::Need(Box::new(Need::Body(shared))));
        };
        if sha256(ciphertext) != shared.hash {
            return Err(Stop::bad("the shared body is another than announced"));
        }
        let padded = aead::open(&shared.key, KeyLabel::SharedBody, &shared.id, ciphertext)?;
        Ok(FanOut::from_bytes(unpad(padded, MESSAGE_FLOOR)?)?)
    }
}

/// Entries are gone that this client has not processed: its state is an old copy, or the queue was cut. The ratchet is stepped
/// over them, which is right unless fresh randomness was among them.
fn skip(
    connection: &Connection,
    queue: Queue,
    cursor: &mut Cursor,
    to: u64,
    now: Timestamp,
) -> Result<Vec<Event>, ClientError> {
    if to <= cursor.next {
        return Ok(Vec::new());
    }
    let text = format!("entries {} to {} of the {} queue are missing", cursor.next, to - 1, queue.name());
    inbox::problem(connection, &text, now)?;
    if queue == Queue::Client {
        compare_all(connection, |_| true)?;
        went_back(connection, None)?;
    }
    republish(connection, queue)?;
    if let Some(ratchet) = &mut cursor.ratchet {
        for sequence in (cursor.next..to).take(MAX_STEPS) {
            ratchet.seal(&entry_aad(cursor.incarnation, sequence, EntryKind::Message), &[]);
        }
    }
    cursor.next = to;
    queues::store(connection, queue, cursor)?;
    Ok(vec![Event::Problem(text), Event::Gap(queue)])
}
