//! Frames on a stream: [`Frames`] is what streaming exchanges see on both sides; below it, a reader that can be cancelled
//! at any point, bounds a frame before it buffers any of it, and holds no buffer between frames.

use std::time::Duration;

use async_trait::async_trait;
use bytes::{Buf, Bytes, BytesMut};
use tokio::{
    sync::watch,
    time::{Instant, timeout, timeout_at},
};

use super::{
    StreamError,
    pipe::{Receiver, Sender},
};
use crate::wire::{Length, MAX_VECTOR, decode_varint, encode_varint};

/// Frames both ways, after the response of a streaming exchange.
#[async_trait]
pub trait Frames: Send {
    /// The peer's next frame, `None` when it has finished its side. May be cancelled at any point without loss.
    async fn next(&mut self) -> Result<Option<Bytes>, StreamError>;

    /// Sends a frame; returns when it is handed to QUIC, which is when the peer's flow control lets it. Must not be
    /// cancelled, or the stream is of no further use.
    async fn send(&mut self, frame: Bytes) -> Result<(), StreamError>;

    /// Finishes this side, and waits until the peer has received everything.
    async fn finish(&mut self) -> Result<(), StreamError>;
}

/// Reads frames.
pub(super) struct FrameReader {
    pub(super) receiver: Receiver,
    pub(super) max_frame: usize,
    deadline: Duration,
    partial: BytesMut,
    started: Option<Instant>,
}

impl FrameReader {
    pub(super) fn new(receiver: Receiver, max_frame: usize, deadline: Duration) -> Self {
        Self { receiver, max_frame, deadline, partial: BytesMut::new(), started: None }
    }

    pub(super) async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        loop {
            let missing = match decode_varint(&self.partial) {
                Length::Invalid => return Err(StreamError::Malformed),
                Length::Needs(size) => size - self.partial.len(),
                Length::Known(length, _) if length > self.max_frame => {
                    return Err(StreamError::TooLarge(self.max_frame));
                }
                Length::Known(length, prefix) if self.partial.len() == prefix + length => {
                    self.started = None;
                    let mut frame = std::mem::take(&mut self.partial);
                    frame.advance(prefix);
                    return Ok(Some(frame.freeze()));
                }
                Length::Known(length, prefix) => prefix + length - self.partial.len(),
            };
            let read = self.receiver.read(missing);
            let chunk = match self.started {
                // Between frames there is no hurry.
                None => read.await?,
                Some(started) => {
                    timeout_at(started + self.deadline, read).await.map_err(|_| StreamError::Deadline)??
                }
            };
            match chunk {
                Some(chunk) => {
                    self.started.get_or_insert_with(Instant::now);
                    self.partial.extend_from_slice(&chunk);
                }
                None if self.partial.is_empty() => return Ok(None),
                None => return Err(StreamError::Truncated),
            }
        }
    }
}

/// Writes one frame, within `deadline`.
pub(super) async fn write_frame(sender: &mut Sender, frame: Bytes, deadline: Duration) -> Result<(), StreamError> {
    if frame.len() > MAX_VECTOR {
        return Err(StreamError::TooLarge(MAX_VECTOR));
    }
    let mut prefix = Vec::with_capacity(4);
    encode_varint(frame.len(), &mut prefix);
    timeout(deadline, sender.write([prefix.into(), frame])).await.map_err(|_| StreamError::Deadline)?
}

/// Finishes a stream and waits, within `deadline`, until the peer has everything.
pub(super) async fn finish(sender: &mut Sender, deadline: Duration) -> Result<(), StreamError> {
    sender.finish()?;
    timeout(deadline, sender.received()).await.map_err(|_| StreamError::Deadline)?
}

/// A stream of frames.
pub(super) struct FrameStream {
    pub(super) reader: FrameReader,
    pub(super) sender: Sender,
    /// How long the peer may take to accept a frame.
    pub(super) deadline: Duration,
    /// Turns true when this homeserver shuts down.
    pub(super) draining: Option<watch::Receiver<bool>>,
}

#[async_trait]
impl Frames for FrameStream {
    async fn next(&mut self) -> Result<Option<Bytes>, StreamError> {
        let Some(draining) = &mut self.draining else {
            return self.reader.next().await;
        };
        tokio::select! {
            biased;
            Ok(_) = draining.wait_for(|draining| *draining) => Err(StreamError::ShuttingDown),
            frame = self.reader.next() => frame,
        }
    }

    async fn send(&mut self, frame: Bytes) -> Result<(), StreamError> {
        write_frame(&mut self.sender, frame, self.deadline).await
    }

    async fn finish(&mut self) -> Result<(), StreamError> {
        finish(&mut self.sender, self.deadline).await
    }
}
