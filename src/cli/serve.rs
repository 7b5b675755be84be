//! `bennu serve`: runs a homeserver.

use std::path::PathBuf;

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::{
    output::{Failure, print},
    private,
};
use crate::node::{Config, Node, check, logging};

/// What to run.
#[derive(Args)]
pub struct Serve {
    /// Configuration file, as `bennu init` writes it
    #[arg(long, default_value = "bennu.toml")]
    config: PathBuf,
}

impl Serve {
    /// Runs until SIGTERM or SIGINT. Prints one line when ready, and tells systemd if that has started it.
    ///
    /// # Errors
    /// If the homeserver cannot start.
    pub async fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config)?;
        let log = logging::start(&config)?;
        private();
        check::warn_of_files(&config);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = Node::start(&config).await?;
        let (domain, address) = (&config.domain, node.local_addr()?);
        tracing::info!(version = env!("CARGO_PKG_VERSION"), %domain, %address, "ready");
        // A homeserver is there for others than whoever reads this.
        let told = print(format!("{domain} is ready on {address}\n")).and_then(|()| match node.watch_addr() {
            Some(address) => print(format!("figures are on http://{address}/\n")),
            None => Ok(()),
        });
        if told.is_err() {
            tracing::warn!("standard output takes nothing");
        }
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        let ended = node.run(stop).await;
        log.finish().await;
        Ok(ended?)
    }
}
