//! Traces: how long requests took, told to a collector by OTLP over HTTP. What is told of a request is its method, its number and its
//! status, and nothing else, whatever comes to be logged within it. Nothing waits for the collector: what it does not take in time is
//! lost, which is counted and now and then logged.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Uri,
    client::conn::http1,
    header::{CONTENT_TYPE, HOST},
};
use hyper_util::rt::TokioIo;
use opentelemetry::{
    Context, KeyValue, Value,
    trace::{SpanKind, Status, TracerProvider as _},
};
use opentelemetry_proto::{
    tonic::collector::trace::v1::ExportTraceServiceRequest,
    transform::{common::tonic::ResourceAttributesWithSchema, trace::tonic::group_spans_by_resource_and_scope},
};
use opentelemetry_sdk::{
    Resource,
    error::OTelSdkResult,
    trace::{Sampler, SdkTracerProvider, Span, SpanData, SpanProcessor},
};
use prost::Message as _;
use tokio::{
    net::TcpStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{Instant, sleep_until, timeout},
};
use tracing::{Level, Metadata};
use tracing_subscriber::{
    Layer, Registry,
    filter::{FilterFn, LevelFilter},
};

use crate::base::{self, Domain};

/// What a span may say of its request. A name that is added here leaves the homeserver: it must say nothing of anybody.
const SAID: [&str; 3] = [METHOD, "number", STATUS];
const METHOD: &str = "method";
const STATUS: &str = "status";

/// Spans that wait. What comes when there are so many is lost.
const QUEUE: usize = 4_096;

/// Spans that are sent at once.
const BATCH: usize = 512;

/// How long the first of fewer waits.
const INTERVAL: Duration = Duration::from_secs(1);

/// How long sending may take, from connecting to the answer.
const SENDING: Duration = Duration::from_secs(5);

/// How long a collector that has not taken what it was sent is left alone.
const PAUSE: Duration = Duration::from_secs(5);

/// How often at most it is logged that spans are lost.
const TELLING: Duration = Duration::from_secs(600);

/// How long the end may wait for what is still to be sent.
pub const FINISHING: Duration = Duration::from_secs(2);

/// Bytes of the head of an answer. Nothing else of it is read.
const ANSWER: usize = 16 << 10;

/// Where OTLP over HTTP takes traces, below what is configured.
const PATH: &str = "/v1/traces";

/// The port of OTLP over HTTP.
const PORT: u16 = 4_318;

/// Traces that are told to a collector.
pub struct Traces {
    stop: oneshot::Sender<()>,
    worker: JoinHandle<()>,
    counts: Arc<Counts>,
}

impl Traces {
    /// Begins to tell a collector of the requests of a domain's homeserver: those of the subscriber that the layer is made part of. It
    /// needs a runtime.
    pub fn start(collector: &Uri, domain: &Domain) -> (Box<dyn Layer<Registry> + Send + Sync>, Self) {
        let counts = Arc::new(Counts::default());
        let (sender, spans) = mpsc::channel(QUEUE);
        // Of these alone: by default it would have what the environment says, too.
        let resource = Resource::builder_empty().with_attributes([
            KeyValue::new("service.name", env!("CARGO_PKG_NAME")),
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            KeyValue::new("service.instance.id", domain.to_string()),
        ]);
        let resource = ResourceAttributesWithSchema::from(&resource.build());
        let provider = SdkTracerProvider::builder()
            .with_span_processor(Queue { spans: sender, counts: counts.clone() })
            .with_resource(Resource::builder_empty().build())
            .with_sampler(Sampler::AlwaysOn)
            .build();
        let layer = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer(env!("CARGO_PKG_NAME")))
            .with_context_activation(false)
            .with_location(false)
            .with_target(false)
            .with_threads(false)
            .with_tracked_inactivity(false)
            .with_filter(FilterFn::new(is_told).with_max_level_hint(LevelFilter::DEBUG));
        let (stop, stopped) = oneshot::channel();
        let collector = Collector::new(collector);
        let worker = Worker { spans, stopped, collector, resource, counts: counts.clone(), untold: 0, told: None };
        (layer.boxed(), Self { stop, worker: tokio::spawn(worker.run()), counts })
    }

    /// Sends what is still to be sent, for no longer than [`FINISHING`], and says how many spans were lost from the beginning to the end.
    pub async fn finish(self) -> u64 {
        let Self { stop, mut worker, counts } = self;
        // If nobody hears it, it has ended.
        let _ = stop.send(());
        if timeout(FINISHING, &mut worker).await.is_err() {
            worker.abort();
        }
        let lost = counts.lost();
        if lost > 0 {
            tracing::warn!(spans = lost, "not all traces were taken by the collector");
        }
        lost
    }
}

/// What is told: the spans of this program, and no events. Those of what sends them are of other crates.
fn is_told(metadata: &Metadata<'_>) -> bool {
    let own = metadata.target().split("::").next() == Some(env!("CARGO_PKG_NAME"));
    metadata.is_span() && own && *metadata.level() <= Level::DEBUG
}

/// Spans since the beginning.
#[derive(Debug, Default)]
struct Counts {
    ended: AtomicU64,
    taken: AtomicU64,
    /// Those for which there was no room.
    dropped: AtomicU64,
}

impl Counts {
    /// All that have ended and were not taken, if nothing is waiting any more.
    fn lost(&self) -> u64 {
        self.ended.load(Ordering::Relaxed).saturating_sub(self.taken.load(Ordering::Relaxed))
    }
}

/// Where requests leave their spans behind.
#[derive(Debug)]
struct Queue {
    spans: mpsc::Sender<SpanData>,
    counts: Arc<Counts>,
}

impl SpanProcessor for Queue {
    fn on_start(&self, _: &mut Span, _: &Context) {}

    fn on_end(&self, span: SpanData) {
        self.counts.ended.fetch_add(1, Ordering::Relaxed);
        if self.spans.try_send(span).is_err() {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn force_flush(&self) -> OTelSdkResult {
        Ok(())
    }

    /// [`Traces::finish`] waits, where waiting holds up nothing else.
    fn shutdown_with_timeout(&self, _: Duration) -> OTelSdkResult {
        Ok(())
    }
}

/// Sends what is in the queue.
struct Worker {
    spans: mpsc::Receiver<SpanData>,
    stopped: oneshot::Receiver<()>,
    collector: Collector,
    resource: ResourceAttributesWithSchema,
    counts: Arc<Counts>,
    /// Spans that were lost since that was last told, and when that was.
    untold: u64,
    told: Option<Instant>,
}

impl Worker {
    async fn run(mut self) {
        let mut batch = Vec::with_capacity(BATCH);
        while self.collect(&mut batch).await {
            if !self.send(mem::take(&mut batch)).await && !self.pause().await {
                break;
            }
        }
        // What ends later is not sent any more.
        self.spans.close();
        loop {
            while batch.len() < BATCH
                && let Ok(span) = self.spans.try_recv()
            {
                batch.push(span);
            }
            // A collector that does not take these will not take the next.
            if batch.is_empty() || !self.send(mem::take(&mut batch)).await {
                return;
            }
        }
    }

    /// Waits for what is to be sent next; false if this is the end.
    async fn collect(&mut self, batch: &mut Vec<SpanData>) -> bool {
        let mut due = None;
        while batch.len() < BATCH {
            let room = BATCH - batch.len();
            tokio::select! {
                biased;
                _ = &mut self.stopped => return false,
                received = self.spans.recv_many(batch, room) => if received == 0 { return false },
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => break,
            }
            due.get_or_insert_with(|| Instant::now() + INTERVAL);
        }
        true
    }

    /// Leaves the collector alone for a while; false if this is the end.
    async fn pause(&mut self) -> bool {
        timeout(PAUSE, &mut self.stopped).await.is_err()
    }

    /// Whether the collector has taken the batch. If it has not, it is lost.
    async fn send(&mut self, batch: Vec<SpanData>) -> bool {
        let number = batch.len() as u64;
        let resource_spans = group_spans_by_resource_and_scope(batch.into_iter().map(told).collect(), &self.resource);
        let request = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
        let sent = timeout(SENDING, self.collector.send(request.into())).await;
        let sent = sent.unwrap_or_else(|_| Err("it does not answer".to_owned()));
        match &sent {
            Ok(()) => self.counts.taken.fetch_add(number, Ordering::Relaxed),
            Err(_) => self.counts.dropped.fetch_add(number, Ordering::Relaxed),
        };
        self.tell_losses(sent.as_ref().err().map_or("there were too many at once", String::as_str));
        sent.is_ok()
    }

    fn tell_losses(&mut self, reason: &str) {
        self.untold += self.counts.dropped.swap(0, Ordering::Relaxed);
        if self.untold > 0 && self.told.is_none_or(|told| told.elapsed() >= TELLING) {
            tracing::warn!(spans = self.untold, reason, "traces are lost");
            (self.untold, self.told) = (0, Some(Instant::now()));
        }
    }
}

/// What is told of a span: [`SAID`], and what follows from it.
fn told(mut span: SpanData) -> SpanData {
    span.attributes.retain(|attribute| SAID.contains(&attribute.key.as_str()));
    span.events = Default::default();
    span.links = Default::default();
    span.span_kind = SpanKind::Server;
    let said = |name| span.attributes.iter().find(|attribute| attribute.key.as_str() == name);
    // By the name people look for.
    if let Some(KeyValue { value: Value::String(method), .. }) = said(METHOD) {
        span.name = method.as_str().to_owned().into();
    }
    // A request that was refused was answered as it should be.
    let failed = said(STATUS).is_some_and(|status| status.value.as_str() == base::Status::Internal.name());
    span.status = if failed { Status::error("") } else { Status::Unset };
    span
}

/// Who takes traces.
struct Collector {
    /// Host and port.
    authority: String,
    path: String,
}

impl Collector {
    fn new(uri: &Uri) -> Self {
        let host = uri.host().unwrap_or_default();
        let authority = format!("{host}:{}", uri.port_u16().unwrap_or(PORT));
        Self { authority, path: format!("{}{PATH}", uri.path().trim_end_matches('/')) }
    }

    /// Posts a batch.
    ///
    /// # Errors
    /// Why it was not taken, for people.
    async fn send(&self, batch: Bytes) -> Result<(), String> {
        let request = Request::post(&self.path)
            .header(HOST, &self.authority)
            .header(CONTENT_TYPE, "application/x-protobuf")
            .body(Full::new(batch))
            .map_err(|error| error.to_string())?;
        let stream = TcpStream::connect(&self.authority).await.map_err(|error| error.to_string())?;
        let connecting = http1::Builder::new().max_buf_size(ANSWER).handshake(TokioIo::new(stream)).await;
        let (mut sender, connection) = connecting.map_err(|error| error.to_string())?;
        let mut answer = std::pin::pin!(sender.send_request(request));
        let answer = tokio::select! {
            biased;
            answer = &mut answer => answer,
            // The other side has closed: the answer is there, or never comes.
            _ = connection => answer.await,
        };
        match answer.map_err(|error| error.to_string())?.status() {
            status if status.is_success() => Ok(()),
            status => Err(format!("it answers {status}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry::{InstrumentationScope, SpanId, trace::SpanContext};

    use super::*;

    #[test]
    fn a_span_says_what_is_listed_and_nothing_else() {
        let now = std::time::SystemTime::UNIX_EPOCH;
        let attributes = [("method", "AsEnqueue"), ("status", "internal"), ("user", "alice")];
        let span = |attributes: &[(&'static str, &'static str)]| SpanData {
            span_context: SpanContext::NONE,
            parent_span_id: SpanId::INVALID,
            parent_span_is_remote: false,
            span_kind: SpanKind::Internal,
            name: "request".into(),
            start_time: now,
            end_time: now,
            attributes: attributes.iter().map(|(name, value)| KeyValue::new(*name, *value)).collect(),
            dropped_attributes_count: 0,
            events: Default::default(),
            links: Default::default(),
            status: Status::Unset,
            instrumentation_scope: InstrumentationScope::default(),
        };
        let failed = told(span(&attributes));
        assert_eq!(failed.attributes, span(&attributes[..2]).attributes);
        assert_eq!((&*failed.name, failed.status), ("AsEnqueue", Status::error("")));
        let unknown = told(span(&[("status", "malformed")]));
        assert_eq!((&*unknown.name, unknown.status), ("request", Status::Unset));
    }

    #[test]
    fn what_is_configured_is_where_the_paths_of_otlp_begin() {
        for (uri, authority, path) in [
            ("http://127.0.0.1:4318", "127.0.0.1:4318", "/v1/traces"),
            ("http://[::1]/", "[::1]:4318", "/v1/traces"),
            ("http://collector.test:80/otlp/", "collector.test:80", "/otlp/v1/traces"),
        ] {
            let collector = Collector::new(&uri.parse().unwrap());
            assert_eq!((&*collector.authority, &*collector.path), (authority, path));
        }
    }
}
