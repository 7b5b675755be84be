//! `bennu serve`: runs a homeserver.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};

use super::output::Failure;
use crate::node::{Config, Node, logging};

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
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = Node::start(&config).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "{} is ready on {}", config.domain, node.local_addr()?)?;
        if let Some(address) = node.watch_addr() {
            // Whoever waits for the first line may have left.
            let _ = writeln!(out, "figures are on http://{address}/");
        }
        out.flush()?;
        drop(out);
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
