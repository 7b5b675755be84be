//! Listen: streams the entries of a queue as they become durable, and deletes what the client acknowledges.

use std::{collections::VecDeque, sync::Arc};

use async_trait::async_trait;

use super::{
    Dispatcher, context,
    queues::{Listener, durable},
};
use crate::{
    base::{Refusal, Status, limits::MAX_DEQUEUE},
    service::{
        QueueId,
        queue::{Found, Overview, Part, read, read_entries},
    },
    store::Commit,
    transport::{Code, Frames, StreamError, Streaming, codes},
    wire::{
        Decode, Encode,
        queue::{Acknowledge, Incarnation, Listen, QueueEntries},
    },
};

/// Frames whose acknowledgement is waited for, and of which is known how much it deletes; of others it is looked up.
const REMEMBERED: usize = 64;

/// A listening client.
pub struct Listening {
    dispatcher: Arc<Dispatcher>,
    id: QueueId,
    listener: Arc<Listener>,
    incarnation: Incarnation,
    /// Number of the oldest entry, as far as this client has told.
    first: u64,
    /// Number of the next entry to send.
    next: u64,
    /// Everything before this number was durable when listening began.
    head: u64,
    /// The numbers after the last entries of frames, and the bytes up to there.
    sent: VecDeque<(u64, u64)>,
    /// The last acknowledgement, which may not be durable yet.
    deleting: Option<Commit>,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let unheard = self.dispatcher.queues.unlisten(self.id, &self.listener);
        self.dispatcher.pushes.want(unheard);
    }
}

impl Dispatcher {
    /// Starts to listen: the header of the response, and what goes on from there. None if the client is not in the part of the
    /// queue to which entries are added: it learns from the header where it is to go on, or is given what there is of an earlier
    /// part, and asks again.
    ///
    /// # Errors
    /// `not_found` if there is no such queue, `malformed` for a start beyond its head.
    pub(super) async fn listen(
        self: Arc<Self>,
        id: QueueId,
        request: &Listen,
    ) -> Result<(QueueEntries, Option<Listening>), Refusal> {
        let part = self.part(id, request).await?;
        if part.incarnation != request.incarnation {
            return Ok((part.header(), None));
        }
        durable(self.acknowledge(id, request.start, None).await?).await?;
        if !part.is_current {
            let (known, start, durable) = (request.incarnation, request.start, self.parts.store.durable());
            let found = read(id, known, start, MAX_DEQUEUE, &durable).await?;
            return Ok((found.unwrap_or_else(|| part.header()), None));
        }
        // Dropped, it takes itself out again.
        let mut listening = Listening {
            dispatcher: self.clone(),
            id,
            listener: self.queues.listen(id),
            incarnation: part.incarnation,
            first: 0,
            next: request.start,
            head: 0,
            sent: VecDeque::new(),
            deleting: None,
        };
        // Looked at again once whoever adds an entry or ends the queue would tell this too.
        let part = self.part(id, request).await?;
        (listening.first, listening.head) = (part.first, part.end);
        listening.next = listening.next.max(part.first);
        Ok((part.header(), Some(listening)))
    }

    async fn acknowledge(&self, id: QueueId, next: u64, bytes: Option<u64>) -> Result<Option<Commit>, Refusal> {
        let (policy, mut rng) = (self.parts.policy.get(), (self.parts.entropy)());
        let mut context = context(&self.parts, &policy, self, rng.as_mut());
        self.queues.acknowledge(id, next, bytes, &self.parts.store, &mut context).await
    }

    async fn part(&self, id: QueueId, request: &Listen) -> Result<Part, Refusal> {
        let (policy, mut rng) = (self.parts.policy.get(), (self.parts.entropy)());
        let mut context = context(&self.parts, &policy, self, rng.as_mut());
        self.queues.part(id, request.incarnation, request.start, &self.parts.store, &mut context).await
    }
}

#[async_trait]
impl Streaming for Listening {
    async fn run(mut self: Box<Self>, frames: &mut dyn Frames) -> Code {
        let ended = self.go_on(frames).await;
        // Whether anything is left that the client has to be woken for is looked at next.
        match (ended, durable(self.deleting.take()).await) {
            (code, Ok(())) => code,
            (_, Err(_)) => codes::INTERNAL,
        }
    }
}

impl Listening {
    /// Sends and takes acknowledgements, until that ends: why.
    async fn go_on(&mut self, frames: &mut dyn Frames) -> Code {
        loop {
            if let Err(code) = self.send_new(frames).await {
                return code;
            }
            tokio::select! {
                frame = frames.next() => if let Err(code) = self.acknowledged(frame).await {
                    return code;
                },
                () = self.listener.woken() => {}
            }
        }
    }

    /// Sends everything durable that was not sent yet.
    async fn send_new(&mut self, frames: &mut dyn Frames) -> Result<(), Code> {
        loop {
            if self.listener.is_replaced() {
                return Err(codes::REPLACED_BY_NEWER_LISTEN);
            }
            if self.listener.is_ended() {
                return Err(codes::DONE);
            }
            // What comes after this wakes the listener.
            let head = self.listener.head().max(self.head);
            if self.next >= head {
                return Ok(());
            }
            let durable = self.dispatcher.parts.store.durable();
            let found = read_entries(self.id, self.next..head, MAX_DEQUEUE, &durable).await;
            match found.map_err(|_| codes::INTERNAL)? {
                Some(found) => self.send(found, head, frames).await?,
                None => self.look_again().await?,
            }
        }
    }

    async fn send(&mut self, Found { entries, bytes }: Found, head: u64, frames: &mut dyn Frames) -> Result<(), Code> {
        self.next += entries.len() as u64;
        if self.sent.len() >= REMEMBERED {
            self.sent.pop_front();
        }
        self.sent.push_back((self.next, bytes));
        let (incarnation, first) = (self.incarnation, self.first);
        let frame = QueueEntries { incarnation, first, head, entries };
        frames.send(frame.to_vec().into()).await.map_err(|_| codes::DONE)
    }

    /// What was to be sent is not there: it was acknowledged in another exchange of the same client, or the queue is gone.
    async fn look_again(&mut self) -> Result<(), Code> {
        let durable = self.dispatcher.parts.store.durable();
        let found = Overview::of(self.id, &durable).await.map_err(|_| codes::INTERNAL)?.ok_or(codes::DONE)?;
        let found = found.part(self.incarnation, self.next);
        if found.first <= self.next {
            return Err(codes::INTERNAL);
        }
        (self.first, self.next) = (found.first, found.first);
        Ok(())
    }

    async fn acknowledged(&mut self, frame: Result<Option<bytes::Bytes>, StreamError>) -> Result<(), Code> {
        let frame = match frame {
            Ok(Some(frame)) => frame,
            Ok(None) => return Err(codes::DONE),
            Err(error) => return Err(error.code()),
        };
        let Acknowledge { next } = Acknowledge::from_bytes(frame).map_err(|_| codes::MALFORMED)?;
        // One at a time is under way, and nobody waits for the last: there is no reply.
        durable(self.deleting.take()).await.map_err(|_| codes::INTERNAL)?;
        let mut bytes = None;
        while let Some((after, until_there)) = self.sent.front().filter(|(after, _)| *after <= next) {
            bytes = Some(*until_there).filter(|_| *after == next);
            self.sent.pop_front();
        }
        let acknowledged = self.dispatcher.acknowledge(self.id, next, bytes).await;
        self.deleting = acknowledged.map_err(|refusal| match refusal.status {
            Status::Malformed => codes::MALFORMED,
            _ => codes::INTERNAL,
        })?;
        self.first = self.first.max(next);
        Ok(())
    }
}
