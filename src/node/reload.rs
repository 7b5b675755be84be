//! SIGHUP: the configuration is read again. What an operator decides about others takes effect at once: who may register, prices, rates,
//! how long things last, with whom to federate and where others are, what is logged. What the homeserver stands on (domain, address,
//! files, limits) takes a new start, which is said. Certificates have a way of their own (`renewal`).

use std::{path::PathBuf, sync::Arc};

use tokio::{
    signal::unix::{SignalKind, signal},
    task::spawn_blocking,
};

use super::{Config, federation::QuicDial, logging};
use crate::dispatch::Dispatcher;

/// What a running homeserver goes by.
pub struct Reload {
    /// The file.
    path: PathBuf,
    /// What the homeserver was started with.
    started: Config,
    /// What is logged by the last that was in it.
    log: String,
    dispatcher: Arc<Dispatcher>,
    dial: Arc<QuicDial>,
}

impl Reload {
    /// Of a homeserver that was started with `config`; none without a file to read again.
    pub fn new(config: &Config, dispatcher: Arc<Dispatcher>, dial: Arc<QuicDial>) -> Option<Self> {
        let (path, log) = (config.file.clone()?, config.log.clone());
        Some(Self { path, started: config.clone(), log, dispatcher, dial })
    }

    /// Reads it on SIGHUP, until it is dropped.
    pub async fn run(mut self) {
        let mut hangups = match signal(SignalKind::hangup()) {
            Ok(hangups) => hangups,
            Err(error) => return tracing::warn!(%error, "SIGHUP is not heard"),
        };
        while hangups.recv().await.is_some() {
            let path = self.path.clone();
            // Nothing in it panics.
            let Ok(read) = spawn_blocking(move || Config::load(&path)).await else { return };
            match read {
                Ok(config) => self.apply(config),
                Err(error) => tracing::warn!(%error, "the configuration in use stays: the file is not usable"),
            }
        }
    }

    /// Puts what can be changed into force, and says what cannot.
    fn apply(&mut self, config: Config) {
        let later = self.started.settled_otherwise(&config);
        if !later.is_empty() {
            tracing::warn!(settings = later.join(", "), "these settings take effect at the next start");
        }
        self.dispatcher.change_policy(config.policy);
        self.dispatcher.set_federation_mode(config.federation.mode);
        self.dial.set_routes(config.federation.routes(&self.started.domain));
        // What an operator has changed on the admin socket stays, unless the file has changed, too.
        if config.log != self.log
            && std::env::var_os("RUST_LOG").is_none()
            && let Err(refusal) = logging::set(&config.log)
        {
            tracing::warn!(%refusal, "what is logged stays");
        }
        self.log = config.log;
        tracing::info!("the configuration was read again");
    }
}
