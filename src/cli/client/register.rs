//! `bennu client register`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::people;
use crate::{
    base::Domain,
    cli::output::{Failure, Output},
    client::{Client, RegisterOptions},
};

/// Whom to register, and where.
#[derive(Args)]
pub struct Register {
    /// The home domain to register with
    #[arg(long)]
    domain: Domain,
    /// Where the homeserver is, if not where its name says
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
    /// Certification authority to trust beside the public ones (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Display name
    #[arg(long)]
    name: String,
}

impl Register {
    /// Registers, or completes a registration that was interrupted.
    ///
    /// # Errors
    /// What the homeserver refused.
    pub async fn run(self, home: &Path, output: Output) -> Result<(), Failure> {
        let ca = match &self.ca {
            Some(path) => {
                Some(std::fs::read(path).map_err(|error| Failure::new("io", format!("{}: {error}", path.display())))?)
            }
            None => None,
        };
        let options = RegisterOptions { domain: self.domain, at: self.at, ca, name: self.name, password: password()? };
        let client = Client::register(home, options).await?;
        client.close().await;
        people::whoami(&client, output)
    }
}

fn password() -> Result<String, Failure> {
    if let Ok(password) = std::env::var("BENNU_PASSWORD") {
        return Ok(password);
    }
    let ask = |prompt| {
        rpassword::prompt_password(prompt)
            .map_err(|error| Failure::new("io", format!("no password (BENNU_PASSWORD or a terminal): {error}")))
    };
    let password = ask("Password: ")?;
    if password != ask("Again: ")? {
        return Err(Failure::new("invalid", "the passwords are not the same"));
    }
    Ok(password)
}
