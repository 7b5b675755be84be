//! Listen: streams the entries of a queue as they become durable, and deletes what the client acknowledges.

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Dispatcher, context,
    queues::{Listener, durable},
};
use crate::{
    base::{Refusal, Status, limits::MAX_DEQUEUE},
    service::{QueueId, queue::read},
    store::Commit,
    transport::{Code, Frames, StreamError, Streaming, codes},
    wire::{
        Decode, Encode,
        queue::{Acknowledge, Listen, QueueEntries},
    },
};

/// A listening client.
pub struct Listening {
    dispatcher: Arc<Dispatcher>,
    id: QueueId,
    listener: Arc<Listener>,
    next: u64,
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
    /// Starts to listen: the header of the response, and what goes on from there. None if the client names another
    /// incarnation than the queue's: it learns the right one from the header and asks again.
    ///
    /// # Errors
    /// `not_found` if there is no such queue, `malformed` for a start beyond its head.
    pub(super) async fn listen(
        self: Arc<Self>,
        id: QueueId,
        request: &Listen,
    ) -> Result<(QueueEntries, Option<Listening>), Refusal> {
        let overview = self.overview(id).await?;
        if overview.incarnation != request.incarnation {
            return Ok((overview, None));
        }
        durable(self.acknowledge(id, request.start).await?).await?;
        let listener = self.queues.listen(id);
        let (next, dispatcher) = (request.start, self.clone());
        let listening = Listening { id, listener, next, deleting: None, dispatcher };
        // Looked at again once whoever ends the queue would end this too.
        Ok((self.overview(id).await?, Some(listening)))
    }

    async fn acknowledge(&self, id: QueueId, next: u64) -> Result<Option<Commit>, Refusal> {
        let mut rng = (self.parts.entropy)();
        let mut context = context(&self.parts, self, rng.as_mut());
        self.queues.acknowledge(id, next, &self.parts.store, &mut context).await
    }

    async fn overview(&self, id: QueueId) -> Result<QueueEntries, Refusal> {
        let mut rng = (self.parts.entropy)();
        let mut context = context(&self.parts, self, rng.as_mut());
        self.queues.overview(id, &self.parts.store, &mut context).await
    }
}

#[async_trait]
impl Streaming for Listening {
    async fn run(mut self: Box<Self>, frames: &mut dyn Frames) -> Code {
        loop {
            match self.send_new(frames).await {
                Ok(()) => {}
                Err(code) => return code,
            }
            tokio::select! {
                frame = frames.next() => match self.acknowledged(frame).await {
                    Ok(()) => {}
                    Err(code) => return code,
                },
                () = self.listener.woken() => {}
            }
        }
    }
}

impl Listening {
    /// Sends everything durable that was not sent yet.
    async fn send_new(&mut self, frames: &mut dyn Frames) -> Result<(), Code> {
        loop {
            if self.listener.is_replaced() {
                return Err(codes::REPLACED_BY_NEWER_LISTEN);
            }
            if self.listener.is_ended() {
                return Err(codes::DONE);
            }
            let durable = self.dispatcher.parts.store.durable();
            let found = read(self.id, self.next, MAX_DEQUEUE, &durable).await.map_err(|_| codes::INTERNAL)?;
            // The queue was deleted.
            let found = found.ok_or(codes::DONE)?;
            let Some(last) = found.entries.last() else { return Ok(()) };
            self.next = last.sequence + 1;
            frames.send(found.to_vec().into()).await.map_err(|_| codes::DONE)?;
            // What has come since has woken the listener.
            if self.next >= found.head {
                return Ok(());
            }
        }
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
        self.deleting = self.dispatcher.acknowledge(self.id, next).await.map_err(|refusal| match refusal.status {
            Status::Malformed => codes::MALFORMED,
            _ => codes::INTERNAL,
        })?;
        Ok(())
    }
}
