//! Listening: all queues are streamed, each entry processed and acknowledged, connections made again when they break.
//! What happens is told through a bounded channel; whoever does not read it slows the streams down and loses nothing.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    sync::mpsc,
    task::{AbortHandle, JoinSet},
    time::timeout,
};

use super::{
    core::{Core, MAX_EVENTS},
    error::ClientError,
    event::Event,
    network::{Retries, Sender, jittered},
    state::{
        outbox,
        queues::{self, Queue},
    },
};
use crate::{
    base::AliasId,
    transport::{Frames, StreamError, codes},
    wire::{
        Decode, Encode,
        queue::{Acknowledge, Listen, QueueEntries},
    },
};

/// How long a client that listens does nothing but that.
const UPKEEP: Duration = Duration::from_secs(3_600);

/// Shortest and longest pause before what waits to be sent, or done, is tried again.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// Events of a running client. Dropping it ends the listening.
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    _tasks: JoinSet<()>,
}

impl Events {
    /// The next event; `None` when another call of this process has taken over.
    ///
    /// Events tell what happens from [`Event::Listening`] on; what came earlier is in the inbox.
    pub async fn next(&mut self) -> Option<Event> {
        self.receiver.recv().await
    }
}

/// Why a stream of entries ended.
enum Ended {
    /// The connection broke, or the homeserver is stopping.
    Broken,
    /// Somebody else listens now.
    Replaced,
    /// The homeserver was restored, and the queue goes on elsewhere than where this client was.
    Again,
}

impl Core {
    /// Starts listening to all queues, those of aliases that come later included. A later call takes over from an earlier one.
    pub fn events(self: &Arc<Self>) -> Events {
        let (sender, receiver) = mpsc::channel(MAX_EVENTS);
        *self.events.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.clone());
        let mut listeners = self.listeners.lock().unwrap_or_else(PoisonError::into_inner);
        for earlier in listeners.drain(..) {
            earlier.abort();
        }
        let mut tasks = JoinSet::new();
        for queue in [Queue::Direct, Queue::Client] {
            let (core, sender) = (self.clone(), sender.clone());
            listeners.push(tasks.spawn(async move { core.keep_listening(queue, sender).await }));
        }
        let core = self.clone();
        listeners.push(tasks.spawn(async move { core.keep_up().await }));
        let core = self.clone();
        listeners.push(tasks.spawn(async move { core.follow_aliases(sender).await }));
        drop(listeners);
        Events { receiver, _tasks: tasks }
    }

    /// Listens to the queues of whatever aliases there are.
    async fn follow_aliases(self: Arc<Self>, events: mpsc::Sender<Event>) {
        let mut tasks = JoinSet::new();
        let mut listening: HashMap<AliasId, AbortHandle> = HashMap::new();
        loop {
            // Storage that fails is told of by whatever else needs it.
            if let Ok(active) = self.active_aliases().await {
                listening.retain(|alias, task| {
                    active.contains(alias) || {
                        task.abort();
                        false
                    }
                });
                for alias in active {
                    let (core, events) = (self.clone(), events.clone());
                    listening.entry(alias).or_insert_with(|| {
                        tasks.spawn(async move { core.keep_listening(Queue::Alias(alias), events).await })
                    });
                }
            }
            self.aliases_changed.notified().await;
            while tasks.try_join_next().is_some() {}
        }
    }

    async fn keep_listening(self: Arc<Self>, queue: Queue, events: mpsc::Sender<Event>) {
        let mut retries = Retries::endless();
        loop {
            match self.listen(queue, &events, &mut retries).await {
                Ok(Ended::Again) => {}
                Ok(Ended::Replaced) => {
                    let _ = events.send(Event::Replaced(queue)).await;
                    return;
                }
                Ok(Ended::Broken) => {
                    let _ = events.send(Event::Interrupted(queue)).await;
                    retries.pause(None).await;
                }
                Err(ClientError::Unreachable(_)) => {
                    retries.pause(None).await;
                }
                // Who certified this client may have been revoked.
                Err(error) if queue == Queue::Direct && error.is_unproven() => {
                    let renewed = self.fetch_authority(self.domain()).await.is_ok()
                        && self.keep_credential().await.is_ok()
                        && self.renew_again().await.is_ok();
                    if !renewed {
                        let _ = events.send(Event::Problem(error.to_string())).await;
                    }
                    retries.pause(None).await;
                }
                Err(error) if queue == Queue::Client && error.is_unproven() => {
                    if let Err(error) = self.renew_record().await {
                        let _ = events.send(Event::Problem(error.to_string())).await;
                    }
                    retries.pause(None).await;
                }
                Err(error) if matches!(queue, Queue::Alias(_)) && error.is_unproven() => {
                    if let Queue::Alias(id) = queue
                        && self.lose_alias(id).await.is_ok()
                    {
                        return;
                    }
                    retries.pause(None).await;
                }
                Err(error) => {
                    let _ = events.send(Event::Problem(error.to_string())).await;
                    retries.pause(None).await;
                }
            }
        }
    }

    async fn listen(
        self: &Arc<Self>,
        queue: Queue,
        events: &mpsc::Sender<Event>,
        retries: &mut Retries,
    ) -> Result<Ended, ClientError> {
        let cursor = self.database.run(move |connection| queues::load(connection, queue)).await?;
        let request = Listen { incarnation: cursor.incarnation, start: cursor.next };
        let (isolation, sender, key) = self.queue_sender(queue).await?;
        let sender = Sender::Bound(sender, &key);
        let (_, method) = Self::queue_methods(queue);
        let body = request.to_vec().into();
        let (first, mut frames) = self.network.listen(self.domain(), isolation, method, sender, body).await?;
        let _ = events.send(Event::Listening(queue)).await;
        let mut batch = QueueEntries::from_bytes(first)?;
        // Of what is over nothing more comes.
        if batch.incarnation != cursor.incarnation || !batch.entries.is_empty() {
            self.take_in(queue, batch).await?;
            return Ok(Ended::Again);
        }
        let mut acknowledged = cursor.next;
        loop {
            let next = self.take_in(queue, batch).await?;
            retries.reset();
            self.chores.notify_one();
            if next > acknowledged {
                acknowledged = next;
                if let Err(error) = frames.send(Acknowledge { next }.to_vec().into()).await {
                    return Ok(ended(&error));
                }
            }
            match next_batch(&mut *frames).await? {
                Ok(entries) => batch = entries,
                Err(end) => return Ok(end),
            }
        }
    }

    /// Sends what is left in the outbox and does the chores, whenever there may be some.
    async fn keep_up(self: Arc<Self>) {
        let mut pause = FIRST_PAUSE;
        loop {
            let is_idle = |connection: &rusqlite::Connection| {
                Ok::<_, ClientError>(outbox::lanes(connection)?.is_empty() && outbox::chores(connection)?.is_empty())
            };
            let is_idle = matches!(self.database.run(is_idle).await, Ok(true));
            // At times without a reason too: credentials expire and are revoked, and offers run out.
            let longest = if is_idle { UPKEEP } else { jittered(pause) };
            let is_called = timeout(longest, self.chores.notified()).await.is_ok();
            pause = next_pause(pause, is_idle || is_called);
            let outcome = async {
                self.keep_credential().await?;
                self.flush().await?;
                self.settle_aliases().await?;
                self.look_up_again().await?;
                self.do_chores().await
            };
            // What cannot be done now stays where it is, and is tried again after the next entry or command.
            let _ = outcome.await;
        }
    }
}

/// A homeserver that could not be reached tells nobody when it can. Only waiting in vain makes the next wait longer: what is sent
/// and received meanwhile, however much, does not.
fn next_pause(pause: Duration, has_news: bool) -> Duration {
    if has_news { FIRST_PAUSE } else { pause.saturating_mul(2).min(LONGEST_PAUSE) }
}

async fn next_batch(frames: &mut dyn Frames) -> Result<Result<QueueEntries, Ended>, ClientError> {
    match frames.next().await {
        Ok(Some(frame)) => Ok(Ok(QueueEntries::from_bytes(frame)?)),
        Ok(None) => Ok(Err(Ended::Broken)),
        Err(error) => Ok(Err(ended(&error))),
    }
}

fn ended(error: &StreamError) -> Ended {
    match error {
        StreamError::Reset(codes::REPLACED_BY_NEWER_LISTEN) | StreamError::Stopped(codes::REPLACED_BY_NEWER_LISTEN) => {
            Ended::Replaced
        }
        _ => Ended::Broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_while_nothing_happens_and_what_is_received_puts_nothing_off() {
        let in_vain = std::iter::successors(Some(FIRST_PAUSE), |pause| Some(next_pause(*pause, false)));
        let pauses: Vec<_> = in_vain.take(12).collect();
        assert!(pauses.windows(2).all(|pair| pair[0] < pair[1] || pair == [LONGEST_PAUSE; 2]), "{pauses:?}");
        assert_eq!(pauses.last(), Some(&LONGEST_PAUSE));
        assert_eq!(next_pause(LONGEST_PAUSE, true), FIRST_PAUSE);
    }
}
