//! One stream, seen from the callee: reads the request within its method's size, has the [`Handler`] answer it, and sends
//! the reply. The rules of the stream are in the description of [`super`].

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use super::{
    Code, Frames, Handler, MethodRules, Reply, Settings, StreamError, Streaming, codes,
    congestion::Congestion,
    counts::Counts,
    frames::{FrameReader, FrameStream, finish, write_frame},
    pipe::{Receiver, Sender, Stream},
};

/// Bytes before the authenticator: `uint16 version; uint16 method`.
pub(super) const HEADER: usize = 4;

/// What all exchanges of an endpoint share.
pub(super) struct Shared<H> {
    pub(super) handler: Arc<H>,
    pub(super) settings: Settings,
    pub(super) congestion: Congestion,
    /// Turns true when the endpoint shuts down.
    pub(super) draining: watch::Receiver<bool>,
    pub(super) counts: Arc<Counts>,
}

/// What came in on a stream.
enum Intake {
    /// A complete request; of a streaming exchange there is more to come.
    Request { request: Bytes, streaming: bool },
    /// Nothing to run, but an answer.
    Answer { response: Bytes, streaming: bool },
}

impl<H> Shared<H> {
    pub(super) fn new(
        handler: Arc<H>,
        settings: Settings,
        draining: watch::Receiver<bool>,
        counts: Arc<Counts>,
    ) -> Self {
        let congestion = Congestion::new(settings.max_wait);
        Self { handler, settings, congestion, draining, counts }
    }
}

/// An exchange that goes on, for the counters.
struct UnderWay<'a>(&'a Counts);

impl<'a> UnderWay<'a> {
    fn begin(counts: &'a Counts) -> Self {
        counts.began.add();
        Self(counts)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.ended.add();
    }
}

/// Runs an exchange, whose stream was taken in at that time, from the first byte to the last.
pub(super) async fn serve<H: Handler>(
    shared: &Shared<H>,
    session: &Arc<H::Session>,
    stream: Stream,
    taken_in: Instant,
) {
    // Of the network and the peer nothing is in it: only of how much there is to do here.
    let waited = taken_in.elapsed();
    let _under_way = UnderWay::begin(&shared.counts);
    let Stream { id, mut sender, receiver } = stream;
    // Only a panic above drops it.
    sender.unfinished = codes::INTERNAL;
    let Settings { request_deadline, response_deadline, .. } = shared.settings;
    let mut reader = FrameReader::new(receiver, 0, request_deadline);
    let intake = match timeout(request_deadline, read_request(&*shared.handler, &mut reader)).await {
        Ok(Ok(intake)) => intake,
        Ok(Err(error)) => return abandon(&mut sender, &mut reader.receiver, error.code()),
        Err(_) => return abandon(&mut sender, &mut reader.receiver, codes::DEADLINE),
    };
    let (request, streaming) = match intake {
        Intake::Request { request, streaming } => (request, streaming),
        Intake::Answer { response, streaming } => {
            return respond(&mut sender, response, streaming, response_deadline).await;
        }
    };
    if shared.congestion.refuses(waited + shared.handler.backlog(), Instant::now()) {
        shared.counts.overloaded.add();
        reader.receiver.stop(codes::DONE);
        let response = shared.handler.overloaded();
        return respond(&mut sender, response, streaming, response_deadline).await;
    }
    match shared.handler.exchange(session, id, request).await {
        Reply::Once(response) => respond(&mut sender, response, streaming, response_deadline).await,
        Reply::Stream(response, above) if streaming => {
            let draining = Some(shared.draining.clone());
            let mut frames = FrameStream { reader, sender, deadline: response_deadline, draining };
            go_on(&mut frames, response, above).await;
        }
        Reply::Stream(..) => {
            tracing::error!("an ordinary method was answered with a stream");
            abandon(&mut sender, &mut reader.receiver, codes::INTERNAL);
        }
    }
}

/// Reads the header, then the rest within the size of the method that it names.
async fn read_request<H: Handler>(handler: &H, reader: &mut FrameReader) -> Result<Intake, StreamError> {
    let mut request = BytesMut::new();
    while request.len() < HEADER {
        match reader.receiver.read(HEADER - request.len()).await? {
            Some(chunk) => request.extend_from_slice(&chunk),
            None => {
                return Ok(Intake::Answer { response: handler.malformed(), streaming: false });
            }
        }
    }
    let [version, method] = [[request[0], request[1]], [request[2], request[3]]].map(u16::from_be_bytes);
    if let Some(response) = handler.unsupported(version) {
        reader.receiver.stop(codes::DONE);
        // How its methods are framed is not known.
        return Ok(Intake::Answer { response, streaming: false });
    }
    let MethodRules { max_request, streaming } = handler.rules(method);
    if streaming {
        return read_framed_request(handler, reader, method, &request, max_request).await;
    }
    // One byte beyond the limit is asked for, to tell a request of exactly that size from a larger one.
    while let Some(chunk) =
        reader.receiver.read(max_request.saturating_add(1).saturating_sub(request.len()).max(1)).await?
    {
        if request.len() + chunk.len() > max_request {
            reader.receiver.stop(codes::TOO_LARGE);
            return Ok(Intake::Answer { response: handler.too_large(method, max_request), streaming });
        }
        request.extend_from_slice(&chunk);
    }
    Ok(Intake::Request { request: request.freeze(), streaming })
}

/// Reads the first frame of a streaming exchange, which is the request.
async fn read_framed_request<H: Handler>(
    handler: &H,
    reader: &mut FrameReader,
    method: u16,
    preamble: &[u8],
    max_request: usize,
) -> Result<Intake, StreamError> {
    reader.max_frame = max_request;
    let (response, code) = match reader.next().await {
        Ok(Some(request)) if request.starts_with(preamble) => {
            return Ok(Intake::Request { request, streaming: true });
        }
        Ok(_) | Err(StreamError::Malformed | StreamError::Truncated) => (handler.malformed(), codes::MALFORMED),
        Err(StreamError::TooLarge(limit)) => (handler.too_large(method, limit), codes::TOO_LARGE),
        Err(error) => return Err(error),
    };
    reader.receiver.stop(code);
    Ok(Intake::Answer { response, streaming: true })
}

/// Sends the one response of an exchange and waits until it has arrived: only then may the connection close.
async fn respond(sender: &mut Sender, response: Bytes, streaming: bool, deadline: Duration) {
    let sent = if streaming {
        write_frame(sender, response, deadline).await
    } else {
        timeout(deadline, sender.write([response])).await.unwrap_or(Err(StreamError::Deadline))
    };
    let received = match sent {
        Ok(()) => finish(sender, deadline).await,
        Err(error) => Err(error),
    };
    if let Err(error) = received {
        sender.reset(error.code());
    }
}

/// Sends the response, and lets the service go on with frames.
async fn go_on(frames: &mut FrameStream, response: Bytes, above: Box<dyn Streaming>) {
    let code = match frames.send(response).await {
        Ok(()) => above.run(frames).await,
        Err(error) => error.code(),
    };
    let code = match code {
        codes::DONE => match frames.finish().await {
            Ok(()) => return,
            Err(error) => error.code(),
        },
        code => code,
    };
    abandon(&mut frames.sender, &mut frames.reader.receiver, code);
}

fn abandon(sender: &mut Sender, receiver: &mut Receiver, code: Code) {
    receiver.stop(code);
    sender.reset(code);
}
