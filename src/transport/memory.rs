//! The same exchanges without QUIC: connections and streams in memory, for tests of services and for embedding. Only the
//! pipe differs (`pipe.rs`); sizes, deadlines, frames, codes and shutdown are the same code as over QUIC.

use std::{
    collections::VecDeque,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use rand_core::{OsRng, RngCore};
use tokio::sync::{Notify, Semaphore, mpsc, watch};

use super::{
    Closed, Code, Connection, Handler, PeerInfo, Settings, StreamError, codes, connection,
    exchange::Shared,
    pipe::{Link, Stream},
};

/// Unread bytes a stream may have in flight.
const WINDOW: usize = 64 << 10;

/// Connects to a handler of which nothing else is needed, as an ordinary client.
pub fn connect<H: Handler>(handler: Arc<H>) -> Connection {
    Host::new(handler, Settings::default()).connect()
}

/// A handler that takes connections from memory. Dropping it leaves its connections alone.
pub struct Host<H> {
    shared: Arc<Shared<H>>,
    draining: watch::Sender<bool>,
    connections: Arc<Semaphore>,
}

impl<H: Handler> Host<H> {
    /// Takes connections for `handler`.
    pub fn new(handler: Arc<H>, settings: Settings) -> Self {
        let draining = watch::Sender::new(false);
        let connections = Arc::new(Semaphore::new(settings.max_connections as usize));
        Self {
            shared: Arc::new(Shared::new(handler, settings, draining.subscribe(), Arc::default())),
            draining,
            connections,
        }
    }

    /// A connection of an ordinary client, with a random binding.
    pub fn connect(&self) -> Connection {
        let mut binding = [0; 32];
        OsRng.fill_bytes(&mut binding);
        let remote = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        self.connect_as(PeerInfo { remote, binding, domains: Vec::new() })
    }

    /// A connection of whoever `peer` says. Its binding must be fresh.
    pub fn connect_as(&self, peer: PeerInfo) -> Connection {
        let binding = peer.binding;
        let settings = &self.shared.settings;
        let (client, server) = pair(settings.max_streams as usize);
        match self.connections.clone().try_acquire_owned() {
            Ok(permit) if !*self.draining.borrow() => {
                let (shared, session) = (self.shared.clone(), self.shared.handler.open(peer));
                tokio::spawn(async move {
                    connection::serve(shared, session, Link::Memory(server)).await;
                    drop(permit);
                });
            }
            _ => server.close(codes::SHUTDOWN),
        }
        Connection::new(Link::Memory(client), binding, settings)
    }

    /// Lets exchanges in flight finish, and closes every connection.
    pub async fn shutdown(&self) {
        self.draining.send_replace(true);
        let _ = self.connections.acquire_many(self.shared.settings.max_connections).await;
    }
}

/// Why the connection ended, as each side sees it; `None` while it lives.
type State = watch::Sender<Option<(Side, Code)>>;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    Client,
    Server,
}

/// One end of a connection.
#[derive(Clone)]
pub(super) struct End(Arc<EndInner>);

struct EndInner {
    side: Side,
    state: Arc<State>,
    next_id: AtomicU64,
    streams: Streams,
}

enum Streams {
    Open(mpsc::Sender<Stream>),
    Accept(tokio::sync::Mutex<mpsc::Receiver<Stream>>),
}

fn pair(max_streams: usize) -> (End, End) {
    let state = Arc::new(State::new(None));
    let (open, accept) = mpsc::channel(max_streams.max(1));
    let end =
        |side, streams| End(Arc::new(EndInner { side, state: state.clone(), next_id: AtomicU64::new(0), streams }));
    (end(Side::Client, Streams::Open(open)), end(Side::Server, Streams::Accept(tokio::sync::Mutex::new(accept))))
}

impl Drop for EndInner {
    fn drop(&mut self) {
        close(&self.state, self.side, codes::DONE);
    }
}

fn close(state: &State, side: Side, code: Code) {
    state.send_if_modified(|state| {
        let first = state.is_none();
        state.get_or_insert((side, code));
        first
    });
}

/// Waits for the end of the connection, as `side` sees it.
async fn closed(side: Side, state: &State) -> Closed {
    match state.subscribe().wait_for(Option::is_some).await.as_deref() {
        Ok(Some((by, code))) if *by != side => Closed::Peer(*code),
        _ => Closed::Here,
    }
}

impl End {
    pub(super) async fn open(&self) -> Result<Stream, StreamError> {
        let Streams::Open(streams) = &self.0.streams else {
            return Err(StreamError::Closed(Closed::Failed("only clients open streams".into())));
        };
        // The place in line first: ids are given in the order in which the other end sees the streams.
        let place = tokio::select! {
            biased;
            why = self.closed() => return Err(StreamError::Closed(why)),
            place = streams.reserve() => match place {
                Ok(place) => place,
                Err(_) => return Err(StreamError::Closed(self.closed().await)),
            },
        };
        let id = self.0.next_id.fetch_add(4, Ordering::Relaxed);
        let (there, back) = (Arc::new(Pipe::default()), Arc::new(Pipe::default()));
        let half = |pipe: &Arc<Pipe>, side| Half {
            pipe: pipe.clone(),
            side,
            state: self.0.state.clone(),
            // Streams of the client keep its end open; those of the server end with it.
            _end: (side == Side::Client).then(|| self.clone()),
        };
        let receiver = ReceiveHalf(half(&there, Side::Server));
        place.send(Stream::memory(id, SendHalf(half(&back, Side::Server)), receiver));
        Ok(Stream::memory(id, SendHalf(half(&there, Side::Client)), ReceiveHalf(half(&back, Side::Client))))
    }

    pub(super) async fn accept(&self) -> Result<Stream, StreamError> {
        let Streams::Accept(streams) = &self.0.streams else {
            return Err(StreamError::Closed(self.closed().await));
        };
        let mut streams = streams.lock().await;
        tokio::select! {
            biased;
            why = self.closed() => Err(StreamError::Closed(why)),
            Some(stream) = streams.recv() => Ok(stream),
        }
    }

    pub(super) fn close(&self, code: Code) {
        close(&self.0.state, self.0.side, code);
    }

    pub(super) async fn closed(&self) -> Closed {
        closed(self.0.side, &self.0.state).await
    }
}

/// One direction of a stream.
#[derive(Default)]
struct Pipe {
    flow: Mutex<Flow>,
    readable: Notify,
    writable: Notify,
}

#[derive(Default)]
struct Flow {
    chunks: VecDeque<Bytes>,
    unread: usize,
    finished: bool,
    read_to_end: bool,
    reset: Option<Code>,
    stopped: Option<Code>,
}

impl Pipe {
    fn flow(&self) -> MutexGuard<'_, Flow> {
        self.flow.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Half {
    pipe: Arc<Pipe>,
    side: Side,
    state: Arc<State>,
    _end: Option<End>,
}

impl Half {
    /// Asks `ready` again whenever `wake` says so, until it has an answer or the connection ends.
    async fn until<T>(
        &self,
        wake: &Notify,
        mut ready: impl FnMut(&mut Flow) -> Option<Result<T, StreamError>>,
    ) -> Result<T, StreamError> {
        loop {
            let answer = ready(&mut self.pipe.flow());
            if let Some(answer) = answer {
                return answer;
            }
            tokio::select! {
                biased;
                why = closed(self.side, &self.state) => return Err(StreamError::Closed(why)),
                // A permit is kept for whoever is not waiting yet, so that no wake-up is lost.
                () = wake.notified() => {}
            }
        }
    }

    fn alive(&self) -> bool {
        self.state.borrow().is_none()
    }
}

/// The sending half of a stream in memory.
pub(super) struct SendHalf(Half);

impl SendHalf {
    pub(super) async fn write(&mut self, mut bytes: Bytes) -> Result<(), StreamError> {
        let Half { pipe, .. } = &self.0;
        while !bytes.is_empty() {
            let room = |flow: &mut Flow| match flow.stopped {
                Some(code) => Some(Err(StreamError::Stopped(code))),
                None => (flow.unread < WINDOW).then(|| Ok(WINDOW - flow.unread)),
            };
            let room = self.0.until(&pipe.writable, room).await?;
            let chunk = bytes.split_to(room.min(bytes.len()));
            let mut flow = pipe.flow();
            flow.unread += chunk.len();
            flow.chunks.push_back(chunk);
            drop(flow);
            pipe.readable.notify_one();
        }
        Ok(())
    }

    pub(super) fn finish(&mut self) {
        self.0.pipe.flow().finished = true;
        self.0.pipe.readable.notify_one();
    }

    pub(super) async fn received(&mut self) -> Result<(), StreamError> {
        let ready = |flow: &mut Flow| match flow.stopped {
            Some(code) => Some(Err(StreamError::Stopped(code))),
            None => flow.read_to_end.then_some(Ok(())),
        };
        self.0.until(&self.0.pipe.writable, ready).await
    }

    pub(super) fn reset(&mut self, code: Code) {
        let mut flow = self.0.pipe.flow();
        if !flow.read_to_end {
            flow.reset = Some(code);
            flow.chunks.clear();
        }
        drop(flow);
        self.0.pipe.readable.notify_one();
    }
}

/// The receiving half of a stream in memory.
pub(super) struct ReceiveHalf(Half);

impl ReceiveHalf {
    pub(super) async fn read(&mut self, max: usize) -> Result<Option<Bytes>, StreamError> {
        let Half { pipe, .. } = &self.0;
        let alive = self.0.alive();
        let ready = |flow: &mut Flow| {
            if let Some(code) = flow.reset {
                return Some(Err(StreamError::Reset(code)));
            }
            if !alive {
                return None;
            }
            if let Some(first) = flow.chunks.front_mut() {
                let chunk = first.split_to(max.min(first.len()));
                if first.is_empty() {
                    flow.chunks.pop_front();
                }
                flow.unread -= chunk.len();
                return Some(Ok(Some(chunk)));
            }
            flow.read_to_end |= flow.finished;
            flow.finished.then_some(Ok(None))
        };
        let read = self.0.until(&pipe.readable, ready).await;
        pipe.writable.notify_one();
        read
    }

    pub(super) fn stop(&mut self, code: Code) {
        let mut flow = self.0.pipe.flow();
        if !flow.read_to_end {
            flow.stopped.get_or_insert(code);
            flow.chunks.clear();
        }
        drop(flow);
        self.0.pipe.writable.notify_one();
    }
}

impl Drop for ReceiveHalf {
    fn drop(&mut self) {
        self.stop(codes::DONE);
    }
}
