//! `bennu check`: looks at what commonly goes wrong, before the first user does. Changes nothing, and runs beside a homeserver
//! or without one.

mod certificate;
mod files;
mod machine;
mod network;
#[cfg(test)]
mod tests;

use std::path::Path;

use serde::Serialize;

use super::{Config, NodeError};
use crate::base::SystemClock;

/// How bad something is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// It may go well.
    Warning,
    /// It will not go well.
    Failure,
}

/// What was found of one thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub subject: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is so.
    pub found: String,
    /// What to do about it.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(subject: &'static str, found: impl Into<String>) -> Self {
        Self { subject, level: Level::Ok, found: found.into(), advice: None }
    }

    fn warning(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { subject, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    fn failure(subject: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Failure, ..Self::warning(subject, found, advice) }
    }

    /// The same, if it may be so where things are only tried out.
    fn unless_development(self, config: &Config) -> Self {
        let level = if config.authority.is_some() { self.level.min(Level::Warning) } else { self.level };
        Self { level, ..self }
    }
}

/// Logs what is the matter with the files of a homeserver that starts all the same.
pub fn warn_of_files(config: &Config) {
    for Finding { subject, found, .. } in files::look(config).into_iter().filter(|finding| finding.level != Level::Ok) {
        tracing::warn!(subject, %found, "`bennu check` says what to do");
    }
}

/// Looks at everything that a configuration file names, and tells each finding as it comes.
pub async fn run(path: &Path, tell: &mut (dyn FnMut(Finding) + Send)) {
    let config = match Config::load(path) {
        Ok(config) => config,
        Err(error @ NodeError::File { .. }) => {
            return tell(Finding::failure(
                "configuration",
                error.to_string(),
                "name the file with --config, or make one with `bennu init`",
            ));
        }
        Err(error) => {
            return tell(Finding::failure("configuration", error.to_string(), "correct the setting"));
        }
    };
    tell(Finding::ok("configuration", format!("{} is understood: {}", path.display(), config.domain)));
    files::look(&config).into_iter().for_each(&mut *tell);
    certificate::look(&config, &SystemClock).into_iter().for_each(&mut *tell);
    network::look(&config, tell).await;
    let looked = config.clone();
    if let Ok(Some(finding)) = tokio::task::spawn_blocking(move || files::database(&looked)).await {
        tell(finding);
    }
    let data = config.clone();
    // Writes to the disk, and waits for it.
    if let Ok(findings) = tokio::task::spawn_blocking(move || machine::look(&data)).await {
        findings.into_iter().for_each(tell);
    }
}
