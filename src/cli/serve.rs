//! `bennu serve`: runs a homeserver.

use std::{
    io::{self, IsTerminal, Write},
    path::PathBuf,
};

use clap::Args;
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

use super::output::Failure;
use crate::node::{Config, Node};

/// What to run.
#[derive(Args)]
pub struct Serve {
    /// Configuration file, as `bennu init` writes it
    #[arg(long)]
    config: PathBuf,
}

impl Serve {
    /// Runs until SIGTERM or SIGINT. Prints one line when ready.
    ///
    /// # Errors
    /// If the homeserver cannot start.
    pub async fn run(self) -> Result<(), Failure> {
        let config = Config::load(&self.config)?;
        start_log(&config.log)?;
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let node = Node::start(&config).await?;
        let mut out = io::stdout().lock();
        writeln!(out, "{} is ready on {}", config.domain, node.local_addr()?)?;
        out.flush()?;
        drop(out);
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        Ok(node.run(stop).await?)
    }
}

/// Logs to standard error: for people on a terminal, as JSON elsewhere.
fn start_log(default: &str) -> Result<(), Failure> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(filter) => filter,
        Err(_) => default.to_owned(),
    };
    let filter = EnvFilter::try_new(&filter).map_err(|error| Failure::new("usage", format!("log filter: {error}")))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let started = if io::stderr().is_terminal() { builder.try_init() } else { builder.json().try_init() };
    started.map_err(|error| Failure::new("log", error))
}
