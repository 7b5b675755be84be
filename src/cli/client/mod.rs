//! `bennu client`: what a user does with the SDK. Each command synchronises first, so that it acts on what is.

mod alias;
mod chat;
mod groups;
mod people;
mod receive;
mod register;
mod send;

use std::{path::PathBuf, pin::pin, time::Duration};

use clap::{Args, Subcommand};
use tokio::time::timeout;

use super::{
    output::{Failure, Output, tell},
    typed::typed,
};
use crate::{
    base::{Clock as _, Domain, GroupId, SystemClock, Timestamp, UserId},
    client::{Client, ClientError},
};

/// After how long people are told what they wait for.
const SILENCE: Duration = Duration::from_secs(3);

/// Which client, and what it is to do.
#[derive(Args)]
pub struct Arguments {
    /// Directory of the client's state
    #[arg(long)]
    home: PathBuf,
    /// Print one JSON object per line, errors as one on standard error
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Register a new user (password from BENNU_PASSWORD or asked for)
    Register(register::Register),
    /// Say where the homeserver of a domain is, if not where its name says
    Place {
        /// The domain
        #[arg(value_parser = typed::<Domain>)]
        domain: Domain,
        /// Where its homeserver is, as host:port; left out, its name says it again
        place: Option<String>,
    },
    /// Say who this is
    Whoami,
    /// Change the display name; contacts and groups are told
    Name {
        /// The new name
        name: String,
    },
    /// Change the password (from BENNU_PASSWORD and BENNU_NEW_PASSWORD, or asked for)
    Password,
    /// Delete the user for good, here and at the homeserver (password from BENNU_PASSWORD or asked for)
    DeleteAccount,
    /// Register, delete and list aliases
    #[command(subcommand)]
    Alias(alias::Alias),
    /// Offer a user to connect
    Connect {
        /// The user, as <uuid>@<domain>, or an alias, as <alias>@<domain> (or <alias> on this homeserver)
        target: people::Target,
    },
    /// List requests to connect
    Requests,
    /// Accept a request to connect
    Accept {
        /// The request
        request: String,
    },
    /// Decline a request to connect
    Decline {
        /// The request
        request: String,
    },
    /// List people you are connected with
    Contacts,
    /// Block a user: nothing from it is shown, its offers and invitations are ignored; it is not told
    Block {
        /// The user, as <uuid>@<domain>
        #[arg(value_parser = typed::<UserId>)]
        user: UserId,
    },
    /// Unblock a user; what it said meanwhile is lost
    Unblock {
        /// The user, as <uuid>@<domain>
        #[arg(value_parser = typed::<UserId>)]
        user: UserId,
    },
    /// List blocked users
    Blocked,
    /// List what went wrong lately: what was received and could not be used, what could not be done
    Problems,
    /// Say how many tokens are left, which pay for requests
    Tokens,
    /// List chats
    Chats,
    /// Make and change groups
    #[command(subcommand)]
    Group(groups::Group),
    /// Send a message: a text, a file, or what comes on standard input
    Send(send::Send),
    /// Print messages that were not read yet
    Receive(receive::Receive),
    /// Talk in a chat, line by line
    Chat {
        /// The chat
        chat: GroupId,
    },
}

impl Arguments {
    /// Runs the command.
    ///
    /// # Errors
    /// What the homeserver refused, or what is wrong here.
    pub async fn run(self) -> Result<(), Failure> {
        let output = Output::new(self.json);
        let command = match self.command {
            Command::Register(command) => return command.run(&self.home, output).await,
            Command::Place { domain, place } => {
                Client::set_place(&self.home, domain, place).await?;
                return output.line(|| "done".into(), || serde_json::json!({ "done": "done" }));
            }
            command => command,
        };
        let client = Client::open(&self.home).await?;
        match command {
            Command::Whoami => return people::whoami(&client, output),
            Command::Tokens => return people::tokens(&client, output).await,
            _ => {}
        }
        let begun = (!matches!(command, Command::Problems) && output == Output::Human).then(|| SystemClock.now());
        let result = command.run(&client, output).await;
        if let Some(begun) = begun {
            tell_of_problems(&client, begun).await;
        }
        client.close().await;
        result
    }
}

/// Says where people find what went wrong meanwhile, such as what a homeserver has lost that was restored from a backup.
async fn tell_of_problems(client: &Client, since: Timestamp) {
    let problems = client.problems().await.unwrap_or_default();
    let count = problems.iter().filter(|(time, _)| *time >= since).count();
    if count > 0 {
        tell(format_args!("something went wrong meanwhile ({count}): `bennu client problems` says what"));
    }
}

/// Fetches what there is. People are told if that takes long.
async fn sync(client: &Client, output: Output) -> Result<(), ClientError> {
    let mut synced = pin!(client.sync());
    if let Ok(outcome) = timeout(SILENCE, &mut synced).await {
        return outcome;
    }
    if output == Output::Human {
        let domain = client.whoami().0.domain;
        tell(format_args!("{domain} has not answered yet and is tried again; to stop here loses nothing"));
    }
    synced.await
}

impl Command {
    /// Whether it shows what the client knows by itself.
    const fn is_local(&self) -> bool {
        matches!(self, Self::Requests | Self::Contacts | Self::Blocked | Self::Problems | Self::Chats)
    }

    async fn run(self, client: &Client, output: Output) -> Result<(), Failure> {
        match sync(client, output).await {
            // A program that reads this takes it for what is.
            Err(error @ ClientError::Unreachable(_)) if self.is_local() && output == Output::Human => {
                tell(format_args!("as it was known before: {error}"));
            }
            outcome => outcome?,
        }
        match self {
            Self::Register(_) | Self::Place { .. } | Self::Whoami | Self::Tokens => Ok(()),
            Self::Name { name } => people::rename(client, &name, output).await,
            Self::Password => people::change_password(client, output).await,
            Self::DeleteAccount => people::delete_account(client, output).await,
            Self::Alias(command) => command.run(client, output).await,
            Self::Connect { target } => people::connect(client, &target, output).await,
            Self::Requests => people::requests(client, output).await,
            Self::Accept { request } => people::accept(client, &request, output).await,
            Self::Decline { request } => people::decline(client, &request, output).await,
            Self::Contacts => people::contacts(client, output).await,
            Self::Block { user } => people::block(client, &user, output).await,
            Self::Unblock { user } => people::unblock(client, &user, output).await,
            Self::Blocked => people::blocked(client, output).await,
            Self::Problems => receive::problems(client, output).await,
            Self::Chats => groups::chats(client, output).await,
            Self::Group(command) => command.run(client, output).await,
            Self::Send(command) => command.run(client, output).await,
            Self::Receive(command) => command.run(client, output).await,
            Self::Chat { chat } => chat::run(client, &chat, output).await,
        }
    }
}
