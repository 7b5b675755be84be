//! `bennu check`: looks at what commonly goes wrong with a homeserver.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::output::{Failure, Output};
use crate::node::check::{self, Finding, Level};

/// What to look at.
#[derive(Args)]
pub struct Check {
    /// Configuration file, as `bennu init` writes it
    #[arg(long, default_value = "bennu.toml")]
    config: PathBuf,
    /// Print one JSON object per line, errors as one on standard error
    #[arg(long)]
    pub json: bool,
}

impl Check {
    /// Looks, and tells what it finds as it finds it.
    ///
    /// # Errors
    /// If something was found that will not go well.
    pub async fn run(self) -> Result<(), Failure> {
        let output = Output::new(self.json);
        let (mut told, mut warnings, mut failures) = (Ok(()), 0, 0);
        check::run(&self.config, &mut |finding| {
            match finding.level {
                Level::Ok => {}
                Level::Warning => warnings += 1,
                Level::Failure => failures += 1,
            }
            let line = output.line(|| text(&finding), || json!(finding));
            if told.is_ok() {
                told = line;
            }
        })
        .await;
        told?;
        if failures == 0 {
            return Ok(());
        }
        Err(Failure::new(
            "check",
            format!("of what was looked at, {failures} will not go well, and {warnings} may not"),
        ))
    }
}

fn text(finding: &Finding) -> String {
    let level = match finding.level {
        Level::Ok => "ok  ",
        Level::Warning => "WARN",
        Level::Failure => "FAIL",
    };
    let mut text = format!("{level}  {:<20}  {}", finding.subject, finding.found);
    if let Some(advice) = &finding.advice {
        text += &format!("\n{:28}-> {advice}", "");
    }
    text
}
