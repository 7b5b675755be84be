//! The two kinds of pipe that exchanges run over, QUIC and memory, behind one set of types: [`Link`] is a connection,
//! [`Sender`] and [`Receiver`] are the halves of a stream. All that is said about exchanges is written once above them.

use bytes::Bytes;

use super::{Closed, Code, StreamError, codes, memory};

/// A connection.
#[derive(Clone)]
pub(super) enum Link {
    Quic(quinn::Connection),
    Memory(memory::End),
}

/// A stream: its id and its halves.
pub(super) struct Stream {
    pub(super) id: u64,
    pub(super) sender: Sender,
    pub(super) receiver: Receiver,
}

impl Stream {
    fn quic((sender, receiver): (quinn::SendStream, quinn::RecvStream)) -> Self {
        let id = quinn::VarInt::from(sender.id()).into_inner();
        Self { id, sender: Sender::new(SendHalf::Quic(sender)), receiver: Receiver(ReceiveHalf::Quic(receiver)) }
    }

    pub(super) fn memory(id: u64, sender: memory::SendHalf, receiver: memory::ReceiveHalf) -> Self {
        Self { id, sender: Sender::new(SendHalf::Memory(sender)), receiver: Receiver(ReceiveHalf::Memory(receiver)) }
    }
}

impl Link {
    /// Opens a stream, waiting until the peer allows one more.
    pub(super) async fn open(&self) -> Result<Stream, StreamError> {
        match self {
            Self::Quic(connection) => Ok(Stream::quic(connection.open_bi().await?)),
            Self::Memory(end) => end.open().await,
        }
    }

    /// The next stream that the peer opens.
    pub(super) async fn accept(&self) -> Result<Stream, StreamError> {
        match self {
            Self::Quic(connection) => Ok(Stream::quic(connection.accept_bi().await?)),
            Self::Memory(end) => end.accept().await,
        }
    }

    /// Closes the connection at once; what is not yet received is lost.
    pub(super) fn close(&self, code: Code) {
        match self {
            Self::Quic(connection) => connection.close(code.into(), code.name().as_bytes()),
            Self::Memory(end) => end.close(code),
        }
    }

    /// Waits for the end of the connection.
    pub(super) async fn closed(&self) -> Closed {
        match self {
            Self::Quic(connection) => connection.closed().await.into(),
            Self::Memory(end) => end.closed().await,
        }
    }
}

enum SendHalf {
    Quic(quinn::SendStream),
    Memory(memory::SendHalf),
}

/// The sending half. Dropped before it is finished, it is reset, so that a part is never taken for the whole.
pub(super) struct Sender {
    half: SendHalf,
    open: bool,
    /// What the peer is told if it is dropped unfinished.
    pub(super) unfinished: Code,
}

impl Sender {
    fn new(half: SendHalf) -> Self {
        Self { half, open: true, unfinished: codes::ABANDONED }
    }

    /// Writes all chunks, waiting for flow control. Not to be cancelled.
    pub(super) async fn write<const N: usize>(&mut self, mut chunks: [Bytes; N]) -> Result<(), StreamError> {
        match &mut self.half {
            SendHalf::Quic(stream) => Ok(stream.write_all_chunks(&mut chunks).await?),
            SendHalf::Memory(half) => {
                for chunk in chunks {
                    half.write(chunk).await?;
                }
                Ok(())
            }
        }
    }

    /// Says that nothing follows.
    pub(super) fn finish(&mut self) -> Result<(), StreamError> {
        self.open = false;
        match &mut self.half {
            // An error means that the stream has ended already; `received` tells how.
            SendHalf::Quic(stream) => drop(stream.finish()),
            SendHalf::Memory(half) => half.finish(),
        }
        Ok(())
    }

    /// Waits until the peer has received everything that was written before `finish`.
    pub(super) async fn received(&mut self) -> Result<(), StreamError> {
        match &mut self.half {
            SendHalf::Quic(stream) => match stream.stopped().await {
                Ok(None) => Ok(()),
                Ok(Some(code)) => Err(StreamError::Stopped(code.into())),
                Err(error) => Err(quinn::WriteError::from(error).into()),
            },
            SendHalf::Memory(half) => half.received().await,
        }
    }

    /// Gives up: what was written need not arrive.
    pub(super) fn reset(&mut self, code: Code) {
        self.open = false;
        match &mut self.half {
            // An error means that the stream has ended already.
            SendHalf::Quic(stream) => drop(stream.reset(code.into())),
            SendHalf::Memory(half) => half.reset(code),
        }
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        if self.open {
            self.reset(self.unfinished);
        }
    }
}

enum ReceiveHalf {
    Quic(quinn::RecvStream),
    Memory(memory::ReceiveHalf),
}

/// The receiving half. Dropped before its end, the peer is told that the rest is not wanted.
pub(super) struct Receiver(ReceiveHalf);

impl Receiver {
    /// Up to `max` (not 0) bytes as soon as there are any, `None` at the end. May be cancelled without loss.
    pub(super) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        match &mut self.0 {
            ReceiveHalf::Quic(stream) => Ok(stream.read_chunk(max, true).await?.map(|chunk| chunk.bytes)),
            ReceiveHalf::Memory(half) => half.read(max).await,
        }
    }

    /// Asks the peer to send no more.
    pub(super) fn stop(&mut self, code: Code) {
        match &mut self.0 {
            // An error means that the stream has ended already.
            ReceiveHalf::Quic(stream) => drop(stream.stop(code.into())),
            ReceiveHalf::Memory(half) => half.stop(code),
        }
    }
}
