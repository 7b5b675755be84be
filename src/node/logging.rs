//! The log of the process: for people where standard error is a terminal, as JSON elsewhere. What is logged is said for each module
//! (as in `RUST_LOG`), and can be changed while it runs. A request has a number, by which what is logged of it can be put together; the
//! number says nothing about who made it.

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

use super::NodeError;
use crate::base::Refusal;

/// The process has one log.
static LEVELS: OnceLock<Handle<EnvFilter, Registry>> = OnceLock::new();

/// Begins to log to standard error what `RUST_LOG` says, or else this filter.
///
/// # Errors
/// [`NodeError::Config`] if the filter is none, or the process logs already.
pub fn start(default: &str) -> Result<(), NodeError> {
    let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| default.to_owned());
    let filter = parse(&filter).map_err(NodeError::Config)?;
    let (filter, levels) = reload::Layer::new(filter);
    let lines = fmt::layer().with_writer(io::stderr);
    let lines = if io::stderr().is_terminal() { lines.boxed() } else { lines.json().boxed() };
    let started = tracing_subscriber::registry().with(filter).with(lines).try_init();
    started.map_err(|error| NodeError::Config(format!("log: {error}")))?;
    // Only one that has started comes here.
    let _ = LEVELS.set(levels);
    Ok(())
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
    EnvFilter::try_new(filter).map_err(|error| format!("log: \"{filter}\" is no filter: {error}"))
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
