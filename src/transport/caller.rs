//! Exchanges seen from the caller. A [`Connection`] runs over QUIC or over memory; the id of an exchange is known before
//! its request is made, because a signed request covers it.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::timeout;

use super::{
    Closed, Code, Frames, Settings, StreamError, codes,
    exchange::HEADER,
    frames::{FrameReader, FrameStream, write_frame},
    pipe::{Link, Receiver, Sender, Stream},
};

/// An established connection to a homeserver. Clones are handles to the same; when the last handle and the last exchange
/// are dropped, it is closed.
#[derive(Clone)]
pub struct Connection {
    pub(super) link: Link,
    binding: [u8; 32],
    request_deadline: Duration,
    response_deadline: Duration,
}

impl Connection {
    pub(super) fn new(link: Link, binding: [u8; 32], settings: &Settings) -> Self {
        let Settings { request_deadline, response_deadline, .. } = *settings;
        Self { link, binding, request_deadline, response_deadline }
    }

    /// Opens an exchange, waiting while the homeserver allows no more at a time.
    pub async fn open(&self) -> Result<Exchange, StreamError> {
        let stream = timeout(self.response_deadline, self.link.open()).await.map_err(|_| StreamError::Deadline)??;
        let Self { request_deadline, response_deadline, .. } = *self;
        Ok(Exchange { stream, request_deadline, response_deadline })
    }

    /// The channel binding: 32 bytes that both ends of this connection, and nobody else, have.
    pub fn binding(&self) -> &[u8; 32] {
        &self.binding
    }

    /// Waits for the end of the connection.
    pub async fn closed(&self) -> Closed {
        self.link.closed().await
    }

    /// Closes the connection at once; exchanges under way fail.
    pub fn close(&self) {
        self.link.close(codes::DONE);
    }
}

/// An exchange that is about to begin. Dropped before it is complete, it is abandoned.
pub struct Exchange {
    stream: Stream,
    request_deadline: Duration,
    response_deadline: Duration,
}

impl Exchange {
    /// The id of its stream.
    pub fn id(&self) -> u64 {
        self.stream.id
    }

    /// Sends a request of an ordinary method and returns the response, of at most `max_response` bytes.
    pub async fn request(self, request: Bytes, max_response: usize) -> Result<Bytes, StreamError> {
        let deadline = self.response_deadline;
        let Stream { mut sender, mut receiver, .. } = self.stream;
        let run = exchange(&mut sender, &mut receiver, request, max_response);
        let outcome = timeout(deadline, run).await.unwrap_or(Err(StreamError::Deadline));
        if outcome.is_err() {
            give_up(&mut sender, &mut receiver, codes::ABANDONED);
        }
        outcome
    }

    /// Sends a request of a streaming method; returns the response and the frames that follow, each of at most `max_frame`
    /// bytes, as is the response. A refusal is a response that no frame follows. Dropping the frames ends the exchange.
    pub async fn streaming(self, request: Bytes, max_frame: usize) -> Result<(Bytes, Box<dyn Frames>), StreamError> {
        let Self { stream: Stream { sender, receiver, .. }, request_deadline, response_deadline: deadline } = self;
        let preamble = request.get(..HEADER).map(Bytes::copy_from_slice).ok_or(StreamError::Malformed)?;
        let reader = FrameReader::new(receiver, max_frame, request_deadline);
        let mut frames = FrameStream { reader, sender, deadline, draining: None };
        let run = async {
            let sent = match frames.sender.write([preamble]).await {
                Ok(()) => write_frame(&mut frames.sender, request, deadline).await,
                Err(error) => Err(error),
            };
            refusal_or(sent)?;
            frames.reader.next().await?.ok_or(StreamError::Truncated)
        };
        let response = timeout(deadline, run).await.map_err(|_| StreamError::Deadline)??;
        Ok((response, Box::new(frames)))
    }
}

/// A homeserver that wants no more of the request has said why in its response: that is read all the same.
fn refusal_or(sent: Result<(), StreamError>) -> Result<(), StreamError> {
    match sent {
        Err(StreamError::Stopped(_)) => Ok(()),
        sent => sent,
    }
}

async fn exchange(
    sender: &mut Sender,
    receiver: &mut Receiver,
    request: Bytes,
    max_response: usize,
) -> Result<Bytes, StreamError> {
    refusal_or(sender.write([request]).await)?;
    sender.finish()?;
    let mut response = BytesMut::new();
    // One byte beyond the limit is asked for, to tell a response of exactly that size from a larger one.
    while let Some(chunk) = receiver.read(max_response.saturating_add(1) - response.len()).await? {
        if response.len() + chunk.len() > max_response {
            receiver.stop(codes::TOO_LARGE);
            return Err(StreamError::TooLarge(max_response));
        }
        response.extend_from_slice(&chunk);
    }
    Ok(response.freeze())
}

fn give_up(sender: &mut Sender, receiver: &mut Receiver, code: Code) {
    receiver.stop(code);
    sender.reset(code);
}
