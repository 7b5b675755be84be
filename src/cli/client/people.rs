//! `bennu client whoami`, `name`, `password`, `delete-account`, `connect`, `requests`, `accept`, `decline`, `contacts`, `block`,
//! `unblock`, `blocked`, `tokens`.

use std::str::FromStr;

use serde_json::json;

use super::register;
use crate::{
    base::{Domain, UserId},
    cli::{
        output::{Failure, Output, printable},
        typed::typed,
    },
    client::Client,
    crypto::alias::Alias,
};

/// Whom to connect with.
#[derive(Clone)]
pub enum Target {
    /// A user.
    User(UserId),
    /// Whoever is behind an alias of a domain, or of the own one.
    Alias(Alias, Option<Domain>),
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Ok(user) = typed(text) {
            return Ok(Self::User(user));
        }
        let (alias, domain) = match text.rsplit_once('@') {
            Some((alias, domain)) => (alias, Some(typed(domain)?)),
            None => (text, None),
        };
        let alias = Alias::parse(alias).map_err(|error| format!("neither a user nor an alias: {error}"))?;
        Ok(Self::Alias(alias, domain))
    }
}

/// Says who the client is.
///
/// # Errors
/// If standard output is closed.
pub fn whoami(client: &Client, output: Output) -> Result<(), Failure> {
    let (user, name) = client.whoami();
    output.line(|| format!("{user}  {}", printable(&name)), || json!({ "user_id": user.to_string(), "name": name }))
}

/// Says how many tokens are left.
///
/// # Errors
/// If the state cannot be read.
pub async fn tokens(client: &Client, output: Output) -> Result<(), Failure> {
    let left = client.tokens().await?;
    output.line(|| format!("{left} tokens left"), || json!({ "tokens": left }))
}

/// Changes the display name.
///
/// # Errors
/// What the homeserver refused.
pub async fn rename(client: &Client, name: &str, output: Output) -> Result<(), Failure> {
    client.set_name(name).await?;
    output.line(|| format!("you are called {}", printable(name)), || json!({ "name": name }))
}

/// Changes the password.
///
/// # Errors
/// What the homeserver refused.
pub async fn change_password(client: &Client, output: Output) -> Result<(), Failure> {
    client.change_password(&register::password()?, &register::new_password("BENNU_NEW_PASSWORD")?).await?;
    output.line(|| "the password is changed".into(), || json!({ "changed": true }))
}

/// Deletes the user.
///
/// # Errors
/// What the homeserver refused.
pub async fn delete_account(client: &Client, output: Output) -> Result<(), Failure> {
    client.delete_account(&register::password()?).await?;
    output.line(|| "the user is deleted".into(), || json!({ "deleted": true }))
}

/// Offers to connect.
///
/// # Errors
/// What the homeserver refused.
pub async fn connect(client: &Client, target: &Target, output: Output) -> Result<(), Failure> {
    let chat = match target {
        Target::User(user) => client.connect(user).await?,
        Target::Alias(alias, domain) => {
            let domain = domain.clone().unwrap_or_else(|| client.whoami().0.domain);
            client.connect_alias(&alias.to_string(), &domain).await?
        }
    };
    let human = || format!("offered; once it is accepted the chat is {chat}");
    output.line(human, || json!({ "chat": chat.to_string() }))
}

/// Lists requests.
///
/// # Errors
/// If the state cannot be read.
pub async fn requests(client: &Client, output: Output) -> Result<(), Failure> {
    for request in client.requests().await? {
        let human = || format!("{}  {}  {}", request.id, request.from, printable(&request.name));
        let json = || json!({ "request": request.id, "from": request.from.to_string(), "name": request.name });
        output.line(human, json)?;
    }
    Ok(())
}

/// Accepts a request.
///
/// # Errors
/// What the homeserver refused.
pub async fn accept(client: &Client, request: &str, output: Output) -> Result<(), Failure> {
    let chat = client.accept(request).await?;
    output.line(|| format!("connected; the chat is {chat}"), || json!({ "chat": chat.to_string() }))
}

/// Declines a request.
///
/// # Errors
/// What the homeserver refused.
pub async fn decline(client: &Client, request: &str, output: Output) -> Result<(), Failure> {
    client.decline(request).await?;
    output.line(|| "declined".into(), || json!({ "request": request, "declined": true }))
}

/// Lists contacts.
///
/// # Errors
/// If the state cannot be read.
pub async fn contacts(client: &Client, output: Output) -> Result<(), Failure> {
    for contact in client.contacts().await? {
        let human = || format!("{}  {}  chat {}", contact.user, printable(&contact.name), contact.chat);
        let json =
            || json!({ "user_id": contact.user.to_string(), "name": contact.name, "chat": contact.chat.to_string() });
        output.line(human, json)?;
    }
    Ok(())
}

/// Blocks a user.
///
/// # Errors
/// What the homeserver refused.
pub async fn block(client: &Client, user: &UserId, output: Output) -> Result<(), Failure> {
    client.block(user).await?;
    output.line(|| format!("{user} is blocked"), || json!({ "user_id": user.to_string(), "blocked": true }))
}

/// Unblocks a user.
///
/// # Errors
/// What the homeserver refused.
pub async fn unblock(client: &Client, user: &UserId, output: Output) -> Result<(), Failure> {
    client.unblock(user).await?;
    output
        .line(|| format!("{user} is not blocked any more"), || json!({ "user_id": user.to_string(), "blocked": false }))
}

/// Lists blocked users.
///
/// # Errors
/// If the state cannot be read.
pub async fn blocked(client: &Client, output: Output) -> Result<(), Failure> {
    for user in client.blocked().await? {
        output.line(|| user.to_string(), || json!({ "user_id": user.to_string() }))?;
    }
    Ok(())
}
