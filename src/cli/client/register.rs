//! `bennu client register`.

use std::path::{Path, PathBuf};

use clap::Args;

use super::people;
use crate::{
    base::Domain,
    cli::{
        output::{Failure, Output},
        typed::typed,
    },
    client::{Client, RegisterOptions},
};

/// Whom to register, and where.
#[derive(Args)]
pub struct Register {
    /// The home domain to register with
    #[arg(long, value_parser = typed::<Domain>)]
    domain: Domain,
    /// Where the homeserver is, if not where its name says
    #[arg(long, value_name = "HOST:PORT")]
    at: Option<String>,
    /// Where another homeserver is, if not where its name says; may be given more than once
    #[arg(long = "place", value_name = "DOMAIN=HOST:PORT", value_parser = place)]
    places: Vec<(Domain, String)>,
    /// Certification authorities to trust beside the public ones (PEM)
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Display name
    #[arg(long)]
    name: String,
    /// Invitation code, where the homeserver asks for one
    #[arg(long, value_name = "CODE")]
    invitation: Option<String>,
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
        let password = new_password("BENNU_PASSWORD")?;
        let Self { domain, at, places, name, invitation, .. } = self;
        let options = RegisterOptions { domain, at, places, ca, name, password, invitation };
        let client = Client::register(home, options).await?;
        client.close().await;
        people::whoami(&client, output)
    }
}

/// Where a homeserver is, as people write it.
fn place(text: &str) -> Result<(Domain, String), String> {
    let (domain, place) = text.split_once('=').ok_or("it is not DOMAIN=HOST:PORT")?;
    Ok((typed(domain)?, place.to_owned()))
}

/// A password to be, from the environment or asked for twice.
///
/// # Errors
/// If there is none, or the two differ.
pub fn new_password(variable: &str) -> Result<String, Failure> {
    if let Ok(password) = std::env::var(variable) {
        return Ok(password);
    }
    let password = ask(variable, "New password: ")?;
    if password != ask(variable, "Again: ")? {
        return Err(Failure::new("invalid", "the passwords are not the same"));
    }
    Ok(password)
}

/// The password that there is, from the environment or asked for.
///
/// # Errors
/// If there is none.
pub fn password() -> Result<String, Failure> {
    const VARIABLE: &str = "BENNU_PASSWORD";
    std::env::var(VARIABLE).or_else(|_| ask(VARIABLE, "Password: "))
}

fn ask(variable: &str, prompt: &str) -> Result<String, Failure> {
    rpassword::prompt_password(prompt)
        .map_err(|error| Failure::new("io", format!("no password ({variable} or a terminal): {error}")))
}
