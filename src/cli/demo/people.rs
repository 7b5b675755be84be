//! The people of the demo: each a client with its own state, which can go offline and come back.

use std::path::{Path, PathBuf};

use super::server::Server;
use crate::{
    base::{GroupId, UserId},
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
    /// Registers somebody at one of these homeservers.
    pub async fn register(
        servers: &[Server],
        at: usize,
        directory: &Path,
        name: &'static str,
    ) -> Result<Self, Failure> {
        let home = directory.join(name.to_lowercase());
        let server = &servers[at];
        let places = servers.iter().map(|server| (server.domain().clone(), server.address().to_string()));
        let options = RegisterOptions {
            domain: server.domain().clone(),
            at: Some(server.address().to_string()),
            places: places.collect(),
            ca: Some(std::fs::read(server.authorities())?),
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

    /// Waits until somebody has taken it into a chat.
    pub async fn joins(&self, chat: &GroupId) -> Result<(), Failure> {
        let client = self.client()?;
        client.sync().await?;
        let mut events = client.events();
        while !client.chats().await?.iter().any(|view| view.chat == *chat) {
            let over = || Failure::new("demo", format!("{} does not listen any more", self.name));
            events.next().await.ok_or_else(over)?;
        }
        Ok(())
    }
}
