//! The log of the process: for people where standard error is a terminal, as JSON elsewhere. What is logged is said for each module
//! (as in `RUST_LOG`), and can be changed while it runs. A request has a number, by which what is logged of it can be put together; the
//! number says nothing about who made it. What a collector of traces is told, if there is one, does not depend on what is logged.

use std::{
    io::{self, IsTerminal},
    sync::OnceLock,
};

use tracing_subscriber::{
    EnvFilter, Layer as _, Registry, fmt,
    layer::SubscriberExt as _,
    reload::{self, Handle},
    util::SubscriberInitExt as _,
};

#[cfg(feature = "otlp")]
use super::traces::Traces;
use super::{Config, NodeError};
use crate::base::Refusal;

/// The process has one log.
static LEVELS: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// The log of this process, with what has to be done at its end.
#[must_use]
pub struct Log {
    #[cfg(feature = "otlp")]
    traces: Option<Traces>,
}

impl Log {
    /// Tells the collector of traces what it was not told yet, if there is one. That takes no longer than two seconds; the log goes on.
    pub async fn finish(self) {
        #[cfg(feature = "otlp")]
        if let Some(traces) = self.traces {
            // How many it has not taken is in the log.
            let _ = traces.finish().await;
        }
    }
}

/// Begins to log to standard error what `RUST_LOG` says, or else what is configured, and to tell a collector of requests, if one is
/// configured; for that it needs a runtime.
///
/// # Errors
/// [`NodeError::Config`] if the filter is none, or the process logs already.
pub fn start(config: &Config) -> Result<Log, NodeError> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| config.log.clone());
    let filter = parse(&filter).map_err(|why| NodeError::Config(format!("RUST_LOG, or log.filter: {why}")))?;
    let (filter, levels) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if io::stderr().is_terminal() { lines.boxed() } else { lines.json().boxed() };
    // The filter is that of the lines alone: a collector is told of spans that nobody logs.
    #[cfg_attr(not(feature = "otlp"), expect(unused_mut, reason = "there is nothing but lines"))]
    let mut layers = vec![lines.with_filter(filter).boxed()];
    #[cfg(feature = "otlp")]
    let traces = config.otlp.as_ref().map(|collector| {
        let (layer, traces) = Traces::start(collector, &config.domain);
        layers.push(layer);
        traces
    });
    let started = tracing_subscriber::registry().with(layers).try_init();
    started.map_err(|error| NodeError::Config(format!("log: {error}")))?;
    // Only one that has started comes here.
    let _ = LEVELS.set(levels);
    Ok(Log {
        #[cfg(feature = "otlp")]
        traces,
    })
}

/// Logs what this filter says from now on, until the process ends.
///
/// # Errors
/// `malformed` if it is none, `internal` if the process does not log.
pub fn set(filter: &str) -> Result<(), Refusal> {
    let filter = parse(filter).map_err(Refusal::malformed)?;
    let levels = LEVELS.get().ok_or_else(|| Refusal::internal("this process does not log"))?;
    levels.reload(filter).map_err(|error| Refusal::internal(error.to_string()))
}

/// What is logged, as it can be given to [`set`].
pub fn current() -> Option<String> {
    LEVELS.get()?.with_current(ToString::to_string).ok()
}

fn parse(filter: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(filter).map_err(|error| format!("\"{filter}\" is no filter: {error}"))
}

/// Whether this says what is logged.
///
/// # Errors
/// Why it does not.
pub fn check(filter: &str) -> Result<(), String> {
    parse(filter).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::Status;

    #[test]
    fn a_filter_that_is_none_is_refused_and_named() {
        assert!(parse("bennu=info,bennu::dispatch=debug").is_ok());
        let error = parse("bennu=loud").unwrap_err();
        assert!(error.contains("bennu=loud"), "{error}");
        assert_eq!(set("bennu=loud").unwrap_err().status, Status::Malformed);
    }
}
