//! What people and programs see of a running homeserver, over HTTP for whoever may open the port: how it is (`/healthz`,
//! `/readyz`), its metrics (`/metrics`), and a page with charts (`/`). Nothing can be changed here, and nothing in it is about
//! one user, group or queue.

mod history;
mod metrics;
mod process;
mod sample;
#[cfg(test)]
mod tests;

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::Value;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::{MissedTickBehavior, interval, sleep, timeout},
};

use super::NodeError;

pub use metrics::{Metrics, Subjects};
pub use process::Disk;

/// Connections at a time.
const MAX_CONNECTIONS: usize = 64;

/// How long a connection may take to ask.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long a connection may last.
const MAX_LIFE: Duration = Duration::from_secs(3_600);

/// Pause after a connection that could not be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The page comes from here alone, and so does all that it uses.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
                              base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// How a homeserver is. Clones are handles to the same.
#[derive(Clone)]
pub struct Condition(Arc<Inner>);

struct Inner {
    /// Bytes that are to stay free on the disk.
    disk_reserve: u64,
    /// Once it is there.
    metrics: OnceLock<Arc<Metrics>>,
    /// Whether it answers those who are there, and nobody new: it is to be stopped.
    draining: AtomicBool,
}

impl Condition {
    /// Of a homeserver that starts, and that is not ready with less than so many bytes free on its disk.
    pub fn starting(disk_reserve: u64) -> Self {
        Self(Arc::new(Inner { disk_reserve, metrics: OnceLock::new(), draining: AtomicBool::new(false) }))
    }

    /// It is there, and these are its figures.
    pub fn serving(&self, metrics: Arc<Metrics>) {
        // It starts once.
        let _ = self.0.metrics.set(metrics);
    }

    /// Whether nobody new is wanted any more. How many connections there are.
    pub fn set_draining(&self, draining: bool) -> u64 {
        self.0.draining.store(draining, Ordering::Relaxed);
        self.metrics().map_or(0, |metrics| metrics.set_draining(draining))
    }

    /// Its figures, once it is there.
    pub fn metrics(&self) -> Option<&Arc<Metrics>> {
        self.0.metrics.get()
    }

    /// Whether it should be sent users: if not, why not.
    ///
    /// # Errors
    /// The reason.
    pub fn ready(&self) -> Result<(), String> {
        let metrics = self.metrics().ok_or("starting")?;
        if self.0.draining.load(Ordering::Relaxed) {
            return Err("draining".into());
        }
        match metrics.disk() {
            Some(disk) if disk.free < self.0.disk_reserve => Err(format!(
                "{} MiB are free on the disk, less than the reserve of {} MiB",
                disk.free >> 20,
                self.0.disk_reserve >> 20
            )),
            _ => Ok(()),
        }
    }

    /// The figures for people, with how it is.
    ///
    /// # Errors
    /// Why there are none.
    pub async fn json(&self) -> Result<Value, String> {
        let metrics = self.metrics().ok_or("starting")?;
        let condition = self.ready().err().unwrap_or_else(|| "ready".into());
        metrics.json(&condition).await.map_err(|refusal| refusal.to_string())
    }

    /// Notes how things stand for the charts, and counts queues, until it is dropped.
    pub async fn keep_history(self) {
        let Some(metrics) = self.metrics() else { return };
        let (mut moments, mut counts) = (interval(history::PERIOD), interval(metrics::COUNT_PERIOD));
        moments.set_missed_tick_behavior(MissedTickBehavior::Delay);
        counts.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let noted = tokio::select! {
                _ = moments.tick() => metrics.note().await,
                _ = counts.tick() => metrics.count_queues().await,
            };
            if let Err(error) = noted {
                tracing::warn!(%error, "figures were not taken");
            }
        }
    }
}

/// The listener.
pub struct Watch {
    listener: TcpListener,
    condition: Condition,
}

impl Watch {
    /// Listens on an address.
    ///
    /// # Errors
    /// [`NodeError::Listen`] if it is not to be had.
    pub async fn bind(address: SocketAddr, condition: Condition) -> Result<Self, NodeError> {
        let listener = TcpListener::bind(address).await.map_err(|error| NodeError::Listen { address, error })?;
        Ok(Self { listener, condition })
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Answers until it is dropped.
    pub async fn serve(self) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        while let Ok(place) = places.clone().acquire_owned().await {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let condition = self.condition.clone();
                    tokio::spawn(async move {
                        // Whoever goes away is not told.
                        let _ = timeout(MAX_LIFE, converse(stream, condition)).await;
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "the HTTP listener does not accept");
                    // What is missing, descriptors for example, is not there again at once.
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn converse(stream: TcpStream, condition: Condition) -> hyper::Result<()> {
    let loopback = stream.local_addr().is_ok_and(|address| address.ip().is_loopback());
    let service = service_fn(move |request: Request<Incoming>| {
        let condition = condition.clone();
        async move { Ok::<_, Infallible>(answer(&request, &condition, loopback).await) }
    });
    let mut connection = http1::Builder::new();
    connection.timer(TokioTimer::new()).header_read_timeout(DEADLINE).max_buf_size(16 << 10).max_headers(64);
    connection.serve_connection(TokioIo::new(stream), service).await
}

async fn answer(request: &Request<Incoming>, condition: &Condition, loopback: bool) -> Response<Full<Bytes>> {
    let head = request.method() == Method::HEAD;
    if !head && request.method() != Method::GET {
        return plain(StatusCode::METHOD_NOT_ALLOWED, "this can only be read");
    }
    if loopback && !is_addressed(request) {
        return plain(StatusCode::MISDIRECTED_REQUEST, "ask for this listener by its address, or as localhost");
    }
    let mut response = match request.uri().path() {
        "/" => file("text/html; charset=utf-8", include_str!("page/index.html")),
        "/page.css" => file("text/css; charset=utf-8", include_str!("page/page.css")),
        "/page.js" => file("text/javascript; charset=utf-8", include_str!("page/page.js")),
        "/figures" => match condition.json().await {
            Ok(figures) => respond(StatusCode::OK, "application/json", figures.to_string()),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        "/metrics" => metrics(condition).await,
        "/healthz" => plain(StatusCode::OK, "ok"),
        "/readyz" => match condition.ready() {
            Ok(()) => plain(StatusCode::OK, "ready"),
            Err(why) => plain(StatusCode::SERVICE_UNAVAILABLE, &why),
        },
        _ => plain(StatusCode::NOT_FOUND, "there are /, /metrics, /healthz and /readyz"),
    };
    if head {
        *response.body_mut() = Full::default();
    }
    response
}

/// Whether the request names an address: a page elsewhere, whose name somebody lets lead here, must not read this through
/// the browser of an operator.
fn is_addressed(request: &Request<Incoming>) -> bool {
    let Some(host) = request.headers().get(header::HOST) else { return true };
    let Ok(host) = host.to_str() else { return false };
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name == "localhost" || name.parse::<std::net::IpAddr>().is_ok()
}

async fn metrics(condition: &Condition) -> Response<Full<Bytes>> {
    const TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    match condition.metrics() {
        None => plain(StatusCode::SERVICE_UNAVAILABLE, "starting"),
        Some(metrics) => match metrics.text().await {
            Ok(text) => respond(StatusCode::OK, TYPE, text),
            Err(refusal) => plain(StatusCode::INTERNAL_SERVER_ERROR, &refusal.to_string()),
        },
    }
}

fn file(content_type: &'static str, content: &'static str) -> Response<Full<Bytes>> {
    respond(StatusCode::OK, content_type, content)
}

fn plain(status: StatusCode, text: &str) -> Response<Full<Bytes>> {
    respond(status, "text/plain; charset=utf-8", format!("{text}\n"))
}

fn respond(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let headers = [
        (header::CONTENT_TYPE, content_type),
        (header::CACHE_CONTROL, "no-store"),
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ];
    for (name, value) in headers {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
