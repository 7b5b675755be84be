//! One homeserver: its configuration, its start, its background jobs and its end. Everything else is wired together here
//! and nowhere else.

pub mod admin;
#[cfg(feature = "rocksdb")]
pub mod backup;
pub mod certificates;
#[cfg(feature = "rocksdb")]
pub mod check;
pub mod config;
pub mod federation;
mod jobs;
pub mod life;
pub mod logging;
mod policy;
mod reload;
pub(crate) mod renewal;
mod room;
pub mod setup;
mod supervisor;
#[cfg(test)]
mod tests;
#[cfg(feature = "otlp")]
pub mod traces;
pub mod watch;
#[cfg(feature = "rocksdb")]
pub mod wipe;

use std::{
    fs,
    future::Future,
    io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use rustls::RootCertStore;
use tokio::task::JoinSet;

use crate::{
    base::{Clock, Refusal, Secret},
    crypto::{RequestRng, at_rest::StorageKey},
    dispatch::{Dispatcher, Entropy, Parts, Service, connection_limits},
    federation::{Federation, Rules},
    push::{WebPush, web_push},
    service::work::Workers,
    store::{Engine, Store, StoreError},
    transport::{Context, Endpoint, Settings, TlsError},
    wire::label::KeyLabel,
};

pub use config::Config;

use admin::{AdminSocket, Operator};
use federation::QuicDial;
use reload::Reload;
use renewal::Renewal;
use watch::{Condition, Metrics, Subjects, Watch};

/// Why a homeserver cannot start, or had to stop.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The configuration is not usable.
    #[error("{0}")]
    Config(String),
    /// A file cannot be read or written.
    #[error("{}: {error}", .path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// Nobody answers on the admin socket.
    #[error("no homeserver answers on {}: it is not running, or another configuration is its own", .0.display())]
    NotRunning(PathBuf),
    /// The certificate or its key is not usable.
    #[error("the certificate is not usable: {0}")]
    Certificate(#[from] TlsError),
    /// The address is not to be had.
    #[error("cannot listen on {address}: {error}")]
    Listen {
        /// Which.
        address: SocketAddr,
        /// Why.
        error: io::Error,
    },
    /// The data directory cannot be opened.
    #[cfg(feature = "rocksdb")]
    #[error(transparent)]
    Open(#[from] crate::store::OpenError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A service could not load its keys.
    #[error("a service cannot start: {0}")]
    Service(Refusal),
    /// A running homeserver does not carry a command out.
    #[error("{}", .0.message)]
    Refused(Refusal),
}

/// How long one push may take.
const PUSH_TIMEOUT: Duration = Duration::from_secs(10);

/// What stopping may take beside the time for exchanges in flight: the last write, and what is flushed.
const STOPPING: Duration = Duration::from_secs(60);

/// A running homeserver.
pub struct Node {
    dispatcher: Arc<Dispatcher>,
    endpoint: Endpoint,
    store: Store,
    jobs: tokio::task::JoinHandle<()>,
    pushing: Option<tokio::task::JoinHandle<()>>,
    serving: tokio::task::JoinHandle<()>,
    renewing: tokio::task::JoinHandle<()>,
    admin: tokio::task::JoinHandle<()>,
    watching: Watching,
}

impl Node {
    /// Starts a homeserver on the data directory of its configuration.
    ///
    /// # Errors
    /// [`NodeError`] says what is missing or in the way.
    #[cfg(feature = "rocksdb")]
    pub async fn start(config: &Config) -> Result<Self, NodeError> {
        let watching = Watching::start(config).await?;
        let data = config.data.clone();
        let open = move || {
            let options = crate::store::RocksOptions { create: true, ..Default::default() };
            crate::store::RocksEngine::open(data, &options)
        };
        let opened = supervisor::while_starting(tokio::task::spawn_blocking(open)).await;
        let engine = opened.map_err(|error| NodeError::Config(format!("the database was not opened: {error}")))??;
        Self::start_watched(config, engine, Arc::new(crate::base::SystemClock), watching).await
    }

    /// Starts a homeserver on an engine and a clock from outside.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(config: &Config, engine: impl Engine, clock: Arc<dyn Clock>) -> Result<Self, NodeError> {
        Self::start_watched(config, engine, clock, Watching::start(config).await?).await
    }

    async fn start_watched(
        config: &Config,
        engine: impl Engine,
        clock: Arc<dyn Clock>,
        mut watching: Watching,
    ) -> Result<Self, NodeError> {
        let files = renewal::Files::of(config);
        let loaded = files.load()?;
        let (identity, roots) = (loaded.identity.clone(), loaded.roots.clone());
        let storage_key = read_storage_key(&config.storage_key)?;
        let reset_key = storage_key.derive(KeyLabel::StatelessReset);

        let store = Store::open(engine, crate::store::Options::new(stop_at_once))?;
        life::check_storage_key(&store, &storage_key).await?;
        let listen_error = |error| NodeError::Listen { address: config.listen, error };
        let settings = Settings { reset_key: Some(reset_key), ..config.limits.transport() };
        let endpoint = Endpoint::bind(config.listen, settings).map_err(listen_error)?.on_clock(clock.clone());
        let dialling = Context::on(endpoint.clone(), roots.clone(), Some(identity.clone()))?;
        let dial = Arc::new(QuicDial::new(dialling.clone(), config.federation.routes(&config.domain)));
        let dispatcher = Dispatcher::start(Parts {
            domain: config.domain.clone(),
            incarnation: life::incarnation(&store, config).await?,
            store: store.clone(),
            storage_key,
            clock: clock.clone(),
            entropy: system_entropy(),
            queue_limits: config.limits.queues(),
            policy: config.policy.clone().into(),
            workers: Workers::for_this_machine(),
            max_wait: config.limits.transport().max_wait,
            connection_limits: connection_limits(&config.limits.transport()),
            federation: Federation { dial: dial.clone(), rules: Arc::new(Rules::new(config.federation.mode)) },
            outbox_limits: config.federation.limits,
            peer_settings: config.federation.settings,
        })
        .await
        .map_err(NodeError::Service)?;

        let pushing = push_service(config, &dispatcher, clock.clone(), roots.clone())?;
        let pushing = pushing.map(|service| tokio::spawn(dispatcher.clone().run_pushes(Arc::new(service))));
        let serving = tokio::spawn(endpoint.serve(identity, roots, Arc::new(Service(dispatcher.clone())))?);
        let renewal = Renewal::new(files, &loaded, endpoint.clone(), dialling);
        let renewing = tokio::spawn(renewal.run(renewal::PERIOD));
        let operator = Operator {
            dispatcher: dispatcher.clone(),
            domain: config.domain.clone(),
            clock: clock.clone(),
            condition: watching.condition.clone(),
            snapshots: admin::Snapshots::of(store.clone(), config.data.clone()),
        };
        let admin = tokio::spawn(AdminSocket::bind(&config.admin_socket)?.serve(operator));
        let jobs = tokio::spawn(jobs::run(store.clone(), clock.clone(), dispatcher.clone()));
        watching.tasks.spawn(room::keep(config.data.clone(), config.limits.disk_reserve, dispatcher.clone()));
        if let Some(reload) = Reload::new(config, dispatcher.clone(), dial) {
            watching.tasks.spawn(reload.run());
        }
        watching.serving(Subjects {
            domain: config.domain.clone(),
            dispatcher: dispatcher.clone(),
            store: store.clone(),
            endpoint: endpoint.clone(),
            data: config.data.clone(),
            clock,
        });
        Ok(Self { dispatcher, endpoint, store, jobs, pushing, serving, renewing, admin, watching })
    }

    /// Where its figures can be read over HTTP, if anywhere.
    pub const fn watch_addr(&self) -> Option<SocketAddr> {
        self.watching.address
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The operating system's.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Runs until `stop` resolves, then lets exchanges in flight finish, tells the peers, and closes the store.
    ///
    /// # Errors
    /// [`NodeError::Store`] if something that was submitted could not be written.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<(), NodeError> {
        let Self { dispatcher, endpoint, store, jobs, pushing, mut serving, renewing, admin, watching } = self;
        tokio::select! {
            () = stop => {}
            _ = &mut serving => {}
        }
        tracing::info!("shutting down");
        watching.condition.set_draining(true);
        supervisor::stopping(endpoint.settings().shutdown_grace + STOPPING);
        // First: whoever is told that this homeserver stops needs no push for it.
        if let Some(pushing) = pushing {
            pushing.abort();
        }
        dispatcher.end_federation();
        endpoint.shutdown().await;
        serving.abort();
        renewing.abort();
        jobs.abort();
        admin.abort();
        drop(watching);
        store.close().await?;
        tracing::info!("stopped");
        Ok(())
    }
}

/// How the homeserver is seen from outside, from before there is anything to see.
struct Watching {
    condition: Condition,
    address: Option<SocketAddr>,
    /// They end with it.
    tasks: JoinSet<()>,
}

impl Watching {
    async fn start(config: &Config) -> Result<Self, NodeError> {
        let (condition, mut tasks) = (Condition::starting(config.limits.disk_reserve), JoinSet::new());
        let mut address = None;
        if let Some(wanted) = config.watch {
            let watch = Watch::bind(wanted, condition.clone()).await?;
            let bound = watch.local_addr().map_err(|error| NodeError::Listen { address: wanted, error })?;
            if !bound.ip().is_loopback() {
                tracing::warn!(address = %bound, "figures can be read by whoever reaches this address");
            }
            address = Some(bound);
            tasks.spawn(watch.serve());
        }
        Ok(Self { condition, address, tasks })
    }

    fn serving(&mut self, of: Subjects) {
        self.tasks.spawn(supervisor::watch(of.store.clone()));
        self.condition.serving(Arc::new(Metrics::new(of)));
        self.tasks.spawn(self.condition.clone().keep_history());
        supervisor::ready();
    }
}

/// What wakes devices, if the operator wants that.
fn push_service(
    config: &Config,
    dispatcher: &Dispatcher,
    clock: Arc<dyn Clock>,
    roots: Arc<RootCertStore>,
) -> Result<Option<WebPush>, NodeError> {
    let push = &config.policy.push;
    let settings = web_push::Settings {
        ttl: Duration::from_secs(push.ttl.into()),
        contact: push.contact.clone().unwrap_or_else(|| format!("https://{}", config.domain)),
        allow_private_addresses: push.allow_private_addresses,
        timeout: PUSH_TIMEOUT,
    };
    let service = |key| WebPush::new(settings, key, clock, roots);
    Ok(dispatcher.push_key().map(service).transpose()?)
}

/// Randomness that the operating system seeds for each request.
pub fn system_entropy() -> Entropy {
    Arc::new(|| Box::new(RequestRng::default()))
}

/// What is not on disk must not be acknowledged, now or later: the process ends.
fn stop_at_once(error: &crate::store::EngineError) {
    tracing::error!(%error, "a write failed; stopping at once");
    std::process::exit(3);
}

fn read(path: impl AsRef<Path>) -> Result<Vec<u8>, NodeError> {
    let path = path.as_ref();
    fs::read(path).map_err(|error| NodeError::File { path: path.to_owned(), error })
}

fn read_storage_key(path: &Path) -> Result<StorageKey, NodeError> {
    let bytes = zeroize::Zeroizing::new(read(path)?);
    let key = <[u8; 32]>::try_from(&bytes[..])
        .map_err(|_| NodeError::Config(format!("{} is not a storage key of 32 bytes", path.display())))?;
    Ok(StorageKey::new(Secret::new(key)))
}
