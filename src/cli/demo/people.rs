//! The people of the demo: each a client with its own state, which can go offline and come back.

use std::path::{Path, PathBuf};

use super::server::Server;
use crate::{
    base::UserId,
    cli::output::Failure,
    client::{Client, RegisterOptions},
};

/// Somebody.
pub struct Person {
    /// What it is called.
    pub name: &'static str,
    /// Who it is.
    pub id: UserId,
    home: PathBuf,
    client: Option<Client>,
}

impl Person {
    /// Registers somebody.
    pub async fn register(server: &Server, directory: &Path, name: &'static str) -> Result<Self, Failure> {
        let home = directory.join(name.to_lowercase());
        let options = RegisterOptions {
            domain: "a.test".parse().map_err(|error| Failure::new("demo", error))?,
            at: Some(server.address().to_string()),
            places: Vec::new(),
            ca: Some(std::fs::read(server.authority())?),
            name: name.into(),
            password: format!("the password of {name}"),
            invitation: None,
        };
        let client = Client::register(&home, options).await?;
        let (id, _) = client.whoami();
        Ok(Self { name, id, home, client: Some(client) })
    }

    /// Its client.
    ///
    /// # Errors
    /// If it is offline.
    pub fn client(&self) -> Result<&Client, Failure> {
        self.client.as_ref().ok_or_else(|| Failure::new("demo", format!("{} is offline", self.name)))
    }

    /// Ends its client: what is sent to it from now on waits in its queues.
    pub async fn go_offline(&mut self) {
        if let Some(client) = self.client.take() {
            client.close().await;
        }
    }

    /// Starts its client anew, from what it has stored.
    pub async fn come_back(&mut self) -> Result<(), Failure> {
        self.client = Some(Client::open(&self.home).await?);
        Ok(())
    }
}

/// Lets everybody fetch what waits for them.
pub async fn sync_all(people: &[&Person]) -> Result<(), Failure> {
    for person in people {
        person.client()?.sync().await?;
    }
    Ok(())
}
